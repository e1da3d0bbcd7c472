"""Where an image is unusual: places are covered by what an ordinary image shows there, and what changes is measured.

It shows influence, not proof: what counts is how unusual the image is without a place, not why.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from astrodetect.records import Floats, Pixels

GRID = 8  # places each way
SOFTNESS = 1.0  # of a place's width: the standard deviation of its cover, so that no edge is seen where it ends


def occlusion_map(pixels: Pixels, ordinary: Pixels, strengths: Callable[[Pixels], Floats]) -> Floats:
    """(GRID, GRID) by how much an image is less unusual where a place looks as in an ordinary image like it.

    `strengths` says how unusual images (n, side, side, 3) are.
    """
    image, masks = pixels.astype(np.float32), _masks(len(pixels))[..., np.newaxis]
    covered = np.rint(image + (ordinary - image) * masks).astype(np.uint8)
    whole, *without = strengths(np.concatenate([pixels[np.newaxis], covered]))
    return np.asarray(np.maximum(whole - np.asarray(without), 0), np.float32).reshape(GRID, GRID)


@cache
def _masks(side: int) -> Floats:
    """(GRID², side, side) how much of each pixel is covered, place by place."""
    pixel, middle = (np.arange(side) + 0.5) / side, (np.arange(GRID) + 0.5) / GRID
    line = np.exp(-((pixel - middle[:, np.newaxis]) ** 2) / (2 * (SOFTNESS / GRID) ** 2)).astype(np.float32)
    return np.asarray(np.einsum("iy,jx->ijyx", line, line).reshape(-1, side, side))
