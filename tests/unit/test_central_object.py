"""Measurements of the central object describe that object alone."""

import numpy as np

from astrodetect.features import central_object
from astrodetect.features.central_object import Segments
from astrodetect.features.stamps import SIDE_PX as SIDE
from astrodetect.features.stamps import Stamps
from astrodetect.records import Floats

ISOPHOTES, WIDTH = 2, 11  # isophotes, from the innermost, and columns of each
OUTER = slice(WIDTH, ISOPHOTES * WIDTH)
AXIS_RATIO, SHAPE_ASYMMETRY = 1, 4  # columns of an isophote
SECOND_PEAK, PEAKS, PEAK_SEPARATION = ISOPHOTES * WIDTH, ISOPHOTES * WIDTH + 3, ISOPHOTES * WIDTH + 4


def blob(x: float = 0, y: float = 0, width: float = 6, ratio: float = 1, peak: float = 0.6) -> Floats:
    """An elliptical Gaussian, offset from the centre."""
    at = np.arange(SIDE) - (SIDE - 1) / 2
    squared_radius = ((at[None, :] - x) / width) ** 2 + ((at[:, None] - y) / (width * ratio)) ** 2
    return np.asarray(peak * np.exp(-squared_radius), np.float32)


def measure(*planes: Floats) -> Floats:
    """Measurements of grey images of these planes, on a faint sky with a little noise."""
    noise = np.random.default_rng(0).normal(0.05, 0.002, (len(planes), SIDE, SIDE))
    return measure_planes(np.stack(planes) + noise.astype(np.float32))


def measure_planes(planes: Floats) -> Floats:
    stamps = grey_stamps(planes)
    return central_object.measure_central_object(stamps, Segments.of(stamps))


def grey_stamps(planes: Floats) -> Stamps:
    return Stamps.of(np.repeat(planes[:, None], 3, axis=1).astype(np.float32))


def test_measurements_have_the_declared_width_and_are_finite() -> None:
    dark = np.zeros((SIDE, SIDE), np.float32)
    measured = measure(dark, dark + 0.9, blob(), blob(peak=0.001))
    assert measured.shape == (4, central_object.OBJECT_FEATURES)
    assert np.isfinite(measured).all()


def test_a_neighbouring_star_does_not_change_isophotes_and_peaks() -> None:
    alone, with_star = measure(blob(), blob() + blob(24, -20, 2, peak=0.9))
    columns = slice(0, PEAK_SEPARATION + 1)
    np.testing.assert_allclose(alone[columns], with_star[columns], atol=0.15)


def test_a_second_nucleus_is_counted_with_its_flux_ratio_and_separation() -> None:
    single, double = measure(blob(), blob(-4, 0, 3) + blob(5, 0, 3, peak=0.4))
    assert single[PEAKS] == 1
    assert single[SECOND_PEAK] == 0
    assert double[PEAKS] == 2
    assert 0.5 < double[SECOND_PEAK] < 0.8
    assert double[PEAK_SEPARATION] > 0.2


def test_axis_ratio_and_asymmetry_separate_elongated_and_lopsided_objects_from_round_ones() -> None:
    round_, elongated, lopsided = measure(blob(), blob(ratio=0.4), blob() + blob(9, 0, 4, peak=0.3))
    assert round_[OUTER][AXIS_RATIO] > 0.9
    assert elongated[OUTER][AXIS_RATIO] < 0.55
    assert lopsided[OUTER][SHAPE_ASYMMETRY] > 0.3
    assert max(round_[OUTER][SHAPE_ASYMMETRY], elongated[OUTER][SHAPE_ASYMMETRY]) < 0.1


def test_batch_composition_does_not_change_measurements() -> None:
    planes = np.stack([blob(), blob(ratio=0.3), blob(3, 3, 4) + blob(-6, 2, 3)])
    alone = np.concatenate([measure_planes(planes[i : i + 1]) for i in range(len(planes))])
    np.testing.assert_allclose(measure_planes(planes), alone, atol=1e-4)


def test_an_image_without_an_object_is_measured_at_its_centre() -> None:
    hollow = np.full((1, SIDE, SIDE), 0.5, np.float32)
    hollow[:, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4] = 0
    segments = Segments.of(grey_stamps(hollow)).isophotes.reshape(2, SIDE, SIDE)
    centre = slice(SIDE // 2 - central_object.CENTRE_PX, SIDE // 2 + central_object.CENTRE_PX)
    assert segments.sum(axis=(1, 2)).tolist() == [(2 * central_object.CENTRE_PX) ** 2] * 2
    assert segments[:, centre, centre].all()


def test_the_segment_is_what_overlaps_the_centre_most_beside_any_other_image() -> None:
    two = blob(-4, 0, 2) + blob(7, 0, 3, peak=0.9)  # both reach the centre, the left one further
    two[:, SIDE // 2 + 1] = 0
    for number, segment in enumerate(Segments.of(grey_stamps(np.stack([two, blob(), two]))).isophotes[0]):
        left, right = segment.reshape(SIDE, SIDE)[SIDE // 2, [SIDE // 2 - 5, SIDE // 2 + 7]]
        assert left
        assert not right or number == 1
