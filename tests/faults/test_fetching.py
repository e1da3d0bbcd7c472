"""Images by URL from hosts that mean harm: each is refused for what it is, at a bounded cost, and leaves nothing."""

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from malicious_server import CERTIFICATE, DRIPPED, ENDLESS, ZIPPED, MaliciousServer, png

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

MOST_BYTES = 100_000
IN_BUFFERS = 16_000_000  # what a system takes off a sender's hands on loopback, whether anybody reads it or not
PATIENT_S, HASTY_S = 60.0, 0.3
GONE_WITHIN_S = 5.0


class Resolver:
    """Answers as it is told, each time with the next of its answers, and counts."""

    def __init__(self, **names: Sequence[Sequence[str]]) -> None:
        self.asked = 0
        self._names = {name.replace("_", "."): iter(answers) for name, answers in names.items()}

    def __call__(self, name: str) -> Sequence[str]:
        self.asked += 1
        if name not in self._names:
            raise OSError(f"no such host: {name}")
        return next(self._names[name])


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Sockets, threads and temporary files are as many after a test as before."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = here()
    yield
    until = time.monotonic() + GONE_WITHIN_S
    while here() != before and time.monotonic() < until:
        time.sleep(0.01)
    assert here() == before
    assert not list(temporary.iterdir())


def here() -> tuple[int, int]:
    """Sockets and threads; one that is on its way out may still be there for a moment."""
    return len(psutil.Process().net_connections("all")), threading.active_count()


@pytest.fixture
def host() -> Iterator[MaliciousServer]:
    with MaliciousServer() as host:
        yield host


def fetched(
    *urls: str, allow: str = "", timeout_s: float = PATIENT_S, resolve: Callable[[str], Sequence[str]] | None = None
) -> list[bytes | AstrodetectError]:
    """What each URL gives, all of them asked at once."""

    async def all_of_them() -> list[bytes | AstrodetectError]:
        fetcher = Fetcher(
            AllowedHosts.parse(allow), max_bytes=MOST_BYTES, timeout_s=timeout_s, resolve=resolve or Resolver()
        )
        try:
            found = await asyncio.gather(*(fetcher.get(url) for url in urls), return_exceptions=True)
        finally:
            fetcher.close()
        for one in found:
            assert isinstance(one, bytes | AstrodetectError), one
        return found  # type: ignore[return-value]

    return asyncio.run(all_of_them())


def refused(url: str, kind: type[AstrodetectError], **how: object) -> str:
    """The message of its error, which tells nothing of what is inside."""
    [error] = fetched(url, **how)  # type: ignore[arg-type]
    assert type(error) is kind, error
    message = str(error)
    assert message
    assert "\n" not in message
    assert "127.0.0" not in message
    return message


def test_an_image_comes_as_it_is(host: MaliciousServer) -> None:
    allow = f"127.0.0.1:{host.port}"
    urls = [f"{host.url}/{path}" for path in ("sky.png", "chunked.png", "again?left=2", "to?url=/sky.png%3Fseed=5")]
    assert fetched(*urls, allow=allow) == [png(), png(), png(), png(5)]


def test_nothing_of_ours_goes_along(host: MaliciousServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password hunter2")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    [asked] = fetched(f"{host.url}/echo", allow=f"127.0.0.1:{host.port}")
    assert isinstance(asked, bytes)
    names = {line.partition(b":")[0].lower() for line in asked.split(b"\r\n")[1:] if line}
    assert names == {b"host", b"user-agent", b"accept", b"accept-encoding", b"connection"}
    assert b"accept-encoding: identity" in asked.lower()


@pytest.mark.parametrize(
    "written",
    [
        "127.0.0.1", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "①②⑦.⓪.⓪.①", "localhost", "localhost.", "[::1]",
        "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0.0.0.0", "inside.test",  # noqa: S104
        "mixed.test", "nowhere.test", "169.254.169.254",
    ],
)  # fmt: skip
def test_hosts_that_are_not_public_are_not_asked_however_they_are_written(host: MaliciousServer, written: str) -> None:
    resolve = Resolver(localhost=[["127.0.0.1"]], inside_test=[["10.0.0.5"]], mixed_test=[["8.8.8.8", "127.0.0.1"]])
    messages = {
        refused(f"http://{written}:{port}/sky.png", HostNotPublic, resolve=resolve)
        for port, resolve in ((host.port, resolve), (80, Resolver(localhost=[["::1"]], mixed_test=[["8.8.8.8", "::"]])))
    }
    assert len(messages) == 1  # a name that exists inside is told like one that does not
    assert not host.asked


def test_a_public_host_is_asked_at_no_port_but_the_usual_ones() -> None:
    for port in (22, 8080, 0, 6379):
        assert "neither 80 nor 443" in refused(f"http://8.8.8.8:{port}/", HostNotPublic)


@pytest.mark.parametrize("to", ["http://10.0.0.5/", "http://inside.test/", "http://[::1]/", "//2130706433/"])
def test_a_redirect_leads_nowhere_inside(host: MaliciousServer, to: str) -> None:
    resolve = Resolver(inside_test=[["192.168.0.1"]])
    refused(f"{host.url}/to?url={to}", HostNotPublic, allow=f"127.0.0.1:{host.port}", resolve=resolve)
    assert host.asked == {"connections": 1, "/to": 1}


@pytest.mark.parametrize("to", ["file:///etc/passwd", "http://user:pw@example.org/", "gopher://x/"])
def test_a_redirect_leads_to_no_other_kind_of_address(host: MaliciousServer, to: str) -> None:
    refused(f"{host.url}/to?url={to}", FetchRefused, allow=f"127.0.0.1:{host.port}")


def test_a_redirect_is_followed_three_times_and_no_more(host: MaliciousServer) -> None:
    allow = f"127.0.0.1:{host.port}"
    assert fetched(f"{host.url}/again?left=3", allow=allow) == [png()]
    refused(f"{host.url}/again?left=4", FetchFailed, allow=allow)
    before = host.asked["/again"]
    refused(f"{host.url}/again?left=1000000", FetchFailed, allow=allow)
    assert host.asked["/again"] == before + 4


def test_a_name_that_changes_its_address_is_asked_at_the_one_that_was_judged(host: MaliciousServer) -> None:
    with MaliciousServer("127.0.0.2", port=host.port) as inside:
        resolve = Resolver(sky_test=[["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"]])
        allow = f"127.0.0.1:{host.port}"
        assert fetched(f"http://sky.test:{host.port}/sky.png", allow=allow, resolve=resolve) == [png()]
        assert resolve.asked == 1
        refused(f"http://sky.test:{host.port}/sky.png", HostNotPublic, allow=allow, resolve=resolve)
        back = Resolver(sky_test=[["127.0.0.1"], ["127.0.0.2"]])
        url = f"http://sky.test:{host.port}/to?url=http://sky.test:{host.port}/sky.png"
        refused(url, HostNotPublic, allow=allow, resolve=back)
        assert not inside.asked


@pytest.mark.parametrize("path", ENDLESS)
def test_what_never_ends_is_cut_at_the_limit(host: MaliciousServer, path: str) -> None:
    kind = FetchFailed if "header" in path else FetchTooLarge
    refused(f"{host.url}{path}", kind, allow=f"127.0.0.1:{host.port}")
    assert host.sent[path] < IN_BUFFERS


def test_what_declares_too_much_is_refused_unread(host: MaliciousServer) -> None:
    refused(f"{host.url}/huge", FetchTooLarge, allow=f"127.0.0.1:{host.port}")


def test_a_zipped_file_stays_zipped(host: MaliciousServer) -> None:
    [data] = fetched(f"{host.url}/zipped-file", allow=f"127.0.0.1:{host.port}")
    assert data == ZIPPED
    with pytest.raises(ImageUnsupported):
        images.decode(ZIPPED, ImageContract())


@pytest.mark.parametrize("path", [*DRIPPED, "/silent"])
def test_what_is_slow_is_given_up(host: MaliciousServer, path: str) -> None:
    message = refused(f"{host.url}{path}", FetchTooSlow, allow=f"127.0.0.1:{host.port}", timeout_s=HASTY_S)
    assert "0.3 seconds" in message


def test_a_name_that_takes_long_to_look_up_is_given_up() -> None:
    answered = threading.Event()

    def slow(_: str) -> Sequence[str]:
        answered.wait(PATIENT_S)
        return ["8.8.8.8"]

    threads = threading.active_count()
    try:
        refused("http://sky.test/", FetchTooSlow, timeout_s=HASTY_S, resolve=slow)
    finally:
        answered.set()
    while threading.active_count() > threads:
        time.sleep(0.01)


def test_all_of_the_redirects_share_one_time_limit(host: MaliciousServer) -> None:
    url = f"{host.url}/to?url=/to%3Furl=/drip"
    refused(url, FetchTooSlow, allow=f"127.0.0.1:{host.port}", timeout_s=HASTY_S)
    assert host.asked["/drip"] == 1


def test_what_is_compressed_unasked_is_refused(host: MaliciousServer) -> None:
    assert "compressed" in refused(f"{host.url}/zipped", FetchFailed, allow=f"127.0.0.1:{host.port}")


@pytest.mark.parametrize("path", ["/short", "/twice", "/garbage", "/nothing"])
def test_what_is_broken_is_told_as_such(host: MaliciousServer, path: str) -> None:
    refused(f"{host.url}{path}", FetchFailed, allow=f"127.0.0.1:{host.port}")


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "206 Partial Content", "204 No Content", "304 Same"])
def test_any_status_but_200_is_told(host: MaliciousServer, status: str) -> None:
    url = f"{host.url}/status?is={status.replace(' ', '%20')}"
    assert status[:3] in refused(url, FetchFailed, allow=f"127.0.0.1:{host.port}")


def test_nobody_there_is_told_without_saying_where(host: MaliciousServer) -> None:
    with MaliciousServer() as gone:
        pass
    refused(gone.url, FetchFailed, allow=f"127.0.0.1:{gone.port}")


def test_a_bomb_is_refused_by_its_header(host: MaliciousServer) -> None:
    [data] = fetched(f"{host.url}/bomb.png", allow=f"127.0.0.1:{host.port}")
    assert isinstance(data, bytes)
    with pytest.raises(ImageTooManyPixels):
        images.decode(data, ImageContract())


def test_a_host_is_who_its_certificate_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with MaliciousServer(secure=True) as host:
        allow = f"127.0.0.1:{host.port}"
        resolve = Resolver(sky_test=[["127.0.0.1"]] * 3, other_test=[["127.0.0.1"]])
        url, other = (f"https://{name}.test:{host.port}/sky.png" for name in ("sky", "other"))
        assert "certificate" in refused(url, FetchFailed, allow=allow, resolve=resolve)  # nobody vouches for it
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert fetched(url, allow=allow, resolve=resolve) == [png()]
        assert "certificate" in refused(other, FetchFailed, allow=allow, resolve=resolve)
        assert "certificate" in refused(f"{host.url}/sky.png", FetchFailed, allow=allow)
        assert "http" in refused(
            f"https://sky.test:{host.port}/to?url=http://8.8.8.8/", FetchRefused, allow=allow, resolve=resolve
        )
        assert host.asked["/sky.png"] == 1


def test_a_host_that_speaks_no_tls_is_told(host: MaliciousServer) -> None:
    refused(host.url.replace("http:", "https:"), FetchFailed, allow=f"127.0.0.1:{host.port}")


def test_who_leaves_takes_the_connection_along(host: MaliciousServer) -> None:
    async def scene() -> None:
        fetcher = Fetcher(AllowedHosts.parse(f"127.0.0.1:{host.port}"), max_bytes=MOST_BYTES, timeout_s=PATIENT_S)
        tasks = [asyncio.create_task(fetcher.get(f"{host.url}/{path}")) for path in ("silent", "drip")]
        while not (host.asked["/silent"] and host.asked["/drip"]):
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*tasks, return_exceptions=True)
        )
        fetcher.close()

    asyncio.run(scene())  # and the host's end waits until it is let go
