"""Small images of yellow elliptical blobs, as ordinary galaxies for tests of rankings."""

from pathlib import Path

import numpy as np

from astrodetect import images
from astrodetect.records import Pixels

SIDE = 64
YELLOW, BLUE, GREEN = (1.0, 0.8, 0.5), (0.5, 0.8, 1.4), (0.05, 1.0, 0.05)


def blob_galaxies(count: int, seed: int = 0) -> Pixels:
    """Blobs of different sizes, axis ratios and angles, on a noisy sky."""
    return np.stack([blob_galaxy(np.random.default_rng([seed, number])) for number in range(count)])


def blob_galaxy(rng: np.random.Generator, companion: tuple[float, ...] = (), *, trail: bool = False) -> Pixels:
    """One of them; perhaps with a companion of this colour, or with a green trail beside it."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    angle, size, ratio = rng.uniform(0, np.pi), rng.uniform(3, 6), rng.uniform(0.5, 1)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    light = 110 * np.exp(-np.hypot(u, v / ratio) / size)[..., None] * YELLOW
    if companion:
        light += 90 * np.exp(-((x - 9) ** 2 + (y - 3) ** 2) / 12)[..., None] * companion
    if trail:
        light += 120 * np.exp(-((y - x / 3 + 24) ** 2))[..., None] * GREEN
    return np.asarray(np.clip(light + rng.normal(12, 2.5, light.shape), 0, 255), np.uint8)


def write_blob_galaxies(folder: Path, count: int) -> Path:
    """A folder of them."""
    folder.mkdir(parents=True)
    for number, pixels in enumerate(blob_galaxies(count)):
        images.write_jpeg(folder / f"{number:04}.jpg", pixels)
    return folder
