"""The models in memory: the default one, and those that requests name, loaded when they are first used."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from astrodetect.anomalies.novelty import Novelty
from astrodetect.errors import ModelError, ModelMissing, ModelUnknown, Overloaded
from astrodetect.inference.batching import Batcher
from astrodetect.inference.engine import Engine, has_bf16
from astrodetect.model_store import store
from astrodetect.model_store.manifest import Manifest, Precision
from astrodetect.model_store.training_progress import read_progress
from astrodetect.service.opened_model import OpenedModel, open_model, published_stamp
from astrodetect.settings import TRAIN_COMMAND

CHECK_S = 1.0  # between checks whether a new version of a model in use was published
MEASURED_TOGETHER = 16  # images, by the detectors: a third of the time that each takes alone
RETRY_S = 30.0  # until the next check where the published version cannot be loaded
ScoreBatch = Callable[[Engine, Novelty | None, list[Any]], Sequence[Any]]  # of a model: jobs to scores, or to errors
RecordBatch = Callable[[list[Any]], Sequence[Any]]  # scores to results, or to errors

log = logging.getLogger("uvicorn.error")


class LoadedModel(NamedTuple):
    """The manifest of a model in memory, and the precision that it runs in."""

    manifest: Manifest
    precision: Precision


@dataclass(slots=True, eq=False)
class ServedModel:
    """A model in memory: its engine, the batcher in front of it, and the number of requests that use it."""

    engine: Engine
    novelty: Novelty | None  # None where the model carries no anomaly detectors
    batcher: Batcher[Any, Any, Any]
    stamp: tuple[int, int] | None  # of the manifest's file
    next_check: float  # time.monotonic()
    last_used: float  # time.monotonic()
    users: int = 0
    retired: bool = False  # to be closed by its last user

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""
        return self.engine.manifest

    def close(self) -> None:
        """Finishes the queue and stops the threads."""
        self.batcher.close()


class ModelRegistry:
    """Keeps the default model loaded, and the `max_models` others used last; all calls are on one event loop.

    A newly published version replaces the loaded one without interruption: requests in progress finish on the old one.
    """

    def __init__(
        self,
        folder: Path,
        default_name: str,
        precision: Precision | Literal["auto"],
        *,
        threads: int,
        max_models: int,
        score: ScoreBatch,
        record: RecordBatch,
        opening: Future[OpenedModel] | None = None,
    ) -> None:
        self.folder, self.default_name = folder, default_name
        self._precision, self._threads = precision, threads
        self._max_models, self._score, self._record = max_models, score, record
        self._opening = opening  # of the default model, which began before
        self._loaded: dict[str, ServedModel] = {}  # replaced, never mutated: other threads read it
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._checks: set[asyncio.Task[None]] = set()
        self._failed: dict[str, str] = {}  # name → error of the last attempt to load it
        self._rollback_lock = asyncio.Lock()  # the lock on disk excludes other processes, not threads of this one
        self._load_lock = asyncio.Lock()  # a load takes every core and the memory of a model

    @property
    def default(self) -> Manifest | None:
        """The manifest of the default model, if it is loaded."""
        serving = self._loaded.get(self.default_name)
        return serving.manifest if serving else None

    @property
    def space(self) -> str | None:
        """The embedding space of the default model's detectors, if it is loaded and carries any."""
        return self.default.space if self.default else None

    @property
    def taught(self) -> str | None:
        """The name of the default model, if it learnt from labels and ranks images by its score too."""
        return self.default_name if self.default and self.default.ranks else None

    @property
    def loaded(self) -> dict[str, LoadedModel]:
        """The models in memory, by name."""
        return {name: LoadedModel(model.manifest, model.engine.precision) for name, model in self._loaded.items()}

    @property
    def detectors(self) -> dict[str, tuple[Manifest, Novelty]]:
        """The detectors in memory and the manifests that they belong to, by the name of the model."""
        return {name: (model.manifest, model.novelty) for name, model in self._loaded.items() if model.novelty}

    @property
    def failed(self) -> dict[str, str]:
        """The errors of the models that could not be loaded at the last attempt, by name."""
        return dict(self._failed)

    @asynccontextmanager
    async def use(self, name: str | None = None) -> AsyncIterator[ServedModel]:
        """The model of that name, kept in memory meanwhile; ModelError where there is none."""
        serving = await self.acquire(name)
        try:
            yield serving
        finally:
            self.release(serving)

    async def acquire(self, name: str | None = None) -> ServedModel:
        """The model of that name, loaded if need be, and kept in memory until it is released."""
        name = name or self.default_name
        while (serving := self._loaded.get(name)) is None:  # again where it was evicted before this request's turn
            await self._load(name)
        serving.users += 1
        serving.last_used = time.monotonic()
        self._check_if_due(name, serving)
        return serving

    def release(self, serving: ServedModel) -> None:
        """Ends one use of a model."""
        serving.users -= 1
        if serving.retired and not serving.users:
            _close(serving)

    async def check(self) -> None:
        """Raises the error that keeps the default model from serving."""
        async with self.use():
            pass

    def refresh(self) -> None:
        """Starts to load newly published versions, as the next request for each model would."""
        for name, serving in self._loaded.items():
            self._check_if_due(name, serving)
        name = self.default_name
        if name not in self._loaded | self._loading | self._failed and published_stamp(self.folder, name):
            self._start_loading(name)

    async def rollback(self, name: str, version: str | None = None) -> Manifest:
        """Puts an earlier version of a model back and serves it; the current one stays where that cannot be loaded."""
        put_back = partial(
            store.rollback, self.folder, name, version, precision=self._precision, has_bf16=has_bf16, trial=Engine
        )
        async with self._rollback_lock:
            async with self._load_lock:  # its trial is a load
                manifest = await asyncio.to_thread(put_back)
            self._failed.pop(name, None)
            while (serving := self._loaded.get(name)) and serving.stamp != published_stamp(self.folder, name):
                await self._load(name)
        log.warning("model %s is rolled back to its version %s", name, manifest.version)
        return manifest

    def queue_length(self) -> int:
        """The number of images queued for the networks."""
        return sum(len(serving.batcher) for serving in self._loaded.values())

    async def close(self) -> None:
        """Cancels loads and checks, finishes the queues and releases the models."""
        tasks = [*self._loading.values(), *self._checks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        loaded, self._loaded = self._loaded, {}
        async with AsyncExitStack() as stack:  # closes all of them, even if one fails
            for serving in loaded.values():
                stack.push_async_callback(asyncio.to_thread, serving.close)

    async def _load(self, name: str) -> None:
        """Waits for one load shared by all requests; it goes on where a request is cancelled, for the next one."""
        await asyncio.shield(self._start_loading(name))

    def _start_loading(self, name: str) -> asyncio.Task[None]:
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load_and_replace(name))
            task.add_done_callback(lambda done: self._loading.pop(name) and (done.cancelled() or done.exception()))
        return task

    async def _load_and_replace(self, name: str) -> None:
        async with self._load_lock:
            self._to_replace(name)
            try:
                serving = await asyncio.to_thread(self._open, name)
            except ModelError as error:
                if not isinstance(error, ModelMissing | ModelUnknown):
                    self._failed[name] = str(error)
                raise
            self._failed.pop(name, None)
            try:
                replaced = self._to_replace(name)  # now, not before: a model that cannot be loaded evicts none
            except Overloaded:
                _close(serving)
                raise
            others = {other: model for other, model in self._loaded.items() if model is not replaced}
            self._loaded = others | {name: serving}
            if replaced:
                replaced.retired = True
                if not replaced.users:
                    _close(replaced)

    def _to_replace(self, name: str) -> ServedModel | None:
        """The model to evict: the older version, or the least recently used model; None while there is room."""
        if name in self._loaded:
            return self._loaded[name]
        others = [serving for other, serving in self._loaded.items() if other != self.default_name]
        if name == self.default_name or len(others) < self._max_models:
            return None
        idle = [serving for serving in others if not serving.users]
        if not idle:
            raise Overloaded(f"{self._max_models} other models are in use: try again soon")
        return min(idle, key=lambda serving: serving.last_used)

    def _check_if_due(self, name: str, serving: ServedModel) -> None:
        now = time.monotonic()
        if now >= serving.next_check:
            serving.next_check = now + CHECK_S
            task = asyncio.create_task(self._load_if_published(name, serving))
            self._checks.add(task)
            task.add_done_callback(self._checks.discard)

    async def _load_if_published(self, name: str, serving: ServedModel) -> None:
        """Replaces a model by a version published since; keeps it where that cannot be loaded."""
        try:
            stamp = await asyncio.to_thread(published_stamp, self.folder, name)
            if stamp not in {None, serving.stamp} and self._loaded.get(name) is serving:
                await self._load(name)
        except (ModelError, Overloaded) as error:
            serving.next_check = time.monotonic() + RETRY_S
            log.error("the model loaded before stays in use: %s", error)

    def _open(self, name: str) -> ServedModel:
        try:
            opened = self._take_opened(name) or open_model(self.folder, name, self._precision, self._threads)
        except ModelMissing as missing:
            if name == self.default_name:
                raise ModelMissing(_describe_missing(self.folder, name)) from missing
            raise ModelUnknown(f"no model {name} here: GET /models lists the models") from missing
        engine, novelty, stamp = opened
        batcher = Batcher(
            partial(self._score, engine, novelty),
            self._record,
            max_batch=max(engine.batch_size, MEASURED_TOGETHER if novelty else 0),
            threads=engine.streams + 1,  # one decodes, or records what the others have scored, meanwhile
            name="detection",
        )
        now = time.monotonic()
        return ServedModel(engine, novelty, batcher, stamp, next_check=now + CHECK_S, last_used=now)

    def _take_opened(self, name: str) -> OpenedModel | None:
        """What the start opened meanwhile, once, if it is that model in its published version."""
        if name != self.default_name or self._opening is None:
            return None
        opening, self._opening = self._opening, None
        if opening.exception() or opening.result().stamp != published_stamp(self.folder, name):
            return None  # opened anew, with the error that this may raise
        return opening.result()


def _describe_missing(folder: Path, name: str) -> str:
    """What is going on where there is no model of this name yet, and what to do."""
    training = read_progress(folder, name)
    if training is None:
        return f"no model {name} yet: {TRAIN_COMMAND}, or Train on the Models page, makes one from your images"
    if training.state == "running":
        return f"no model {name} yet, it is being trained ({training.summary}): the start page shows the progress"
    return f"no model {name} yet, its training {training.ending}: give the same command again, or resume it on Models"


def _close(serving: ServedModel) -> None:
    """In a thread, as closing waits for the queue."""
    asyncio.get_running_loop().run_in_executor(None, serving.close)
