"""The names of labels that users added, with their keys and roles: the table `label_names`."""

from collections.abc import Callable, Mapping

from astrodetect.db.connections import Parameters, Row
from astrodetect.errors import LabelNameConflict
from astrodetect.labels import LABELS, MAX_LABEL_NAMES, LabelName, LabelValue


class LabelNames:
    """Reads and changes the names for all processes, part of `database.Database`."""

    def __init__(self, execute: Callable[[str, Parameters], list[Row]], statements: Mapping[str, str]) -> None:
        self._execute, self._sql = execute, statements

    def list(self) -> list[LabelName]:
        """Those that were added and those that labels have, in alphabetical order."""
        return [LabelName(**row) for row in self._execute(self._sql["label_names"], {"built_in": list(LABELS)})]

    def roles(self) -> dict[LabelValue, LabelValue]:
        """The role of each name that does not count as interesting."""
        return {row["name"]: row["role"] for row in self._execute(self._sql["label_roles"], {})}

    def save(self, name: LabelValue, key: str | None, role: LabelValue, *, instead_of: LabelValue | None) -> None:
        """Add a name, or change the one `instead_of`, which no label may have where its name changes.

        LabelNameConflict where another has this name or key, where labels have the old name, or there are too many.
        """
        values = {"name": name, "key": key, "role": role, "old": instead_of, "most": MAX_LABEL_NAMES}
        if name in LABELS or not self._execute(self._sql["save_label_name"], values):
            raise LabelNameConflict(self._why_not(name, key, instead_of))

    def remove(self, name: LabelValue) -> None:
        """Remove a name; LabelNameConflict where labels have it."""
        if not self._execute(self._sql["remove_label_name"], {"name": name}):
            raise LabelNameConflict(f"labels have the name {name}: it stays")

    def _why_not(self, name: LabelValue, key: str | None, old: LabelValue | None) -> str:
        names = {known.name: known for known in self.list()}
        if name in LABELS or (name != old and name in names):
            return f"there is a label {name} already"
        if name != old and old in names and names[old].labels:
            return f"{names[old].labels} labels have the name {old}: only a name that none has can change"
        for known in names.values():
            if key and known.key == key and known.name != old:
                return f"the key {key} is that of {known.name}"
        return f"there are {MAX_LABEL_NAMES} names already"
