"""The model that serves: loaded when the service starts, or as soon as there is one."""

import threading
from pathlib import Path

from astrodetect import bundle
from astrodetect.inference.engine import Engine


class Slot:
    """Holds one engine; a service that started before its first training needs no restart."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._engine: Engine | None = None
        self._loading = threading.Lock()

    @property
    def loaded(self) -> Engine | None:
        """The engine if there is one; loads nothing."""
        return self._engine

    def engine(self) -> Engine:
        """The engine, loaded on the first call; ModelMissing while there is no model."""
        if self._engine is None:
            with self._loading:
                if self._engine is None:
                    self._engine = Engine(bundle.load(self._folder, self._name))
        return self._engine
