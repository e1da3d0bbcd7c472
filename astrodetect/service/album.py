"""Small pictures of what was scored, for the pages: made and kept beside the requests, never in their way."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from astrodetect import images
from astrodetect.errors import DatabaseError, DatabaseUnavailable
from astrodetect.records import Heat, Picture, Pixels

MOST_RAW = 128  # images whose pixels wait to become JPEGs: 25 MB where each side has 256 of them
MOST_HELD = 2_000  # JPEGs, and as many heat maps, that wait for PostgreSQL or were asked for last: some 20 MB
A_COMMIT = 100
MAKE_S = 0.05  # what comes within this time is made in one go: a thread that wakes for each pays for it
GATHER_S = 0.25  # what comes within this time becomes one commit
RETRY_S = 2.0  # while PostgreSQL is away
PRUNE_S = 300.0  # between two looks whether pictures are too old or too many

log = logging.getLogger("uvicorn.error")
Key = tuple[str, str]  # the image's sum, and of a heat map the model's version


class Pictures(Protocol):
    """What keeps them: `database.Database`."""

    def keep_pictures(self, pictures: Sequence[Picture], heats: Sequence[Heat]) -> None: ...
    def picture(self, image_sha256: str) -> Picture | None: ...
    def heat(self, image_sha256: str, model_version: str) -> Heat | None: ...
    def prune_pictures(self, *, days: int, max_bytes: int) -> int: ...


class Album:
    """Pictures and heat maps; to `keep` one neither waits nor fails: of what is too much the oldest is let go."""

    def __init__(self, database: Pictures, *, days: int, max_bytes: int) -> None:
        self._database, self._days, self._max_bytes = database, days, max_bytes
        self._guard = threading.Lock()
        self._came, self._made, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._raw: OrderedDict[str, Pixels] = OrderedDict()
        self._held: OrderedDict[Key, Picture | Heat] = OrderedDict()
        self._waiting: OrderedDict[Key, Picture | Heat] = OrderedDict()
        self._maker, self._writer = (
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("album-maker", self._make), ("album-writer", self._write))
        )
        self._maker.start()
        self._writer.start()

    def wants(self, image_sha256: str) -> bool:
        """Whether a picture of this image would be new to it, as far as it can tell at once."""
        with self._guard:
            return self._max_bytes > 0 and image_sha256 not in self._raw and (image_sha256, "") not in self._held

    def keep(self, image_sha256: str, pixels: Pixels | None, heat: Heat | None) -> None:
        """The picture with these pixels, if they are given, and what a model saw in it."""
        if not self._max_bytes:
            return
        with self._guard:
            if heat:
                self._add((image_sha256, heat.model_version), heat)
            if pixels is not None:
                self._raw[image_sha256] = pixels
                if len(self._raw) > MOST_RAW:
                    self._raw.popitem(last=False)
        self._came.set()

    def picture(self, image_sha256: str) -> Picture | None:
        """Of the image with this sum, if there is one; DatabaseUnavailable where nobody can know."""
        with self._guard:
            held, pixels = self._find((image_sha256, "")), self._raw.get(image_sha256)
        if held is None and pixels is not None:
            return images.picture(image_sha256, pixels)
        if held is None and (held := self._database.picture(image_sha256)):
            with self._guard:
                self._hold((image_sha256, ""), held)
        return held if isinstance(held, Picture) else None

    def heat(self, image_sha256: str, model_version: str) -> Heat | None:
        """What the model of this version saw in it, if that is kept; DatabaseUnavailable where nobody can know."""
        with self._guard:
            held = self._find((image_sha256, model_version))
        if held is None and (held := self._database.heat(image_sha256, model_version)):
            with self._guard:
                self._hold((image_sha256, model_version), held)
        return held if isinstance(held, Heat) else None

    def close(self) -> None:
        """Keeps what waits, if PostgreSQL is there."""
        self._closing.set()
        self._came.set()
        self._maker.join()
        self._made.set()
        self._writer.join()

    def _find(self, key: Key) -> Picture | Heat | None:
        held = self._held.get(key)
        if held:
            self._held.move_to_end(key)
        return held

    def _hold(self, key: Key, one: Picture | Heat) -> None:
        self._held[key] = one
        self._held.move_to_end(key)
        if len(self._held) > 2 * MOST_HELD:
            self._held.popitem(last=False)

    def _add(self, key: Key, one: Picture | Heat) -> None:
        self._hold(key, one)
        self._waiting[key] = one
        if len(self._waiting) > 2 * MOST_HELD:
            dropped, _ = self._waiting.popitem(last=False)
            self._held.pop(dropped, None)  # so that it is wanted when it comes again

    def _make(self) -> None:
        """Pixels to JPEGs, in a thread of their own: each takes a millisecond."""
        while not (self._closing.is_set() and not self._raw):
            self._came.wait()
            self._closing.wait(MAKE_S)
            self._came.clear()
            while self._raw:
                with self._guard:
                    image, pixels = next(iter(self._raw.items()))
                made = images.picture(image, pixels)
                with self._guard:
                    self._add((image, ""), made)
                    self._raw.pop(image, None)
            self._made.set()

    def _write(self) -> None:
        """In a thread of their own too, so that a PostgreSQL that hangs keeps no pixels waiting."""
        look, said = 0.0, ""
        while True:
            self._made.wait(PRUNE_S)
            self._made.clear()
            self._closing.wait(GATHER_S)
            try:
                while self._waiting:
                    self._write_some()
                if time.monotonic() >= look:
                    self._database.prune_pictures(days=self._days, max_bytes=self._max_bytes)
                    look = time.monotonic() + PRUNE_S
                said = ""
            except DatabaseError as error:
                if self._waiting and str(error) != said:
                    log.warning("pictures wait: %s", said := str(error))
                self._closing.wait(RETRY_S)
                self._made.set()
            if self._closing.is_set() and not self._maker.is_alive():
                return

    def _write_some(self) -> None:
        with self._guard:
            batch = [self._waiting.popitem(last=False) for _ in range(min(A_COMMIT, len(self._waiting)))]
        pictures = [one for _, one in batch if isinstance(one, Picture)]
        heats = [one for _, one in batch if isinstance(one, Heat)]
        try:
            self._database.keep_pictures(pictures, heats)
        except DatabaseUnavailable:
            with self._guard:
                for key, one in reversed(batch):
                    self._waiting[key] = one
                    self._waiting.move_to_end(key, last=False)
            raise
