"""Graceful shutdown: a load balancer is given time to notice, and work in progress is finished before the exit."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from astrodetect.errors import ShuttingDown

log = logging.getLogger("uvicorn.error")


class Shutdown:
    """Whether the shutdown has begun, or will begin after `drain_s`, and what is called when it begins."""

    def __init__(self, timeout_s: float, drain_s: float = 0.0) -> None:
        self._timeout_s, self._drain_s = timeout_s, drain_s
        self._callbacks: list[Callable[[], object]] = []
        self._begun_by = 0  # the signal
        self.draining = False  # not ready for new clients, which are answered nevertheless
        self.begun = False  # no new connections

    def on_begin(self, callback: Callable[[], object]) -> None:
        """Registers a callback; it runs in the signal handler, so it must return at once."""
        self._callbacks.append(callback)

    def check(self) -> None:
        """Raises ShuttingDown once the shutdown has begun."""
        if self.begun:
            raise ShuttingDown("the service is shutting down")

    def check_ready(self) -> None:
        """Raises ShuttingDown from the first signal on."""
        if self.draining:
            raise ShuttingDown("the service is shutting down")

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handles SIGINT and SIGTERM before uvicorn does.

        uvicorn exits by the signal that it received, except for SIGINT, which it treats as a graceful exit with status
        0, and a second SIGINT drops the open connections. Here SIGTERM is handled like SIGINT, after `drain_s`, and
        `timeout_s` later the second SIGINT is raised. Another signal ends the drain, and then the open connections.
        """
        if threading.current_thread() is not threading.main_thread():  # tests; signals go to the main thread alone
            yield
            return
        server_handler = signal.getsignal(signal.SIGINT)

        def stop_server(frame: FrameType | None) -> None:
            if callable(server_handler):
                server_handler(signal.SIGINT, frame)

        def handle(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGTERM and self._drain_s and not self.draining:
                self.draining = True
                threading.Thread(target=self._drain, name="drain", daemon=True).start()
            elif not self.begun:
                self.draining = self.begun = True
                self._begun_by = number
                timer = threading.Timer(self._timeout_s, self._end)
                timer.daemon = True
                timer.start()
                for callback in self._callbacks:
                    callback()
                stop_server(frame)
            elif (self._begun_by, number) == (signal.SIGINT, signal.SIGTERM):
                self._begun_by = number  # after a terminal's SIGINT, uvicorn sends its workers a SIGTERM, too
            else:
                stop_server(frame)

        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _drain(self) -> None:
        log.info("not ready for new clients; shutting down in %g s", self._drain_s)
        time.sleep(self._drain_s)
        if not self.begun:
            signal.raise_signal(signal.SIGTERM)

    def _end(self) -> None:
        self._begun_by = 0
        signal.raise_signal(signal.SIGINT)
