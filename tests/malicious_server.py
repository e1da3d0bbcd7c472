"""A malicious image host on a local port; it counts requests and bytes, and checks that connections are closed."""

import contextlib
import gzip
import io
import socket
import ssl
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

CERTIFICATE = Path(__file__).with_name("sky.test.pem")  # with its key; for the name sky.test, self-signed
BLOCK = b"\0" * 65_536
DRIP_S = 0.01
RELEASE_TIMEOUT_S = 20.0


def png(seed: int = 0, side: int = 40) -> bytes:
    """Noise, different for each seed."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that declares 50,000 × 50,000 pixels."""
    encoded = (b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"\0" * 1_000))
    framed = (struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in encoded)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def response(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """A complete response, with a true Content-Length or another one."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(body: bytes) -> bytes:
    """A chunked response after an unexpected 103."""
    chunks = (body[at : at + 100] for at in range(0, len(body), 100))
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 103 Early Hints\r\n\r\n" + CHUNKED + encoded + b"0\r\n\r\n"


STATUS_LINE = b"HTTP/1.1 200 OK\r\n"
CHUNKED = STATUS_LINE + b"Transfer-Encoding: chunked\r\n\r\n"
GZIPPED = gzip.compress(b"\0" * 50_000_000)
COMPLETE = {
    "/chunked.png": chunked(png()),
    "/bomb.png": response(bomb()),
    "/zipped": response(GZIPPED, "Content-Encoding: gzip"),
    "/zipped-file": response(GZIPPED),
    "/short": response(png(), length=90_000),
    "/twice": response(png(), "Content-Length: 7"),
    "/garbage": b"SSH-2.0-OpenSSH_9.9\r\n",
    "/nothing": b"",
}
ENDLESS = {  # the start, and what is repeated
    "/huge": (response(b"", length=10_000_000_000), BLOCK),
    "/endless": (STATUS_LINE + b"\r\n", BLOCK),
    "/endless-chunks": (CHUNKED, b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK)),
    "/tiny-chunks": (CHUNKED, b"1\r\n\0\r\n" * 1_000),
    "/wordy-chunks": (CHUNKED, b"1;%b\r\n\0\r\n" % (b"x" * 1_000)),
    "/endless-header": (STATUS_LINE + b"X: ", b"x" * 65_536),
    "/endless-headers": (STATUS_LINE, b"X: x\r\n" * 1_000),
    "/endless-hints": (b"", b"HTTP/1.1 103 Early Hints\r\nX: x\r\n\r\n" * 1_000),
}
DRIPPING = {"/drip": response(b"", length=100_000), "/drip-headers": STATUS_LINE + b"X: ", "/drip-status": b""}


def response_chunks(path: str, query: dict[str, str], request_head: bytes) -> Iterator[bytes]:
    """The response in chunks, for as long as the client reads."""
    if path in ENDLESS:
        start, chunk = ENDLESS[path]
        yield start
        while True:
            yield chunk
    if path in DRIPPING:
        yield DRIPPING[path]
        while True:
            time.sleep(DRIP_S)
            yield b"x"
    match path:
        case "/sky.png" | "/held":
            yield response(png(int(query.get("seed", "0"))))
        case "/echo":
            yield response(request_head)
        case "/to":
            yield response(b"", f"Location: {query['url']}", status="302 Found")
        case "/again":
            remaining = int(query["left"])
            location = f"/again?left={remaining - 1}" if remaining > 1 else "/sky.png"
            yield response(b"", f"Location: {location}", status="307 Temporary Redirect")
        case "/status":
            yield response(png(), status=query["is"])
        case _:
            yield COMPLETE.get(path, response(b"no", status="404 Not Found"))


class MaliciousServer:
    """`with MaliciousServer() as host:` serves on a free port; the exit waits until every connection is closed."""

    def __init__(self, address: str = "127.0.0.1", *, port: int = 0, secure: bool = False) -> None:
        self.sent, self.requests = Counter[str](), Counter[str]()
        self.release = threading.Event()  # lets the requests to /held be answered
        self._tls = None
        if secure:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(CERTIFICATE)
        self._listener = socket.create_server((address, port))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # inherited by accepted connections
        self.port = int(self._listener.getsockname()[1])
        self.url = f"{'https' if secure else 'http'}://{address}:{self.port}"
        self._threads = [threading.Thread(target=self._accept, name="malicious")]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,), name="malicious-connection")
                self._threads.append(thread)
                thread.start()

    def _serve(self, plain: socket.socket) -> None:
        self.requests["connections"] += 1
        with contextlib.suppress(OSError), plain, self._secured(plain) as connection:  # until the client closes it
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := connection.recv(65_536)):
                    return
                head += data
                if head.startswith(b"\x16"):  # TLS, which this host does not speak
                    connection.sendall(response(b"", status="400 Bad Request"))
                    return
            url = urlsplit(head.split(b" ")[1].decode("ascii"))
            self.requests[url.path] += 1
            if url.path == "/silent":
                connection.recv(1)
                return
            if url.path == "/held":
                self.release.wait(RELEASE_TIMEOUT_S)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            for chunk in response_chunks(url.path, query, head):
                connection.sendall(chunk)
                self.sent[url.path] += len(chunk)

    def _secured(self, plain: socket.socket) -> socket.socket:
        return self._tls.wrap_socket(plain, server_side=True) if self._tls else plain

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Waits until every connection is closed."""
        with contextlib.suppress(OSError):  # already stopped
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(RELEASE_TIMEOUT_S)
            assert not thread.is_alive(), "a connection is still open"
