"""Vectors in pgvector's text format."""

import math
from collections.abc import Sequence

import pytest

from astrodetect.db.statements import to_halfvec


@pytest.mark.parametrize(
    ("vector", "text"),
    [
        ((0.5, -1.23456789, 3), "[0.5,-1.2346,3,0]"),
        ((1e-9, 123456.0), "[1e-09,65504,0,0]"),
        ((-math.pi * 1e6, 65504.0), "[-65504,65504,0,0]"),
        ((), "[0,0,0,0]"),
        ((1.0, math.nan), None),
        ((-math.inf,), None),
        ((1.0,) * 5, None),
        (None, None),
    ],
)
def test_a_vector_is_padded_bounded_and_finite(vector: Sequence[float] | None, text: str | None) -> None:
    assert to_halfvec(vector, 4) == text
