"""Rate-limited HTTP client: one request at a time, with retries, back-off and resumable downloads."""

import contextlib
import email.utils
import hashlib
import http.client
import math
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from astrodetect import __version__
from astrodetect.errors import ImageBlank, ImageError, ImageTooManyPixels, ImageTooSmall, SourceError, SourceUrlError
from astrodetect.progress import ProgressBar
from astrodetect.settings import Settings

MAX_ATTEMPTS = 5  # per URL
MAX_UNANSWERED_URLS = 5  # in a row, after all attempts at each: then the source counts as unavailable
MAX_BACKOFF_S = 60.0
MAX_RETRY_AFTER_S = 300.0  # a longer Retry-After ends the run
MAX_HEADERS_S = 120.0  # total time until the headers of a response are there
MAX_RESPONSE_S = 300.0  # total time to read one response; downloads resume
MOST_REDIRECTS = 5
CHUNK_BYTES = 1 << 16
USER_AGENT = f"astrodetect/{__version__} (collects sky images to learn from, one request at a time)"
RETRYABLE_STATUSES = {408, 425, 429, 500, 502, 503, 504}
BAD_CERTIFICATE = re.compile(r"(certificate verify failed: .+?) \(_ssl")
PERMANENT_ERRORS = (ImageTooSmall, ImageTooManyPixels, ImageBlank)  # not retried, unlike damaged images

T = TypeVar("T")


class _TransientError(Exception):
    """A failure that a retry may resolve."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@contextlib.contextmanager
def _deadline(sock: socket.socket | None, seconds: float) -> Iterator[threading.Event]:
    """Ends what the socket receives after so long, and sets the event: its own timeout counts from the last byte."""
    late = threading.Event()

    def interrupt() -> None:
        late.set()  # before the reader wakes
        with contextlib.suppress(OSError):  # it has just ended
            if sock:
                sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True  # Ctrl-C while it starts would wait for its end
    try:
        timer.start()
        yield late
    finally:
        timer.cancel()


class _FinalResponse(http.client.HTTPResponse):
    """`http.client` takes 103 Early Hints for the response, and the response for that to the next request."""

    def _read_status(self) -> tuple[str, int, str]:
        while http.client.CONTINUE < (line := super()._read_status())[1] < http.client.OK:  # type: ignore[misc]
            http.client.parse_headers(self.fp)
        return line  # type: ignore[no-any-return]


class _HeaderDeadline(HTTPConnection):
    """Headers of a byte now and then would be read without end."""

    response_class = _FinalResponse

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3 has it
        sock = self.sock
        with _deadline(sock, MAX_HEADERS_S) as late:
            response = super().getresponse()
            if late.is_set():  # http.client takes headers that end with the connection as whole
                response.close()
                raise TimeoutError
        response.socket = sock  # type: ignore[attr-defined]  # the connection may have no more
        return response


class _TlsHeaderDeadline(_HeaderDeadline, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _HeaderDeadline


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsHeaderDeadline


def _drop_body_of_redirect(response: requests.Response, *_: object, **__: object) -> None:
    """`requests` reads and unpacks it whole, of any size."""
    if response.is_redirect:
        response.close()


class HttpClient:
    """Client for one image source, within the limits of the settings."""

    def __init__(self, chosen: Settings) -> None:
        self._interval_s = 1 / chosen.collect_requests_per_s
        self._timeout_s, self._backoff_s = chosen.collect_timeout_s, chosen.collect_backoff_s
        self._max_bytes = chosen.collect_max_bytes
        self._next_request_at = 0.0
        self._unanswered = 0
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        self._session.max_redirects = MOST_REDIRECTS
        self._session.hooks["response"].append(_drop_body_of_redirect)
        adapter = requests.adapters.HTTPAdapter()
        adapter.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def get(self, url: str, read: Callable[[bytes], T], *, form: Mapping[str, str] | None = None) -> T:
        """Request the URL and return `read` of the body; ImageError and ValueError from `read` are retried.

        A form is posted: for queries that change nothing, and so may be repeated. `read` may raise SourceUrlError with
        the reason that a refusal of one gives.
        """

        def attempt() -> T:
            with self._request(url, form=form) as response:
                data = b"".join(_read_chunks(response, self._max_bytes))
            if not response.ok:
                with contextlib.suppress(ValueError):
                    read(data)
                raise SourceUrlError(f"answered {response.status_code}")
            try:
                return read(data)
            except PERMANENT_ERRORS as error:
                raise SourceUrlError(str(error)) from error
            except (ImageError, ValueError) as error:
                raise _TransientError(str(error)) from error

        return self._with_retries(url, attempt)

    def download(self, url: str, path: Path, *, sha256: str, max_bytes: int) -> None:
        """Download a large file, resuming a partial download, and verify its SHA-256."""
        part = path.with_name(f"{path.name}.part")
        while True:
            size_before = _size(part)
            try:
                self._with_retries(url, lambda: self._resume(url, part, max_bytes))
                break
            except SourceUrlError:
                if _size(part) <= size_before:
                    raise
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256.lower():
            part.unlink()
            raise SourceError(f"{url} returned an unexpected file (sha256 {digest}): it was removed")
        part.replace(path)

    def _resume(self, url: str, part: Path, max_bytes: int) -> None:
        offset = _size(part)
        with self._request(url, start=offset) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # the file is complete; its checksum is verified next
            if response.status_code != requests.codes.partial_content:
                offset = 0  # the server ignores Range
            total = offset + _remaining_bytes(response)
            with (
                part.open("ab" if offset else "wb") as file,
                ProgressBar(f"{part.stem}, MB", total // 1_000_000) as bar,
            ):
                reported_mb = 0
                for chunk in _read_chunks(response, max_bytes - offset):
                    file.write(chunk)
                    bar.step(file.tell() // 1_000_000 - reported_mb)
                    reported_mb = file.tell() // 1_000_000

    def _with_retries(self, url: str, attempt: Callable[[], T]) -> T:
        for number in range(1, MAX_ATTEMPTS + 1):
            try:
                return attempt()
            except _TransientError as error:
                failed = error
            if failed.retry_after_s > MAX_RETRY_AFTER_S:
                raise SourceError(f"{_host(url)} asks for no request for {failed.retry_after_s:.0f} s: try again then")
            if number < MAX_ATTEMPTS:
                backoff = min(self._backoff_s * 2.0 ** (number - 1), MAX_BACKOFF_S)
                time.sleep(max(failed.retry_after_s, backoff * random.uniform(0.5, 1)))  # noqa: S311 - jitter
        if self._unanswered >= MAX_UNANSWERED_URLS * MAX_ATTEMPTS:
            raise SourceError(f"{_host(url)} does not answer ({failed}): run the same command again later to continue")
        raise SourceUrlError(f"{failed} ({MAX_ATTEMPTS} attempts)")

    @contextlib.contextmanager
    def _request(self, url: str, start: int = 0, form: Mapping[str, str] | None = None) -> Iterator[requests.Response]:
        """The response, its body not yet read: successful, or the refusal of a form, with the reason in its body."""
        now = time.monotonic()
        time.sleep(max(0.0, self._next_request_at - now))
        self._next_request_at = max(self._next_request_at, now) + self._interval_s
        self._unanswered += 1
        headers = {"Range": f"bytes={start}-"} if start else {}
        with (
            _translate_errors(),
            self._session.request(
                "POST" if form else "GET", url, data=form, headers=headers, stream=True, timeout=self._timeout_s
            ) as response,
        ):
            status = response.status_code
            if status in RETRYABLE_STATUSES:
                raise _TransientError(f"answered {status}", _retry_after_s(response.headers.get("Retry-After", "")))
            self._unanswered = 0
            if not (response.ok or form or (start and status == requests.codes.requested_range_not_satisfiable)):
                raise SourceUrlError(f"answered {status}")
            yield response


def build_url(url: str, **parameters: object) -> str:
    """The URL with its query parameters encoded in order."""
    request = requests.Request("GET", url, params={name: str(value) for name, value in parameters.items()})
    return str(request.prepare().url)


def _read_chunks(response: requests.Response, max_bytes: int) -> Iterator[bytes]:
    too_large = f"more than {max_bytes:,} bytes"
    if _remaining_bytes(response) > max_bytes:
        raise SourceUrlError(too_large)
    received = 0
    sock = getattr(response.raw, "socket", None)  # through a proxy the connection is not one of ours
    with _deadline(sock, MAX_RESPONSE_S) as late:  # also of the sizes of chunks, and of trailers
        while not late.is_set() and (chunk := response.raw.read1(CHUNK_BYTES, decode_content=True)):
            received += len(chunk)
            if received > max_bytes:
                raise SourceUrlError(too_large)
            yield chunk
    if late.is_set():
        raise _TransientError(f"incomplete after {MAX_RESPONSE_S:.0f} s")


def _remaining_bytes(response: requests.Response) -> int:
    """Bytes still to be received, 0 without a Content-Length."""
    return response.raw.length_remaining or 0


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    """Errors of requests as FetchError (permanent) or _TransientError."""
    try:
        yield
    except requests.exceptions.InvalidHeader as error:  # two different lengths
        raise _TransientError("the headers of its response are invalid") from error
    except (requests.TooManyRedirects, requests.exceptions.InvalidSchema, ValueError) as error:  # of a URL
        raise SourceUrlError(f"invalid redirect or URL: {type(error).__name__}") from error
    except requests.Timeout as error:
        raise _TransientError("did not answer in time") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        refused = BAD_CERTIFICATE.search(str(error))
        raise _TransientError(f"the connection failed ({refused[1] if refused else type(error).__name__})") from error


def _retry_after_s(header: str) -> float:
    """Seconds, from either form of Retry-After."""
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, math.ceil(email.utils.parsedate_to_datetime(header).timestamp() - time.time()))
    except (ValueError, OverflowError):
        return 0.0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _host(url: str) -> str:
    return urlsplit(url).netloc
