"""The disconnection of a client, and the callbacks that wait for it."""

from collections.abc import Callable

DISCONNECTION = "astrodetect.disconnection"  # key in the ASGI scope


class Disconnection:
    """Callbacks for the disconnection of a connection's client: cheaper than a task that waits for it."""

    def __init__(self) -> None:
        self.happened = False
        self._actions: set[Callable[[], object]] = set()

    def add(self, action: Callable[[], object]) -> None:
        """Calls `action` when that happens, or now if it has."""
        self._actions.add(action)
        if self.happened:
            action()

    def discard(self, action: Callable[[], object]) -> None:
        """Does not call it any more."""
        self._actions.discard(action)

    def happen(self) -> None:
        """Calls what was added."""
        self.happened = True
        for action in list(self._actions):
            action()
