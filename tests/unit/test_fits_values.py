"""Values of FITS images: what is stored of them, and pictures of a band with a chosen stretch."""

import numpy as np
import pytest

from astrodetect import fits_values
from astrodetect.fits_values import band_values, compress_values, stretch_bands

SHA256 = "ab" * 32
SKY, NOISE, PEAK = 1000.0, 3.0, 60_000.0


def star_field(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    field = np.random.default_rng(seed).normal(SKY, NOISE, (height, width))
    field[20:24, 30:34] = PEAK
    field[0, 0] = np.nan
    return field


def test_stored_values_differ_from_the_original_by_a_hundredth_of_the_noise_or_a_thousandth_of_themselves() -> None:
    planes = [star_field(), star_field(seed=1) - 5 * SKY]
    values = compress_values(SHA256, planes, 64)
    assert (values.width, values.height, len(values.zeros)) == (64, 48, 2)
    assert len(values.content) < 0.4 * 4 * 2 * 48 * 64  # of float32
    for band, plane in enumerate(planes):
        stored = band_values(values, band)
        assert np.isnan(stored[0, 0])
        error = np.abs(stored - plane)[np.isfinite(plane)]
        limit = np.maximum(NOISE / 100, np.abs(plane - np.nanmedian(plane)) / 1000)[np.isfinite(plane)]
        assert (error <= limit).all()


def test_large_images_are_averaged_in_blocks_of_their_finite_values() -> None:
    plane = np.arange(5 * 7, dtype=np.float32).reshape(5, 7)
    plane[0, 0], plane[4, 6] = np.nan, np.inf
    values = compress_values(SHA256, [plane], 4)
    expected = [[16 / 3, 6, 8, 9.5], [18, 20, 22, 23.5], [28.5, 30.5, 32.5, np.nan]]
    np.testing.assert_allclose(band_values(values, 0), expected, atol=0.2)


@pytest.mark.parametrize("value", [0.0, -7.5, 1e30, np.nan])
def test_images_of_one_value_or_of_none_are_stored(value: float) -> None:
    values = compress_values(SHA256, [np.full((16, 16), value)], 16)
    np.testing.assert_allclose(band_values(values, 0), np.full((16, 16), value), rtol=1e-6)
    assert stretch_bands(values, [0], "asinh", 1, 99).max() == 0


def test_a_picture_is_black_and_white_at_the_percentiles_and_shows_faint_values_by_asinh_and_log() -> None:
    ramp = np.linspace(0, 100, 10_000).reshape(100, 100)
    values = compress_values(SHA256, [ramp, ramp[::-1], ramp], 100)
    linear = stretch_bands(values, [0], "linear", 10, 90)
    assert (linear[9].max(), linear[90].min()) == (0, 255)
    assert linear[50, 0] == pytest.approx(128, abs=2)
    faint = {stretch: int(stretch_bands(values, [0], stretch, 10, 90)[20, 0]) for stretch in fits_values.STRETCHES}
    assert faint["linear"] < faint["asinh"] < faint["log"]
    colour = stretch_bands(values, [2, 1, 0], "linear", 0, 100)
    assert colour.shape == (100, 100, 3)
    assert colour[0, 0, 0] == colour[0, 0, 2] == 0
    assert colour[0, 0, 1] > 250
