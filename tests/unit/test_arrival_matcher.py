"""Which rows the thread that compares new predictions looks at, and how often."""

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise

import pytest

from astrodetect.errors import DatabaseUnavailable
from astrodetect.service import arrival_matcher
from astrodetect.service.arrival_matcher import ArrivalMatcher

STEP = 10


class Table:
    """Ids of predictions, and the ranges that were compared."""

    def __init__(self) -> None:
        self.ids: tuple[int, int] | None = None
        self.ranges: list[tuple[int, int]] = []
        self.fails_after: int | None = None

    @property
    def arrivals(self) -> "Table":
        return self

    def newest(self) -> tuple[int, int] | None:
        return self.ids

    def match(self, after: int, newest: int) -> int:
        if after == self.fails_after:
            raise DatabaseUnavailable("PostgreSQL does not answer")
        last = min(after + STEP, newest)
        self.ranges.append((after, last))
        return last

    def take(self) -> list[tuple[int, int]]:
        ranges, self.ranges = self.ranges, []
        assert all(before[1] == after[0] for before, after in pairwise(ranges))
        return [(ranges[0][0], ranges[-1][1])] if ranges else []


class Clock:
    """Seconds that the test counts."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(arrival_matcher, "time", clock)
    monkeypatch.setattr(arrival_matcher, "CHECK_S", 3600.0)  # the steps are those of the test
    return clock


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def matcher(table: Table, clock: Clock) -> Iterator[ArrivalMatcher]:
    with closing(ArrivalMatcher(table)) as matcher:
        yield matcher


def test_rows_are_looked_at_until_none_with_a_lower_id_can_be_committed(
    matcher: ArrivalMatcher, table: Table, clock: Clock
) -> None:
    matcher.step()
    table.ids = (100, 0)
    matcher.step()
    assert table.take() == []  # no catalogue, then what was there before it
    looked = {}
    for second in range(41):
        clock.seconds, newest = float(second), 140 if second else 135
        table.ids = (newest, newest)
        matcher.step()
        if ranges := table.take():
            looked[second] = ranges[0]
    # At second 10 a row to 140 may still be committed: its successors were first seen after second 0.
    assert looked == {0: (100, 135), 1: (135, 140), 10: (100, 140), 20: (100, 140)}


def test_a_service_that_starts_continues_where_comparisons_ended_and_after_a_failure_where_it_was(
    matcher: ArrivalMatcher, table: Table, clock: Clock
) -> None:
    table.ids, table.fails_after = (200, 150), 170
    with pytest.raises(DatabaseUnavailable):
        matcher.step()
    assert table.take() == [(150, 170)]
    table.fails_after, clock.seconds = None, 60.0
    matcher.step()
    assert table.take() == [(150, 200)]


def test_rows_after_deleted_ones_are_compared(matcher: ArrivalMatcher, table: Table, clock: Clock) -> None:
    table.ids = (200, 200)
    matcher.step()
    table.ids = (3, 0)  # as after a restored backup
    matcher.step()
    table.ids = (5, 0)
    matcher.step()
    assert table.take() == [(3, 5)]


def test_closing_ends_a_long_step(matcher: ArrivalMatcher, table: Table) -> None:
    table.ids = (1_000_000_000, 1)
    compare = table.match

    def match(after: int, newest: int) -> int:
        matcher._closing.set()
        return compare(after, newest)

    table.match = match  # type: ignore[method-assign]
    matcher.step()
    assert table.take() == [(1, 1 + STEP)]
