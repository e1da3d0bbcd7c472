"""Clients of object stores and web servers: requests with time limits and retries, and their errors in one line."""

import datetime as dt
import io
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import HTTPStore, ObjectStore, from_url

from astrodetect.errors import StorageError, StorageMissing, StorageUnavailable
from astrodetect.storage.credentials import profile_options
from astrodetect.storage.references import is_web, printable_url
from astrodetect.storage.request_errors import (
    ConditionFailed,
    HeadersUnusable,
    Interrupted,
    StatusUnknown,
    Unreachable,
    describe_error,
    too_large,
)

if TYPE_CHECKING:
    from obstore import ObjectMeta, WritableFile

CONNECT_S = 5.0
READ_S = 30.0  # without a byte
RETRY_S = 120.0  # from a request to its last repetition
MAX_RETRIES = 10
FIRST_RETRIES = 2  # before a server has answered for the first time: its name may be wrong
BACKOFF_S = 0.2  # before the first repetition; the waits double, at random, up to MAX_BACKOFF_S
MAX_BACKOFF_S = 15.0
LIST_PAGE = 1000  # names
BLOCK_BYTES = 4 * 2**20  # of a file that is read in parts
WRITE_BYTES = 8 * 2**20  # of a part of an upload
CACHED_STORES = 64
PLAIN_PATH = re.compile(r"(/[\w.~-]+)+", re.ASCII)
DOT_SEGMENT = re.compile(r"/\.\.?(/|$)")

HEADERS = {"User-Agent": "astrodetect"}

Result = TypeVar("Result")
Version = tuple[str | None, int, dt.datetime]
Entity = dict[str, str | None]  # entity tag, and number of the version where the store has one

_answered: set[str] = set()  # servers that answered this process


def forget_servers() -> None:
    """Makes new clients, with the environment as it is now."""
    _answered.clear()
    _store.cache_clear()


def get(url: str, *, max_bytes: int | None = None) -> bytes:
    """The contents; StorageError if they are more than `max_bytes`."""

    def read(store: ObjectStore, key: str) -> bytes:
        result = obstore.get(store, key)
        if max_bytes is not None and result.meta["size"] > max_bytes:
            raise too_large(url, max_bytes)
        return bytes(result.bytes())

    try:
        return _call(url, read)
    except HeadersUnusable:
        return _get_without_headers(url, max_bytes)


def version(meta: "ObjectMeta") -> Version:
    """What differs between versions of an object: a web server may have no entity tags."""
    return meta["e_tag"], meta["size"], meta["last_modified"]


def _opaque_tag(e_tag: str | None) -> str | None:
    """The entity tag for weak comparison: a server may call it weak in one response and strong in another."""
    return e_tag and e_tag.removeprefix("W/")


def get_range(url: str, start: int, end: int, of: Version) -> bytes:
    """The bytes from `start` to before `end`, of this version."""
    e_tag = of[0]
    matches = {} if e_tag is None or e_tag.startswith("W/") else {"if_match": e_tag}  # weak tags never match
    options = {"range": (start, end), **matches}

    def read(store: ObjectStore, key: str) -> bytes:
        result = obstore.get(store, key, options=options)  # type: ignore[arg-type]
        found = version(result.meta)
        if found[1:] != of[1:] or _opaque_tag(found[0] or e_tag) != _opaque_tag(e_tag):
            raise StorageError(f"{printable_url(url)} was changed meanwhile")
        data = bytes(result.bytes())
        if len(data) != end - start:
            raise StorageError(
                f"{printable_url(url)}: its server sent {len(data):,} bytes of it instead of {end - start:,}"
            )
        return data

    return _call(url, read)


def head(url: str) -> "ObjectMeta | None":
    """Size, entity tag and time of change; None where there is no object."""
    try:
        return _call(url, _head)
    except StorageMissing:
        return None


def entity(url: str) -> Entity | None:
    """What identifies the present version of an object; None where there is no object."""
    meta = head(url)
    return None if meta is None else {"e_tag": meta["e_tag"], "version": meta["version"]}


def put(url: str, data: bytes, *, if_absent: bool = False, replaces: Entity | None = None) -> Entity | None:
    """Writes an object; None if it exists with `if_absent`, or is another version than it `replaces`."""
    known = {name: value for name, value in (replaces or {}).items() if value}
    mode: Any = "create" if if_absent else known or "overwrite"
    try:
        result = _call(url, lambda store, key: obstore.put(store, key, data, mode=mode, use_multipart=False))
    except ConditionFailed:
        before = entity(url)  # the answer to the first try may have been lost
        return before if before and get(url) == data and before == entity(url) else None
    return {"e_tag": result["e_tag"], "version": result["version"]}


@contextmanager
def open_upload(url: str) -> Iterator["ObjectWriter"]:
    """A file to write an object of any size to, in parts; it exists after the block, unless the block raises."""
    writer = ObjectWriter(url, _call(url, lambda store, key: obstore.open_writer(store, key, buffer_size=WRITE_BYTES)))
    try:
        yield writer
    except BaseException:
        writer.abort()
        raise
    writer.commit()


def delete_object(url: str) -> None:
    """Deletes the object, if it exists."""
    try:
        _call(url, obstore.delete)
    except StorageMissing:
        return


def list_objects(url: str) -> Iterator[str]:
    """The names of the objects under a folder, relative to it and sorted as the store sorts them: by UTF-8 bytes."""
    if is_web(url):
        raise StorageError(f"{printable_url(url)}: a folder of a web server cannot be listed: name files or a manifest")
    prefix = _split(url)[1].rstrip("/")
    start, previous = len(prefix) + 1 if prefix else 0, ""
    pages: Iterator[Sequence[ObjectMeta]] | None = None

    def next_page(store: ObjectStore, _: str) -> "Sequence[ObjectMeta] | None":
        nonlocal pages
        if pages is None:  # at the beginning, or after an error, which ends the stream of pages
            pages = iter(obstore.list(store, prefix or None, offset=previous or None, chunk_size=LIST_PAGE))
        try:
            return next(pages, None)
        except Exception:
            pages = None
            raise

    while page := _call(url, next_page):
        for item in page:
            if item["path"].encode() <= previous.encode():
                raise StorageError(f"{url} is not listed in order by its store: give a manifest of its images")
            previous = item["path"]
            yield previous[start:]


class ObjectWriter(io.RawIOBase):
    """An object as a file that is written from its beginning to its end."""

    def __init__(self, url: str, upload: "WritableFile") -> None:
        self._url, self._upload, self._position = url, upload, 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        with _described(self._url):
            self._upload.write(data)
        self._position += len(data)
        return len(data)

    def commit(self) -> None:
        """Makes the object of what was written."""
        with _described(self._url):
            self._upload.close()

    def abort(self) -> None:
        """Removes what was uploaded."""
        with suppress(exceptions.BaseError, OSError, ValueError):
            self._upload.__exit__(InterruptedError, InterruptedError(), None)


class ObjectReader(io.RawIOBase):
    """An object as a file, read by ranges; all of them of one version."""

    def __init__(self, url: str) -> None:
        self._url, self._position = url, 0
        meta = _call(url, _head)
        self._size, self._version = meta["size"], version(meta)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence])
        return self._position

    def readall(self) -> bytes:
        return self.read(max(0, self._size - self._position)) or b""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._size, self._position + len(buffer))
        if end <= self._position:
            return 0
        data = get_range(self._url, self._position, end, self._version)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _head(store: ObjectStore, key: str) -> "ObjectMeta":
    """Size, entity tag and time of change.

    Addresses may be signed for GET alone, as those of S3 are, and web applications may answer HEAD with 404 or 405.
    """
    try:
        return obstore.head(store, key)
    except (exceptions.PermissionDeniedError, FileNotFoundError):
        if not isinstance(store, HTTPStore):
            raise
        return obstore.get(store, key, options={"range": (0, 1)}).meta


def _get_without_headers(url: str, max_bytes: int | None) -> bytes:
    """The contents as a web server makes them while it sends them, or with headers that are of no use."""
    limit, request = -1 if max_bytes is None else max_bytes + 1, urllib.request.Request(url, headers=HEADERS)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=READ_S) as response:  # noqa: S310 - http or https
            data: bytes = response.read(limit)
    except (OSError, HTTPException) as error:
        raise StorageError(f"{printable_url(url)}: its answer was not complete ({type(error).__name__})") from error
    if max_bytes is not None and len(data) > max_bytes:
        raise too_large(url, max_bytes)
    return data


def _call(url: str, operation: Callable[[ObjectStore, str], Result]) -> Result:
    """The result of a request.

    The first request of all to a server is not repeated for long where nothing answers. A web server that never
    answered is not StorageUnavailable: a table may name many, and the others go on.
    """
    server = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
    first = server not in _answered
    try:
        try:
            result = _with_retries(url, operation, FIRST_RETRIES if first else MAX_RETRIES)
        except StorageUnavailable as error:
            if not first or isinstance(error, Unreachable):
                raise
            result = _with_retries(url, operation, MAX_RETRIES)
    except StorageUnavailable as error:
        if first and is_web(url):
            raise StorageError(str(error)) from error
        raise
    except StorageError:
        _answered.add(server)
        raise
    _answered.add(server)
    return result


def _with_retries(url: str, operation: Callable[[ObjectStore, str], Result], max_retries: int) -> Result:
    root, key = _split(url)
    waits = [min(BACKOFF_S * 2**attempt, MAX_BACKOFF_S) for attempt in range(max_retries)]
    until = time.monotonic() + RETRY_S / 2  # the client may repeat the last request as long again
    while True:
        try:
            with _described(url):
                return operation(_store(root, max_retries), key)
        except StatusUnknown:
            with _described(url):
                obstore.head(_store(root, max_retries), key)  # a response without a body: its status
            raise
        except Interrupted:  # of lists, deletions and conditional requests, which the client does not repeat itself
            if not waits or time.monotonic() + waits[0] > until:
                raise
            time.sleep(waits.pop(0))


@contextmanager
def _described(url: str) -> Iterator[None]:
    try:
        yield
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise describe_error(error, url) from error


@lru_cache(maxsize=CACHED_STORES)
def _store(root: str, max_retries: int) -> ObjectStore:
    client = {
        "allow_http": True,  # where the address says so
        "connect_timeout": dt.timedelta(seconds=CONNECT_S),
        "read_timeout": dt.timedelta(seconds=READ_S),
        "timeout": dt.timedelta(days=1),  # of large bodies: the other limits are those that matter
        "default_headers": HEADERS,
    }
    backoff = {"init_backoff": dt.timedelta(seconds=BACKOFF_S), "max_backoff": dt.timedelta(seconds=MAX_BACKOFF_S)}
    retry = {"max_retries": max_retries, "retry_timeout": dt.timedelta(seconds=RETRY_S), "backoff": backoff}
    if is_web(root):
        return HTTPStore.from_url(root, client_options=client, retry_config=retry)  # type: ignore[arg-type]
    options = profile_options() if root.startswith("s3:") else {}
    return from_url(root, client_options=client, retry_config=retry, **options)  # type: ignore[call-overload,no-any-return]


def _split(url: str) -> tuple[str, str]:
    """What a client is made for, and the key: of a web address with a query, or an unusual path, all of it and none."""
    parts = urlsplit(url)
    if not is_web(url):
        scheme, _, rest = url.partition("://")
        bucket, _, key = rest.partition("/")
        return f"{scheme.lower()}://{bucket}", key
    if parts.query or not PLAIN_PATH.fullmatch(parts.path) or DOT_SEGMENT.search(parts.path):
        return url.partition("#")[0], ""
    return f"{parts.scheme.lower()}://{parts.netloc}", unquote(parts.path[1:])
