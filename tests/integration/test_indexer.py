"""Vectors are indexed while the service is idle, and beyond a bound under load."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from programs import query
from pydantic import SecretStr
from starlette.testclient import TestClient

from astrodetect.errors import DatabaseUnavailable
from astrodetect.records import ScoredImage
from astrodetect.service import recorder as recorder_module
from astrodetect.service.recorder import VectorIndexer
from astrodetect.settings import Settings
from database import Database
from main import create_app


class BreakableDatabase(Database):
    """A real database whose connection can be cut; counts the calls."""

    def __init__(self, url: str) -> None:
        super().__init__(url, connections=2, timeout_s=5)
        self.cut = False
        self.calls = 0
        self.may_index = threading.Event()
        self.may_index.set()

    def count_unindexed_vectors(self) -> int:
        if self.cut:
            self.calls += 1
            raise DatabaseUnavailable("down")
        return super().count_unindexed_vectors()

    def index_vectors(self, most: int) -> int:
        self.calls += 1
        self.may_index.wait(10)
        if self.cut:
            raise DatabaseUnavailable("down")
        return super().index_vectors(most)


class Load:
    """The number of images being processed."""

    def __init__(self) -> None:
        self.images = 0
        self.checks = 0

    def in_flight(self) -> int:
        self.checks += 1
        return self.images


@pytest.fixture
def database(database_url: str) -> Iterator[BreakableDatabase]:
    database = BreakableDatabase(database_url)
    yield database
    database.close()


@pytest.fixture
def load() -> Load:
    return Load()


@pytest.fixture
def start(
    database: BreakableDatabase, load: Load, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], VectorIndexer]]:
    monkeypatch.setattr(recorder_module, "INDEX_INTERVAL_S", 0.01)
    indexers: list[VectorIndexer] = []

    def start_indexer() -> VectorIndexer:
        indexers.append(VectorIndexer(database, in_flight=load.in_flight))
        return indexers[-1]

    yield start_indexer
    database.may_index.set()
    for indexer in indexers:
        indexer.close()


def record(database: BreakableDatabase, count: int) -> None:
    """Records images with vectors."""
    vectors = np.random.default_rng(0).normal(size=(count, 40))
    database.record_many(
        [
            ScoredImage("", f"{n:064x}", 0.1, 0.5, "m", "1", novelty=0.5, vector=tuple(vector), space="5f0c3a9be214")
            for n, vector in enumerate(vectors.tolist())
        ]
    )


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_vectors_are_indexed_once_no_image_is_being_processed(
    database: BreakableDatabase, load: Load, start: Callable[[], VectorIndexer]
) -> None:
    record(database, 100)
    load.images = 1
    start()
    wait_until(lambda: load.checks > 20)
    assert database.count_unindexed_vectors() == 100
    load.images = 0
    wait_until(lambda: database.count_unindexed_vectors() == 0)


def test_beyond_a_bound_vectors_are_indexed_under_load(
    database: BreakableDatabase, load: Load, start: Callable[[], VectorIndexer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "MAX_UNINDEXED", 50)
    record(database, 100)
    load.images = 1
    start()
    wait_until(lambda: database.count_unindexed_vectors() <= 50)
    checks = load.checks
    wait_until(lambda: load.checks > checks + 20)
    assert database.count_unindexed_vectors() == 100 - 2 * recorder_module.COMMIT_VECTORS


@pytest.mark.parametrize("images", [0, 1])
def test_an_outage_is_logged_once_and_indexing_resumes(
    database: BreakableDatabase,
    load: Load,
    start: Callable[[], VectorIndexer],
    caplog: pytest.LogCaptureFixture,
    images: int,
) -> None:
    record(database, 10)
    database.cut, load.images = True, images
    with caplog.at_level(logging.WARNING, "uvicorn.error"):
        start()
        wait_until(lambda: database.calls > 5)
    assert [record.getMessage() for record in caplog.records] == ["vectors wait to be indexed: down"]
    database.cut, load.images = False, 0
    wait_until(lambda: database.count_unindexed_vectors() == 0)


def test_indexing_survives_a_restart_of_postgresql(
    database: BreakableDatabase, load: Load, start: Callable[[], VectorIndexer]
) -> None:
    start()
    wait_until(lambda: database.calls > 3)
    query(
        database._url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'astrodetect'"
    )
    record(database, 10)
    wait_until(lambda: database.count_unindexed_vectors() == 0)


def test_without_pgvector_there_is_nothing_to_index(
    database_url: str, load: Load, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    query(database_url, "DROP TABLE features; DROP EXTENSION vector")
    monkeypatch.setattr(recorder_module, "INDEX_INTERVAL_S", 0.01)
    database = BreakableDatabase(database_url)
    assert (database.count_unindexed_vectors(), database.index_vectors(10)) == (0, 0)
    with caplog.at_level(logging.WARNING, "uvicorn.error"):
        indexer = VectorIndexer(database, in_flight=load.in_flight)
        wait_until(lambda: load.checks > 20)
        indexer.close()
    database.close()
    assert not caplog.records


def test_close_waits_for_at_most_one_commit(database: BreakableDatabase, start: Callable[[], VectorIndexer]) -> None:
    record(database, 100)
    database.may_index.clear()
    indexer = start()
    wait_until(lambda: database.calls == 1)
    end = threading.Thread(target=indexer.close)
    end.start()
    wait_until(indexer._closing.is_set)
    database.may_index.set()
    end.join()
    assert database.count_unindexed_vectors() == 100 - recorder_module.COMMIT_VECTORS


def test_a_starting_service_indexes_what_an_earlier_one_left(
    database: BreakableDatabase, database_url: str, tmp_path: Path
) -> None:
    record(database, 10)
    settings = Settings(models_dir=tmp_path, DATABASE_URL=SecretStr(database_url))
    with TestClient(create_app(settings)):
        wait_until(lambda: database.count_unindexed_vectors() == 0)
    assert "vector-indexer" not in {thread.name for thread in threading.enumerate()}
