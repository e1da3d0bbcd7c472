"""The models that answer: the default one, and those that callers name, loaded when they are first asked for."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from astrodetect.anomalies.novelty import Novelty, NoveltyResult
from astrodetect.errors import ModelError, ModelMissing, ModelUnknown, Overloaded
from astrodetect.inference.batching import Batcher, ItemResult
from astrodetect.inference.engine import Engine, has_bf16, load_model
from astrodetect.model_store import store
from astrodetect.model_store.manifest import Manifest, Precision
from astrodetect.records import Outputs, Pixels
from astrodetect.service.novelty_batcher import NoveltyBatcher

LOOK_S = 1.0  # between two looks whether a model in use was published anew
SPARE_S = 0.005  # for each image that waits for the network, which takes longer than that for each
LONGEST_SPARE_S = 0.15
RETRY_S = 30.0  # until the next one, where what was published cannot be loaded

log = logging.getLogger("uvicorn.error")


class InferenceResult(NamedTuple):
    """What the network says of an image, and how unusual it is, where the model carries detectors."""

    passed: ItemResult[Outputs]
    looked: NoveltyResult | None


class InMemory(NamedTuple):
    """A model that answers at once."""

    manifest: Manifest
    precision: Precision  # that it computes in here


@dataclass(slots=True, eq=False)
class ServedModel:
    """An engine, the way to it for many callers at once, and how many use it now."""

    engine: Engine
    batcher: Batcher[Pixels, Outputs]
    looker: NoveltyBatcher | None  # where the model carries detectors of the unusual
    stamp: tuple[int, int] | None  # of the manifest's file
    next_look: float  # at this time of time.monotonic()
    asked_for: float  # at this one, last
    users: int = 0
    retired: bool = False  # closed by its last user

    @property
    def manifest(self) -> Manifest:
        """What is known of the model."""
        return self.engine.manifest

    async def see(self, pixels: Pixels) -> InferenceResult:
        """One image, by the network and by the detectors: side by side where these need not know what it says."""
        if self.looker is None:
            return InferenceResult(await self.batcher.submit(pixels), None)
        if self.looker.needs_features:
            passed = await self.batcher.submit(pixels)
            return InferenceResult(passed, await self.looker.look(pixels, passed.result.features[0]))
        return InferenceResult(*await asyncio.gather(self.batcher.submit(pixels), self.looker.look(pixels)))

    def close(self) -> None:
        """Once what waits is done."""
        self.batcher.close()
        if self.looker:
            self.looker.close()


class ModelRegistry:
    """Holds the default model for good, and of the others the `most` that were asked for last; all on one event loop.

    A model that is published anew takes over from its older self without a break: who began with that ends with it.
    """

    def __init__(
        self,
        folder: Path,
        default: str,
        precision: Precision | Literal["auto"],
        *,
        most: int,
        passed: Callable[[int], None],
    ) -> None:
        self.folder, self.default_name = folder, default
        self._precision, self._most, self._passed = precision, most, passed
        self._loaded: dict[str, ServedModel] = {}  # replaced, never changed: other threads look at it
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._looking: set[asyncio.Task[None]] = set()
        self._failed: dict[str, str] = {}  # name → why it could not be loaded when that was last tried
        self._rolling_back = asyncio.Lock()  # the lock on disk tells processes apart, not the threads of one
        self._one_at_a_time = asyncio.Lock()  # a load takes every core and the memory of a model

    @property
    def default(self) -> Manifest | None:
        """What answers where no model is named, if it is loaded."""
        serving = self._loaded.get(self.default_name)
        return serving.manifest if serving else None

    @property
    def space(self) -> str | None:
        """The space of its detectors, if it is loaded and carries any."""
        return self.default.space if self.default else None

    @property
    def loaded(self) -> dict[str, InMemory]:
        """What answers at once, by name."""
        return {name: InMemory(one.manifest, one.engine.precision) for name, one in self._loaded.items()}

    @property
    def failed(self) -> dict[str, str]:
        """Why models could not be loaded when that was last tried, by name."""
        return dict(self._failed)

    @asynccontextmanager
    async def use(self, name: str | None = None) -> AsyncIterator[ServedModel]:
        """The model of that name, loaded if it is not, and not let go meanwhile; ModelError says why there is none."""
        name = name or self.default_name
        while (serving := self._loaded.get(name)) is None:  # again where it was let go before this caller's turn
            await self._load(name)
        serving.users += 1
        serving.asked_for = time.monotonic()
        self._look_if_due(name, serving)
        try:
            yield serving
        finally:
            serving.users -= 1
            if serving.retired and not serving.users:
                _close(serving)

    async def check(self) -> None:
        """Raises what keeps the default model from answering."""
        async with self.use():
            pass

    def look(self) -> None:
        """Begins to put what was published meanwhile in its place, as the next caller of each model would."""
        for name, serving in self._loaded.items():
            self._look_if_due(name, serving)
        name = self.default_name
        if name not in self._loaded | self._loading | self._failed and self._stamp(name):
            self._begin(name)

    async def rollback(self, name: str, version: str | None = None) -> Manifest:
        """Puts an earlier version of a model in its place and has it answer here; what cannot answer is left out."""
        put_back = partial(
            store.rollback, self.folder, name, version, precision=self._precision, has_bf16=has_bf16, trial=Engine
        )
        async with self._rolling_back:
            async with self._one_at_a_time:  # its trial is a load
                manifest = await asyncio.to_thread(put_back)
            self._failed.pop(name, None)
            while (serving := self._loaded.get(name)) and serving.stamp != self._stamp(name):
                await self._load(name)
        log.warning("model %s is rolled back to its version %s", name, manifest.version)
        return manifest

    def waiting(self) -> int:
        """How many images wait for a network."""
        return sum(len(serving.batcher) for serving in self._loaded.values())

    async def close(self) -> None:
        """Nothing is in use any more."""
        tasks = [*self._loading.values(), *self._looking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        loaded, self._loaded = self._loaded, {}
        for serving in loaded.values():
            await asyncio.to_thread(serving.close)

    async def _load(self, name: str) -> None:
        """Once for all who ask meanwhile; it goes on where they give up, for whoever asks next."""
        await asyncio.shield(self._begin(name))

    def _begin(self, name: str) -> asyncio.Task[None]:
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._loads(name))
            task.add_done_callback(lambda done: self._loading.pop(name) and (done.cancelled() or done.exception()))
        return task

    async def _loads(self, name: str) -> None:
        async with self._one_at_a_time:
            self._in_the_way(name)
            try:
                serving = await asyncio.to_thread(self._opened, name)
            except ModelError as error:
                if not isinstance(error, ModelMissing | ModelUnknown):
                    self._failed[name] = str(error)
                raise
            self._failed.pop(name, None)
            try:
                older = self._in_the_way(name)  # now, not before: a model that cannot be loaded displaces none
            except Overloaded:
                _close(serving)
                raise
            kept = {other: one for other, one in self._loaded.items() if one is not older}
            self._loaded = kept | {name: serving}
            if older:
                older.retired = True
                if not older.users:
                    _close(older)

    def _in_the_way(self, name: str) -> ServedModel | None:
        """Whose place this model takes: its older self's, or that of the one that nobody asked for the longest."""
        if name in self._loaded:
            return self._loaded[name]
        others = [serving for other, serving in self._loaded.items() if other != self.default_name]
        if name == self.default_name or len(others) < self._most:
            return None
        idle = [serving for serving in others if not serving.users]
        if not idle:
            raise Overloaded(f"{self._most} other models are at work: try again soon")
        return min(idle, key=lambda serving: serving.asked_for)

    def _look_if_due(self, name: str, serving: ServedModel) -> None:
        now = time.monotonic()
        if now >= serving.next_look:
            serving.next_look = now + LOOK_S
            task = asyncio.create_task(self._look(name, serving))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def _look(self, name: str, serving: ServedModel) -> None:
        """Puts what was published under its name meanwhile in its place, where that can be loaded."""
        try:
            stamp = await asyncio.to_thread(self._stamp, name)
            if stamp not in {None, serving.stamp} and self._loaded.get(name) is serving:
                await self._load(name)
        except (ModelError, Overloaded) as error:
            serving.next_look = time.monotonic() + RETRY_S
            log.error("the model loaded before goes on: %s", error)

    def _opened(self, name: str) -> ServedModel:
        stamp = self._stamp(name)  # before the files: what is published meanwhile is found at the next look
        try:
            loaded = load_model(self.folder, name, self._precision)
        except ModelMissing as missing:
            if name == self.default_name:
                raise
            raise ModelUnknown(f"no model {name} here: GET /models lists those that there are") from missing
        engine = Engine(loaded)
        passes = _passes(engine, self._passed)
        batcher = Batcher(passes, max_batch=engine.batch_size, threads=engine.streams, name="inference")
        looker = None
        if loaded.novelty is not None:
            novelty, crop = Novelty.load(loaded.novelty), engine.manifest.image.crop
            looker = NoveltyBatcher(novelty, crop, spare=lambda: min(LONGEST_SPARE_S, len(batcher) * SPARE_S))
        now = time.monotonic()
        return ServedModel(engine, batcher, looker, stamp, next_look=now + LOOK_S, asked_for=now)

    def _stamp(self, name: str) -> tuple[int, int] | None:
        """Of the manifest, which comes to its place last; None where there is none."""
        try:
            found = (self.folder / f"{name}.json").stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


def _close(serving: ServedModel) -> None:
    """Once what its callers left behind is done, and in a thread, which may wait for that."""
    asyncio.get_running_loop().run_in_executor(None, serving.close)


def _passes(engine: Engine, passed: Callable[[int], None]) -> Callable[[list[Pixels]], list[Outputs]]:
    """One pass of the network for a batch, its outputs image by image."""

    def passes(batch: list[Pixels]) -> list[Outputs]:
        found = engine.run(np.stack(batch))
        passed(len(batch))
        return [found[i : i + 1] for i in range(len(batch))]

    return passes
