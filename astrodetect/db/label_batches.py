"""Labels that were given together: stored in one transaction, and deleted together; and all labels, page by page."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from astrodetect.db.connections import Parameters, Row
from astrodetect.db.statements import storable_text
from astrodetect.errors import NotFound
from astrodetect.labels import Label, LabelValue, StoredLabel
from astrodetect.records import BIGINT_MAX

PAGE = 1000  # rows that are read at a time


class LabelBatches:
    """Adds to, deletes from and exports the table `labels`, part of `database.Database`."""

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

    def pages(self) -> Iterator[list[Label]]:
        """Every label with the tags of its image, oldest first, then images that have tags alone; at least one page."""
        after, image = 0, ""
        while True:
            rows = self._execute(self._sql["labels"], {"after": after, "limit": PAGE})
            yield [StoredLabel(**row | {"tags": tuple(row["tags"] or ())}) for row in rows]
            if len(rows) < PAGE:
                break
            after = rows[-1]["id"]
        while rows := self._execute(self._sql["tags_without_label"], {"after": image, "limit": PAGE}):
            image = rows[-1]["image_sha256"] or str(rows[-1]["prediction_id"])
            yield [Label(**row | {"label": "", "tags": tuple(row["tags"])}) for row in rows]
