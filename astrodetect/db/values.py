"""Python values as PostgreSQL can store them: what it cannot represent becomes the nearest value that it can."""

import datetime as dt
import math
import re
from collections.abc import Sequence
from typing import overload

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
HALF_MAX = 65_504.0  # largest finite half-precision number


@overload
def storable_text(text: str) -> str: ...
@overload
def storable_text(text: None) -> None: ...
def storable_text(text: str | None) -> str | None:
    """Text with NUL and lone surrogates replaced by U+FFFD."""
    return None if text is None else UNSTORABLE.sub("\ufffd", text)


def storable_time(time: dt.datetime | None) -> dt.datetime | None:
    """A time in UTC, clipped to the range of datetime: PostgreSQL accepts fewer time zones than Python."""
    if time is None or time.tzinfo is None:
        return time
    try:
        return time.astimezone(dt.UTC)
    except OverflowError:
        return (dt.datetime.max if time.year > dt.MINYEAR else dt.datetime.min).replace(tzinfo=dt.UTC)


def to_halfvec(vector: Sequence[float] | None, dimensions: int) -> str | None:
    """A vector in pgvector's text format, padded with zeros; None if it is too long or not finite."""
    if vector is None or len(vector) > dimensions or not all(map(math.isfinite, vector)):
        return None
    bounded = (f"{max(-HALF_MAX, min(value, HALF_MAX)):.5g}" for value in vector)
    return f"[{','.join((*bounded, *'0' * (dimensions - len(vector))))}]"


def like_pattern(part: str | None) -> str | None:
    """ILIKE pattern for texts that contain this part literally."""
    return None if part is None else "%" + re.sub(r"([\\%_])", r"\\\1", storable_text(part)) + "%"
