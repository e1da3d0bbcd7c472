"""More like this: the vectors of logged images, and which of them are near."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import psycopg2
import pytest
from programs import query

import database
import setup_db
from astrodetect.db.connections import connect
from astrodetect.errors import VectorMissing, VectorsOff
from astrodetect.records import DIMENSIONS, Floats, Prediction, ScoredImage
from database import Database

SPACE, OTHER = "5f0c3a9be214", "9be2145f0c3a"


def placed(number: int, vector: "Floats | tuple[float, ...]", space: str = SPACE) -> ScoredImage:
    """One image, named and summed by its number."""
    return ScoredImage(
        f"{number}.jpg", f"{number:064x}", 0.1, 0.5, "m", "1",
        novelty=0.5, vector=tuple(float(value) for value in vector), space=space,
    )  # fmt: skip


@pytest.fixture
def log(database_url: str) -> Iterator[Database]:
    log = Database(database_url, connections=2, timeout_s=5)
    yield log
    log.close()


def cloud(count: int, seed: int = 0, space: str = SPACE, first: int = 0) -> list[ScoredImage]:
    """Images anywhere in 40 dimensions."""
    vectors = np.random.default_rng(seed).normal(size=(count, 40)).astype(np.float32)
    return [placed(first + number, vector, space) for number, vector in enumerate(vectors)]


def near(log: Database, prediction: Prediction, limit: int = 10) -> list[str]:
    return [neighbour.prediction.image_name for neighbour in log.similar(prediction, limit=limit)]


def test_the_nearest_come_first_with_their_true_distances(log: Database) -> None:
    scored = cloud(300)
    rows = log.record_many(scored)
    found = log.similar(rows[0], limit=10)
    vectors = np.array([one.vector for one in scored])
    distances = np.linalg.norm(vectors - vectors[0], axis=1)
    order = np.argsort(distances)[1:11]
    assert [one.prediction for one in found] == [rows[i] for i in order]
    assert [one.distance for one in found] == pytest.approx(distances[order], abs=0.01)


@pytest.mark.parametrize("indexed", [1, 150, 299])
def test_the_answers_are_the_same_whether_vectors_are_in_the_graph_or_not(log: Database, indexed: int) -> None:
    rows = log.record_many(cloud(300))
    before = [log.similar(row, limit=10) for row in rows]
    assert log.index_vectors(indexed) == indexed
    assert log.count_unindexed_vectors() == 300 - indexed
    assert [log.similar(row, limit=10) for row in rows] == before
    assert log.index_vectors(1000) == 300 - indexed
    assert [log.similar(row, limit=10) for row in rows] == before
    assert (log.index_vectors(1000), log.count_unindexed_vectors()) == (0, 0)


def test_an_image_that_comes_again_does_not_wait_until_its_vector_is_indexed(log: Database, database_url: str) -> None:
    log.record_many([placed(1, (0.0,)), placed(2, (1.0,))])
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(database.SQL["index_vectors"], {"most": 1})
        [again] = log.record_many([replace(placed(1, (0.0,)), request_id=uuid.uuid4())])  # else this takes too long
        assert near(log, again) == ["2.jpg"]
        assert log.index_vectors(10) == 1  # another service takes what is left


def test_a_vector_comes_with_its_row_and_with_no_other(log: Database, database_url: str) -> None:
    with_vector, without = placed(1, (1.0, 2.0)), replace(placed(2, ()), vector=None, space=None, novelty=None)
    first, second = log.record_many([with_vector, without])
    assert log.record_many([with_vector]) == [first]
    assert query(database_url, "SELECT prediction_id, space, image_sha256 FROM features") == [
        (first.id, SPACE, first.image_sha256)
    ]
    with pytest.raises(VectorMissing, match=f"prediction {second.id} has no vector"):
        log.similar(second, limit=1)


def test_an_image_is_found_once_however_often_it_was_scored_and_never_as_like_itself(log: Database) -> None:
    rows = log.record_many([placed(1, (0.0,)), placed(2, (1.0,)), placed(3, (2.0,))])
    again = [replace(placed(number, (number - 1.0,)), request_id=uuid.uuid4()) for number in (1, 2, 2, 3, 1)]
    late = log.record_many(again)
    for asked in (rows[0], late[0], late[-1]):
        assert near(log, asked) == ["2.jpg", "3.jpg"]


def test_only_images_of_the_same_space_are_like_each_other(log: Database) -> None:
    rows = log.record_many([placed(1, (0.0,)), placed(2, (5.0,)), placed(3, (0.1,), OTHER), placed(1, (0.0,), OTHER)])
    assert near(log, rows[0]) == ["2.jpg"]
    assert near(log, rows[3]) == ["3.jpg"]


def test_a_young_space_is_searched_whole_beside_a_large_one_that_is_nearer(log: Database, database_url: str) -> None:
    log.record_many([replace(one, vector=tuple(np.array(one.vector) * 0.01)) for one in cloud(3000, space=OTHER)])
    rows = log.record_many(cloud(20, seed=1, first=10_000))
    query(database_url, "ANALYZE features")
    assert len(near(log, rows[0], limit=10)) == 10


@pytest.mark.parametrize("vector", [(float("nan"), 1.0), (float("inf"),), (0.5,) * (DIMENSIONS + 1)])
def test_a_vector_that_cannot_be_kept_costs_no_row(log: Database, database_url: str, vector: tuple[float, ...]) -> None:
    [row] = log.record_many([placed(1, vector)])
    assert log.prediction(row.id) == row
    assert query(database_url, "SELECT count(*) FROM features") == [(0,)]


def test_beyond_half_precision_a_vector_is_kept_at_its_end(log: Database, database_url: str) -> None:
    log.record_many([placed(1, (1e9, -1e9, 1e-12))])
    [(text,)] = query(database_url, "SELECT vector::text FROM features")
    assert text.startswith("[65504,-65504,0,")


def test_the_search_uses_the_graph_for_a_large_space_the_space_for_a_small_one_and_finds_what_is_fresh(
    log: Database, database_url: str
) -> None:
    query(
        database_url,
        "INSERT INTO predictions (id, image_name, score, result, image_sha256, space)"
        f" SELECT n, n::text, 0, '', n::text, '{SPACE}' FROM generate_series(1, 8000) n",
    )
    query(
        database_url,
        f"INSERT INTO features SELECT n, CASE WHEN n > 30 THEN '{SPACE}' ELSE '{OTHER}' END, n::text,"
        " (SELECT array_agg(random()) FROM generate_series(1, 64 + 0 * n))::real[]::halfvec, n <= 7900"
        " FROM generate_series(1, 8000) n",
    )
    query(database_url, "ANALYZE features, predictions")
    for space, index in ((SPACE, "features_graph"), (OTHER, "features_space_image_sha256_key")):
        values = {"space": space, "image": "7", "vector": f"[{','.join('0' * DIMENSIONS)}]", "limit": 10}
        with connect(database_url, timeout_s=5).cursor() as cursor:
            cursor.execute("EXPLAIN " + database.SQL["nearest"], values)
            plan = "\n".join(line for (line,) in cursor.fetchall())
            cursor.connection.close()
        assert index in plan
        assert "features_fresh" in plan
        assert "Seq Scan" not in plan


def test_where_vectors_are_not_kept_rows_are_and_the_rest_says_so(postgres_url: str) -> None:
    setup_db.migrate(postgres_url)
    query(postgres_url, "DROP TABLE features; DROP EXTENSION vector")
    log = Database(postgres_url, connections=1, timeout_s=5)
    row, _ = log.record_many([placed(1, (1.0,)), placed(2, (2.0,))])
    assert (row.novelty, row.space) == (0.5, SPACE)
    with pytest.raises(VectorsOff, match=r"python setup_db\.py"):
        log.similar(row, limit=1)
    log.close()
    assert setup_db.migrate(postgres_url) == setup_db.Migrated([], None)
    log = Database(postgres_url, connections=1, timeout_s=5)
    rows = log.record_many([placed(3, (1.0,)), placed(4, (2.0,))])
    assert near(log, rows[0]) == ["4.jpg"]
    log.close()
