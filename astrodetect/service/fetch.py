"""Fetches images from untrusted URLs, safe from server-side request forgery, oversized and slow responses."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self
from urllib.parse import quote, urljoin, urlsplit

import h11

from astrodetect import __version__
from astrodetect.errors import FetchFailed, FetchRefused, FetchTooLarge, FetchTooSlow, HostNotPublic
from astrodetect.fetch_policy import AllowedHosts, IpAddress, parse_literal

MAX_REDIRECTS = 3
REDIRECT_STATUSES = {301, 302, 303, 307, 308}
MAX_URL_CHARS = 2_000
MAX_HEAD_BYTES = 32_768  # of the status line and the headers
CHUNK_BYTES = 4_096
MAX_OVERHEAD_BYTES = MAX_HEAD_BYTES + 2 * CHUNK_BYTES  # besides the image, and once its size for chunked encoding
MAX_LOOKUPS = 8  # at a time: the system's resolver cannot be cancelled
UNSAFE_CHARS = re.compile(r"[\x00-\x20\x7f\\]")  # which URL parsers treat differently
PATH_CHARS = "/%:@!$&'()*+,;=~"  # not quoted, besides letters, digits and -._
QUERY_CHARS = PATH_CHARS + "?"

Resolve = Callable[[str], Sequence[str]]  # the addresses of a host name; OSError where it has none


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed URL."""

    url: str
    secure: bool
    host: str  # in ASCII
    port: int
    path: str  # with the query

    @classmethod
    def parse(cls, url: str) -> Self:
        """FetchRefused where the URL is not acceptable."""
        if len(url) > MAX_URL_CHARS:
            raise FetchRefused(f"a URL has at most {MAX_URL_CHARS:,} characters")
        if UNSAFE_CHARS.search(url):
            raise FetchRefused("a URL has no spaces, control characters or backslashes: percent-encode them")
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").rstrip(".")
            host = host if ":" in host else host.encode("idna").decode("ascii").lower()
            port = parts.port
            path = quote(parts.path or "/", safe=PATH_CHARS)
            path += f"?{quote(parts.query, safe=QUERY_CHARS)}" if parts.query else ""
        except ValueError as error:  # invalid IDNA, port or brackets
            raise FetchRefused("not a URL") from error
        if parts.scheme not in {"http", "https"} or not host:
            raise FetchRefused("the URL must begin with http:// or https:// and a host")
        if parts.username is not None or parts.password is not None:
            raise FetchRefused("URLs with a user or a password are refused")
        secure = parts.scheme == "https"
        return cls(url, secure, host, (443 if secure else 80) if port is None else port, path)

    def redirected(self, location: str) -> Self:
        """The target of a redirect."""
        try:
            target = type(self).parse(urljoin(self.url, location))
        except ValueError as error:
            raise FetchRefused("redirected to something that is not a URL") from error
        if self.secure and not target.secure:
            raise FetchRefused("redirected from https to http")
        return target

    def request(self) -> h11.Request:
        """A GET request without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default_port = self.port == (443 if self.secure else 80)
        headers = {
            "Host": host if default_port else f"{host}:{self.port}",
            "User-Agent": f"astrodetect/{__version__}",
            "Accept": "image/*, application/fits;q=0.9, */*;q=0.1",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        return h11.Request(method="GET", target=self.path, headers=list(headers.items()))


class Fetcher:
    """Fetches from `allowed` hosts, each image within `timeout_s` and `max_bytes`.

    A host name is resolved once per request, all its addresses must be allowed, and the connection goes to one of them:
    no DNS rebinding.
    """

    def __init__(
        self, allowed: AllowedHosts, *, max_bytes: int, timeout_s: float, resolve: Resolve | None = None
    ) -> None:
        self._allowed, self._max_bytes, self._timeout_s = allowed, max_bytes, timeout_s
        self._resolve = resolve or _resolve
        self._resolver = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="resolver")
        self._tls = ssl.create_default_context()

    async def get(self, url: str) -> bytes:
        """The body of the response, whatever it is; if cancelled, the connection is closed."""
        try:
            async with asyncio.timeout(self._timeout_s):
                target = Target.parse(url)
                for _ in range(1 + MAX_REDIRECTS):
                    result = await self._request(target)
                    if isinstance(result, bytes):
                        return result
                    target = result
        except TimeoutError:
            raise FetchTooSlow(f"the image did not arrive within {self._timeout_s:g} seconds") from None
        raise FetchFailed(f"redirected more than {MAX_REDIRECTS} times")

    def close(self) -> None:
        """Stops the resolver threads."""
        self._resolver.shutdown(wait=False, cancel_futures=True)

    async def _request(self, target: Target) -> bytes | Target:
        """The body, or the target of a redirect."""
        async with self._connect(target) as (reader, writer):
            try:
                exchange = _Exchange(reader)
                writer.write(exchange.encode(target.request()))
                response = await exchange.response_head()
                headers = {name.decode("latin-1"): value.decode("utf-8", "replace") for name, value in response.headers}
                if response.status_code in REDIRECT_STATUSES and "location" in headers:
                    return target.redirected(headers["location"])
                if response.status_code != 200:
                    raise FetchFailed(f"the host answered {response.status_code}")
                if headers.get("content-encoding", "identity").lower() != "identity":
                    raise FetchFailed("the host sent a content encoding that was not requested")
                return await self._read_body(exchange, int(headers.get("content-length", 0)))
            except h11.RemoteProtocolError as error:
                raise FetchFailed("the response is not HTTP, or is incomplete") from error
            except OSError as error:
                raise FetchFailed("the connection failed") from error

    async def _read_body(self, exchange: "_Exchange", declared: int) -> bytes:
        too_large = FetchTooLarge(f"the image is larger than {self._max_bytes:,} bytes")
        if declared > self._max_bytes:
            raise too_large
        body = bytearray()
        async for chunk in exchange.body():
            body += chunk
            if len(body) > self._max_bytes:
                raise too_large
        return bytes(body)

    @asynccontextmanager
    async def _connect(self, target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to the first address that accepts one."""
        failure: OSError | None = None
        for address in await self._allowed_addresses(target):
            try:
                reader, writer = await asyncio.open_connection(
                    str(address),
                    target.port,
                    limit=MAX_HEAD_BYTES,
                    ssl=self._tls if target.secure else None,
                    server_hostname=target.host if target.secure else None,
                )
            except ssl.SSLCertVerificationError as error:
                raise FetchFailed("the host's TLS certificate is not valid for its name") from error
            except OSError as error:
                failure = error
                continue
            try:
                yield reader, writer
            finally:
                writer.transport.abort()  # discards what is in transit
            return
        raise FetchFailed("the host accepts no connection") from failure

    async def _allowed_addresses(self, target: Target) -> list[IpAddress]:
        """The addresses of its host, all of them allowed."""
        refused = HostNotPublic("the host has no public address, or its port is neither 80 nor 443")
        try:
            address = parse_literal(target.host)
            loop = asyncio.get_running_loop()
            texts = [] if address else await loop.run_in_executor(self._resolver, self._resolve, target.host)
            addresses = [address] if address else [ip_address(text) for text in texts]
        except (ValueError, OSError) as error:
            raise refused from error
        if not addresses or not all(self._allowed.permits(target.host, each, target.port) for each in addresses):
            raise refused
        return addresses


class _Exchange:
    """One request and its response, parsed by h11; most of the bytes have to be the image."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader, self._overhead_left = reader, MAX_OVERHEAD_BYTES
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

    def encode(self, request: h11.Request) -> bytes:
        return (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")

    async def response_head(self) -> h11.Response:
        while isinstance(event := await self._next(), h11.InformationalResponse):
            pass
        if isinstance(event, h11.Response):
            return event
        raise h11.RemoteProtocolError("no response")

    async def body(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._next(), h11.Data):
            self._overhead_left += 2 * len(event.data)
            yield bytes(event.data)

    async def _next(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            await asyncio.sleep(0)  # reading buffered data does not yield to other tasks
            data = await self._reader.read(CHUNK_BYTES)
            self._overhead_left -= len(data)
            if self._overhead_left < 0:
                raise FetchTooLarge("the host sends too much besides the image")
            self._http.receive_data(data)
        if isinstance(event, h11.Event):
            return event
        raise h11.RemoteProtocolError("the response ended")


def _resolve(name: str) -> list[str]:
    """By the system's resolver."""
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)))
