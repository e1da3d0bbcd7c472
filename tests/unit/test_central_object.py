"""What is measured of the body in the middle is about that body, and about nothing beside it."""

import numpy as np

from astrodetect.features import central_object, cutout
from astrodetect.records import Floats

SIDE = cutout.SIDE_PX
LEVELS, OUTLINE = 2, 11  # outlines, from the innermost, and numbers of each
WIDEST = slice(OUTLINE, LEVELS * OUTLINE)
LENGTH_RATIO, DIFFERS = 1, 4  # in an outline's numbers
SECOND_CORE, CORES, CORE_DISTANCE = LEVELS * OUTLINE, LEVELS * OUTLINE + 3, LEVELS * OUTLINE + 4


def blob(x: float = 0, y: float = 0, wide: float = 6, ratio: float = 1, light: float = 0.6) -> Floats:
    """A soft ellipse, so far from the middle."""
    at = np.arange(SIDE) - (SIDE - 1) / 2
    far = ((at[None, :] - x) / wide) ** 2 + ((at[:, None] - y) / (wide * ratio)) ** 2
    return np.asarray(light * np.exp(-far), np.float32)


def measured(*planes: Floats) -> Floats:
    """What is measured of grey images made of these, on a faint sky with a little noise."""
    noise = np.random.default_rng(0).normal(0.05, 0.002, (len(planes), SIDE, SIDE))
    return central_object.measure_central_object(
        np.repeat((np.stack(planes) + noise)[..., None], 3, axis=-1).astype(np.float32)
    )


def test_there_are_as_many_numbers_as_is_said_and_all_are_finite() -> None:
    dark = np.zeros((SIDE, SIDE), np.float32)
    found = measured(dark, dark + 0.9, blob(), blob(light=0.001))
    assert found.shape == (4, central_object.OBJECT_FEATURES)
    assert np.isfinite(found).all()


def test_a_star_beside_the_body_changes_nothing_of_its_outline_and_cores() -> None:
    alone, beside = measured(blob(), blob() + blob(24, -20, 2, light=0.9))
    own = slice(0, CORE_DISTANCE + 1)
    np.testing.assert_allclose(alone[own], beside[own], atol=0.15)


def test_a_second_core_is_seen_with_how_bright_and_how_far_it_is() -> None:
    one, two = measured(blob(), blob(-4, 0, 3) + blob(5, 0, 3, light=0.4))
    assert one[CORES] == 1
    assert one[SECOND_CORE] == 0
    assert two[CORES] == 2
    assert 0.5 < two[SECOND_CORE] < 0.8
    assert two[CORE_DISTANCE] > 0.2


def test_a_long_body_is_told_from_a_round_one_and_a_lopsided_one_from_both() -> None:
    round_one, long_one, lopsided = measured(blob(), blob(ratio=0.4), blob() + blob(9, 0, 4, light=0.3))
    assert round_one[WIDEST][LENGTH_RATIO] > 0.9
    assert long_one[WIDEST][LENGTH_RATIO] < 0.55
    assert lopsided[WIDEST][DIFFERS] > 0.3
    assert max(round_one[WIDEST][DIFFERS], long_one[WIDEST][DIFFERS]) < 0.1


def test_company_changes_nothing() -> None:
    planes = [blob(), blob(ratio=0.3), blob(3, 3, 4) + blob(-6, 2, 3)]
    stamps = np.repeat(np.stack(planes)[..., None], 3, axis=-1)
    alone = np.concatenate([central_object.measure_central_object(stamps[i : i + 1]) for i in range(len(stamps))])
    np.testing.assert_allclose(central_object.measure_central_object(stamps), alone, atol=1e-4)
