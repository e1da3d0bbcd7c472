"""Values as PostgreSQL can hold them: what it has no way to hold becomes the nearest that it has."""

import datetime as dt
import math
import re
from collections.abc import Sequence
from typing import overload

BIGINT_MAX = 2**63 - 1
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
HALF_MAX = 65_504.0  # in half precision


@overload
def storable_text(text: str) -> str: ...
@overload
def storable_text(text: None) -> None: ...
def storable_text(text: str | None) -> str | None:
    """Text holds neither NUL nor half a character: each becomes the replacement character."""
    return None if text is None else UNSTORABLE.sub("\ufffd", text)


def storable_time(time: dt.datetime | None) -> dt.datetime | None:
    """PostgreSQL takes fewer zones than Python; beyond the calendar's ends its last moment will do."""
    if time is None or time.tzinfo is None:
        return time
    try:
        return time.astimezone(dt.UTC)
    except OverflowError:
        return (dt.datetime.max if time.year > dt.MINYEAR else dt.datetime.min).replace(tzinfo=dt.UTC)


def to_halfvec(vector: Sequence[float] | None, dimensions: int) -> str | None:
    """A vector as pgvector reads it, zeros at its end; None of one that is too long or has what is no number."""
    if vector is None or len(vector) > dimensions or not all(map(math.isfinite, vector)):
        return None
    bounded = (f"{max(-HALF_MAX, min(value, HALF_MAX)):.5g}" for value in vector)
    return f"[{','.join((*bounded, *'0' * (dimensions - len(vector))))}]"


def like_pattern(part: str | None) -> str | None:
    """What ILIKE finds every text with that holds this part, taken as it stands."""
    return None if part is None else "%" + re.sub(r"([\\%_])", r"\\\1", storable_text(part)) + "%"
