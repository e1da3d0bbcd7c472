"""Vectors enter the graph in idle moments, and none waits for ever."""

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
from astrodetect.service import vector_indexer as indexer_module
from astrodetect.service.vector_indexer import VectorIndexer
from astrodetect.settings import Settings
from database import Database
from main import create_app


class Wire(Database):
    """The real thing, on a wire that can be cut; tells how often it was asked to index."""

    def __init__(self, url: str) -> None:
        super().__init__(url, connections=2, timeout_s=5)
        self.cut = False
        self.asked = 0
        self.may = threading.Event()
        self.may.set()

    def count_unindexed_vectors(self) -> int:
        if self.cut:
            self.asked += 1
            raise DatabaseUnavailable("away")
        return super().count_unindexed_vectors()

    def index_vectors(self, most: int) -> int:
        self.asked += 1
        self.may.wait(10)
        if self.cut:
            raise DatabaseUnavailable("away")
        return super().index_vectors(most)


class Service:
    """How busy it is."""

    def __init__(self) -> None:
        self.images = 0
        self.looks = 0

    def at_work(self) -> int:
        self.looks += 1
        return self.images


@pytest.fixture
def wire(database_url: str) -> Iterator[Wire]:
    wire = Wire(database_url)
    yield wire
    wire.close()


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def begun(wire: Wire, service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], VectorIndexer]]:
    monkeypatch.setattr(indexer_module, "PAUSE_S", 0.01)
    held: list[VectorIndexer] = []

    def begin() -> VectorIndexer:
        held.append(VectorIndexer(wire, at_work=service.at_work))
        return held[-1]

    yield begin
    wire.may.set()
    for one in held:
        one.close()


def record(wire: Wire, count: int) -> None:
    """New images."""
    vectors = np.random.default_rng(0).normal(size=(count, 40))
    wire.record_many(
        [
            ScoredImage("", f"{n:064x}", 0.1, 0.5, "m", "1", novelty=0.5, vector=tuple(one), space="5f0c3a9be214")
            for n, one in enumerate(vectors.tolist())
        ]
    )


def until(happened: Callable[[], bool], within_s: float = 30) -> None:
    give_up = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_what_is_fresh_is_indexed_once_no_image_is_at_work(
    wire: Wire, service: Service, begun: Callable[[], VectorIndexer]
) -> None:
    record(wire, 100)
    service.images = 1
    begun()
    until(lambda: service.looks > 20)
    assert wire.count_unindexed_vectors() == 100
    service.images = 0
    until(lambda: wire.count_unindexed_vectors() == 0)


def test_beyond_a_bound_vectors_are_indexed_among_images_too(
    wire: Wire, service: Service, begun: Callable[[], VectorIndexer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer_module, "MOST_FRESH", 50)
    record(wire, 100)
    service.images = 1
    begun()
    until(lambda: wire.count_unindexed_vectors() <= 50)
    looks = service.looks
    until(lambda: service.looks > looks + 20)
    assert wire.count_unindexed_vectors() == 100 - 2 * indexer_module.A_COMMIT


@pytest.mark.parametrize("images", [0, 1])
def test_an_outage_is_told_of_once_and_indexing_goes_on_after_it(
    wire: Wire, service: Service, begun: Callable[[], VectorIndexer], caplog: pytest.LogCaptureFixture, images: int
) -> None:
    record(wire, 10)
    wire.cut, service.images = True, images
    with caplog.at_level(logging.WARNING, "uvicorn.error"):
        begun()
        until(lambda: wire.asked > 5)
    assert [record.getMessage() for record in caplog.records] == ["vectors wait for their index: away"]
    wire.cut, service.images = False, 0
    until(lambda: wire.count_unindexed_vectors() == 0)


def test_a_restart_of_postgresql_is_survived(wire: Wire, service: Service, begun: Callable[[], VectorIndexer]) -> None:
    begun()
    until(lambda: wire.asked > 3)
    query(wire._url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'astrodetect'")
    record(wire, 10)
    until(lambda: wire.count_unindexed_vectors() == 0)


def test_where_vectors_are_not_kept_there_is_nothing_to_index(
    database_url: str, service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    query(database_url, "DROP TABLE features; DROP EXTENSION vector")
    monkeypatch.setattr(indexer_module, "PAUSE_S", 0.01)
    wire = Wire(database_url)
    assert (wire.count_unindexed_vectors(), wire.index_vectors(10)) == (0, 0)
    with caplog.at_level(logging.WARNING, "uvicorn.error"):
        indexer = VectorIndexer(wire, at_work=service.at_work)
        until(lambda: service.looks > 20)
        indexer.close()
    wire.close()
    assert not caplog.records


def test_the_end_waits_for_one_commit_at_most(wire: Wire, begun: Callable[[], VectorIndexer]) -> None:
    record(wire, 100)
    wire.may.clear()
    one = begun()
    until(lambda: wire.asked == 1)
    end = threading.Thread(target=one.close)
    end.start()
    until(one._closing.is_set)
    wire.may.set()
    end.join()
    assert wire.count_unindexed_vectors() == 100 - indexer_module.A_COMMIT


def test_a_service_that_starts_indexes_what_an_earlier_one_left(wire: Wire, database_url: str, tmp_path: Path) -> None:
    record(wire, 10)
    settings = Settings(models_dir=tmp_path, DATABASE_URL=SecretStr(database_url))
    with TestClient(create_app(settings)):
        until(lambda: wire.count_unindexed_vectors() == 0)
    assert "indexer" not in {thread.name for thread in threading.enumerate()}
