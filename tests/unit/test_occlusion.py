"""Occlusion maps: where an image is unusual compared with an ordinary one."""

from pathlib import Path

import numpy as np
import pytest

from astrodetect import images
from astrodetect.anomalies.analysis import OCCLUSION_GRID, occlusion_map
from astrodetect.anomalies.detectors.base import ReferencePoints
from astrodetect.anomalies.novelty import Novelty
from astrodetect.datasets.simulation import generator
from astrodetect.features.central_object import feature_matrix
from astrodetect.records import Floats, ImageContract, Pixels

SIDE = 64
PLANTED = 6


def features(pixels: Pixels) -> Floats:
    return feature_matrix("shapes", pixels, 0.5)


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    folder = generator.make_dataset(tmp_path_factory.mktemp("sky") / "mine", {"E": 120, "SB": 80}, seed=3, size=SIDE)
    contract = ImageContract(size=SIDE, crop=0.5)
    return np.stack([images.decode_file(path, contract) for path in sorted(Path(folder).rglob("*.jpg"))])


def with_streak(pixels: Pixels, row: int) -> Pixels:
    """The image with a green streak over half of its width."""
    image = pixels.copy()
    image[row : row + 3, SIDE // 4 : 3 * SIDE // 4] = (60, 255, 60)
    return image


def test_occlusion_map_is_highest_at_a_planted_streak(galaxies: Pixels) -> None:
    training = galaxies[PLANTED:]
    rows = features(training)
    novelty = Novelty.fit(rows)
    reference = ReferencePoints(novelty.score(rows).vectors)
    located = []
    for number in range(PLANTED):
        row = 6 + 9 * number
        image = with_streak(galaxies[number], row)
        neighbour = reference.nearest(novelty.score(features(image[np.newaxis])).vectors, 1).indices[0, 0]
        heat = occlusion_map(image, training[neighbour], lambda batch: novelty.score(features(batch)).strength)
        down, across = np.unravel_index(heat.argmax(), heat.shape)
        located.append(
            abs((down + 0.5) * SIDE / OCCLUSION_GRID - row - 1.5) <= 1.5 * SIDE / OCCLUSION_GRID
            and 1 <= across <= OCCLUSION_GRID - 2
        )
    assert sum(located) >= PLANTED - 1


def test_occlusion_map_is_zero_where_occlusion_does_not_change_the_score() -> None:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[8:16, 40:48] = 200  # the second row of the grid, the sixth column
    heat = occlusion_map(image, np.zeros_like(image), lambda batch: batch.mean(axis=(1, 2, 3)).astype(np.float32))
    assert int(heat.argmax()) == np.ravel_multi_index((1, 5), heat.shape)
    assert heat[5:].max() < 0.01 * heat.max()


def test_occlusion_map_of_an_image_identical_to_its_reference_is_zero() -> None:
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    heat = occlusion_map(image, image, lambda batch: batch.mean(axis=(1, 2, 3)).astype(np.float32))
    assert heat.shape == (OCCLUSION_GRID, OCCLUSION_GRID)
    assert not heat.any()
