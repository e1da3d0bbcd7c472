"""Where an image is unusual: a streak that was put there is where the map says."""

from pathlib import Path

import numpy as np
import pytest

from astrodetect import images
from astrodetect.anomalies import analysis
from astrodetect.anomalies.analysis import OCCLUSION_GRID
from astrodetect.anomalies.neighbours import ReferencePoints
from astrodetect.anomalies.novelty import Novelty
from astrodetect.datasets.simulation import generator
from astrodetect.features.feature_matrix import feature_matrix
from astrodetect.records import Floats, ImageContract, Pixels

SIDE = 64
PLANTED = 6
NOTHING = np.zeros((1, 0), np.float32)


def shapes(pixels: Pixels) -> Floats:
    return feature_matrix("shapes", pixels, 0.5, NOTHING)


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    folder = generator.make_dataset(tmp_path_factory.mktemp("sky") / "mine", {"E": 120, "SB": 80}, seed=3, size=SIDE)
    contract = ImageContract(size=SIDE, crop=0.5)
    return np.stack([images.read_file(path, contract) for path in sorted(Path(folder).rglob("*.jpg"))])


def streaked(pixels: Pixels, row: int) -> Pixels:
    """With a green streak over half of its width."""
    image = pixels.copy()
    image[row : row + 3, SIDE // 4 : 3 * SIDE // 4] = (60, 255, 60)
    return image


def test_a_planted_streak_is_where_the_map_says(galaxies: Pixels) -> None:
    learnt = galaxies[PLANTED:]
    rows = shapes(learnt)
    novelty = Novelty.fit(rows)
    reference = ReferencePoints(novelty.score(rows).vectors)
    near = []
    for number in range(PLANTED):
        row = 6 + 9 * number
        image = streaked(galaxies[number], row)
        neighbour = reference.nearest(novelty.score(shapes(image[np.newaxis])).vectors, 1).indices[0, 0]
        heat = analysis.occlusion_map(image, learnt[neighbour], lambda some: novelty.score(shapes(some)).strength)
        down, across = np.unravel_index(heat.argmax(), heat.shape)
        near.append(
            abs((down + 0.5) * SIDE / OCCLUSION_GRID - row - 1.5) <= 1.5 * SIDE / OCCLUSION_GRID
            and 1 <= across <= OCCLUSION_GRID - 2
        )
    assert sum(near) >= PLANTED - 1


def test_only_the_place_that_counts_is_hot() -> None:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[8:16, 40:48] = 200  # the second place down, the sixth across
    heat = analysis.occlusion_map(
        image, np.zeros_like(image), lambda some: some.mean(axis=(1, 2, 3)).astype(np.float32)
    )
    assert int(heat.argmax()) == np.ravel_multi_index((1, 5), heat.shape)
    assert heat[5:].max() < 0.01 * heat.max()


def test_an_image_that_is_like_its_cover_is_hot_nowhere() -> None:
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    heat = analysis.occlusion_map(image, image, lambda some: some.mean(axis=(1, 2, 3)).astype(np.float32))
    assert heat.shape == (OCCLUSION_GRID, OCCLUSION_GRID)
    assert not heat.any()
