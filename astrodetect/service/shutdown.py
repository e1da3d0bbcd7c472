"""The end of a service: told to go, it takes nothing new, finishes what is at work, and leaves with status 0."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from astrodetect.errors import ShuttingDown


class Shutdown:
    """Whether the end has begun."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._then: list[Callable[[], object]] = []
        self.begun = False

    def then(self, act: Callable[[], object]) -> None:
        """Has this done as it begins, within the signal's handler: only a word to whoever does the work."""
        self._then.append(act)

    def check(self) -> None:
        """Raises ShuttingDown where it has."""
        if self.begun:
            raise ShuttingDown("the service is shutting down")

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Hears the signals before the server does.

        uvicorn ends by the signal that it got. It takes Ctrl-C for a wish that was granted, status 0, and a second one
        for an order to drop everything: SIGTERM means the same from here on, and a time limit gives that order too.
        """
        if threading.current_thread() is not threading.main_thread():  # in tests; nobody sends it signals
            yield
            return
        theirs = signal.getsignal(signal.SIGINT)

        def told(_number: int, frame: FrameType | None) -> None:
            if not self.begun:
                self.begun = True
                last_call = threading.Timer(self._timeout_s, signal.raise_signal, [signal.SIGINT])
                last_call.daemon = True
                last_call.start()
                for act in self._then:
                    act()
            if callable(theirs):
                theirs(signal.SIGINT, frame)

        before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
