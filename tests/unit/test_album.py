"""The album keeps pictures beside the requests: it holds nobody up, forgets the oldest, and outlives an outage."""

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from astrodetect.errors import DatabaseError, DatabaseUnavailable
from astrodetect.records import Heat, Picture, Pixels
from astrodetect.service import album as album_module
from astrodetect.service.album import Album


class Shelf:
    """A database that can be away."""

    def __init__(self) -> None:
        self.changed, self.tries, self.pruned = threading.Condition(), 0, (0, 0)
        self.pictures: dict[str, Picture] = {}
        self.heats: dict[tuple[str, str], Heat] = {}
        self.fails: Exception | None = None

    def keep_pictures(self, pictures: Sequence[Picture], heats: Sequence[Heat]) -> None:
        with self.changed:
            self.tries += 1
            self.changed.notify_all()
            if self.fails:
                raise self.fails
            self.pictures |= {one.image_sha256: one for one in pictures}
            self.heats |= {(one.image_sha256, one.model_version): one for one in heats}

    def picture(self, image_sha256: str) -> Picture | None:
        return self.pictures.get(image_sha256)

    def heat(self, image_sha256: str, model_version: str) -> Heat | None:
        return self.heats.get((image_sha256, model_version))

    def prune_pictures(self, *, days: int, max_bytes: int) -> int:
        self.pruned = (days, max_bytes)
        return 0

    def until(self, happened: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(happened, 20)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(album_module, "MAKE_S", 0.0)
    monkeypatch.setattr(album_module, "GATHER_S", 0.0)
    monkeypatch.setattr(album_module, "RETRY_S", 0.01)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def album(shelf: Shelf) -> Iterator[Album]:
    album = Album(shelf, days=1, max_bytes=10**9)
    yield album
    album.close()


def pixels(value: int = 0) -> Pixels:
    return np.full((20, 30, 3), value, np.uint8)


def heat(image: str) -> Heat:
    return Heat(image, "1", np.full((2, 2), 9, np.uint8), 1.0)


def test_what_was_just_kept_is_shown_at_once_and_is_written_by_the_end(album: Album, shelf: Shelf) -> None:
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


def test_what_is_known_to_the_database_alone_is_found_there(album: Album, shelf: Shelf) -> None:
    shelf.pictures["old"], shelf.heats["old", "1"] = Picture("old", b"jpeg", 1, 1), heat("old")
    assert album.picture("old") == shelf.pictures["old"]
    assert album.heat("old", "1") is shelf.heats["old", "1"]
    assert not album.wants("old")


def test_pictures_wait_while_postgresql_is_away(album: Album, shelf: Shelf) -> None:
    shelf.fails = DatabaseUnavailable("away")
    for number in range(5):
        album.keep(str(number), pixels(number), heat(str(number)))
    shelf.until(lambda: shelf.tries >= 3)
    assert not shelf.pictures
    shelf.fails = None
    shelf.until(lambda: len(shelf.pictures) == len(shelf.heats) == 5)


def test_a_batch_that_postgresql_refuses_holds_up_no_other(album: Album, shelf: Shelf) -> None:
    shelf.fails = DatabaseError("refused")
    album.keep("bad", pixels(), None)
    shelf.until(lambda: shelf.tries == 1)
    shelf.fails = None
    album.keep("good", pixels(), None)
    shelf.until(lambda: "good" in shelf.pictures)


def test_beyond_what_it_may_hold_the_oldest_goes_and_is_wanted_again(
    album: Album, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(album_module, "MOST_HELD", 5)
    shelf.fails = DatabaseUnavailable("away")
    for number in range(40):
        album.keep(str(number), pixels(), None)
    shelf.until(lambda: not album._raw)
    assert album.wants("0")
    assert not album.wants("39")
    shelf.fails = None
    shelf.until(lambda: "39" in shelf.pictures)
    assert len(shelf.pictures) <= 10


def test_where_none_are_kept_none_are_made(shelf: Shelf) -> None:
    album = Album(shelf, days=1, max_bytes=0)
    assert not album.wants("a")
    album.keep("a", None, heat("a"))
    assert album.heat("a", "1") is None
    album.close()
    assert not shelf.heats
    assert shelf.pruned == (1, 0)  # those of before go
