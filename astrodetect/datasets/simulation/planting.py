"""Simulated rings, lensed arcs, mergers and satellite trails of stated brightness, planted into real images."""

from collections.abc import Callable
from functools import cache

import numpy as np
import scipy  # loads its submodules when they are first used

from astrodetect.datasets.simulation import rare
from astrodetect.datasets.simulation.observing import (
    FRAME,
    Bands,
    LightComponent,
    Plane,
    band_ratios,
    elliptical_radius,
    object_light,
)
from astrodetect.records import Pixels

SEEING = 1.4  # standard deviation of the PSF of what is planted, in length units; the frame has FRAME
PEAK_SHARE = 0.3  # of the peak: pixels above it, connected to the centre, give the size of the object
CENTRE = 0.06  # of the side: the object's peak is within this distance of the centre
SIZES = (6.0, 20.0)  # half-light radii that are planted, in length units
PEAK_PERCENTILE = 99.9  # of the planted light: counts as its peak, a single bright pixel does not


def plant(pixels: Pixels, kind: str, brightness: float, rng: np.random.Generator, share: float = 1.0) -> Pixels:
    """A copy of a square image with one rarity; its peak is `brightness` times that of the object at the centre.

    The pixels show the central `share` of the frame. What is planted is blurred by a PSF, but has no noise of its own.
    """
    image = pixels.astype(np.float32)
    sky = np.median(image, axis=(0, 1))
    peak, radius = _central_object((image - sky).mean(axis=2), share)
    x, y = _coordinates(len(pixels), share)
    light = PLANTS[kind](rng, x, y, radius)
    sigma = SEEING * len(pixels) / (FRAME * share)
    light = np.stack([scipy.ndimage.gaussian_filter(band, sigma) for band in light])
    scale = brightness * peak / max(float(np.percentile(light.mean(axis=0), PEAK_PERCENTILE)), 1e-9)
    planted = image + scale * light.transpose(1, 2, 0)
    return np.clip(np.rint(planted), 0, 255).astype(np.uint8)


def _central_object(grey: Plane, share: float) -> tuple[float, float]:
    """Peak above the sky, and the half-light radius in length units, of the object at the centre."""
    smooth = scipy.ndimage.gaussian_filter(grey, 1.0)
    middle, reach = len(grey) // 2, max(2, round(CENTRE * len(grey) / share))
    centre = (slice(middle - reach, middle + reach),) * 2
    peak = max(float(smooth[centre].max()), 1.0)
    labels, _ = scipy.ndimage.label(smooth > PEAK_SHARE * peak)
    label = labels[centre].ravel()[smooth[centre].argmax()]
    area = float((labels == label).sum()) * (FRAME * share / len(grey)) ** 2
    return peak, float(np.clip(np.sqrt(area / np.pi), *SIZES))


@cache
def _coordinates(side: int, share: float) -> tuple[Plane, Plane]:
    at = ((np.arange(side) - (side - 1) / 2) * FRAME * share / side).astype(np.float32)
    x, y = np.meshgrid(at, at)
    return x, y


def _ring(rng: np.random.Generator, x: Plane, y: Plane, radius: float) -> Bands:
    r = elliptical_radius(x, y, rng.uniform(0, np.pi), rng.uniform(0.55, 1.0))
    return band_ratios(rng.uniform(-0.1, 0.3))[:, None, None] * rare.ring_light(rng, x, y, r, 1.3 * radius)


def _arc(rng: np.random.Generator, x: Plane, y: Plane, radius: float) -> Bands:
    arcs, _ = rare.lensed_arcs(rng, x, y, radius)
    return object_light([LightComponent(arcs, 1.0)], 1.0, float(rng.uniform(-0.7, 0.0)))


def _merger(rng: np.random.Generator, x: Plane, y: Plane, radius: float) -> Bands:
    """A second, tidally distorted galaxy beside the one at the centre."""
    components = rare.disturbed_galaxy(rng, x, y, radius * rng.uniform(1.2, 2.0), rng.uniform(0, 2 * np.pi))
    return object_light(components, 1.0, float(rng.uniform(0.1, 0.7)))


def _trail(rng: np.random.Generator, x: Plane, y: Plane, radius: float) -> Bands:
    del radius
    return rare.satellite_trail(rng, x, y, float(x[0, 1] - x[0, 0]))


PLANTS: dict[str, Callable[[np.random.Generator, Plane, Plane, float], Bands]] = {
    "ring": _ring,
    "arc": _arc,
    "merger": _merger,
    "trail": _trail,
}
KINDS: tuple[str, ...] = tuple(PLANTS)
