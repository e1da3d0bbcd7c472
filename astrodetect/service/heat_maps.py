"""Heat maps by occlusion for the pages: computed on demand, one at a time, between the images that are classified."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from astrodetect import images
from astrodetect.errors import ModelError, NotFound, Overloaded, ShuttingDown
from astrodetect.inference.engine import Engine
from astrodetect.inference.heat_maps import odds_map
from astrodetect.model_store.manifest import Manifest, read_manifest
from astrodetect.records import Prediction
from astrodetect.service.model_registry import ModelRegistry
from astrodetect.service.thumbnails import BoundedQueue, ThumbnailStore

MAX_MAPS = 4  # computed or waiting; more requests are refused, and the pages ask again
BATCH_SIZE = 8  # an image that arrives meanwhile waits for so many
MAX_PAUSE_S = 0.2  # of each batch of a map, while images are being classified
POLL_S = 0.01
MAX_CACHE_BYTES = 4 * 2**20  # some thousand maps

HeatMapKey = tuple[str, str, str]  # the image's SHA-256, the model's version and the class


class HeatMaps:
    """Heat maps of logged images, from their thumbnails; those shown last are kept."""

    def __init__(self, models: ModelRegistry, thumbnails: ThumbnailStore, *, in_flight: Callable[[], int]) -> None:
        self._models, self._thumbnails, self._in_flight = models, thumbnails, in_flight
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="heat-map")
        self._cache: BoundedQueue[HeatMapKey, bytes] = BoundedQueue(MAX_CACHE_BYTES, len)
        self._count = 0
        self._closing = threading.Event()

    def find_model(self, row: Prediction) -> Manifest | None:
        """The model that made this prediction, if that version of it is still here."""
        if not (row.model and row.model_version and row.label):
            return None
        loaded = self._models.loaded.get(row.model)
        try:
            manifest = loaded.manifest if loaded else read_manifest(self._models.folder / f"{row.model}.json")
        except ModelError:
            return None
        return manifest if manifest.version == row.model_version else None

    async def png(self, row: Prediction) -> bytes:
        """The map of a prediction's class, as a transparent PNG; NotFound, or Overloaded while others are computed."""
        key = (row.image_sha256 or "", row.model_version or "", row.label or "")
        if png := self._cache.get(key):
            return png
        if self._count >= MAX_MAPS:
            raise Overloaded(f"{MAX_MAPS} heat maps are being computed: try again soon")
        self._count += 1
        try:
            thumbnail = await asyncio.to_thread(self._thumbnails.thumbnail, row.image_sha256 or "")
            if thumbnail is None:
                raise NotFound("no thumbnail of this image is stored")
            async with self._models.use(row.model) as serving:
                if serving.manifest.version != row.model_version or row.label not in serving.manifest.classes:
                    raise NotFound("the version of the model that made this prediction is not here any more")
                run = asyncio.get_running_loop().run_in_executor
                png = await run(self._executor, self._compute, serving.engine, thumbnail.jpeg, row.label)
        finally:
            self._count -= 1
        self._cache.put(key, png)
        return png

    def close(self) -> None:
        """Gives up what is being computed."""
        self._closing.set()
        self._executor.shutdown(cancel_futures=True)

    def _compute(self, engine: Engine, jpeg: bytes, label: str) -> bytes:
        contract = engine.manifest.image
        pixels = images.decode(jpeg, contract, max_pixels=images.MAX_PIXELS)
        index = engine.manifest.classes.index(label)
        from astrodetect.reports.html import heat_map_png  # noqa: PLC0415 - imports Jinja, which no start needs

        return heat_map_png(
            odds_map(engine, pixels, index, batch_size=BATCH_SIZE, before_batch=self._wait_for_classification)
        )

    def _wait_for_classification(self) -> None:
        """Waits while images are being classified, at most MAX_PAUSE_S."""
        for _ in range(round(MAX_PAUSE_S / POLL_S)):
            if self._closing.is_set():
                raise ShuttingDown("the service is shutting down")
            if not self._in_flight():
                return
            self._closing.wait(POLL_S)
