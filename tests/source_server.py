"""A local HTTP server that imitates the image sources (NASA, Galaxy10, cutout services) and network faults."""

import enum
import io
import json
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np
from astropy.io import fits

from astrodetect import images

MAX_FAULTS_PER_URL = 2  # fewer than the client's attempts
RESPONSE_TIME_S = 0.002  # requests that are not sent one at a time overlap
MAX_DEC_DEG = 80.0  # the imitated surveys have no images north of it
HTML = b"<!doctype html><title>Sorry</title><p>Something went wrong."


class Fault(enum.Enum):
    """How a request may fail."""

    RETRY_AFTER_S = enum.auto()  # 429, with Retry-After in seconds
    RETRY_AFTER_DATE = enum.auto()  # 429, with Retry-After as a date
    UNAVAILABLE = enum.auto()  # 503
    HANG_UP = enum.auto()  # connection closed without a response
    TRUNCATED = enum.auto()  # connection closed in the middle of the body
    SHORT_LENGTH = enum.auto()  # Content-Length of half the body
    HTML_PAGE = enum.auto()  # HTML with status 200


# They cost a second each, so they are rarer than the others.
RATE_LIMITS = {Fault.RETRY_AFTER_S, Fault.RETRY_AFTER_DATE}


@dataclass(frozen=True)
class LibraryImage:
    """One image of NASA's library."""

    id: str
    seed: int
    sizes: tuple[str, ...] = ("orig", "large", "medium", "small", "thumb")
    missing_sizes: tuple[str, ...] = ()  # listed, but 404
    side: int = 96
    broken: bool = False  # always HTML
    missing: bool = False  # its list of files is 404

    def file(self, size: str) -> bytes:
        """The file of this size; pixels depend on seed and size."""
        if self.broken:
            return HTML
        side = self.side * (2 if size == "large" else 1)
        return jpeg(self.seed, side)


def jpeg(seed: int, side: int) -> bytes:
    """A JPEG of noise, different for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    return images.encode_thumbnail(pixels.repeat(8, axis=0).repeat(8, axis=1), side)


@dataclass
class SourceState:
    """What the server offers, how it fails, and the requests that it received."""

    # search words → results, with duplicates
    results_by_query: dict[str, list[LibraryImage]] = field(default_factory=dict)
    page_size: int = 7
    search: tuple[int, bytes] | None = None  # status and body of every search instead
    galaxy10: bytes = b""
    cut_every_bytes: int | None = None  # bytes of the Galaxy10 file per connection
    fault_rate: float = 0.0
    fault_kinds: tuple[Fault, ...] = tuple(Fault)
    retry_after_s: int = 1
    seed: int = 0

    requests: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)  # complete responses
    faults: Counter[Fault] = field(default_factory=Counter)
    early_requests: list[str] = field(default_factory=list)  # sent before Retry-After had passed
    max_concurrent: int = 0
    user_agents: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._lock, self._concurrent, self._not_before = threading.Lock(), 0, dict[str, float]()

    @cached_property
    def by_id(self) -> dict[str, LibraryImage]:
        """The images by id."""
        return {image.id: image for results in self.results_by_query.values() for image in results}

    def enter(self, path: str) -> Fault | None:
        """Record a request; returns the fault to answer it with."""
        with self._lock:
            self._concurrent += 1
            self.max_concurrent = max(self.max_concurrent, self._concurrent)
            self.requests[path] += 1
            if time.time() < self._not_before.get(path, 0):
                self.early_requests.append(path)
            rng = random.Random(f"{self.seed} {path} {self.requests[path]}")
            if self.requests[path] > MAX_FAULTS_PER_URL or rng.random() >= self.fault_rate:
                return None
            [fault] = rng.choices(self.fault_kinds, [1 if kind in RATE_LIMITS else 3 for kind in self.fault_kinds])
            self.faults[fault] += 1
            if fault in RATE_LIMITS:
                self._not_before[path] = time.time() + self.retry_after_s
            return fault

    def leave(self) -> None:
        """Record the end of a request."""
        with self._lock:
            self._concurrent -= 1

    def answer(self, path: str, query: dict[str, str], base: str) -> tuple[str, bytes] | None:
        """Content type and body, None for 404."""
        match path.strip("/").split("/"):
            case ["search"]:
                return "application/json", json.dumps(self._search(query, base)).encode()
            case ["asset", name] if (image := self.by_id.get(unquote(name))) and not image.missing:
                files = [{"href": f"{base}/image/{quote(image.id, safe='')}~{size}.jpg"} for size in image.sizes]
                files.append({"href": f"{base}/image/{quote(image.id, safe='')}/metadata.json"})
                return "application/json", json.dumps({"collection": {"items": files}}).encode()
            case ["image", name]:
                stem, _, size = unquote(name).removesuffix(".jpg").rpartition("~")
                image = self.by_id[stem]
                return None if size in image.missing_sizes else ("image/jpeg", image.file(size))
            case ["legacy", "cutout.jpg"] | ["sdss", "getjpeg"] | ["hips", "hips2fits"] | ["legacy", "cutout.fits"]:
                return self._cutout(path, query)
        return None

    def _search(self, query: dict[str, str], base: str) -> dict[str, Any]:
        results, page = self.results_by_query.get(query["q"], []), int(query["page"])
        page_items = results[(page - 1) * self.page_size : page * self.page_size]
        items: list[dict[str, Any]] = [
            {
                "href": f"{base}/asset/{quote(image.id)}",
                "data": [{"nasa_id": image.id, "title": f'The "{image.id}",\nseen', "center": "JPL"}],
            }
            for image in page_items
        ]
        items.append({"data": []})  # an invalid item
        more = page * self.page_size < len(results)
        links = [{"rel": "next", "prompt": "Next", "href": f"{base}/search?page={page + 1}"}] if more else []
        return {
            "collection": {"version": "1.1", "items": items, "links": links, "metadata": {"total_hits": len(results)}}
        }

    @staticmethod
    def _cutout(path: str, query: dict[str, str]) -> tuple[str, bytes]:
        seed, outside = round(float(query["ra"]) * 1000), float(query["dec"]) > MAX_DEC_DEG
        side = int(query.get("size") or query["width"])
        if path.endswith(".fits") or query.get("format") == "fits":
            cube = np.zeros((3, side, side), np.float32)
            if not outside:
                cube += np.random.default_rng(seed).normal(size=cube.shape)
            buffer = io.BytesIO()
            fits.PrimaryHDU(cube).writeto(buffer)
            return "application/fits", buffer.getvalue()
        return "image/jpeg", images.encode_thumbnail(np.zeros((side, side, 3), np.uint8), side) if outside else jpeg(
            seed, side
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "SourceServer"

    def do_GET(self) -> None:
        state = self.server.state
        fault = state.enter(self.path)
        self._is_counted = True
        time.sleep(RESPONSE_TIME_S)
        try:
            state.user_agents.add(self.headers["User-Agent"])
            url = urlsplit(self.path)
            if url.path == "/galaxy10.h5":
                self._send_range(state)
                return
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            results = state.answer(url.path, query, self.server.url)
            if fault:
                self._send_fault(fault, results[1] if results else HTML)
            elif state.search and url.path == "/search":
                self._send(state.search[0], "application/json", state.search[1])
            elif results is None:
                self._send(404, "application/json", b'{"reason": "not found"}')
            else:
                self._send(200, *results)
                state.served[self.path] += 1
        finally:
            self._leave()

    def _leave(self) -> None:
        """Before the response is complete: the client may send the next request at once."""
        if self._is_counted:
            self._is_counted = False
            self.server.state.leave()

    def _send_fault(self, fault: Fault, body: bytes) -> None:
        match fault:
            case Fault.RETRY_AFTER_S:
                self._send(429, "text/plain", b"", {"Retry-After": str(self.server.state.retry_after_s)})
            case Fault.RETRY_AFTER_DATE:
                self._send(
                    429,
                    "text/plain",
                    b"",
                    {"Retry-After": formatdate(int(time.time()) + self.server.state.retry_after_s + 1, usegmt=True)},
                )
            case Fault.UNAVAILABLE:
                self._send(503, "text/html", HTML)
            case Fault.HANG_UP:
                self.close_connection = True
            case Fault.TRUNCATED:
                self._send(200, "image/jpeg", body[: len(body) // 2], {"Content-Length": str(len(body))})
                self.close_connection = True
            case Fault.SHORT_LENGTH:
                self._send(200, "image/jpeg", body, {"Content-Length": str(len(body) // 2)})
                self.close_connection = True
            case Fault.HTML_PAGE:
                self._send(200, "text/html", HTML)

    def _send_range(self, state: SourceState) -> None:
        contents = state.galaxy10
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start >= len(contents):
            self._send(416, "text/plain", b"")
            return
        length = {"Content-Length": str(len(contents) - start)}
        end = len(contents) if state.cut_every_bytes is None else start + state.cut_every_bytes
        self._send(206 if start else 200, "application/x-hdf5", contents[start:end], length)
        self.close_connection = end < len(contents)

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self._leave()
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - name of the base class
        """Log nothing."""


class SourceServer(ThreadingHTTPServer):
    """`with SourceServer(state) as server:` serves on a free port."""

    daemon_threads = True

    def __init__(self, state: SourceState) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state = state
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.environment = {
            "ASTRODETECT_NASA_URL": self.url,
            "ASTRODETECT_GALAXY10_URL": f"{self.url}/galaxy10.h5",
            "ASTRODETECT_LEGACY_URL": f"{self.url}/legacy",
            "ASTRODETECT_SDSS_URL": f"{self.url}/sdss",
            "ASTRODETECT_HIPS_URL": f"{self.url}/hips",
            "ASTRODETECT_COLLECT_REQUESTS_PER_S": "1000",
            "ASTRODETECT_COLLECT_BACKOFF_S": "0.01",
            "NO_PROXY": "127.0.0.1",
        }

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore connections closed by killed clients."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
