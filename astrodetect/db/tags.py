"""Tags of images, several each: the table `image_tags`. They do not rank."""

from collections.abc import Callable, Mapping, Sequence

from astrodetect.db.connections import Parameters, Row
from astrodetect.db.statements import storable_text
from astrodetect.errors import NotFound
from astrodetect.records import BIGINT_MAX

MAX_SUGGESTED = 200  # tags


class TagTable:
    """Adds, removes and lists tags, part of `database.Database`."""

    def __init__(self, execute: Callable[[str, Parameters], list[Row]], statements: Mapping[str, str]) -> None:
        self._execute, self._sql = execute, statements

    def add(self, ids: Sequence[int], tag: str, *, who: str | None) -> list[int]:
        """Tag the images of these predictions, and return those of images that did not have the tag.

        NotFound, and no tag, if one does not exist.
        """
        unique = sorted({*ids})
        values = {"ids": unique, "count": len(unique), "tag": tag, "who": storable_text(who or None)}
        possible = bool(unique) and 0 < unique[0] <= unique[-1] <= BIGINT_MAX
        if not (possible and (rows := self._execute(self._sql["add_tag"], values))):
            raise NotFound(f"there is no prediction {', '.join(map(str, unique))}")
        return [row["id"] for row in rows if row["is_new"]]

    def remove(self, ids: Sequence[int], tag: str) -> list[int]:
        """Remove a tag from the images of these predictions, and return those of images that had it."""
        possible = [id_ for id_ in ids if 0 < id_ <= BIGINT_MAX]
        rows = self._execute(self._sql["remove_tag"], {"ids": possible, "tag": tag}) if possible else []
        return [row["id"] for row in rows]

    def suggested(self) -> list[str]:
        """The tags that most images have."""
        return [row["tag"] for row in self._execute(self._sql["tags"], {"limit": MAX_SUGGESTED})]
