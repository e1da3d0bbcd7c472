"""Occlusion maps: how far a measured value falls where a place of an image is hidden."""

import math
from functools import cache

import numpy as np

from astrodetect.records import Floats, Pixels

SIGMA = 0.75  # standard deviation of a place's Gaussian mask, in places: no sharp edges are introduced


def hide_places(pixels: Pixels, hidden: Pixels, grid: int) -> Pixels:
    """The image itself, then a copy for each of grid² places with the pixels of `hidden` there."""
    image, masks = pixels.astype(np.float32), _masks(len(pixels), grid)[..., np.newaxis]
    copies = np.rint(image + (hidden.astype(np.float32) - image) * masks).astype(np.uint8)
    return np.concatenate([pixels[np.newaxis], copies])


def occlusion_map(values: Floats, low: float, high: float) -> Floats:
    """(grid, grid) drop of the value of each copy of `hide_places` below that of the image.

    From 0, where it is `low` or less, to 1, where it is `high` or more: one scale for all images.
    """
    grid = math.isqrt(len(values) - 1)
    drop = np.asarray(values[0] - values[1:], np.float32).reshape(grid, grid)
    return np.asarray(np.clip((drop - low) / (high - low), 0, 1), np.float32)


def enlarge(places: Floats, side: int) -> Floats:
    """(side, side) a map of places as a smooth one of pixels: the mean of the places that hide a pixel, by opacity."""
    vertical, horizontal = (_profile(side, count) for count in places.shape)
    weights = vertical.sum(axis=0)[:, np.newaxis] * horizontal.sum(axis=0)
    return np.asarray(vertical.T @ places @ horizontal / weights, np.float32)


@cache
def _masks(side: int, grid: int) -> Floats:
    """(grid², side, side) opacity of each place's mask."""
    profile = _profile(side, grid)
    return np.asarray(np.einsum("iy,jx->ijyx", profile, profile).reshape(-1, side, side))


@cache
def _profile(side: int, places: int) -> Floats:
    """(places, side) opacity of the masks along an axis."""
    pixel, centre = (np.arange(side) + 0.5) / side * places, np.arange(places) + 0.5
    return np.asarray(np.exp(-((pixel - centre[:, np.newaxis]) ** 2) / (2 * SIGMA**2)), np.float32)
