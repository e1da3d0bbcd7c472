"""Load generator: non-blocking sockets in one thread, sending prebuilt requests."""

import contextlib
import math
import os
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks import http_messages
from benchmarks.load_report import LoadReport, Response

CHUNK_BYTES = 65536
CONNECT_WITHIN_S = 2.0
RECONNECT_AFTER_S = 0.05
CHECK_EVERY_S = 0.5  # for timeouts
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@dataclass(slots=True, eq=False)
class Caller:
    """One connection, with at most one request in flight."""

    sock: socket.socket | None = None
    unsent: bytes = b""
    due: float | None = None  # of the request in flight
    received: bytearray = field(default_factory=bytearray)


class LoadGenerator:
    """One run against one service, sending the requests in turn."""

    def __init__(
        self,
        url: str,
        requests: Sequence[bytes],
        *,
        count: int,
        rate: float | None = None,  # requests/s; None: closed loop
        timeout_s: float = 60.0,
        reconnect: bool = False,  # after errors; otherwise a caller stops at its first error
        keep: bool = False,  # every response, in the report
    ) -> None:
        self._address, self._requests, self._rate = http_messages.address(url), requests, rate
        self._timeout_s, self._reconnect, self._keep = timeout_s, reconnect, keep
        self._callers = [Caller() for _ in range(count)]
        self._idle: deque[Caller] = deque()
        self._disconnected: deque[tuple[float, Caller]] = deque()  # with the time to reconnect at
        self._started = self._in_flight = 0
        self._statuses: Counter[int] = Counter()
        self._errors: Counter[str] = Counter()
        self._answers: list[Response] = []
        self._began = self._checked_at = 0.0

    def run(self, seconds: float, warm_s: float = 0.0) -> LoadReport:
        """Send for `warm_s` and then `seconds`, wait for requests in flight, and report on the `seconds`."""
        with selectors.DefaultSelector() as self._selector:
            cpu, self._began = time.process_time(), time.monotonic()
            for caller in self._callers:
                self._connect(caller)
            end = self._began + warm_s + seconds
            while self._turn(time.monotonic(), end):
                pass
            took, cpu = time.monotonic() - self._began, time.process_time() - cpu
            for caller in self._callers:
                if caller.sock:
                    caller.sock.close()
        return LoadReport.of(
            self._answers,
            window=(self._began + warm_s, end),
            callers=len(self._callers),
            rate=self._rate,
            statuses=self._statuses,
            errors=self._errors,
            unsent=math.ceil((end - self._began) * self._rate) - self._started if self._rate else 0,
            cpu_us=1e6 * cpu / max(self._started, 1),
            cpu_share=cpu / took / (os.cpu_count() or 1),
            keep=self._keep,
        )

    def _turn(self, now: float, end: float) -> bool:
        """Send due requests, wait for the next event and handle it; False once the run is over."""
        until = now + CHECK_EVERY_S
        if now < end:
            while self._disconnected and self._disconnected[0][0] <= now:
                self._connect(self._disconnected.popleft()[1])
            while self._idle and self._due(now) > 0:
                self._start(self._idle.popleft(), now)
            if not (self._in_flight or self._idle or self._disconnected):
                return False  # every caller stopped after an error
            until = min(until, end, self._disconnected[0][0] if self._disconnected else end)
            if self._rate and self._idle:
                until = min(until, self._began + self._started / self._rate)
        elif not self._in_flight:
            return False
        for ready, events in self._selector.select(max(until - now, 0)):
            caller: Caller = ready.data
            try:
                if events & WRITE:
                    self._send(caller)
                if events & READ:
                    self._read(caller)
            except (OSError, ValueError) as error:
                self._fail(caller, type(error).__name__)
        if now - self._checked_at > CHECK_EVERY_S:
            self._time_out_overdue(now)
        return True

    def _due(self, now: float) -> int:
        """The number of requests due and not sent; in a closed loop always 1."""
        return 1 + int((now - self._began) * self._rate) - self._started if self._rate else 1

    def _start(self, caller: Caller, now: float) -> None:
        caller.due = self._began + self._started / self._rate if self._rate else now
        caller.unsent = self._requests[self._started % len(self._requests)]
        self._started += 1
        self._in_flight += 1
        try:
            self._send(caller)
        except OSError as error:
            self._fail(caller, type(error).__name__)

    def _send(self, caller: Caller) -> None:
        assert caller.sock is not None  # noqa: S101 - it is registered, or idle
        was_waiting = self._selector.get_key(caller.sock).events & WRITE
        with contextlib.suppress(BlockingIOError):
            caller.unsent = caller.unsent[caller.sock.send(caller.unsent) :]
        if bool(caller.unsent) != bool(was_waiting):
            self._selector.modify(caller.sock, READ | WRITE if caller.unsent else READ, caller)

    def _read(self, caller: Caller) -> None:
        assert caller.sock is not None  # noqa: S101 - it is registered
        chunk = caller.sock.recv(CHUNK_BYTES)
        if caller.due is None:  # the service closed an idle connection
            self._close(caller)
            self._connect(caller)
            return
        if not chunk:
            raise ConnectionError("closed before the response")
        caller.received += chunk
        response = http_messages.parse(caller.received)
        if response is None:
            return
        status, body, closes = response
        self._answers.append(Response(caller.due, time.monotonic() - caller.due, status, body if self._keep else b""))
        self._statuses[status] += 1
        self._in_flight -= 1
        caller.due = None
        caller.received.clear()
        if closes or caller.unsent:
            self._close(caller)
            self._connect(caller)
        else:
            self._idle.append(caller)

    def _time_out_overdue(self, now: float) -> None:
        self._checked_at = now
        for caller in self._callers:
            if caller.due is not None and now - caller.due > self._timeout_s:
                self._fail(caller, "no response in time")

    def _connect(self, caller: Caller) -> None:
        try:
            caller.sock = socket.create_connection(self._address, CONNECT_WITHIN_S)
        except OSError as error:
            self._fail(caller, type(error).__name__)
            return
        caller.sock.setblocking(False)
        caller.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(caller.sock, READ, caller)
        self._idle.append(caller)

    def _close(self, caller: Caller) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(caller)
        if caller.sock:
            self._selector.unregister(caller.sock)
            caller.sock.close()
        caller.sock, caller.unsent = None, b""
        caller.received.clear()

    def _fail(self, caller: Caller, reason: str) -> None:
        """Count an error of the caller, drop its request in flight if there is one, and reconnect if enabled."""
        self._errors[reason] += 1
        self._close(caller)
        if caller.due is not None:
            self._in_flight -= 1
            caller.due = None
        if self._reconnect:
            self._disconnected.append((time.monotonic() + RECONNECT_AFTER_S, caller))
