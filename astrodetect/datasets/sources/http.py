"""Asks servers on the network: one request at a time, never too soon, and again where that may help."""

import contextlib
import email.utils
import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import requests
import urllib3

from astrodetect import __version__
from astrodetect.errors import FetchError, ImageBlank, ImageError, ImageTooManyPixels, ImageTooSmall, SourceError
from astrodetect.progress import Bar
from astrodetect.settings import Settings

ATTEMPTS = 5  # at one address
SILENT_ADDRESSES = 5  # in a row, after all attempts at each: the source is away
LONGEST_BACKOFF_S = 60.0
LONGEST_RETRY_AFTER_S = 300.0  # a source that asks for more is left alone
LONGEST_ANSWER_S = 300.0  # however steadily it drips; a download goes on where it was
MOST_REDIRECTS = 5
CHUNK_BYTES = 1 << 16
USER_AGENT = f"astrodetect/{__version__} (collects sky images to learn from, one request at a time)"
PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses that may be others next time
LASTING = (ImageTooSmall, ImageTooManyPixels, ImageBlank)  # the same next time, where damage may not be

T = TypeVar("T")


class _PassingError(Exception):
    """What went wrong may go right the next time."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class HttpClient:
    """A source of images, and how it is treated."""

    def __init__(self, chosen: Settings) -> None:
        self._pause_s = 1 / chosen.collect_requests_per_s
        self._timeout_s, self._backoff_s = chosen.collect_timeout_s, chosen.collect_backoff_s
        self._max_bytes = chosen.collect_max_bytes
        self._next_at = 0.0
        self._silent = 0
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        self._session.max_redirects = MOST_REDIRECTS

    def get(self, url: str, read: Callable[[bytes], T]) -> T:
        """What `read` makes of the answer; what it refuses with ImageError or ValueError is asked for again."""

        def attempt() -> T:
            with self._answer(url) as answer:
                data = b"".join(_chunks(answer, self._max_bytes))
            try:
                return read(data)
            except LASTING as error:
                raise FetchError(str(error)) from error
            except (ImageError, ValueError) as error:
                raise _PassingError(str(error)) from error

        return self._patiently(url, attempt)

    def download(self, url: str, path: Path, *, sha256: str, max_bytes: int) -> None:
        """A large file, whole and as it should be; what a run before had of it is not asked for again."""
        part = path.with_name(f"{path.name}.part")
        while True:
            had = _size(part)
            try:
                self._patiently(url, lambda: self._go_on(url, part, max_bytes))
                break
            except FetchError:
                if _size(part) <= had:
                    raise
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            part.unlink()
            raise SourceError(f"{url} gave another file than it should (sha256 {found}): it was removed")
        part.replace(path)

    def _go_on(self, url: str, part: Path, max_bytes: int) -> None:
        had = _size(part)
        with self._answer(url, start=had) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                return  # it is all there, as its sum will tell
            if answer.status_code != requests.codes.partial_content:
                had = 0  # this server always starts at the start
            total = had + _declared(answer)
            with part.open("ab" if had else "wb") as file, Bar(f"{part.stem}, MB", total // 1_000_000) as bar:
                shown = 0
                for chunk in _chunks(answer, max_bytes - had):
                    file.write(chunk)
                    bar.step(file.tell() // 1_000_000 - shown)
                    shown = file.tell() // 1_000_000

    def _patiently(self, url: str, attempt: Callable[[], T]) -> T:
        for turn in range(1, ATTEMPTS + 1):
            try:
                return attempt()
            except _PassingError as error:
                failed = error
            if failed.retry_after_s > LONGEST_RETRY_AFTER_S:
                raise SourceError(f"{_host(url)} wants no request for {failed.retry_after_s:.0f} s: try again then")
            if turn < ATTEMPTS:
                backoff = min(self._backoff_s * 2.0 ** (turn - 1), LONGEST_BACKOFF_S)
                time.sleep(max(failed.retry_after_s, backoff * random.uniform(0.5, 1)))  # noqa: S311 - no secret
        if self._silent >= SILENT_ADDRESSES * ATTEMPTS:
            raise SourceError(f"{_host(url)} does not answer ({failed}): the same command goes on when it does")
        raise FetchError(f"{failed}, {ATTEMPTS} times")

    @contextlib.contextmanager
    def _answer(self, url: str, start: int = 0) -> Iterator[requests.Response]:
        """The head of a good answer; its body is still to be read."""
        now = time.monotonic()
        time.sleep(max(0.0, self._next_at - now))
        self._next_at = max(self._next_at, now) + self._pause_s
        self._silent += 1
        headers = {"Range": f"bytes={start}-"} if start else {}
        with _network(), self._session.get(url, headers=headers, stream=True, timeout=self._timeout_s) as answer:
            status = answer.status_code
            if status in PASSING:
                raise _PassingError(f"answered {status}", _retry_after_s(answer.headers.get("Retry-After", "")))
            self._silent = 0
            if not (answer.ok or (start and status == requests.codes.requested_range_not_satisfiable)):
                raise FetchError(f"answered {status}")
            yield answer


def build_url(url: str, **parameters: object) -> str:
    """The whole of an address, its parameters encoded in the order in which they are named."""
    whole = requests.Request("GET", url, params={name: str(value) for name, value in parameters.items()})
    return str(whole.prepare().url)


def _chunks(answer: requests.Response, max_bytes: int) -> Iterator[bytes]:
    too_large = f"more than {max_bytes:,} bytes"
    if _declared(answer) > max_bytes:
        raise FetchError(too_large)
    taken, give_up = 0, time.monotonic() + LONGEST_ANSWER_S
    while chunk := answer.raw.read1(CHUNK_BYTES, decode_content=True):
        taken += len(chunk)
        if taken > max_bytes:
            raise FetchError(too_large)
        if time.monotonic() > give_up:
            raise _PassingError(f"not whole after {LONGEST_ANSWER_S:.0f} s")
        yield chunk


def _declared(answer: requests.Response) -> int:
    """The bytes that are still to come, 0 where the answer does not say."""
    return answer.raw.length_remaining or 0


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """What a wire can do, as what may pass or what will not."""
    try:
        yield
    except (requests.TooManyRedirects, requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL) as error:
        raise FetchError(f"leads nowhere: {type(error).__name__}") from error
    except requests.Timeout as error:
        raise _PassingError("did not answer in time") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise _PassingError(f"the connection failed ({type(error).__name__})") from error


def _retry_after_s(said: str) -> float:
    """Seconds, from either form of the header."""
    if said.strip().isdecimal():
        return float(said)
    try:
        return max(0.0, math.ceil(email.utils.parsedate_to_datetime(said).timestamp() - time.time()))
    except (ValueError, OverflowError):
        return 0.0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _host(url: str) -> str:
    return urlsplit(url).netloc
