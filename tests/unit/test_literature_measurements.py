"""Measurements agree with photutils and statmorph on 50 simulated images, within the tolerances of this file."""

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from astrodetect.datasets.simulation.generator import render_image
from astrodetect.features import central_object, cutout
from astrodetect.features.central_object import Segments
from astrodetect.features.stamps import PIXELS, SIDE_PX, Stamps
from astrodetect.records import Floats

KINDS = ("E", "SB", "S", "edge", "merger")
PER_KIND = 10
CENTRE = ((SIDE_PX - 1) / 2,) * 2
WHOLE_STAMP_PX = 2 * SIDE_PX  # radius of an aperture
EXACT = 1e-4  # relative: single precision
SHAPE_ASYMMETRY, OFFSET, COMPACTNESS = range(3)  # columns of an isophote
GINI = 5  # column


@pytest.fixture(scope="module")
def morphology() -> Any:
    """That of photutils, which takes seconds to import in each process that collects tests."""
    return importlib.import_module("photutils.morphology")


@pytest.fixture(scope="module")
def stamps() -> Stamps:
    return Stamps.cut(np.stack([render_image(kind, seed, 128) for kind in KINDS for seed in range(PER_KIND)]), 0.5)


@pytest.fixture(scope="module")
def asymmetry(stamps: Stamps) -> Floats:
    """Measurements within the inner isophote, in pixels of the object's own colour."""
    return central_object.measure_asymmetry(Segments.of(stamps))[:, 3:]


@pytest.fixture(scope="module")
def segments(stamps: Stamps) -> Floats:
    """The masks of this isophote."""
    return np.asarray(Segments.of(stamps).same_colour[1].reshape(-1, SIDE_PX, SIDE_PX), np.float32)


def statmorph_asymmetry(planes: Floats, kind: str) -> list[float]:
    """Statmorph's asymmetry about the centre of the stamp, without a sky's."""
    source = SimpleNamespace(
        _mask_stamp=np.zeros(planes.shape[1:], np.bool_),
        _petro_extent_cas=1,
        _rpetro_circ_centroid=WHOLE_STAMP_PX,
        _sky_asymmetry=0,
        rmax_circ=WHOLE_STAMP_PX,
        flag=0,
    )
    statmorph = importlib.import_module("statmorph")  # takes seconds too
    asymmetry = statmorph.SourceMorphology._asymmetry_function
    return [float(asymmetry(source, CENTRE, plane, kind)) for plane in planes]


def test_shape_asymmetry_is_that_of_statmorph(asymmetry: Floats, segments: Floats) -> None:
    measured = asymmetry[:, SHAPE_ASYMMETRY]
    assert measured.max() > 0.5
    np.testing.assert_allclose(measured, statmorph_asymmetry(segments, "shape"), atol=0.01)


def test_rotational_asymmetry_of_the_light_is_that_of_statmorph(stamps: Stamps, segments: Floats) -> None:
    light = segments * np.maximum(stamps.smooth, 0)
    flat = light.reshape(len(light), PIXELS)
    measured = central_object._rotational_asymmetry(flat, flat.sum(axis=1))
    np.testing.assert_allclose(measured, statmorph_asymmetry(light, "cas"), atol=0.01)


def test_centroid_and_second_moments_are_those_of_photutils(
    asymmetry: Floats, segments: Floats, morphology: Any
) -> None:
    moments = central_object._moments(segments.reshape(len(segments), PIXELS))
    for number, segment in enumerate(segments):
        source = morphology.data_properties(segment)
        x, y = np.atleast_1d(source.centroid).ravel() - CENTRE
        np.testing.assert_allclose((moments.x[number], moments.y[number]), (x, y), atol=1e-3)
        offset = np.hypot(x, y) / np.sqrt(segment.sum())
        np.testing.assert_allclose(asymmetry[number, OFFSET], offset, rtol=EXACT, atol=EXACT)
        own = np.array([[moments.xx[number], moments.xy[number]], [moments.xy[number], moments.yy[number]]])
        np.testing.assert_allclose(own, source.covariance.value, rtol=1e-3, atol=1e-2)


def test_gini_coefficient_is_that_of_photutils(stamps: Stamps, morphology: Any) -> None:
    light = cutout._light(stamps)
    measured = cutout._concentration_gini_m20(light)[:, GINI]
    np.testing.assert_allclose(measured, [morphology.gini(plane) for plane in light], rtol=EXACT)
