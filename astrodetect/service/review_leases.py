"""Who has which image before them, so that two who review at the same time do not look at the same one."""

import threading
import time
from collections.abc import Set as AbstractSet

LASTS_S = 120.0  # beyond it whoever has it is thought to have left


class ReviewLeases:
    """For many threads; each process of the service knows its own reviewers."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._of: dict[str, tuple[str, float]] = {}

    def taken(self, who: str) -> AbstractSet[str]:
        """The images that others have."""
        with self._guard:
            self._forget()
            return {image for other, (image, _) in self._of.items() if other != who}

    def take(self, who: str, image: str) -> None:
        """This one has it now, and no other."""
        with self._guard:
            self._of[who] = image, time.monotonic() + LASTS_S

    def _forget(self) -> None:
        now = time.monotonic()
        for who in [who for who, (_, until) in self._of.items() if until < now]:
            del self._of[who]
