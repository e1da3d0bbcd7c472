"""The client of image sources and catalogues: a hostile server costs it neither memory nor time without end."""

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import urllib3
from malicious_server import CERTIFICATE

from astrodetect.datasets.sources import http
from astrodetect.errors import SourceUrlError
from astrodetect.settings import Settings


@contextmanager
def served(answer: Callable[[socket.socket], object], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The URL of a server that answers each connection so, until it is closed."""
    server = socket.create_server(("127.0.0.1", 0))
    with tls.wrap_socket(server, server_side=True) if tls else server as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65_536)
                        answer(connection)
                except OSError:
                    if listener.fileno() < 0:
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> http.HttpClient:
    monkeypatch.setattr(http, "MAX_ATTEMPTS", 1)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return http.HttpClient(Settings(collect_requests_per_s=1000))


def test_a_certificate_that_is_not_valid_is_named(client: http.HttpClient) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    with served(socket.socket.close, tls) as url, pytest.raises(SourceUrlError, match=r"\(certificate verify failed: "):
        client.get(url, bytes)


def test_the_body_of_a_redirect_is_not_unpacked(client: http.HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, unpacked = urllib3.HTTPResponse._decode, list[int]()

    def count(*arguments: Any, **options: Any) -> bytes:
        data = decode(*arguments, **options)
        unpacked.append(len(data))
        return data

    monkeypatch.setattr(urllib3.HTTPResponse, "_decode", count)
    body = gzip.compress(bytes(1_000_000))
    head = f"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    with (
        served(lambda connection: connection.sendall(head.encode() + body)) as url,
        pytest.raises(SourceUrlError, match="TooManyRedirects"),
    ):
        client.get(url, len)
    assert sum(unpacked) == 0


def test_early_hints_are_not_taken_for_the_response(client: http.HttpClient) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"

    def answer(connection: socket.socket) -> None:
        connection.sendall(hints + b"first")
        connection.recv(65_536)
        connection.sendall(hints + b"later")

    with served(answer) as url:
        assert [client.get(url, bytes), client.get(url, bytes)] == [b"first", b"later"]


@pytest.mark.parametrize("location", [b"http://[::1", b"http://\xff\xfe/", b"file:///etc/hostname"])
def test_a_redirect_to_what_is_no_url_of_a_file_is_an_error_of_the_source(
    client: http.HttpClient, location: bytes
) -> None:
    answer = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
    with (
        served(lambda connection: connection.sendall(answer)) as url,
        pytest.raises(SourceUrlError, match="invalid redirect or URL"),
    ):
        client.get(url, len)


@pytest.mark.parametrize("piece", [b"x", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_headers_without_end_are_cut(client: http.HttpClient, monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    monkeypatch.setattr(http, "MAX_HEADERS_S", 0.2)

    def drip(connection: socket.socket) -> None:
        connection.sendall(piece if piece.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            connection.sendall(piece)
            time.sleep(0.01)

    with served(drip) as url, pytest.raises(SourceUrlError, match=r"in time|connection failed"):
        client.get(url, len)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"A: b\r\n"),  # trailers
        (b"Transfer-Encoding: chunked\r\n\r\n", b"0"),  # the size of a chunk
        (b"Content-Length: 1000000\r\n\r\n", b"a"),
        (b"Content-Encoding: deflate\r\n\r\n", b"\0\0\0\xff\xff"),  # blocks without content
    ],
)
def test_a_response_without_end_is_cut(
    client: http.HttpClient, monkeypatch: pytest.MonkeyPatch, head: bytes, piece: bytes
) -> None:
    monkeypatch.setattr(http, "MAX_RESPONSE_S", 0.2)
    started = time.monotonic()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)
        while time.monotonic() - started < 10:
            connection.sendall(piece)
            time.sleep(0.01)

    with served(drip) as url, pytest.raises(SourceUrlError, match=r"incomplete after|connection failed"):
        client.get(url, len)
    assert time.monotonic() - started < 9


def test_ctrl_c_while_a_deadline_starts_leaves_nothing_to_wait_for(
    client: http.HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(threading.Timer):
        def start(self) -> None:
            super().start()
            started.append(self)
            raise KeyboardInterrupt

    started = list[threading.Timer]()
    monkeypatch.setattr(threading, "Timer", Interrupted)
    with served(lambda connection: connection.recv(1)) as url, pytest.raises(KeyboardInterrupt):
        client.get(url, len)
    assert [(timer.daemon, timer.finished.is_set()) for timer in started] == [(True, True)]
