"""Fetching from malicious hosts: each is refused with its error, at a bounded cost, and leaves nothing open."""

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from malicious_server import CERTIFICATE, DRIPPING, ENDLESS, GZIPPED, MaliciousServer, png

from astrodetect import images
from astrodetect.errors import (
    AstrodetectError,
    FetchFailed,
    FetchRefused,
    FetchTooLarge,
    FetchTooSlow,
    HostNotPublic,
    ImageTooManyPixels,
    ImageUnsupported,
)
from astrodetect.fetch_policy import AllowedHosts
from astrodetect.records import ImageContract
from astrodetect.service.fetch import Fetcher

MAX_BYTES = 100_000
SOCKET_BUFFER_BYTES = 16_000_000  # more than the system buffers on loopback
LONG_TIMEOUT_S, SHORT_TIMEOUT_S = 60.0, 0.3
CLEANUP_TIMEOUT_S = 5.0


class Resolver:
    """Resolves names to the given addresses, one list per call, and counts the calls."""

    def __init__(self, **names: Sequence[Sequence[str]]) -> None:
        self.calls = 0
        self._names = {name.replace("_", "."): iter(responses) for name, responses in names.items()}

    def __call__(self, name: str) -> Sequence[str]:
        self.calls += 1
        if name not in self._names:
            raise OSError(f"no such host: {name}")
        return next(self._names[name])


@pytest.fixture(autouse=True)
def no_leaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A test leaves no socket, thread or temporary file open."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = open_resources()
    yield
    deadline = time.monotonic() + CLEANUP_TIMEOUT_S
    while open_resources() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert open_resources() == before
    assert not list(temporary.iterdir())


def open_resources() -> tuple[int, int]:
    """The numbers of sockets and threads."""
    return len(psutil.Process().net_connections("all")), threading.active_count()


@pytest.fixture
def host() -> Iterator[MaliciousServer]:
    with MaliciousServer() as host:
        yield host


def fetch(
    *urls: str,
    allow: str = "",
    timeout_s: float = LONG_TIMEOUT_S,
    resolve: Callable[[str], Sequence[str]] | None = None,
) -> list[bytes | AstrodetectError]:
    """Fetches all URLs at the same time: bodies and errors, in order."""

    async def fetch_all() -> list[bytes | AstrodetectError]:
        fetcher = Fetcher(
            AllowedHosts.parse(allow), max_bytes=MAX_BYTES, timeout_s=timeout_s, resolve=resolve or Resolver()
        )
        try:
            results = await asyncio.gather(*(fetcher.get(url) for url in urls), return_exceptions=True)
        finally:
            fetcher.close()
        for result in results:
            assert isinstance(result, bytes | AstrodetectError), result
        return results  # type: ignore[return-value]

    return asyncio.run(fetch_all())


def fetch_error(url: str, kind: type[AstrodetectError], **options: object) -> str:
    """The message of the error, which has no internal address."""
    [error] = fetch(url, **options)  # type: ignore[arg-type]
    assert type(error) is kind, error
    message = str(error)
    assert message
    assert "\n" not in message
    assert "127.0.0" not in message
    return message


def test_an_image_is_fetched_unchanged(host: MaliciousServer) -> None:
    allow = f"127.0.0.1:{host.port}"
    urls = [f"{host.url}/{path}" for path in ("sky.png", "chunked.png", "again?left=2", "to?url=/sky.png%3Fseed=5")]
    assert fetch(*urls, allow=allow) == [png(), png(), png(), png(5)]


def test_a_request_has_no_credentials(host: MaliciousServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password hunter2")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    [request] = fetch(f"{host.url}/echo", allow=f"127.0.0.1:{host.port}")
    assert isinstance(request, bytes)
    names = {line.partition(b":")[0].lower() for line in request.split(b"\r\n")[1:] if line}
    assert names == {b"host", b"user-agent", b"accept", b"accept-encoding", b"connection"}
    assert b"accept-encoding: identity" in request.lower()


@pytest.mark.parametrize(
    "spelling",
    [
        "127.0.0.1", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "①②⑦.⓪.⓪.①", "localhost", "localhost.", "[::1]",
        "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0.0.0.0", "inside.test",  # noqa: S104
        "mixed.test", "nowhere.test", "169.254.169.254",
    ],
)  # fmt: skip
def test_private_hosts_are_not_contacted_in_any_spelling(host: MaliciousServer, spelling: str) -> None:
    resolve = Resolver(localhost=[["127.0.0.1"]], inside_test=[["10.0.0.5"]], mixed_test=[["8.8.8.8", "127.0.0.1"]])
    messages = {
        fetch_error(f"http://{spelling}:{port}/sky.png", HostNotPublic, resolve=resolve)
        for port, resolve in ((host.port, resolve), (80, Resolver(localhost=[["::1"]], mixed_test=[["8.8.8.8", "::"]])))
    }
    assert len(messages) == 1  # the same for internal names that exist and that do not
    assert not host.requests


def test_a_public_host_is_contacted_at_ports_80_and_443_alone() -> None:
    for port in (22, 8080, 0, 6379):
        assert "neither 80 nor 443" in fetch_error(f"http://8.8.8.8:{port}/", HostNotPublic)


@pytest.mark.parametrize("to", ["http://10.0.0.5/", "http://inside.test/", "http://[::1]/", "//2130706433/"])
def test_a_redirect_to_a_private_host_is_refused(host: MaliciousServer, to: str) -> None:
    resolve = Resolver(inside_test=[["192.168.0.1"]])
    fetch_error(f"{host.url}/to?url={to}", HostNotPublic, allow=f"127.0.0.1:{host.port}", resolve=resolve)
    assert host.requests == {"connections": 1, "/to": 1}


@pytest.mark.parametrize("to", ["file:///etc/passwd", "http://user:pw@example.org/", "gopher://x/"])
def test_a_redirect_to_another_scheme_is_refused(host: MaliciousServer, to: str) -> None:
    fetch_error(f"{host.url}/to?url={to}", FetchRefused, allow=f"127.0.0.1:{host.port}")


def test_at_most_three_redirects_are_followed(host: MaliciousServer) -> None:
    allow = f"127.0.0.1:{host.port}"
    assert fetch(f"{host.url}/again?left=3", allow=allow) == [png()]
    fetch_error(f"{host.url}/again?left=4", FetchFailed, allow=allow)
    before = host.requests["/again"]
    fetch_error(f"{host.url}/again?left=1000000", FetchFailed, allow=allow)
    assert host.requests["/again"] == before + 4


def test_dns_rebinding_does_not_reach_a_private_address(host: MaliciousServer) -> None:
    with MaliciousServer("127.0.0.2", port=host.port) as inside:
        resolve = Resolver(sky_test=[["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"]])
        allow = f"127.0.0.1:{host.port}"
        assert fetch(f"http://sky.test:{host.port}/sky.png", allow=allow, resolve=resolve) == [png()]
        assert resolve.calls == 1
        fetch_error(f"http://sky.test:{host.port}/sky.png", HostNotPublic, allow=allow, resolve=resolve)
        rebinding = Resolver(sky_test=[["127.0.0.1"], ["127.0.0.2"]])
        url = f"http://sky.test:{host.port}/to?url=http://sky.test:{host.port}/sky.png"
        fetch_error(url, HostNotPublic, allow=allow, resolve=rebinding)
        assert not inside.requests


@pytest.mark.parametrize("path", ENDLESS)
def test_an_endless_response_is_cut_at_the_limit(host: MaliciousServer, path: str) -> None:
    kind = FetchFailed if "header" in path else FetchTooLarge
    fetch_error(f"{host.url}{path}", kind, allow=f"127.0.0.1:{host.port}")
    assert host.sent[path] < SOCKET_BUFFER_BYTES


def test_a_response_that_declares_too_much_is_not_read(host: MaliciousServer) -> None:
    fetch_error(f"{host.url}/huge", FetchTooLarge, allow=f"127.0.0.1:{host.port}")


def test_a_gzip_file_is_not_decompressed(host: MaliciousServer) -> None:
    [data] = fetch(f"{host.url}/zipped-file", allow=f"127.0.0.1:{host.port}")
    assert data == GZIPPED
    with pytest.raises(ImageUnsupported):
        images.decode(GZIPPED, ImageContract())


@pytest.mark.parametrize("path", [*DRIPPING, "/silent"])
def test_a_slow_response_times_out(host: MaliciousServer, path: str) -> None:
    message = fetch_error(f"{host.url}{path}", FetchTooSlow, allow=f"127.0.0.1:{host.port}", timeout_s=SHORT_TIMEOUT_S)
    assert "0.3 seconds" in message


def test_a_slow_dns_lookup_times_out() -> None:
    may_resolve = threading.Event()

    def slow(_: str) -> Sequence[str]:
        may_resolve.wait(LONG_TIMEOUT_S)
        return ["8.8.8.8"]

    threads = threading.active_count()
    try:
        fetch_error("http://sky.test/", FetchTooSlow, timeout_s=SHORT_TIMEOUT_S, resolve=slow)
    finally:
        may_resolve.set()
    while threading.active_count() > threads:
        time.sleep(0.01)


def test_redirects_share_one_timeout(host: MaliciousServer) -> None:
    url = f"{host.url}/to?url=/to%3Furl=/drip"
    fetch_error(url, FetchTooSlow, allow=f"127.0.0.1:{host.port}", timeout_s=SHORT_TIMEOUT_S)
    assert host.requests["/drip"] == 1


def test_an_unrequested_content_encoding_is_refused(host: MaliciousServer) -> None:
    assert "content encoding" in fetch_error(f"{host.url}/zipped", FetchFailed, allow=f"127.0.0.1:{host.port}")


@pytest.mark.parametrize("path", ["/short", "/twice", "/garbage", "/nothing"])
def test_a_broken_response_is_reported(host: MaliciousServer, path: str) -> None:
    fetch_error(f"{host.url}{path}", FetchFailed, allow=f"127.0.0.1:{host.port}")


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "206 Partial Content", "204 No Content", "304 Same"])
def test_any_status_but_200_is_reported(host: MaliciousServer, status: str) -> None:
    url = f"{host.url}/status?is={status.replace(' ', '%20')}"
    assert status[:3] in fetch_error(url, FetchFailed, allow=f"127.0.0.1:{host.port}")


def test_a_refused_connection_is_reported_without_its_address(host: MaliciousServer) -> None:
    with MaliciousServer() as closed:
        pass
    fetch_error(closed.url, FetchFailed, allow=f"127.0.0.1:{closed.port}")


def test_a_decompression_bomb_is_refused_by_its_header(host: MaliciousServer) -> None:
    [data] = fetch(f"{host.url}/bomb.png", allow=f"127.0.0.1:{host.port}")
    assert isinstance(data, bytes)
    with pytest.raises(ImageTooManyPixels):
        images.decode(data, ImageContract())


def test_tls_certificates_are_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    with MaliciousServer(secure=True) as host:
        allow = f"127.0.0.1:{host.port}"
        resolve = Resolver(sky_test=[["127.0.0.1"]] * 3, other_test=[["127.0.0.1"]])
        url, other = (f"https://{name}.test:{host.port}/sky.png" for name in ("sky", "other"))
        assert "certificate" in fetch_error(url, FetchFailed, allow=allow, resolve=resolve)  # self-signed
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert fetch(url, allow=allow, resolve=resolve) == [png()]
        assert "certificate" in fetch_error(other, FetchFailed, allow=allow, resolve=resolve)
        assert "certificate" in fetch_error(f"{host.url}/sky.png", FetchFailed, allow=allow)
        assert "http" in fetch_error(
            f"https://sky.test:{host.port}/to?url=http://8.8.8.8/", FetchRefused, allow=allow, resolve=resolve
        )
        assert host.requests["/sky.png"] == 1


def test_a_host_without_tls_is_reported(host: MaliciousServer) -> None:
    fetch_error(host.url.replace("http:", "https:"), FetchFailed, allow=f"127.0.0.1:{host.port}")


def test_cancelling_a_fetch_closes_its_connection(host: MaliciousServer) -> None:
    async def scenario() -> None:
        fetcher = Fetcher(AllowedHosts.parse(f"127.0.0.1:{host.port}"), max_bytes=MAX_BYTES, timeout_s=LONG_TIMEOUT_S)
        tasks = [asyncio.create_task(fetcher.get(f"{host.url}/{path}")) for path in ("silent", "drip")]
        while not (host.requests["/silent"] and host.requests["/drip"]):
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(result, asyncio.CancelledError)
            for result in await asyncio.gather(*tasks, return_exceptions=True)
        )
        fetcher.close()

    asyncio.run(scenario())  # the exit of the host waits until its connections are closed
