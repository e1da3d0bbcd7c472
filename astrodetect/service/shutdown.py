"""Graceful shutdown: a load balancer is given time to notice, and work in progress is finished before the exit."""

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from uvicorn import Server

from astrodetect.errors import ShuttingDown
from astrodetect.service.listening import end_connections, stop_listening

SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])

log = logging.getLogger("uvicorn.error")


class Shutdown:
    """Whether the shutdown has begun, or will begin after `drain_s`, and what is called when it begins."""

    def __init__(self, timeout_s: float, drain_s: float = 0.0) -> None:
        self._timeout_s, self._drain_s = timeout_s, drain_s
        self._callbacks: list[Callable[[], object]] = []
        self.draining = False  # not ready for new clients, which are answered nevertheless
        self.begun = False  # work that would take long is refused

    def on_begin(self, callback: Callable[[], object]) -> None:
        """Registers a callback; it runs in the signal handler, so it must return at once."""
        self._callbacks.append(callback)

    def check(self) -> None:
        """Raises ShuttingDown once the shutdown has begun."""
        if self.begun:
            raise ShuttingDown("the service is shutting down")

    @contextmanager
    def handle_signals(self, server: Server) -> Iterator[None]:
        """Handles SIGINT, SIGTERM and SIGHUP in place of uvicorn, which exits by the signal that it received.

        The first begins the drain, or the shutdown. A further one, or `timeout_s`, ends a drain, and then what is still
        in progress. nohup's disregard of SIGHUP stays.
        """
        self._loop, self._server = asyncio.get_running_loop(), server
        # Workers get a signal to their group, as a terminal and systemd send, and then the SIGTERM of their parent.
        self._parent_repeats = server.config.use_subprocess
        numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGTERM and self.draining and self._parent_repeats:
            self._parent_repeats = False
        elif number != signal.SIGINT and self._drain_s and not self.draining:
            self.draining = True
            self._loop.call_soon_threadsafe(self._drain)
        elif not self.begun:
            self._begin_stopping()
        else:
            self._loop.call_soon_threadsafe(self._end)

    def _begin_stopping(self) -> None:
        self.draining = self.begun = True
        for callback in self._callbacks:
            callback()
        self._loop.call_soon_threadsafe(self._begin)

    def _drain(self) -> None:
        log.info("not ready for new clients; shutting down in %g s", self._drain_s)
        self._loop.call_later(self._drain_s, self._drained)

    def _drained(self) -> None:
        if not self.begun:
            self._begin_stopping()

    def _begin(self) -> None:
        self._stopping = asyncio.create_task(self._stop())
        self._loop.call_later(self._timeout_s, self._end)

    async def _stop(self) -> None:
        if self._server.started:
            await stop_listening(self._server)
        self._server.should_exit = True

    def _end(self) -> None:
        self._server.should_exit = True
        self._stopping = asyncio.create_task(end_connections(self._server))
