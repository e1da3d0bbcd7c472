"""How far a watcher has come: every id up to one, but for those whose rows may still come."""

from dataclasses import dataclass
from itertools import groupby, islice

from astrodetect.db.values import BIGINT_MAX

MOST_MISSING = 1000  # ids in writing; of more the smallest are given up
LONGEST = 13_000  # characters: of every other id just before the last
SHAPE = r"^[0-9]{1,19}(\.[0-9]{1,19}-[0-9]{1,4})*$"


@dataclass(frozen=True, slots=True)
class EventCursor:
    """What is known; `str` writes it for browsers, which bring it back when they come again."""

    last: int  # the largest id
    missing: frozenset[int] = frozenset()  # smaller ones, not known yet

    @classmethod
    def read(cls, text: str) -> "EventCursor":
        """What has the `SHAPE`; of what nobody wrote here, whatever it says that can be."""
        last, *runs = ([int(number) for number in part.split("-")] for part in text.split("."))
        end = min(last[0], BIGINT_MAX)
        missing = (id_ for back, count in runs for id_ in range(max(1, end - back), min(end - back + count, end)))
        return cls(end, frozenset(islice(missing, MOST_MISSING)))

    def __str__(self) -> str:
        """Runs of missing ids, each by how far before the last it begins, and its length."""
        missing = enumerate(sorted(self.missing)[-MOST_MISSING:])
        runs = [[id_ for _, id_ in run] for _, run in groupby(missing, lambda each: each[1] - each[0])]
        return ".".join([str(self.last), *(f"{self.last - run[0]}-{len(run)}" for run in runs)])
