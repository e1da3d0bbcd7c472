"""Thumbnails, heat maps and FITS values of scored images: made and written by threads beside the requests."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeAlias, TypeVar

from astrodetect import fits, images
from astrodetect.errors import DatabaseUnavailable
from astrodetect.fits_values import MAX_BANDS, FitsValues, compress_values
from astrodetect.records import HeatMap, Pixels, Thumbnail

MAX_PIXEL_BYTES = 48 * 2**20  # waiting to be compressed: 60 images with sides of 512 pixels
MAX_CACHE_BYTES = 24 * 2**20  # of JPEGs and heat maps read last, and as much again that waits for PostgreSQL
MAX_REMEMBERED = 20_000  # keys that are known to be written: 8 MB
REMEMBER_S = 86_400.0  # for the database may have pruned one, which is then stored again when its image comes again
ENTRY_OVERHEAD_BYTES = 512  # of memory
COMMIT_ENTRIES = 100
COMPRESS_DELAY_S = 0.05  # to compress several images for one wake-up of the thread
COMMIT_DELAY_S = 0.25  # to write several entries in one commit
RETRY_S = 2.0  # while PostgreSQL is down
PRUNE_S = 300.0  # between deletions of thumbnails that are too old or too many

log = logging.getLogger("uvicorn.error")
VALUES = "values"
ThumbnailKey: TypeAlias = tuple[str, str]  # the image's SHA-256, and the version of a heat map's model, or VALUES
Entry: TypeAlias = Thumbnail | HeatMap | FitsValues

QueueKey = TypeVar("QueueKey")
QueueValue = TypeVar("QueueValue")


class BoundedQueue(Generic[QueueKey, QueueValue]):
    """A first-in-first-out queue with keys, of at most `max_bytes`."""

    def __init__(self, max_bytes: int, size: Callable[[QueueValue], int]) -> None:
        self._max_bytes, self._size = max_bytes, size
        self._values: OrderedDict[QueueKey, QueueValue] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: QueueKey) -> QueueValue | None:
        return self._values.get(key)

    def put(self, key: QueueKey, value: QueueValue, *, last: bool = True) -> list[QueueKey]:
        """Adds a value at the end, or as the first; returns the keys of the oldest ones dropped for it."""
        self.discard(key)
        self._values[key] = value
        self._values.move_to_end(key, last=last)
        self._bytes += self._size(value)
        dropped = []
        while self._bytes > self._max_bytes:
            dropped.append(self.pop_first()[0])
        return dropped

    def discard(self, key: QueueKey) -> None:
        if (value := self._values.pop(key, None)) is not None:
            self._bytes -= self._size(value)

    def first(self) -> tuple[QueueKey, QueueValue]:
        """The oldest entry."""
        return next(iter(self._values.items()))

    def pop_first(self) -> tuple[QueueKey, QueueValue]:
        """Removes the oldest entry."""
        key, value = self._values.popitem(last=False)
        self._bytes -= self._size(value)
        return key, value


class ValuesTable(Protocol):
    """The stored values: `db.fits_values.FitsValuesTable`."""

    def save(self, values: FitsValues) -> None: ...
    def read(self, image_sha256: str) -> FitsValues | None: ...


class ThumbnailDatabase(Protocol):
    """The database that stores them: `database.Database`."""

    @property
    def fits_values(self) -> ValuesTable: ...
    def save_thumbnails(self, pictures: Sequence[Thumbnail], heats: Sequence[HeatMap]) -> None: ...
    def thumbnail(self, image_sha256: str) -> Thumbnail | None: ...
    def heat_map(self, image_sha256: str, model_version: str) -> HeatMap | None: ...
    def prune_thumbnails(self, *, days: int, max_bytes: int) -> int: ...


@dataclass(frozen=True, slots=True)
class _Uncompressed:
    """The pixels of a thumbnail, the heat maps of its image so far, and the file if that is a FITS."""

    pixels: Pixels
    fits: bytes | None
    heat_maps: dict[str, HeatMap] = field(default_factory=dict)  # by the model's version


class ThumbnailStore:
    """Stores what pages show; `add` neither blocks nor fails: beyond the limits the oldest are dropped."""

    def __init__(
        self,
        database: ThumbnailDatabase,
        *,
        days: int,
        max_bytes: int,
        fits_px: int = 0,
        max_pixels: int = images.MAX_PIXELS,
    ) -> None:
        self._database, self._days, self._max_bytes = database, days, max_bytes
        self._fits_px, self._max_pixels = fits_px, max_pixels
        self._lock = threading.Lock()
        self._added, self._compressed, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._pixels: BoundedQueue[str, _Uncompressed] = BoundedQueue(
            MAX_PIXEL_BYTES, lambda entry: entry.pixels.nbytes + len(entry.fits or b"") + ENTRY_OVERHEAD_BYTES
        )
        self._cache: BoundedQueue[ThumbnailKey, Thumbnail | HeatMap] = BoundedQueue(MAX_CACHE_BYTES, _size)
        self._to_write: BoundedQueue[ThumbnailKey, Entry] = BoundedQueue(MAX_CACHE_BYTES, _size)
        self._remembered: OrderedDict[ThumbnailKey, float] = OrderedDict()  # when each was written or queued
        self._compressor = threading.Thread(target=self._compress, name="thumbnail-compressor", daemon=True)
        self._writer = threading.Thread(target=self._write, name="thumbnail-writer", daemon=True)
        self.threads = (self._compressor, self._writer)
        self._compressor.start()
        try:
            self._writer.start()
        except BaseException:
            self._stop_compressor()
            raise

    @property
    def enabled(self) -> bool:
        """Whether any are stored."""
        return self._max_bytes > 0

    def needs(self, image_sha256: str) -> bool:
        """Whether no thumbnail of this image is stored or queued, as far as is known without asking the database."""
        with self._lock:
            stored = self._pixels.get(image_sha256) is not None or self._is_remembered((image_sha256, ""))
            return self._max_bytes > 0 and not stored

    def add(
        self,
        image_sha256: str,
        thumbnail: Thumbnail | Pixels | None,
        heat_map: HeatMap | None,
        fits_file: bytes | None = None,
    ) -> None:
        """Queues a thumbnail, or the pixels of one, if given, with the file of a FITS image; and a heat map."""
        if not self._max_bytes:
            return
        with self._lock:
            uncompressed = self._pixels.get(image_sha256)
            if isinstance(thumbnail, Thumbnail):
                self._queue((image_sha256, ""), thumbnail)
            elif uncompressed is None and thumbnail is not None:
                self._pixels.put(
                    image_sha256, uncompressed := _Uncompressed(thumbnail, fits_file if self._fits_px else None)
                )
            if heat_map:
                key = (image_sha256, heat_map.model_version)
                self._cache.put(key, heat_map)
                if uncompressed:  # a heat map references its thumbnail's row, so it is written after that
                    uncompressed.heat_maps[heat_map.model_version] = heat_map
                elif not self._is_remembered(key):
                    self._queue(key, heat_map)
            if uncompressed or self._to_write:
                self._added.set()

    def thumbnail(self, image_sha256: str) -> Thumbnail | None:
        """The thumbnail of an image, if there is one; DatabaseUnavailable where only the database can tell."""
        with self._lock:
            entry, uncompressed = self._lookup((image_sha256, "")), self._pixels.get(image_sha256)
        if entry is None and uncompressed:
            return images.make_thumbnail(image_sha256, uncompressed.pixels)
        if entry is None and (entry := self._database.thumbnail(image_sha256)):
            with self._lock:
                self._cache.put((image_sha256, ""), entry)
        return entry if isinstance(entry, Thumbnail) else None

    def heat_map(self, image_sha256: str, model_version: str) -> HeatMap | None:
        """The heat map of a model version, if there is one; DatabaseUnavailable where only the database can tell."""
        with self._lock:
            entry = self._lookup((image_sha256, model_version))
        if entry is None and (entry := self._database.heat_map(image_sha256, model_version)):
            with self._lock:
                self._cache.put((image_sha256, model_version), entry)
        return entry if isinstance(entry, HeatMap) else None

    def fits_values(self, image_sha256: str) -> FitsValues | None:
        """The values of a FITS image, if they are stored."""
        with self._lock:
            entry = self._to_write.get((image_sha256, VALUES))
        return entry if isinstance(entry, FitsValues) else self._database.fits_values.read(image_sha256)

    def close(self) -> None:
        """Writes what is queued, unless PostgreSQL is down, and stops the threads."""
        self._stop_compressor()
        self._compressed.set()
        self._writer.join()

    def _stop_compressor(self) -> None:
        self._closing.set()
        self._added.set()
        self._compressor.join()

    def _lookup(self, key: ThumbnailKey) -> Entry | None:
        if entry := self._cache.get(key):
            self._cache.put(key, entry)
        return entry or self._to_write.get(key)

    def _is_remembered(self, key: ThumbnailKey) -> bool:
        since = self._remembered.get(key)
        return since is not None and time.monotonic() - since < REMEMBER_S

    def _queue(self, key: ThumbnailKey, entry: Entry) -> None:
        if not isinstance(entry, FitsValues):  # which are large, and seldom read
            self._cache.put(key, entry)
        self._remembered[key] = time.monotonic()
        self._remembered.move_to_end(key)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        for dropped in self._to_write.put(key, entry):
            self._forget(dropped)

    def _forget(self, key: ThumbnailKey) -> None:
        """So that it is stored when its image comes again."""
        self._cache.discard(key)
        self._remembered.pop(key, None)

    def _compress(self) -> None:
        """Runs in a thread of its own: a JPEG takes a millisecond."""
        while not (self._closing.is_set() and not self._pixels):
            self._added.wait()
            self._closing.wait(COMPRESS_DELAY_S)
            self._added.clear()
            while self._pixels:
                with self._lock:
                    image, uncompressed = self._pixels.first()
                try:
                    thumbnail = images.make_thumbnail(image, uncompressed.pixels)
                except Exception as error:  # noqa: BLE001 - no image ends the thread
                    log.warning("a thumbnail is lost: %s", error)
                    thumbnail = None
                values = self._compress_values(image, uncompressed.fits) if thumbnail and uncompressed.fits else None
                with self._lock:
                    if thumbnail:
                        self._queue((image, ""), replace(thumbnail, bands=len(values.zeros) if values else 0))
                    if values:
                        self._queue((image, VALUES), values)
                    if thumbnail:
                        for version, heat_map in uncompressed.heat_maps.items():
                            self._queue((image, version), heat_map)
                    if self._pixels.get(image) is uncompressed:
                        self._pixels.discard(image)
            self._compressed.set()

    def _compress_values(self, image_sha256: str, fits_file: bytes) -> FitsValues | None:
        try:
            planes = fits.read_planes(fits_file, most=MAX_BANDS, max_pixels=self._max_pixels)
            return compress_values(image_sha256, planes, self._fits_px)
        except Exception as error:  # noqa: BLE001 - as above
            log.warning("the values of a FITS image are lost: %s", error)
            return None

    def _write(self) -> None:
        """Runs in a thread of its own, so that a database that hangs does not delay the compression."""
        next_prune, reported = 0.0, ""
        while True:
            self._compressed.wait(PRUNE_S)
            self._compressed.clear()
            self._closing.wait(COMMIT_DELAY_S)
            try:
                while self._to_write:
                    self._write_batch()
                if time.monotonic() >= next_prune:
                    self._database.prune_thumbnails(days=self._days, max_bytes=self._max_bytes)
                    next_prune = time.monotonic() + PRUNE_S
                reported = ""
            except Exception as error:  # noqa: BLE001 - of the database, or no descriptors are left
                lost = not isinstance(error, DatabaseUnavailable)
                if (self._to_write or lost) and str(error) != reported:
                    reported = str(error)
                    log.warning("thumbnails %s: %s", "are lost" if lost else "wait for the database", reported)
                self._closing.wait(RETRY_S)
                self._compressed.set()
            if self._closing.is_set() and not self._compressor.is_alive():
                return

    def _write_batch(self) -> None:
        with self._lock:
            batch = [self._to_write.pop_first() for _ in range(min(COMMIT_ENTRIES, len(self._to_write)))]
        thumbnails = [entry for _, entry in batch if isinstance(entry, Thumbnail)]
        heat_maps = [entry for _, entry in batch if isinstance(entry, HeatMap)]
        try:
            self._database.save_thumbnails(thumbnails, heat_maps)
            for _, entry in batch:
                if isinstance(entry, FitsValues):
                    self._database.fits_values.save(entry)
        except DatabaseUnavailable:
            with self._lock:
                for key, entry in reversed(batch):
                    for dropped in self._to_write.put(key, entry, last=False):
                        self._forget(dropped)
            raise
        except Exception:
            with self._lock:
                for key, _ in batch:
                    self._forget(key)
            raise


def _size(entry: Entry) -> int:
    if isinstance(entry, HeatMap):
        return ENTRY_OVERHEAD_BYTES + entry.places.nbytes
    return ENTRY_OVERHEAD_BYTES + len(entry.jpeg if isinstance(entry, Thumbnail) else entry.content)
