"""What a service says of itself, and what it keeps on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from programs import Service

from astrodetect.settings import settings
from faults.clients import Answer, together

Start = Callable[..., Service]  # with settings of choice


def readiness(service: Service) -> dict[str, Any]:
    """What /health/ready says."""
    found: dict[str, Any] = httpx2.get(f"{service.url}/health/ready", timeout=30).json()
    return found


def drained(service: Service) -> bool:
    """Whether no row waits for PostgreSQL any more."""
    return readiness(service) == {"status": "ready", "logged": "committed", "outbox": 0}


def metric(service: Service, name: str) -> float:
    """One figure of /metrics; 0 where it was never counted."""
    lines = httpx2.get(f"{service.url}/metrics", timeout=30).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0.0)


def outbox_files() -> list[Path]:
    """What the outbox of this test holds."""
    return sorted(settings().outbox_dir.rglob("*.rows"))


def asked(service: Service, request: bytes) -> Answer:
    """One request, on a connection of its own."""
    [answer] = together(service.port, [request])
    return answer
