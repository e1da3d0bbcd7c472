"""What the service opens at start-up is closed again, whichever constructor or close fails."""

import asyncio
import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from astrodetect.service import services as services_module
from astrodetect.service.authentication import ApiKeys
from astrodetect.service.metrics import Metrics
from astrodetect.service.outbox import Outbox
from astrodetect.service.services import Services, open_services
from astrodetect.settings import Settings
from database import Database

URL = "postgresql://someone@127.0.0.1:1/astrodetect"  # nobody listens there
CONSTRUCTORS = [
    "Shutdown",
    "ModelRegistry",
    "ThumbnailStore",
    "Outbox",
    "Recorder",
    "ReviewQueue",
    "ImagePipeline",
    "ProjectionJobs",
    "LiveFeed",
    "DetectionService",
    "VectorIndexer",
    "BatchDetection",
    "Fetcher",
    "AnomalyDetection",
    "Services",
]
CLOSED = [  # in this order
    "Fetcher",
    "VectorIndexer",
    "DetectionService",
    "LiveFeed",
    "ProjectionJobs",
    "ReviewQueue",
    "ModelRegistry",
    "ImagePipeline",
    "Recorder",
    "ThumbnailStore",
]
THREADS = [
    "detection-0",
    "detection-1",
    "thumbnail-compressor",
    "thumbnail-writer",
    "outbox-drainer",
    "vector-indexer",
]


class FakeError(Exception):
    """Raised by a constructor, a thread's start or a close."""


class CountedDatabase(Database):
    """A database that is down, and counts how many of it are open."""

    opened = 0

    def __init__(self) -> None:
        super().__init__(URL, connections=1, timeout_s=1)
        CountedDatabase.opened += 1

    def close(self) -> None:
        super().close()
        CountedDatabase.opened -= 1


@pytest.fixture
def open_all(models_dir: Path, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Opens and closes all services; afterwards nothing may be open."""
    settings = Settings(models_dir=models_dir, data_dir=tmp_path, model="resnet50_model")
    before = set(threading.enumerate()), signal.getsignal(signal.SIGTERM)
    CountedDatabase.opened = 0

    async def run() -> None:
        async with open_services(settings, Metrics(), ApiKeys(None), CountedDatabase) as services:
            assert isinstance(services, Services)
            assert {*THREADS} <= {thread.name for thread in threading.enumerate()}

    yield lambda: asyncio.run(run())
    threads, handler = before
    assert [thread.name for thread in threading.enumerate() if thread not in threads] == []
    assert signal.getsignal(signal.SIGTERM) is handler
    assert CountedDatabase.opened == 0
    outbox = Outbox(settings.outbox_dir, max_bytes=10_000)
    outbox.close()
    assert [path.name for path in settings.outbox_dir.iterdir()] == ["0"]  # its lock was free


def test_services_are_closed_in_the_reverse_order_of_their_dependencies(
    open_all: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    for name in CLOSED:
        _patch_close(monkeypatch, name, partial(closed.append, name))
    open_all()
    assert list(dict.fromkeys(closed)) == CLOSED


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_a_failing_constructor_leaves_nothing_open(
    open_all: Callable[[], None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise FakeError(name)

    monkeypatch.setattr(services_module, name, fail)
    with pytest.raises(FakeError, match=name):
        open_all()


@pytest.mark.parametrize("name", THREADS)
def test_a_thread_that_cannot_start_leaves_nothing_open(
    open_all: Callable[[], None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    start = threading.Thread.start

    def start_unless_named(self: threading.Thread) -> None:
        if self.name == name:
            raise FakeError(name)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_unless_named)
    with pytest.raises(FakeError, match=name):
        open_all()


@pytest.mark.parametrize("name", CLOSED)
def test_a_failing_close_is_raised_and_everything_else_is_closed(
    open_all: Callable[[], None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail() -> None:
        raise FakeError(name)

    _patch_close(monkeypatch, name, fail)
    with pytest.raises(FakeError, match=name):
        open_all()


def _patch_close(monkeypatch: pytest.MonkeyPatch, name: str, after: Callable[[], None]) -> None:
    """Calls `after` when an object of this class has been closed."""
    cls = getattr(services_module, name)
    close = cls.close

    async def close_async(self: Any) -> None:
        await close(self)
        after()

    def close_sync(self: Any) -> None:
        close(self)
        after()

    monkeypatch.setattr(cls, "close", close_async if inspect.iscoroutinefunction(close) else close_sync)
