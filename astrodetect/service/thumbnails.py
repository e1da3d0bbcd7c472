"""Small pictures of what was scored, for the pages: made and kept beside the requests, never in their way."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from astrodetect import images
from astrodetect.errors import DatabaseError, DatabaseUnavailable
from astrodetect.records import HeatMap, Pixels, Thumbnail
from astrodetect.service.bounded_queue import BoundedQueue

MOST_RAW_BYTES = 48 * 2**20  # pixels that wait to become JPEGs: 250 images whose sides have 256 of them
MOST_HELD_BYTES = 24 * 2**20  # JPEGs and heat maps that were asked for last, and as much that waits for PostgreSQL
MOST_KNOWN = 20_000  # pictures and heat maps of which is remembered that they were written: 8 MB
ANEW_S = 86_400.0  # for so long: the log may have let one go, and keeps what comes again as if it were new
AROUND_BYTES = 512  # of memory that each takes beside its own
A_COMMIT = 100
MAKE_S = 0.05  # what comes within this time is made in one go: a thread that wakes for each pays for it
GATHER_S = 0.25  # what comes within this time becomes one commit
RETRY_S = 2.0  # while PostgreSQL is away
PRUNE_S = 300.0  # between two looks whether pictures are too old or too many

log = logging.getLogger("uvicorn.error")
Key = tuple[str, str]  # the image's sum, and of a heat map the model's version


class ThumbnailDatabase(Protocol):
    """What keeps them: `database.Database`."""

    def keep_pictures(self, pictures: Sequence[Thumbnail], heats: Sequence[HeatMap]) -> None: ...
    def picture(self, image_sha256: str) -> Thumbnail | None: ...
    def heat(self, image_sha256: str, model_version: str) -> HeatMap | None: ...
    def prune_pictures(self, *, days: int, max_bytes: int) -> int: ...


@dataclass(frozen=True, slots=True)
class _Raw:
    """Pixels of which a picture is to be made, and what models saw in them by then."""

    pixels: Pixels
    heats: dict[str, HeatMap] = field(default_factory=dict)  # by the model's version


class ThumbnailStore:
    """Pictures and heat maps; to `keep` one neither waits nor fails: of what is too much the oldest is let go."""

    def __init__(self, database: ThumbnailDatabase, *, days: int, max_bytes: int) -> None:
        self._database, self._days, self._max_bytes = database, days, max_bytes
        self._guard = threading.Lock()
        self._came, self._made, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._raw: BoundedQueue[str, _Raw] = BoundedQueue(MOST_RAW_BYTES, lambda raw: raw.pixels.nbytes + AROUND_BYTES)
        self._held: BoundedQueue[Key, Thumbnail | HeatMap] = BoundedQueue(MOST_HELD_BYTES, _size)
        self._waiting: BoundedQueue[Key, Thumbnail | HeatMap] = BoundedQueue(MOST_HELD_BYTES, _size)
        self._known: OrderedDict[Key, float] = OrderedDict()  # since when each is written, or waits to be
        self._maker, self._writer = (
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("album-maker", self._make), ("album-writer", self._write))
        )
        self._maker.start()
        self._writer.start()

    def wants(self, image_sha256: str) -> bool:
        """Whether a picture of this image would be new to it, as far as it can tell at once."""
        with self._guard:
            known = self._raw.get(image_sha256) is not None or self._knows((image_sha256, ""))
            return self._max_bytes > 0 and not known

    def keep(self, image_sha256: str, pixels: Pixels | None, heat: HeatMap | None) -> None:
        """The picture with these pixels, if they are given, and what a model saw in it."""
        if not self._max_bytes:
            return
        with self._guard:
            raw = self._raw.get(image_sha256)
            if raw is None and pixels is not None:
                self._raw.put(image_sha256, raw := _Raw(pixels))
            if heat:
                key = (image_sha256, heat.model_version)
                self._held.put(key, heat)
                if raw:  # a heat map is kept where its picture is, so it comes after that
                    raw.heats[heat.model_version] = heat
                elif not self._knows(key):
                    self._add(key, heat)
            if raw or self._waiting:
                self._came.set()

    def picture(self, image_sha256: str) -> Thumbnail | None:
        """Of the image with this sum, if there is one; DatabaseUnavailable where nobody can know."""
        with self._guard:
            held, raw = self._find((image_sha256, "")), self._raw.get(image_sha256)
        if held is None and raw:
            return images.picture(image_sha256, raw.pixels)
        if held is None and (held := self._database.picture(image_sha256)):
            with self._guard:
                self._held.put((image_sha256, ""), held)
        return held if isinstance(held, Thumbnail) else None

    def heat(self, image_sha256: str, model_version: str) -> HeatMap | None:
        """What the model of this version saw in it, if that is kept; DatabaseUnavailable where nobody can know."""
        with self._guard:
            held = self._find((image_sha256, model_version))
        if held is None and (held := self._database.heat(image_sha256, model_version)):
            with self._guard:
                self._held.put((image_sha256, model_version), held)
        return held if isinstance(held, HeatMap) else None

    def close(self) -> None:
        """Keeps what waits, if PostgreSQL is there."""
        self._closing.set()
        self._came.set()
        self._maker.join()
        self._made.set()
        self._writer.join()

    def _find(self, key: Key) -> Thumbnail | HeatMap | None:
        if held := self._held.get(key):
            self._held.put(key, held)
        return held or self._waiting.get(key)

    def _knows(self, key: Key) -> bool:
        since = self._known.get(key)
        return since is not None and time.monotonic() - since < ANEW_S

    def _add(self, key: Key, one: Thumbnail | HeatMap) -> None:
        self._held.put(key, one)
        self._known[key] = time.monotonic()
        self._known.move_to_end(key)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        for gone in self._waiting.put(key, one):
            self._forget(gone)

    def _forget(self, key: Key) -> None:
        """So that it is wanted when it comes again."""
        self._held.pop(key)
        self._known.pop(key, None)

    def _make(self) -> None:
        """Pixels to JPEGs, in a thread of their own: each takes a millisecond."""
        while not (self._closing.is_set() and not self._raw):
            self._came.wait()
            self._closing.wait(MAKE_S)
            self._came.clear()
            while self._raw:
                with self._guard:
                    image, raw = self._raw.first()
                made = images.picture(image, raw.pixels)
                with self._guard:
                    self._add((image, ""), made)
                    for version, heat in raw.heats.items():
                        self._add((image, version), heat)
                    if self._raw.get(image) is raw:
                        self._raw.pop(image)
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
                lost = not isinstance(error, DatabaseUnavailable)
                if (self._waiting or lost) and str(error) != said:
                    log.warning("pictures %s: %s", "are lost" if lost else "wait", said := str(error))
                self._closing.wait(RETRY_S)
                self._made.set()
            if self._closing.is_set() and not self._maker.is_alive():
                return

    def _write_some(self) -> None:
        with self._guard:
            batch = [self._waiting.take() for _ in range(min(A_COMMIT, len(self._waiting)))]
        pictures = [one for _, one in batch if isinstance(one, Thumbnail)]
        heats = [one for _, one in batch if isinstance(one, HeatMap)]
        try:
            self._database.keep_pictures(pictures, heats)
        except DatabaseUnavailable:
            with self._guard:
                for key, one in reversed(batch):
                    for gone in self._waiting.put(key, one, last=False):
                        self._forget(gone)
            raise
        except DatabaseError:
            with self._guard:
                for key, _ in batch:
                    self._forget(key)
            raise


def _size(one: Thumbnail | HeatMap) -> int:
    return AROUND_BYTES + (len(one.jpeg) if isinstance(one, Thumbnail) else one.places.nbytes)
