"""The cursor of the live feed, as browsers send it back."""

import re

import pytest

from astrodetect.records import BIGINT_MAX
from astrodetect.service.row_follower import CURSOR_PATTERN, MAX_CURSOR_CHARS, MAX_CURSOR_IDS, EventCursor


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
def test_a_cursor_is_parsed_as_it_was_written(last: int, missing: tuple[int, ...], written: str) -> None:
    cursor = EventCursor(last, frozenset(missing))
    assert str(cursor) == written
    assert re.fullmatch(CURSOR_PATTERN, written)
    assert EventCursor.parse(written) == cursor


def test_a_cursor_with_many_missing_ids_stays_short() -> None:
    last = 10**18
    cursor = EventCursor(last, frozenset(range(1, 4 * MAX_CURSOR_IDS, 2)))
    alternating = EventCursor(last, frozenset(range(last - 2 * MAX_CURSOR_IDS, last, 2)))
    assert len(str(alternating)) < MAX_CURSOR_CHARS
    assert EventCursor.parse(str(cursor)).missing == frozenset(sorted(cursor.missing)[-MAX_CURSOR_IDS:])


@pytest.mark.parametrize("text", ["9" * 19, "5.9-9999", "5.1-9999", "5.0-3", "9" * 19 + ".1-9999" * 500])
def test_a_forged_cursor_is_bounded(text: str) -> None:
    cursor = EventCursor.parse(text)
    assert 0 <= cursor.last <= BIGINT_MAX
    assert len(cursor.missing) <= MAX_CURSOR_IDS
    assert all(0 < id_ < cursor.last for id_ in cursor.missing)
