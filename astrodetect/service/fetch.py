"""An image's bytes from a URL that anybody may have written: nothing behind it can reach inside, or keep us busy."""

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

MOST_REDIRECTS = 3
REDIRECTS = {301, 302, 303, 307, 308}
LONGEST_URL = 2_000  # characters
MOST_HEAD_BYTES = 32_768  # of an answer's status and headers
CHUNK_BYTES = 4_096
MOST_AROUND_BYTES = MOST_HEAD_BYTES + 2 * CHUNK_BYTES  # that are no image, beside as many as the image has
RESOLVERS = 8  # names looked up at a time: the system's own look-up cannot be called off
UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")  # what programs read in different ways
PATH = "/%:@!$&'()*+,;=~"  # what stays as it is, beside letters, digits and -._
QUERY = PATH + "?"

Resolve = Callable[[str], Sequence[str]]  # a name's addresses; OSError where it has none


@dataclass(frozen=True, slots=True)
class Target:
    """A URL as it is asked."""

    url: str
    secure: bool
    host: str  # in ASCII
    port: int
    path: str  # and the query

    @classmethod
    def of(cls, url: str) -> Self:
        """FetchRefused says what is wrong with it."""
        if len(url) > LONGEST_URL:
            raise FetchRefused(f"a URL has at most {LONGEST_URL:,} characters")
        if UNSAFE.search(url):
            raise FetchRefused("a URL has no blanks, control characters or backslashes: write them as %20 and so on")
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").rstrip(".")
            host = host if ":" in host else host.encode("idna").decode("ascii").lower()
            port = parts.port
            path = quote(parts.path or "/", safe=PATH)
            path += f"?{quote(parts.query, safe=QUERY)}" if parts.query else ""
        except ValueError as error:  # of a code, of a port, of brackets
            raise FetchRefused("this is no URL") from error
        if parts.scheme not in {"http", "https"} or not host:
            raise FetchRefused("a URL that begins with http:// or https:// and a host is needed")
        if parts.username is not None or parts.password is not None:
            raise FetchRefused("a URL with a user or a password in it is not asked")
        secure = parts.scheme == "https"
        return cls(url, secure, host, (443 if secure else 80) if port is None else port, path)

    def redirected(self, location: str) -> Self:
        """Where an answer leads from here."""
        try:
            there = type(self).of(urljoin(self.url, location))
        except ValueError as error:
            raise FetchRefused("it leads to what is no URL") from error
        if self.secure and not there.secure:
            raise FetchRefused("it leads from https to http")
        return there

    def request(self) -> h11.Request:
        """Nothing of ours goes along: no cookie, no key."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.secure else 80)
        headers = {
            "Host": host if usual else f"{host}:{self.port}",
            "User-Agent": f"astrodetect/{__version__}",
            "Accept": "image/*, application/fits;q=0.9, */*;q=0.1",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        return h11.Request(method="GET", target=self.path, headers=list(headers.items()))


class Fetcher:
    """Asks hosts that are `allowed`; each image within `timeout_s` and `max_bytes`, or an error of its kind.

    A name is looked up once for each request, all its addresses are judged, and the connection goes to one of these.
    """

    def __init__(
        self, allowed: AllowedHosts, *, max_bytes: int, timeout_s: float, resolve: Resolve | None = None
    ) -> None:
        self._allowed, self._max_bytes, self._timeout_s = allowed, max_bytes, timeout_s
        self._resolve = resolve or _addresses
        self._resolver = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolver")
        self._tls = ssl.create_default_context()

    async def get(self, url: str) -> bytes:
        """What is there, whatever it is; cancelled, it leaves nothing behind."""
        try:
            async with asyncio.timeout(self._timeout_s):
                target = Target.of(url)
                for _ in range(1 + MOST_REDIRECTS):
                    found = await self._asked(target)
                    if isinstance(found, bytes):
                        return found
                    target = found
        except TimeoutError:
            raise FetchTooSlow(f"the image did not come within {self._timeout_s:g} seconds") from None
        raise FetchFailed(f"redirected more than {MOST_REDIRECTS} times")

    def close(self) -> None:
        """Nothing is fetched any more."""
        self._resolver.shutdown(wait=False, cancel_futures=True)

    async def _asked(self, target: Target) -> bytes | Target:
        """The file, or where it is instead."""
        async with self._connected(target) as (reader, writer):
            try:
                exchange = _Exchange(reader)
                writer.write(exchange.sent(target.request()))
                answer = await exchange.head()
                headers = {name.decode("latin-1"): value.decode("utf-8", "replace") for name, value in answer.headers}
                if answer.status_code in REDIRECTS and "location" in headers:
                    return target.redirected(headers["location"])
                if answer.status_code != 200:
                    raise FetchFailed(f"the host answered {answer.status_code}")
                if headers.get("content-encoding", "identity").lower() != "identity":
                    raise FetchFailed("the host sent the image compressed, unasked")
                return await self._whole(exchange, int(headers.get("content-length", 0)))
            except h11.RemoteProtocolError as error:
                raise FetchFailed("what the host answered is not HTTP, or is cut short") from error
            except OSError as error:
                raise FetchFailed("the connection broke") from error

    async def _whole(self, exchange: "_Exchange", declared: int) -> bytes:
        too_large = FetchTooLarge(f"the image is larger than {self._max_bytes:,} bytes")
        if declared > self._max_bytes:
            raise too_large
        body = bytearray()
        async for piece in exchange.body():
            body += piece
            if len(body) > self._max_bytes:
                raise too_large
        return bytes(body)

    @asynccontextmanager
    async def _connected(self, target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """To the first address that lets us in."""
        failed: OSError | None = None
        for address in await self._judged(target):
            try:
                reader, writer = await asyncio.open_connection(
                    str(address),
                    target.port,
                    limit=MOST_HEAD_BYTES,
                    ssl=self._tls if target.secure else None,
                    server_hostname=target.host if target.secure else None,
                )
            except ssl.SSLCertVerificationError as error:
                raise FetchFailed("the host's certificate is not one for its name that can be trusted") from error
            except OSError as error:
                failed = error
                continue
            try:
                yield reader, writer
            finally:
                writer.transport.abort()  # whatever is still on its way
            return
        raise FetchFailed("the host does not let anybody connect") from failed

    async def _judged(self, target: Target) -> list[IpAddress]:
        """The addresses of its host, all of them allowed."""
        refused = HostNotPublic("the host has no public address, or its port is neither 80 nor 443")
        try:
            address = parse_literal(target.host)
            loop = asyncio.get_running_loop()
            said = [] if address else await loop.run_in_executor(self._resolver, self._resolve, target.host)
            addresses = [address] if address else [ip_address(one) for one in said]
        except (ValueError, OSError) as error:
            raise refused from error
        if not addresses or not all(self._allowed.permits(target.host, one, target.port) for one in addresses):
            raise refused
        return addresses


class _Exchange:
    """One request and its answer; h11 reads what comes, which has to be the image for the most part."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader, self._left = reader, MOST_AROUND_BYTES
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD_BYTES)

    def sent(self, request: h11.Request) -> bytes:
        return (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")

    async def head(self) -> h11.Response:
        while isinstance(event := await self._next(), h11.InformationalResponse):
            pass
        if isinstance(event, h11.Response):
            return event
        raise h11.RemoteProtocolError("no answer")

    async def body(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._next(), h11.Data):
            self._left += 2 * len(event.data)
            yield bytes(event.data)

    async def _next(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            await asyncio.sleep(0)  # what is there already is read without a pause: others have their turn
            data = await self._reader.read(CHUNK_BYTES)
            self._left -= len(data)
            if self._left < 0:
                raise FetchTooLarge("the host sends too much around the image")
            self._http.receive_data(data)
        if isinstance(event, h11.Event):
            return event
        raise h11.RemoteProtocolError("the answer ended")


def _addresses(name: str) -> list[str]:
    """As the system knows them."""
    return list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)))
