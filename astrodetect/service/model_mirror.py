"""Copies models that others publish on an object store, while the service runs."""

from collections.abc import Callable
from pathlib import Path

from astrodetect.model_store import mirror
from astrodetect.service.periodic_thread import PeriodicThread

PULL_S = 3.0  # between two looks at the object store


class ModelMirror(PeriodicThread):
    """A thread that copies what was published into a folder, then calls `refresh`."""

    def __init__(self, folder: Path, refresh: Callable[[], object]) -> None:
        self._folder, self._refresh = folder, refresh
        super().__init__("model mirror", PULL_S, "the models loaded before stay in use")

    def step(self) -> None:
        """Copies what is new."""
        mirror.pull_all(self._folder)
        self._refresh()
