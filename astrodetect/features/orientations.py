"""The eight ways to look at the same sky: quarter turns, of the image and of its mirror image. The sky has no up."""

import numpy as np
from numpy.typing import NDArray

VIEWS = 8


def turned(pixels: NDArray[np.uint8], view: int) -> NDArray[np.uint8]:
    """An image (height, width, bands), or a batch of them, in one of the eight views."""
    if view >= VIEWS // 2:
        pixels = pixels[..., ::-1, :]
    return np.ascontiguousarray(np.rot90(pixels, view % 4, axes=(-3, -2)))
