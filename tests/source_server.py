"""Sources of images as they are on the network, on a local port: the same shapes, and all their faults."""

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

FAULTS_AT_AN_ADDRESS = 2  # then it is answered: fewer than there are attempts
NORTH_END = 80.0  # the surveys have nothing beyond, degrees
HTML = b"<!doctype html><title>Sorry</title><p>Something went wrong."


class Fault(enum.Enum):
    """What a request may meet."""

    WAIT = enum.auto()  # 429, with Retry-After in seconds
    WAIT_UNTIL = enum.auto()  # 429, with Retry-After as a date
    AWAY = enum.auto()  # 503
    HANG_UP = enum.auto()  # closed without a word
    CUT = enum.auto()  # closed in the middle
    SHORT = enum.auto()  # a Content-Length of half of it
    PAGE = enum.auto()  # HTML and 200


WAITS = {Fault.WAIT, Fault.WAIT_UNTIL}  # a second each, so they are rarer than the others


@dataclass(frozen=True)
class Picture:
    """What NASA's library has of one image."""

    id: str
    seed: int
    sizes: tuple[str, ...] = ("orig", "large", "medium", "small", "thumb")
    lacking: tuple[str, ...] = ()  # named, and 404
    side: int = 96
    broken: bool = False  # HTML for ever
    missing: bool = False  # even its list of files is 404

    def file(self, size: str) -> bytes:
        """Other pixels for another seed, and another size."""
        if self.broken:
            return HTML
        side = self.side * (2 if size == "large" else 1)
        return jpeg(self.seed, side)


def jpeg(seed: int, side: int) -> bytes:
    """Noise, which no two seeds share."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    return images.encode_thumbnail(pixels.repeat(8, axis=0).repeat(8, axis=1), side)


@dataclass
class Sky:
    """What is served, and what was asked for."""

    pictures: dict[str, list[Picture]] = field(default_factory=dict)  # words → what they find, duplicates too
    page_size: int = 7
    search: tuple[int, bytes] | None = None  # what every search is answered with instead
    galaxy10: bytes = b""
    cut_every: int | None = None  # bytes of galaxy10's file on one connection
    fault_rate: float = 0.0
    kinds: tuple[Fault, ...] = tuple(Fault)
    wait_s: int = 1
    seed: int = 0

    asked: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)  # whole and true
    faults: Counter[Fault] = field(default_factory=Counter)
    rude: list[str] = field(default_factory=list)  # asked before Retry-After was over
    most_at_once: int = 0
    agents: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._lock, self._at_once, self._not_before = threading.Lock(), 0, dict[str, float]()

    @cached_property
    def by_id(self) -> dict[str, Picture]:
        """Each picture once."""
        return {picture.id: picture for found in self.pictures.values() for picture in found}

    def enter(self, path: str) -> Fault | None:
        """Takes note of a request, and says what it meets."""
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.asked[path] += 1
            if time.time() < self._not_before.get(path, 0):
                self.rude.append(path)
            chance = random.Random(f"{self.seed} {path} {self.asked[path]}")
            if self.asked[path] > FAULTS_AT_AN_ADDRESS or chance.random() >= self.fault_rate:
                return None
            [fault] = chance.choices(self.kinds, [1 if kind in WAITS else 3 for kind in self.kinds])
            self.faults[fault] += 1
            if fault in WAITS:
                self._not_before[path] = time.time() + self.wait_s
            return fault

    def leave(self) -> None:
        """The request is over."""
        with self._lock:
            self._at_once -= 1

    def answer(self, path: str, query: dict[str, str], base: str) -> tuple[str, bytes] | None:
        """Type and body, None for 404."""
        match path.strip("/").split("/"):
            case ["search"]:
                return "application/json", json.dumps(self._search(query, base)).encode()
            case ["asset", name] if (picture := self.by_id.get(unquote(name))) and not picture.missing:
                files = [{"href": f"{base}/image/{quote(picture.id, safe='')}~{size}.jpg"} for size in picture.sizes]
                files.append({"href": f"{base}/image/{quote(picture.id, safe='')}/metadata.json"})
                return "application/json", json.dumps({"collection": {"items": files}}).encode()
            case ["image", name]:
                stem, _, size = unquote(name).removesuffix(".jpg").rpartition("~")
                picture = self.by_id[stem]
                return None if size in picture.lacking else ("image/jpeg", picture.file(size))
            case ["legacy", "cutout.jpg"] | ["sdss", "getjpeg"] | ["hips", "hips2fits"] | ["legacy", "cutout.fits"]:
                return self._cutout(path, query)
        return None

    def _search(self, query: dict[str, str], base: str) -> dict[str, Any]:
        found, page = self.pictures.get(query["q"], []), int(query["page"])
        here = found[(page - 1) * self.page_size : page * self.page_size]
        items: list[dict[str, Any]] = [
            {
                "href": f"{base}/asset/{quote(picture.id)}",
                "data": [{"nasa_id": picture.id, "title": f'The "{picture.id}",\nseen', "center": "JPL"}],
            }
            for picture in here
        ]
        items.append({"data": []})  # of no use to anyone
        more = page * self.page_size < len(found)
        links = [{"rel": "next", "prompt": "Next", "href": f"{base}/search?page={page + 1}"}] if more else []
        return {
            "collection": {"version": "1.1", "items": items, "links": links, "metadata": {"total_hits": len(found)}}
        }

    @staticmethod
    def _cutout(path: str, query: dict[str, str]) -> tuple[str, bytes]:
        seed, beyond = round(float(query["ra"]) * 1000), float(query["dec"]) > NORTH_END
        side = int(query.get("size") or query["width"])
        if path.endswith(".fits") or query.get("format") == "fits":
            cube = np.zeros((3, side, side), np.float32)
            if not beyond:
                cube += np.random.default_rng(seed).normal(size=cube.shape)
            buffer = io.BytesIO()
            fits.PrimaryHDU(cube).writeto(buffer)
            return "application/fits", buffer.getvalue()
        return "image/jpeg", images.encode_thumbnail(np.zeros((side, side, 3), np.uint8), side) if beyond else jpeg(
            seed, side
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "SourceServer"

    def do_GET(self) -> None:
        sky = self.server.sky
        fault = sky.enter(self.path)
        try:
            sky.agents.add(self.headers["User-Agent"])
            address = urlsplit(self.path)
            if address.path == "/galaxy10.h5":
                self._ranged(sky)
                return
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            found = sky.answer(address.path, query, self.server.url)
            if fault:
                self._fail(fault, found[1] if found else HTML)
            elif sky.search and address.path == "/search":
                self._send(sky.search[0], "application/json", sky.search[1])
            elif found is None:
                self._send(404, "application/json", b'{"reason": "not found"}')
            else:
                self._send(200, *found)
                sky.served[self.path] += 1
        finally:
            sky.leave()

    def _fail(self, fault: Fault, body: bytes) -> None:
        match fault:
            case Fault.WAIT:
                self._send(429, "text/plain", b"", {"Retry-After": str(self.server.sky.wait_s)})
            case Fault.WAIT_UNTIL:
                self._send(
                    429,
                    "text/plain",
                    b"",
                    {"Retry-After": formatdate(int(time.time()) + self.server.sky.wait_s + 1, usegmt=True)},
                )
            case Fault.AWAY:
                self._send(503, "text/html", HTML)
            case Fault.HANG_UP:
                self.close_connection = True
            case Fault.CUT:
                self._send(200, "image/jpeg", body[: len(body) // 2], {"Content-Length": str(len(body))})
                self.close_connection = True
            case Fault.SHORT:
                self._send(200, "image/jpeg", body, {"Content-Length": str(len(body) // 2)})
                self.close_connection = True
            case Fault.PAGE:
                self._send(200, "text/html", HTML)

    def _ranged(self, sky: Sky) -> None:
        whole = sky.galaxy10
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start >= len(whole):
            self._send(416, "text/plain", b"")
            return
        length = {"Content-Length": str(len(whole) - start)}
        end = len(whole) if sky.cut_every is None else start + sky.cut_every
        self._send(206 if start else 200, "application/x-hdf5", whole[start:end], length)
        self.close_connection = end < len(whole)

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called there
        """Tests talk enough."""


class SourceServer(ThreadingHTTPServer):
    """`with SkyServer(sky) as server:` serves on a free port."""

    daemon_threads = True

    def __init__(self, sky: Sky) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sky = sky
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
        """Callers are killed, and hang up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
