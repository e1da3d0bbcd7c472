"""The products that cut, smooth and compare stamps give what the plain operations give."""

import numpy as np
import pytest
from scipy import ndimage

from astrodetect.datasets.simulation.generator import render_image
from astrodetect.features import cutout
from astrodetect.features.central_object import MEASURED, feature_matrix
from astrodetect.features.stamps import SIDE_PX, cut_planes, gaussian_blur
from astrodetect.records import Floats, Pixels

EXACT = 1e-6  # single precision
IMAGES = MEASURED + 1  # more than are measured at a time


@pytest.fixture(scope="module")
def galaxies() -> Pixels:
    kinds = ("E", "SB", "merger")
    return np.stack([render_image(kinds[number % 3], number, 128) for number in range(IMAGES)])


@pytest.fixture(scope="module")
def soft(galaxies: Pixels) -> Floats:
    return np.sqrt(cut_planes(galaxies, 0.5)[:, 0])


def test_stamps_are_means_of_the_pixels_that_they_cover(galaxies: Pixels) -> None:
    planes = np.moveaxis(galaxies, 3, 1) / 255
    halved = planes.reshape(IMAGES, 3, SIDE_PX, 2, SIDE_PX, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(cut_planes(galaxies, 1.0), halved, atol=EXACT)
    np.testing.assert_allclose(cut_planes(galaxies, 0.5), planes[..., 32:96, 32:96], atol=EXACT)
    doubled = planes[..., 48:80, 48:80].repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_allclose(cut_planes(galaxies, 0.25), doubled, atol=EXACT)


def test_pixels_on_the_border_of_two_are_shared() -> None:
    side = 91
    pixels = np.random.default_rng(0).integers(0, 256, (5, side, side, 3)).astype(np.uint8)
    rows = np.moveaxis(pixels, 3, 1).repeat(SIDE_PX, axis=2).reshape(5, 3, SIDE_PX, side, side).mean(axis=3)
    expected = rows.repeat(SIDE_PX, axis=3).reshape(5, 3, SIDE_PX, SIDE_PX, side).mean(axis=4) / 255
    np.testing.assert_allclose(cut_planes(pixels, 1.0), expected, atol=EXACT)


@pytest.mark.parametrize("sigma", cutout.GRADIENT_PX)
def test_smoothing_is_that_of_scipy(soft: Floats, sigma: float) -> None:
    expected = ndimage.gaussian_filter(soft, (0, sigma, sigma))
    np.testing.assert_allclose(gaussian_blur(soft, sigma), expected, atol=EXACT)


def test_histograms_of_gradients_are_those_of_numpy(soft: Floats) -> None:
    scales = np.stack([soft, ndimage.gaussian_filter(soft, (0, 2, 2))], axis=1)
    measured = cutout._gradient_orientations(scales).reshape(IMAGES, 2, -1)
    at = np.arange(SIDE_PX) - (SIDE_PX - 1) / 2
    direction, distance = np.arctan2(at[:, None], at), np.hypot(at[:, None], at)
    for image in range(IMAGES):
        for scale in range(2):
            down, across = np.gradient(scales[image, scale])
            away = np.abs(np.angle(np.exp(1j * (np.arctan2(down, across) - direction))))
            angle = np.minimum(away, np.pi - away)  # between the lines, regardless of the sign
            shares, totals = [], []
            for annulus in range(cutout.ANNULI):
                inside = (distance / (SIDE_PX / 2) * cutout.ANNULI).astype(int) == annulus
                weights = np.hypot(down, across)[inside]
                counts, _ = np.histogram(angle[inside], cutout.ORIENTATION_BINS, (0, np.pi / 2), weights=weights)
                shares += (counts / (weights.sum() + cutout.FLUX_FLOOR)).tolist()
                totals.append(np.log(weights.sum() + cutout.FLUX_FLOOR))
            # A gradient at 45° may fall on either side of the limit.
            np.testing.assert_allclose(measured[image, scale], shares + totals, atol=0.01)


def test_images_are_measured_alike_alone_and_among_many(galaxies: Pixels) -> None:
    together = feature_matrix("shapes", galaxies, 1.0)
    alone = np.concatenate([feature_matrix("shapes", galaxies[i : i + 1], 1.0) for i in range(IMAGES)])
    np.testing.assert_allclose(together, alone, atol=1e-4)
