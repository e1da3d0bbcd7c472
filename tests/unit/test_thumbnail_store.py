"""The album keeps pictures beside the requests: it holds nobody up, forgets the oldest, and outlives an outage."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from astrodetect import images
from astrodetect.errors import DatabaseError, DatabaseUnavailable
from astrodetect.records import HeatMap, Pixels, Thumbnail
from astrodetect.service import thumbnails as album_module
from astrodetect.service.thumbnails import ThumbnailStore


class Shelf:
    """A database that can be away."""

    def __init__(self) -> None:
        self.tries, self.pruned = 0, (0, 0)
        self.pictures: dict[str, Thumbnail] = {}
        self.heats: dict[tuple[str, str], HeatMap] = {}
        self.fails: Exception | None = None
        self.written: list[set[tuple[str, str]]] = []

    def keep_pictures(self, pictures: Sequence[Thumbnail], heats: Sequence[HeatMap]) -> None:
        self.tries += 1
        if self.fails:
            raise self.fails
        seen = {(one.image_sha256, one.model_version) for one in heats}
        self.written.append(seen | {(one.image_sha256, "") for one in pictures})
        self.heats |= {(one.image_sha256, one.model_version): one for one in heats}
        self.pictures |= {one.image_sha256: one for one in pictures}

    def picture(self, image_sha256: str) -> Thumbnail | None:
        return self.pictures.get(image_sha256)

    def heat(self, image_sha256: str, model_version: str) -> HeatMap | None:
        return self.heats.get((image_sha256, model_version))

    def prune_pictures(self, *, days: int, max_bytes: int) -> int:
        self.pruned = (days, max_bytes)
        return 0

    def until(self, happened: Callable[[], bool]) -> None:
        give_up = time.monotonic() + 20
        while not happened():
            assert time.monotonic() < give_up
            time.sleep(0.001)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(album_module, "MAKE_S", 0.0)
    monkeypatch.setattr(album_module, "GATHER_S", 0.0)
    monkeypatch.setattr(album_module, "RETRY_S", 0.01)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def album(shelf: Shelf) -> Iterator[ThumbnailStore]:
    album = ThumbnailStore(shelf, days=1, max_bytes=10**9)
    yield album
    album.close()


def pixels(value: int = 0) -> Pixels:
    return np.full((20, 30, 3), value, np.uint8)


def heat(image: str) -> HeatMap:
    return HeatMap(image, "1", np.full((2, 2), 9, np.uint8), 1.0)


def test_what_was_just_kept_is_shown_at_once_and_is_written_by_the_end(album: ThumbnailStore, shelf: Shelf) -> None:
    assert album.wants("a")
    album.keep("a", pixels(), heat("a"))
    shown, seen = album.picture("a"), album.heat("a", "1")
    assert shown is not None
    assert (shown.width, shown.height, shown.jpeg[:2]) == (30, 20, b"\xff\xd8")
    assert seen is not None
    assert not album.wants("a")
    assert (album.picture("b"), album.heat("a", "2")) == (None, None)
    album.close()
    assert (shelf.pictures["a"], shelf.heats["a", "1"]) == (shown, seen)


def test_what_is_known_to_the_database_alone_is_found_there(album: ThumbnailStore, shelf: Shelf) -> None:
    shelf.pictures["old"], shelf.heats["old", "1"] = Thumbnail("old", b"jpeg", 1, 1), heat("old")
    assert album.picture("old") == shelf.pictures["old"]
    assert album.heat("old", "1") is shelf.heats["old", "1"]
    assert album.wants("old")  # when it is scored again, it stays as if it were new


def test_pictures_wait_while_postgresql_is_away(album: ThumbnailStore, shelf: Shelf) -> None:
    shelf.fails = DatabaseUnavailable("away")
    for number in range(5):
        album.keep(str(number), pixels(number), heat(str(number)))
    shelf.until(lambda: shelf.tries >= 3)
    assert not shelf.pictures
    shelf.fails = None
    shelf.until(lambda: len(shelf.pictures) == len(shelf.heats) == 5)


def test_a_batch_that_postgresql_refuses_holds_up_no_other(album: ThumbnailStore, shelf: Shelf) -> None:
    shelf.fails = DatabaseError("refused")
    album.keep("bad", pixels(), heat("bad"))
    shelf.until(lambda: album.wants("bad") and shelf.tries == 1)
    assert album.picture("bad") is None
    shelf.fails = None
    album.keep("good", pixels(), None)
    shelf.until(lambda: "good" in shelf.pictures)
    album.keep("bad", pixels(), heat("bad"))
    shelf.until(lambda: {"bad", "good"} == shelf.pictures.keys() and ("bad", "1") in shelf.heats)


def test_what_was_kept_a_day_ago_is_wanted_and_written_anew(
    album: ThumbnailStore, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    album.keep("a", pixels(), heat("a"))
    shelf.until(lambda: len(shelf.heats) == len(shelf.pictures) == 1)
    shelf.pictures.clear()
    shelf.heats.clear()
    assert not album.wants("a")
    monkeypatch.setattr(album_module, "ANEW_S", 0.0)
    assert album.wants("a")
    album.keep("a", pixels(), heat("a"))
    shelf.until(lambda: len(shelf.heats) == len(shelf.pictures) == 1)


def test_an_image_that_is_scored_again_writes_nothing(album: ThumbnailStore, shelf: Shelf) -> None:
    album.keep("a", pixels(), heat("a"))
    shelf.until(lambda: "a" in shelf.pictures)
    tries = shelf.tries
    for _ in range(5):
        album.keep("a", None, heat("a"))
    album.keep("b", pixels(), heat("b"))
    shelf.until(lambda: "b" in shelf.pictures)
    assert (shelf.tries, shelf.written[-1]) == (tries + 1, {("b", ""), ("b", "1")})
    album.keep("a", None, HeatMap("a", "2", np.zeros((2, 2), np.uint8), 1.0))
    shelf.until(lambda: ("a", "2") in shelf.heats)


def test_beyond_what_it_may_hold_the_oldest_goes_and_is_wanted_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(album_module, "MOST_HELD_BYTES", 10_000)
    album = ThumbnailStore(shelf, days=1, max_bytes=10**9)
    shelf.fails = DatabaseUnavailable("away")
    for number in range(40):
        album.keep(str(number), pixels(), heat(str(number)))
    shelf.until(lambda: not album._raw)
    assert album.wants("0")
    assert not album.wants("39")
    shelf.fails = None
    shelf.until(lambda: "39" in shelf.pictures)
    album.close()
    assert sum(len(one.jpeg) for one in shelf.pictures.values()) <= 10_000
    assert len(shelf.pictures) < 40


def test_pixels_that_nobody_has_time_for_are_bounded_in_bytes_and_go_with_their_heat_maps(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_make, make = threading.Event(), images.picture

    def slow(image_sha256: str, given: Pixels) -> Thumbnail:
        may_make.wait()
        return make(image_sha256, given)

    monkeypatch.setattr(images, "picture", slow)
    monkeypatch.setattr(album_module, "MOST_RAW_BYTES", 10 * pixels().nbytes)
    album = ThumbnailStore(shelf, days=1, max_bytes=10**9)
    for number in range(40):
        album.keep(str(number), pixels(), heat(str(number)))
    may_make.set()
    album.close()
    assert "39" in shelf.pictures
    assert len(shelf.pictures) <= 11  # one was being made
    assert {image for image, _ in shelf.heats} == set(shelf.pictures)


def test_pictures_that_are_looked_at_take_so_much_memory_and_no_more(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(album_module, "MOST_HELD_BYTES", 10_000)
    album = ThumbnailStore(shelf, days=1, max_bytes=10**9)
    shelf.pictures = {str(number): Thumbnail(str(number), bytes(1_000), 1, 1) for number in range(40)}
    for image in shelf.pictures:
        album.picture(image)
    shelf.pictures.clear()
    held = [number for number in range(40) if album.picture(str(number))]
    assert held == list(range(40 - len(held), 40))
    assert 0 < len(held) < 10
    album.close()


def test_where_none_are_kept_none_are_made(shelf: Shelf) -> None:
    album = ThumbnailStore(shelf, days=1, max_bytes=0)
    assert not album.wants("a")
    album.keep("a", None, heat("a"))
    assert album.heat("a", "1") is None
    album.close()
    assert not shelf.heats
    assert shelf.pruned == (1, 0)  # those of before go
