"""How far a watcher has come, as browsers bring it back."""

import re

import pytest

from astrodetect.db.values import BIGINT_MAX
from astrodetect.service.event_cursor import LONGEST, MOST_MISSING, SHAPE, EventCursor


@pytest.mark.parametrize(
    ("last", "missing", "written"),
    [
        (0, (), "0"),
        (42, (), "42"),
        (42, (40,), "42.2-1"),
        (100, (1, 90, 91, 92, 99), "100.99-1.10-3.1-1"),
        (BIGINT_MAX, (5,), f"{BIGINT_MAX}.{BIGINT_MAX - 5}-1"),
    ],
)
def test_it_is_read_as_it_was_written(last: int, missing: tuple[int, ...], written: str) -> None:
    position = EventCursor(last, frozenset(missing))
    assert str(position) == written
    assert re.fullmatch(SHAPE, written)
    assert EventCursor.read(written) == position


def test_however_many_rows_are_awaited_it_stays_short() -> None:
    last = 10**18
    position = EventCursor(last, frozenset(range(1, 4 * MOST_MISSING, 2)))
    some = EventCursor(last, frozenset(range(last - 2 * MOST_MISSING, last, 2)))
    assert len(str(some)) < LONGEST
    assert EventCursor.read(str(position)).missing == frozenset(sorted(position.missing)[-MOST_MISSING:])


@pytest.mark.parametrize("text", ["9" * 19, "5.9-9999", "5.1-9999", "5.0-3", "9" * 19 + ".1-9999" * 500])
def test_what_nobody_wrote_asks_for_little(text: str) -> None:
    position = EventCursor.read(text)
    assert 0 <= position.last <= BIGINT_MAX
    assert len(position.missing) <= MOST_MISSING
    assert all(0 < id_ < position.last for id_ in position.missing)
