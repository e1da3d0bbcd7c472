"""Maps of many images: tiles of cells and points, and the positions of images that t-SNE did not place."""

import datetime as dt
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from astrodetect.anomalies.placement import Placement
from astrodetect.service import projection_tiles
from astrodetect.service.projection_store import StoredProjection
from astrodetect.service.projection_tiles import CELLS, GRID_STEPS, encode_tile

COUNT = 20_000


@pytest.fixture(scope="module")
def stored() -> StoredProjection:
    random = np.random.default_rng(0)
    xy = random.uniform(size=(COUNT, 2)).astype(np.float32)
    ids = np.arange(COUNT, 0, -1)
    novelty = np.linspace(1, 0, COUNT, dtype=np.float32)
    codes = random.integers(0, 2, COUNT).astype(np.int32)
    return StoredProjection(ids, ["E", "SB"], codes, novelty, xy, "t-SNE", dt.datetime.now(dt.UTC))


def decode(body: bytes) -> dict[str, NDArray[Any]]:
    cells, points = np.frombuffer(body, "<u4", 2).tolist()
    fields = (
        ("ids", "<f8", points),
        ("counts", "<u4", cells),
        ("ranks", "<u4", points),
        ("xy", "<u2", 2 * points),
        ("cells", "<u2", cells),
        ("groups", "u1", cells),
        ("point_groups", "u1", 3 * points),
    )
    offset, decoded = 8, {}
    for name, dtype, count in fields:
        decoded[name] = np.frombuffer(body, dtype, count, offset)
        offset += decoded[name].nbytes
    assert offset == len(body)
    return decoded


def test_a_tile_of_many_images_counts_those_of_each_group_in_each_cell(stored: StoredProjection) -> None:
    groups = [stored.class_of.astype(np.uint8), np.zeros(COUNT, np.uint8), np.zeros(COUNT, np.uint8)]
    tile = decode(encode_tile(stored, groups, 0, (1, 1, 0)))
    steps = np.rint(stored.xy * GRID_STEPS).astype(int)
    inside = (steps[:, 0] >= 32768) & (steps[:, 1] < 32768)
    assert (int(tile["counts"].sum()), len(tile["ids"])) == (int(inside.sum()), 0)
    cells = (steps[inside] % 32768) // 128
    expected = np.zeros((2, CELLS * CELLS), int)
    np.add.at(expected, (groups[0][inside], cells[:, 1] * CELLS + cells[:, 0]), 1)
    counted = np.zeros_like(expected)
    counted[tile["groups"], tile["cells"]] = tile["counts"]
    np.testing.assert_array_equal(counted, expected)


def test_a_tile_of_few_images_has_their_points_with_their_ranks(stored: StoredProjection) -> None:
    groups = [np.full(COUNT, group, np.uint8) for group in (1, 2, 3)]
    tile = decode(encode_tile(stored, groups, 1, (2, 3, 1)))
    steps = np.rint(stored.xy * GRID_STEPS).astype(int)
    inside = np.flatnonzero((steps // 16384 == (3, 1)).all(axis=1))
    assert 0 < len(inside) < projection_tiles.MAX_TILE_POINTS
    assert sorted(tile["ranks"].tolist()) == inside.tolist()
    np.testing.assert_array_equal(tile["ids"], stored.ids[tile["ranks"]])
    np.testing.assert_array_equal(tile["xy"].reshape(-1, 2), steps[tile["ranks"]])
    assert tile["point_groups"].reshape(3, -1)[:, 0].tolist() == [1, 2, 3]
    assert not len(tile["counts"])


def test_every_image_is_in_one_tile_of_each_level(stored: StoredProjection) -> None:
    index = projection_tiles.tile_index(stored)
    for level in (0, 3):
        side = 1 << level
        assert sum(len(index.images(level, x, y)[0]) for x in range(side) for y in range(side)) == COUNT
    x, y = np.rint(stored.xy[7] * GRID_STEPS).astype(int) >> 8
    assert 7 in index.images(projection_tiles.MAX_LEVEL, int(x), int(y))[0]


def test_the_picture_of_the_density_is_transparent_where_no_image_lies(stored: StoredProjection) -> None:
    picture = projection_tiles.density(stored)
    assert picture.shape == (CELLS, CELLS, 4)
    steps = np.rint(stored.xy * GRID_STEPS).astype(int) // 256
    assert (picture[steps[:, 1], steps[:, 0], 3] > 60).all()
    assert (picture[..., 3] > 0).sum() == len(np.unique(steps, axis=0))


def test_images_are_placed_by_their_nearest_neighbours_in_one_cluster() -> None:
    random = np.random.default_rng(0)
    vectors = np.concatenate([random.normal(centre, 0.1, (500, 6)) for centre in (0, 5)]).astype(np.float32)
    xy = np.concatenate([vectors[:500, :2] / 50 + 0.1, vectors[500:, :2] / 50 + 0.7]).astype(np.float32)
    placement = Placement(vectors, xy)
    np.testing.assert_allclose(placement.place(vectors[::3]), xy[::3], atol=1e-3)  # at themselves
    others = random.normal(5, 0.1, (300, 6)).astype(np.float32)
    near = np.argsort(((others[:, None] - vectors[None]) ** 2).sum(axis=2), axis=1)[:, :5]
    distance = np.abs(placement.place(others) - xy[near].mean(axis=1)).max()
    assert distance < 0.005
    between = np.full((1, 6), 2.5, np.float32)
    assert np.abs(placement.place(between) - xy).max(axis=1).min() < 0.02  # not between the clusters
    assert placement.place(vectors[:0]).shape == (0, 2)
    assert Placement(vectors[:3], xy[:3]).place(vectors[:1, :4]).shape == (1, 2)
