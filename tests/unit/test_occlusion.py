"""Occlusion maps: where an image is unusual compared with an ordinary one."""

from pathlib import Path

import numpy as np
import pytest

from astrodetect import images
from astrodetect.anomalies.detectors.base import ReferencePoints
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.occlusion import enlarge, hide_places, occlusion_map
from astrodetect.datasets.simulation import generator
from astrodetect.features.central_object import feature_matrix
from astrodetect.records import Floats, ImageContract, Pixels

SIDE = 64
PLANTED = 6
GRID = 12


def features(pixels: Pixels) -> Floats:
    return feature_matrix("shapes", pixels, 0.5)


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    folder = generator.make_dataset(
        tmp_path_factory.mktemp("sky") / "mine", {"E": 120, "SB": 80}, seed=3, size=SIDE, workers=1
    )
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
        copies = hide_places(image, training[neighbour], GRID)
        heat = occlusion_map(novelty.score(features(copies)).strength, 0, 100)
        down, across = np.unravel_index(heat.argmax(), heat.shape)
        located.append(abs((down + 0.5) * SIDE / GRID - row - 1.5) <= 1.5 * SIDE / GRID and 1 <= across <= GRID - 2)
    assert sum(located) >= PLANTED - 1


def brightness(batch: Pixels) -> Floats:
    return np.asarray(batch.mean(axis=(1, 2, 3)), np.float32)


def test_occlusion_map_is_zero_where_occlusion_does_not_change_the_score() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    image[10:15, 40:45] = 200  # the third row of the grid, the ninth column
    heat = occlusion_map(brightness(hide_places(image, np.zeros_like(image), GRID)), 0, 10)
    assert int(heat.argmax()) == np.ravel_multi_index((2, 8), heat.shape)
    assert heat[6:].max() < 0.01 * heat.max()


def test_occlusion_map_of_an_image_identical_to_its_reference_is_zero() -> None:
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    heat = occlusion_map(brightness(hide_places(image, image, GRID)), 0, 10)
    assert heat.shape == (GRID, GRID)
    assert not heat.any()


def test_the_scale_of_a_map_is_absolute() -> None:
    values = np.array([10, *[10] * (GRID**2 - 4), 9, 8, 6, 2], np.float32)
    assert occlusion_map(values, 2, 4).ravel()[-5:].tolist() == [0, 0, 0, 1, 1]
    assert occlusion_map(values, 0, 8).ravel()[-5:].tolist() == [0, 0.125, 0.25, 0.5, 1]


@pytest.mark.parametrize("places", [7, 12, 20])
def test_an_enlarged_map_is_smooth_in_place_and_keeps_a_constant(places: int) -> None:
    assert np.allclose(enlarge(np.full((places, places), 0.3, np.float32), 64), 0.3)
    heat = np.zeros((places, places), np.float32)
    heat[1, 5] = 1
    pixels = enlarge(heat, 64)
    down, across = np.unravel_index(pixels.argmax(), pixels.shape)
    assert abs((down + 0.5) / 64 - 1.5 / places) < 0.6 / places
    assert abs((across + 0.5) / 64 - 5.5 / places) < 0.6 / places
    assert np.abs(np.diff(pixels, axis=0)).max() < 0.3
