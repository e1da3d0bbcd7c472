"""The model that serves: loaded when the service starts, or as soon as there is one."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from astrodetect import bundle
from astrodetect.batcher import Batcher
from astrodetect.bundle import Precision
from astrodetect.inference.engine import Engine
from astrodetect.records import Outputs, Pixels


@dataclass(frozen=True, slots=True)
class Serving:
    """An engine, and the way to it for many callers at once."""

    engine: Engine
    batcher: Batcher[Pixels, Outputs]


class Slot:
    """Holds one engine; a service that started before its first training needs no restart."""

    def __init__(
        self, folder: Path, name: str, precision: Precision | Literal["auto"], *, passed: Callable[[int], None]
    ) -> None:
        self._folder, self._name, self._precision, self._passed = folder, name, precision, passed
        self._serving: Serving | None = None
        self._loading = threading.Lock()

    @property
    def loaded(self) -> Serving | None:
        """What serves, if anything does; loads nothing."""
        return self._serving

    def serving(self) -> Serving:
        """What serves, loaded on the first call; ModelMissing while there is no model."""
        if self._serving is None:
            with self._loading:
                if self._serving is None:
                    engine = Engine(bundle.load(self._folder, self._name, self._precision))
                    batcher = Batcher(
                        _passes(engine, self._passed), most=engine.batch, threads=engine.streams, name="inference"
                    )
                    self._serving = Serving(engine, batcher)
        return self._serving

    def waiting(self) -> int:
        """How many images wait for the network."""
        return len(self._serving.batcher) if self._serving else 0

    def close(self) -> None:
        """Once what waits is done."""
        if self._serving:
            self._serving.batcher.close()


def _passes(engine: Engine, passed: Callable[[int], None]) -> Callable[[list[Pixels]], list[Outputs]]:
    """One pass of the network for a batch, its outputs image by image."""

    def passes(batch: list[Pixels]) -> list[Outputs]:
        found = engine.run(np.stack(batch))
        passed(len(batch))
        return [found[i : i + 1] for i in range(len(batch))]

    return passes
