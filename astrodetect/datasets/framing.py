"""The central part of the frame that contains the objects, from a sample of images."""

from dataclasses import replace

import numpy as np

from astrodetect import images
from astrodetect.datasets.dataset import Dataset
from astrodetect.records import ImageContract

SAMPLE = 1000  # images
SIDE_PX = 128  # that they are measured at
BORDER = 4  # pixels at each edge, whose median is the sky
LIGHT_SHARE = 0.95  # of the light above the sky, within the crop
MIN_CROP, STEP = 0.2, 0.01


def choose_crop(dataset: Dataset, contract: ImageContract, seed: int) -> float:
    """The smallest central square that contains LIGHT_SHARE of the mean image's light; the whole frame if it is dark.

    The mean over many images has the light of objects at the centre, and that of neighbours spread evenly, which the
    level at its edge subtracts.
    """
    sample = np.random.default_rng(seed).permutation(len(dataset))[:SAMPLE]
    frame = replace(contract, size=SIDE_PX, crop=1.0)
    offsets = np.abs(np.arange(SIDE_PX) - (SIDE_PX - 1) / 2).astype(int)
    ring = np.maximum(offsets[:, np.newaxis], offsets)  # number of the square ring that a pixel is in
    border = ring >= SIDE_PX // 2 - BORDER
    mean = np.zeros((SIDE_PX, SIDE_PX))
    for index in sample:
        grey = images.decode_file(dataset.paths[index], frame).mean(axis=-1)
        mean += np.maximum(grey - np.median(grey[border]), 0)
    rings = np.bincount(ring.ravel(), (mean - mean[border].mean()).ravel())  # sums, in which noise cancels
    light = np.maximum(rings, 0).cumsum()
    if light[-1] <= 0:
        return 1.0
    crop = 2 * (np.searchsorted(light, LIGHT_SHARE * light[-1]) + 1) / SIDE_PX
    return float(np.clip(np.ceil(crop / STEP) * STEP, MIN_CROP, 1.0).round(2))
