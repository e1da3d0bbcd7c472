"""Similar images: the stored vectors, and the nearest neighbours among them."""

import re
import uuid
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


def scored_image(number: int, vector: "Floats | tuple[float, ...]", space: str = SPACE) -> ScoredImage:
    """A scored image whose name and SHA-256 follow from its number."""
    return ScoredImage(
        f"{number}.jpg", f"{number:064x}", 0.1, 0.5, "m", "1",
        novelty=0.5, vector=tuple(float(value) for value in vector), space=space,
    )  # fmt: skip


def random_images(count: int, seed: int = 0, space: str = SPACE, first: int = 0) -> list[ScoredImage]:
    """Images with random vectors of 40 dimensions."""
    vectors = np.random.default_rng(seed).normal(size=(count, 40)).astype(np.float32)
    return [scored_image(first + number, vector, space) for number, vector in enumerate(vectors)]


def names_of_similar(log: Database, prediction: Prediction, limit: int = 10) -> list[str]:
    return [neighbour.prediction.image_name for neighbour in log.similar(prediction, limit=limit)]


def test_similar_images_are_sorted_by_their_true_distance(log: Database) -> None:
    scored = random_images(300)
    rows = log.record_many(scored)
    neighbours = log.similar(rows[0], limit=10)
    vectors = np.array([each.vector for each in scored])
    distances = np.linalg.norm(vectors - vectors[0], axis=1)
    order = np.argsort(distances)[1:11]
    assert [each.prediction for each in neighbours] == [rows[i] for i in order]
    assert [each.distance for each in neighbours] == pytest.approx(distances[order], abs=0.01)


@pytest.mark.parametrize("indexed", [1, 150, 299])
def test_indexing_does_not_change_the_results(log: Database, indexed: int) -> None:
    rows = log.record_many(random_images(300))
    before = [log.similar(row, limit=10) for row in rows]
    assert log.index_vectors(indexed) == indexed
    assert log.count_unindexed_vectors() == 300 - indexed
    assert [log.similar(row, limit=10) for row in rows] == before
    assert log.index_vectors(1000) == 300 - indexed
    assert [log.similar(row, limit=10) for row in rows] == before
    assert (log.index_vectors(1000), log.count_unindexed_vectors()) == (0, 0)


def test_recording_an_image_again_does_not_wait_for_its_indexing(log: Database, database_url: str) -> None:
    log.record_many([scored_image(1, (0.0,)), scored_image(2, (1.0,))])
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(database.SQL["index_vectors"], {"most": 1})
        [again] = log.record_many(
            [replace(scored_image(1, (0.0,)), request_id=uuid.uuid4())]
        )  # must not wait for the lock
        assert names_of_similar(log, again) == ["2.jpg"]
        assert log.index_vectors(10) == 1  # the vector that is locked is skipped


def test_a_vector_is_stored_with_its_own_row(log: Database, database_url: str) -> None:
    with_vector, without = (
        scored_image(1, (1.0, 2.0)),
        replace(scored_image(2, ()), vector=None, space=None, novelty=None),
    )
    first, second = log.record_many([with_vector, without])
    assert log.record_many([with_vector]) == [first]
    assert query(database_url, "SELECT prediction_id, space, image_sha256 FROM features") == [
        (first.id, SPACE, first.image_sha256)
    ]
    with pytest.raises(VectorMissing, match=f"prediction {second.id} has no vector"):
        log.similar(second, limit=1)


def test_an_image_scored_repeatedly_is_found_once_and_not_as_similar_to_itself(log: Database) -> None:
    rows = log.record_many([scored_image(1, (0.0,)), scored_image(2, (1.0,)), scored_image(3, (2.0,))])
    again = [replace(scored_image(number, (number - 1.0,)), request_id=uuid.uuid4()) for number in (1, 2, 2, 3, 1)]
    repeated = log.record_many(again)
    for row in (rows[0], repeated[0], repeated[-1]):
        assert names_of_similar(log, row) == ["2.jpg", "3.jpg"]


def test_similar_images_are_of_the_same_embedding_space(log: Database) -> None:
    rows = log.record_many(
        [
            scored_image(1, (0.0,)),
            scored_image(2, (5.0,)),
            scored_image(3, (0.1,), OTHER),
            scored_image(1, (0.0,), OTHER),
        ]
    )
    assert names_of_similar(log, rows[0]) == ["2.jpg"]
    assert names_of_similar(log, rows[3]) == ["3.jpg"]


def test_a_small_space_is_searched_completely_beside_a_large_one(log: Database, database_url: str) -> None:
    log.record_many(
        [replace(each, vector=tuple(np.array(each.vector) * 0.01)) for each in random_images(3000, space=OTHER)]
    )
    rows = log.record_many(random_images(20, seed=1, first=10_000))
    query(database_url, "ANALYZE features")
    assert len(names_of_similar(log, rows[0], limit=10)) == 10


@pytest.mark.parametrize("vector", [(float("nan"), 1.0), (float("inf"),), (0.5,) * (DIMENSIONS + 1)])
def test_a_row_is_recorded_without_a_vector_that_cannot_be_stored(
    log: Database, database_url: str, vector: tuple[float, ...]
) -> None:
    [row] = log.record_many([scored_image(1, vector)])
    assert log.prediction(row.id) == row
    assert query(database_url, "SELECT count(*) FROM features") == [(0,)]


def test_values_beyond_half_precision_are_clipped(log: Database, database_url: str) -> None:
    log.record_many([scored_image(1, (1e9, -1e9, 1e-12))])
    [(text,)] = query(database_url, "SELECT vector::text FROM features")
    assert text.startswith("[65504,-65504,0,")


def test_the_search_uses_the_hnsw_index_for_a_large_space_and_the_space_index_for_a_small_one(
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
        assert not re.search("Seq Scan on (features|predictions)", plan)  # other tables are empty


def test_without_pgvector_rows_are_recorded_and_similar_reports_why(postgres_url: str) -> None:
    setup_db.migrate(postgres_url)
    query(postgres_url, "DROP TABLE features; DROP EXTENSION vector")
    log = Database(postgres_url, connections=1, timeout_s=5)
    row, _ = log.record_many([scored_image(1, (1.0,)), scored_image(2, (2.0,))])
    assert (row.novelty, row.space) == (0.5, SPACE)
    with pytest.raises(VectorsOff, match=r"python setup_db\.py"):
        log.similar(row, limit=1)
    log.close()
    assert setup_db.migrate(postgres_url) == setup_db.Migrated([], None)
    log = Database(postgres_url, connections=1, timeout_s=5)
    rows = log.record_many([scored_image(3, (1.0,)), scored_image(4, (2.0,))])
    assert names_of_similar(log, rows[0]) == ["4.jpg"]
    log.close()
