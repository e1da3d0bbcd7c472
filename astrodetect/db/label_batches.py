"""Labels that were given together: stored in one transaction, and deleted together."""

from collections.abc import Callable, Mapping, Sequence

from astrodetect.db.connections import Parameters, Row
from astrodetect.db.statements import storable_text
from astrodetect.errors import NotFound
from astrodetect.labels import LabelValue, StoredLabel
from astrodetect.records import BIGINT_MAX


class LabelBatches:
    """Adds to and deletes from the table `labels`, part of `database.Database`."""

    def __init__(self, execute: Callable[[str, Parameters], list[Row]], statements: Mapping[str, str]) -> None:
        self._execute, self._sql = execute, statements

    def add(self, ids: Sequence[int], label: LabelValue, *, who: str | None, note: str | None) -> list[StoredLabel]:
        """Label the images of these predictions, in this order; NotFound, and no label, if one does not exist."""
        predictions = list(dict.fromkeys(ids))
        values = {
            "ids": predictions,
            "count": len(predictions),
            "label": label,
            "who": storable_text(who or None),
            "note": storable_text(note or None),
        }
        possible = bool(predictions) and 0 < min(predictions) <= max(predictions) <= BIGINT_MAX
        rows = self._execute(self._sql["add_labels"], values) if possible else []
        if not rows:
            raise NotFound(f"there is no prediction {', '.join(map(str, predictions))}")
        return [StoredLabel(**row) for row in rows]

    def delete(self, first: int, last: int) -> list[StoredLabel]:
        """Delete and return the labels that one `add` stored: those from `first` to `last` of the same time."""
        if not 0 < first <= last <= BIGINT_MAX:
            return []
        rows = self._execute(self._sql["delete_labels"], {"first": first, "last": last})
        return [StoredLabel(**row) for row in rows]
