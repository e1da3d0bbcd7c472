"""Copies models that others publish on an object store, while the service runs."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from astrodetect.errors import AstrodetectError
from astrodetect.model_store import mirror

PULL_S = 3.0  # between two looks at the object store

log = logging.getLogger("uvicorn.error")


class ModelMirror:
    """A thread that copies what was published, then calls `refresh`; none where the models are in a local folder."""

    def __init__(self, folder: Path, refresh: Callable[[], object]) -> None:
        self._folder, self._refresh = folder, refresh
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model mirror", daemon=True)
        if mirror.remote_url(folder):
            self._thread.start()

    def close(self) -> None:
        """Stops after the present step."""
        self._closing.set()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        reported = ""
        while not self._closing.wait(PULL_S):
            try:
                mirror.pull_all(self._folder)
                self._refresh()
                reported = ""
            except (AstrodetectError, OSError) as error:
                if str(error) != reported:
                    log.warning("the models loaded before stay in use: %s", error)
                reported = str(error)
