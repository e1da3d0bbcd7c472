"""Graceful shutdown: after a signal no new work is accepted, and work in progress is finished before the exit."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from astrodetect.errors import ShuttingDown


class Shutdown:
    """Whether the shutdown has begun, and what is called when it begins."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._callbacks: list[Callable[[], object]] = []
        self.begun = False

    def on_begin(self, callback: Callable[[], object]) -> None:
        """Registers a callback; it runs in the signal handler, so it must return at once."""
        self._callbacks.append(callback)

    def check(self) -> None:
        """Raises ShuttingDown once the shutdown has begun."""
        if self.begun:
            raise ShuttingDown("the service is shutting down")

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handles SIGINT and SIGTERM before uvicorn does.

        uvicorn exits by the signal that it received, except for SIGINT, which it treats as a graceful exit with status
        0, and a second SIGINT drops the open connections. Here SIGTERM is handled like SIGINT, and `timeout_s` later
        the second SIGINT is raised.
        """
        if threading.current_thread() is not threading.main_thread():  # tests; signals go to the main thread alone
            yield
            return
        server_handler = signal.getsignal(signal.SIGINT)

        def handle(_number: int, frame: FrameType | None) -> None:
            if not self.begun:
                self.begun = True
                timer = threading.Timer(self._timeout_s, signal.raise_signal, [signal.SIGINT])
                timer.daemon = True
                timer.start()
                for callback in self._callbacks:
                    callback()
            if callable(server_handler):
                server_handler(signal.SIGINT, frame)

        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
