"""One line of JSON for every request, and its figures for the meters."""

import datetime as dt
import json
import logging
import sys
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astrodetect.service.metrics import Metrics

log = logging.getLogger("astrodetect.requests")
CLIENT_CLOSED_REQUEST = 499  # what a request counts as whose caller left before its answer
REQUEST_CONTEXT = "astrodetect.trail"


@dataclass(slots=True)
class RequestContext:
    """What a request leaves behind on its way, for its line."""

    began: float = field(default_factory=time.perf_counter)
    stages_s: dict[str, float] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)


class RequestLogMiddleware:
    """Stands around everything: it sees what callers see."""

    def __init__(self, app: ASGIApp, meters: Metrics) -> None:
        self._app, self._meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = CLIENT_CLOSED_REQUEST
        trail = scope[REQUEST_CONTEXT] = RequestContext()

        async def noted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted_send)
        except Exception:  # whose answer is made outside
            status = HTTPStatus.INTERNAL_SERVER_ERROR if status == CLIENT_CLOSED_REQUEST else status
            raise
        finally:
            took = time.perf_counter() - trail.began
            route = scope.get("route")
            self._meters.answered(getattr(route, "path", "other"), status, took)
            log.info("%s", _Line(scope, status, took, trail))


class _Line:
    """Made into text only where somebody keeps the log."""

    def __init__(self, scope: Scope, status: int, took_s: float, trail: RequestContext) -> None:
        self._scope, self._status, self._took_s, self._trail = scope, status, took_s, trail

    def __str__(self) -> str:
        client = self._scope.get("client")
        stages = {f"{name}_ms": _ms(seconds) for name, seconds in self._trail.stages_s.items()}
        fields = {
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
            "event": "request",
            "method": self._scope["method"],
            "path": self._scope["path"],
            "status": self._status,
            "ms": _ms(self._took_s),
            "client": client[0] if client else None,
        }
        return json.dumps(fields | stages | self._trail.said, default=str)


def open_log() -> None:
    """Our lines in place of uvicorn's own, on stdout; where a handler was set already, it keeps them."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # what is wrong with a form is in the answer
    theirs = logging.getLogger("uvicorn.access")
    if theirs.handlers:
        theirs.handlers.clear()
        theirs.propagate = False
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
