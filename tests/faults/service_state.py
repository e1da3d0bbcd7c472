"""The state of a service under test: readiness, metrics and its outbox on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from programs import Service

from astrodetect.settings import settings
from faults.clients import Response, send_at_once

Start = Callable[..., Service]  # keyword arguments are settings


def read_readiness(service: Service) -> dict[str, Any]:
    """The response of /health/ready."""
    response: dict[str, Any] = httpx2.get(f"{service.url}/health/ready", timeout=30).json()
    return response


def outbox_is_empty(service: Service) -> bool:
    """Whether no row waits for PostgreSQL."""
    return read_readiness(service) == {"status": "ready", "logged": "committed", "outbox": 0, "rejected": 0}


def read_metric(service: Service, name: str) -> float:
    """A metric; 0 where it was never counted."""
    lines = httpx2.get(f"{service.url}/metrics", timeout=30).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0.0)


def outbox_files() -> list[Path]:
    """The segments of the outbox of this test."""
    return sorted(settings().outbox_dir.rglob("*.rows"))


def send(service: Service, request: bytes) -> Response:
    """Sends one request on a new connection."""
    [response] = send_at_once(service.port, [request])
    return response
