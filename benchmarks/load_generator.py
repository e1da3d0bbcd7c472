"""Callers of the service: non-blocking sockets in one thread, whose requests are bytes made before."""

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
LOOK_EVERY_S = 0.5  # for answers that are overdue
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@dataclass(slots=True, eq=False)
class Caller:
    """One connection, with at most one request on its way."""

    line: socket.socket | None = None
    unsent: bytes = b""
    due: float | None = None  # of the request on its way
    received: bytearray = field(default_factory=bytearray)


class LoadGenerator:
    """One run against one service, which gets these requests in turn."""

    def __init__(
        self,
        url: str,
        requests: Sequence[bytes],
        *,
        count: int,
        rate: float | None = None,  # requests/s; None: closed loop
        timeout_s: float = 60.0,
        reconnect: bool = False,  # after errors; without it a caller that meets one calls no more
        keep: bool = False,  # every answer, in the report
    ) -> None:
        self._address, self._requests, self._rate = http_messages.address(url), requests, rate
        self._timeout_s, self._reconnect, self._keep = timeout_s, reconnect, keep
        self._callers = [Caller() for _ in range(count)]
        self._idle: deque[Caller] = deque()
        self._down: deque[tuple[float, Caller]] = deque()  # with the time to try again
        self._started = self._on_way = 0
        self._statuses: Counter[int] = Counter()
        self._errors: Counter[str] = Counter()
        self._answers: list[Response] = []
        self._began = self._looked = 0.0

    def run(self, seconds: float, warm_s: float = 0.0) -> LoadReport:
        """Sends for `warm_s` and then `seconds`, waits for what is on its way, and reports on the `seconds`."""
        with selectors.DefaultSelector() as self._selector:
            cpu, self._began = time.process_time(), time.monotonic()
            for caller in self._callers:
                self._connect(caller)
            end = self._began + warm_s + seconds
            while self._turn(time.monotonic(), end):
                pass
            took, cpu = time.monotonic() - self._began, time.process_time() - cpu
            for caller in self._callers:
                if caller.line:
                    caller.line.close()
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
        """Sends what is due, waits for what comes first, reads it; False where nothing is left to do."""
        until = now + LOOK_EVERY_S
        if now < end:
            while self._down and self._down[0][0] <= now:
                self._connect(self._down.popleft()[1])
            while self._idle and self._due(now) > 0:
                self._start(self._idle.popleft(), now)
            if not (self._on_way or self._idle or self._down):
                return False  # every caller met an error
            until = min(until, end, self._down[0][0] if self._down else end)
            if self._rate and self._idle:
                until = min(until, self._began + self._started / self._rate)
        elif not self._on_way:
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
        if now - self._looked > LOOK_EVERY_S:
            self._give_up_overdue(now)
        return True

    def _due(self, now: float) -> int:
        """How many requests are due and not sent; in a closed loop one more always is."""
        return 1 + int((now - self._began) * self._rate) - self._started if self._rate else 1

    def _start(self, caller: Caller, now: float) -> None:
        caller.due = self._began + self._started / self._rate if self._rate else now
        caller.unsent = self._requests[self._started % len(self._requests)]
        self._started += 1
        self._on_way += 1
        try:
            self._send(caller)
        except OSError as error:
            self._fail(caller, type(error).__name__)

    def _send(self, caller: Caller) -> None:
        assert caller.line is not None  # noqa: S101 - it is registered, or idle
        was_waiting = self._selector.get_key(caller.line).events & WRITE
        with contextlib.suppress(BlockingIOError):
            caller.unsent = caller.unsent[caller.line.send(caller.unsent) :]
        if bool(caller.unsent) != bool(was_waiting):
            self._selector.modify(caller.line, READ | WRITE if caller.unsent else READ, caller)

    def _read(self, caller: Caller) -> None:
        assert caller.line is not None  # noqa: S101 - it is registered
        chunk = caller.line.recv(CHUNK_BYTES)
        if caller.due is None:  # the service closes a connection that was idle
            self._close(caller)
            self._connect(caller)
            return
        if not chunk:
            raise ConnectionError("closed before the answer")
        caller.received += chunk
        whole = http_messages.parse(caller.received)
        if whole is None:
            return
        status, body, closes = whole
        self._answers.append(Response(caller.due, time.monotonic() - caller.due, status, body if self._keep else b""))
        self._statuses[status] += 1
        self._on_way -= 1
        caller.due = None
        caller.received.clear()
        if closes or caller.unsent:
            self._close(caller)
            self._connect(caller)
        else:
            self._idle.append(caller)

    def _give_up_overdue(self, now: float) -> None:
        self._looked = now
        for caller in self._callers:
            if caller.due is not None and now - caller.due > self._timeout_s:
                self._fail(caller, "no answer in time")

    def _connect(self, caller: Caller) -> None:
        try:
            caller.line = socket.create_connection(self._address, CONNECT_WITHIN_S)
        except OSError as error:
            self._fail(caller, type(error).__name__)
            return
        caller.line.setblocking(False)
        caller.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(caller.line, READ, caller)
        self._idle.append(caller)

    def _close(self, caller: Caller) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(caller)
        if caller.line:
            self._selector.unregister(caller.line)
            caller.line.close()
        caller.line, caller.unsent = None, b""
        caller.received.clear()

    def _fail(self, caller: Caller, what: str) -> None:
        """The request on its way, if one is, has no answer; one that could not connect had none to send."""
        self._errors[what] += 1
        self._close(caller)
        if caller.due is not None:
            self._on_way -= 1
            caller.due = None
        if self._reconnect:
            self._down.append((time.monotonic() + RECONNECT_AFTER_S, caller))
