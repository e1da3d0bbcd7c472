"""The thumbnail store: it blocks no request, drops the oldest, and writes what waited once PostgreSQL is back."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from astrodetect import images
from astrodetect.errors import DatabaseError, DatabaseUnavailable
from astrodetect.fits_values import FitsValues
from astrodetect.records import HeatMap, Pixels, Thumbnail
from astrodetect.service import thumbnails as thumbnails_module
from astrodetect.service.thumbnails import ThumbnailStore


class FakeValues:
    """The table of values."""

    def __init__(self) -> None:
        self.saved: dict[str, FitsValues] = {}

    def save(self, values: FitsValues) -> None:
        self.saved[values.image_sha256] = values

    def read(self, image_sha256: str) -> FitsValues | None:
        return self.saved.get(image_sha256)


class FakeDatabase:
    """A database that can be down."""

    def __init__(self) -> None:
        self.attempts, self.pruned = 0, (0, 0)
        self.pictures: dict[str, Thumbnail] = {}
        self.heats: dict[tuple[str, str], HeatMap] = {}
        self.failure: Exception | None = None
        self.written: list[set[tuple[str, str]]] = []
        self.fits_values = FakeValues()

    def save_thumbnails(self, pictures: Sequence[Thumbnail], heats: Sequence[HeatMap]) -> None:
        self.attempts += 1
        if self.failure:
            raise self.failure
        keys = {(heat.image_sha256, heat.model_version) for heat in heats}
        self.written.append(keys | {(picture.image_sha256, "") for picture in pictures})
        self.heats |= {(heat.image_sha256, heat.model_version): heat for heat in heats}
        self.pictures |= {picture.image_sha256: picture for picture in pictures}

    def thumbnail(self, image_sha256: str) -> Thumbnail | None:
        return self.pictures.get(image_sha256)

    def heat_map(self, image_sha256: str, model_version: str) -> HeatMap | None:
        return self.heats.get((image_sha256, model_version))

    def prune_thumbnails(self, *, days: int, max_bytes: int) -> int:
        self.pruned = (days, max_bytes)
        return 0

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails_module, "COMPRESS_DELAY_S", 0.0)
    monkeypatch.setattr(thumbnails_module, "COMMIT_DELAY_S", 0.0)
    monkeypatch.setattr(thumbnails_module, "RETRY_S", 0.01)


@pytest.fixture
def database() -> FakeDatabase:
    return FakeDatabase()


@pytest.fixture
def store(database: FakeDatabase) -> Iterator[ThumbnailStore]:
    store = ThumbnailStore(database, days=1, max_bytes=10**9)
    yield store
    store.close()


def pixels(value: int = 0) -> Pixels:
    return np.full((20, 30, 3), value, np.uint8)


def heat(image: str) -> HeatMap:
    return HeatMap(image, "1", np.full((2, 2), 9, np.uint8), 1.0)


def test_an_added_thumbnail_is_served_at_once_and_written_before_close_returns(
    store: ThumbnailStore, database: FakeDatabase
) -> None:
    assert store.needs("a")
    store.add("a", pixels(), heat("a"))
    thumbnail, heat_map = store.thumbnail("a"), store.heat_map("a", "1")
    assert thumbnail is not None
    assert (thumbnail.width, thumbnail.height, thumbnail.jpeg[:2]) == (30, 20, b"\xff\xd8")
    assert heat_map is not None
    assert not store.needs("a")
    assert (store.thumbnail("b"), store.heat_map("a", "2")) == (None, None)
    store.close()
    assert (database.pictures["a"], database.heats["a", "1"]) == (thumbnail, heat_map)


def test_a_thumbnail_of_an_earlier_run_is_read_from_the_database(store: ThumbnailStore, database: FakeDatabase) -> None:
    database.pictures["old"], database.heats["old", "1"] = Thumbnail("old", b"jpeg", 1, 1), heat("old")
    assert store.thumbnail("old") == database.pictures["old"]
    assert store.heat_map("old", "1") is database.heats["old", "1"]
    assert store.needs("old")  # so that the database keeps it as a new one


def test_thumbnails_wait_while_postgresql_is_down(store: ThumbnailStore, database: FakeDatabase) -> None:
    database.failure = DatabaseUnavailable("down")
    for number in range(5):
        store.add(str(number), pixels(number), heat(str(number)))
    database.wait_until(lambda: database.attempts >= 3)
    assert not database.pictures
    database.failure = None
    database.wait_until(lambda: len(database.pictures) == len(database.heats) == 5)


def test_a_batch_that_postgresql_rejects_does_not_block_the_next(store: ThumbnailStore, database: FakeDatabase) -> None:
    database.failure = DatabaseError("refused")
    store.add("bad", pixels(), heat("bad"))
    database.wait_until(lambda: store.needs("bad") and database.attempts == 1)
    assert store.thumbnail("bad") is None
    database.failure = None
    store.add("good", pixels(), None)
    database.wait_until(lambda: "good" in database.pictures)
    store.add("bad", pixels(), heat("bad"))
    database.wait_until(lambda: {"bad", "good"} == database.pictures.keys() and ("bad", "1") in database.heats)


def test_a_thumbnail_written_a_day_ago_is_needed_and_written_again(
    store: ThumbnailStore, database: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("a", pixels(), heat("a"))
    database.wait_until(lambda: len(database.heats) == len(database.pictures) == 1)
    database.pictures.clear()
    database.heats.clear()
    assert not store.needs("a")
    monkeypatch.setattr(thumbnails_module, "REMEMBER_S", 0.0)
    assert store.needs("a")
    store.add("a", pixels(), heat("a"))
    database.wait_until(lambda: len(database.heats) == len(database.pictures) == 1)


def test_an_image_scored_again_writes_no_thumbnail(store: ThumbnailStore, database: FakeDatabase) -> None:
    store.add("a", pixels(), heat("a"))
    database.wait_until(lambda: "a" in database.pictures)
    attempts = database.attempts
    for _ in range(5):
        store.add("a", None, heat("a"))
    store.add("b", pixels(), heat("b"))
    database.wait_until(lambda: "b" in database.pictures)
    assert (database.attempts, database.written[-1]) == (attempts + 1, {("b", ""), ("b", "1")})
    store.add("a", None, HeatMap("a", "2", np.zeros((2, 2), np.uint8), 1.0))
    database.wait_until(lambda: ("a", "2") in database.heats)


def test_beyond_the_byte_limit_the_oldest_thumbnail_is_dropped_and_needed_again(
    database: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails_module, "MAX_CACHE_BYTES", 10_000)
    store = ThumbnailStore(database, days=1, max_bytes=10**9)
    database.failure = DatabaseUnavailable("down")
    for number in range(40):
        store.add(str(number), pixels(), heat(str(number)))
    database.wait_until(lambda: not store._pixels)
    assert store.needs("0")
    assert not store.needs("39")
    database.failure = None
    database.wait_until(lambda: "39" in database.pictures)
    store.close()
    assert sum(len(thumbnail.jpeg) for thumbnail in database.pictures.values()) <= 10_000
    assert len(database.pictures) < 40


def test_uncompressed_pixels_are_bounded_and_dropped_with_their_heat_maps(
    database: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_compress, compress = threading.Event(), images.make_thumbnail

    def slow(image_sha256: str, pixels: Pixels) -> Thumbnail:
        may_compress.wait()
        return compress(image_sha256, pixels)

    monkeypatch.setattr(images, "make_thumbnail", slow)
    monkeypatch.setattr(thumbnails_module, "MAX_PIXEL_BYTES", 10 * pixels().nbytes)
    store = ThumbnailStore(database, days=1, max_bytes=10**9)
    for number in range(40):
        store.add(str(number), pixels(), heat(str(number)))
    may_compress.set()
    store.close()
    assert "39" in database.pictures
    assert len(database.pictures) <= 11  # one was being compressed
    assert {image for image, _ in database.heats} == set(database.pictures)


def test_the_cache_of_thumbnails_read_is_bounded(database: FakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails_module, "MAX_CACHE_BYTES", 10_000)
    store = ThumbnailStore(database, days=1, max_bytes=10**9)
    database.pictures = {str(number): Thumbnail(str(number), bytes(1_000), 1, 1) for number in range(40)}
    for image in database.pictures:
        store.thumbnail(image)
    database.pictures.clear()
    cached = [number for number in range(40) if store.thumbnail(str(number))]
    assert cached == list(range(40 - len(cached), 40))
    assert 0 < len(cached) < 10
    store.close()


def test_a_limit_of_zero_bytes_stores_no_thumbnails(database: FakeDatabase) -> None:
    store = ThumbnailStore(database, days=1, max_bytes=0)
    assert not store.needs("a")
    store.add("a", None, heat("a"))
    assert store.heat_map("a", "1") is None
    store.close()
    assert not database.heats
    assert database.pruned == (1, 0)  # earlier ones are pruned


def test_the_values_of_a_damaged_fits_are_lost_and_its_thumbnail_is_stored(database: FakeDatabase) -> None:
    store = ThumbnailStore(database, days=1, max_bytes=10**9, fits_px=64)
    store.add("a", pixels(), None, b"SIMPLE  = what?")
    store.close()
    assert database.pictures["a"].bands == 0
    assert store.fits_values("a") is None


def test_no_error_ends_the_threads(
    store: ThumbnailStore, database: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    for failure in (OSError(24, "Too many open files"), ValueError("unexpected")):
        database.failure, database.attempts = failure, 0
        store.add(f"{failure}", pixels, None)
        database.wait_until(lambda: database.attempts > 0)
    database.failure = None
    with monkeypatch.context() as patch:
        patch.setattr(images, "make_thumbnail", lambda *_: 1 / 0)
        store.add("unusable", pixels, None)
        database.wait_until(lambda: store.needs("unusable"))
    store.add("last", pixels, None)
    database.wait_until(lambda: "last" in database.pictures)
    assert all(thread.is_alive() for thread in store.threads)
