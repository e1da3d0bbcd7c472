"""A host of images that means harm, on a local port; it knows what it got rid of, and whether its callers let go."""

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

CERTIFICATE = Path(__file__).with_name("sky.test.pem")  # and its key, of this name alone; nobody else trusts it
BLOCK = b"\0" * 65_536
DRIP_S = 0.01
LET_GO_WITHIN_S = 20.0


def png(seed: int = 0, side: int = 40) -> bytes:
    """Noise, which no two seeds share."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that declares 50,000 × 50,000 pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"\0" * 1_000))
    framed = (struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """A whole one, with this Content-Length or a true one."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(body: bytes) -> bytes:
    """A whole answer without a length, after a hint that nobody asked for."""
    pieces = (body[at : at + 100] for at in range(0, len(body), 100))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 103 Early Hints\r\n\r\n" + CHUNKED + chunks + b"0\r\n\r\n"


OPEN = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OPEN + b"Transfer-Encoding: chunked\r\n\r\n"
ZIPPED = gzip.compress(b"\0" * 50_000_000)
WHOLE = {
    "/chunked.png": chunked(png()),
    "/bomb.png": answer(bomb()),
    "/zipped": answer(ZIPPED, "Content-Encoding: gzip"),
    "/zipped-file": answer(ZIPPED),
    "/short": answer(png(), length=90_000),
    "/twice": answer(png(), "Content-Length: 7"),
    "/garbage": b"SSH-2.0-OpenSSH_9.9\r\n",
    "/nothing": b"",
}
ENDLESS = {  # how each begins, and what it repeats
    "/huge": (answer(b"", length=10_000_000_000), BLOCK),
    "/endless": (OPEN + b"\r\n", BLOCK),
    "/endless-chunks": (CHUNKED, b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK)),
    "/tiny-chunks": (CHUNKED, b"1\r\n\0\r\n" * 1_000),
    "/wordy-chunks": (CHUNKED, b"1;%b\r\n\0\r\n" % (b"x" * 1_000)),
    "/endless-header": (OPEN + b"X: ", b"x" * 65_536),
    "/endless-headers": (OPEN, b"X: x\r\n" * 1_000),
    "/endless-hints": (b"", b"HTTP/1.1 103 Early Hints\r\nX: x\r\n\r\n" * 1_000),
}
DRIPPED = {"/drip": answer(b"", length=100_000), "/drip-headers": OPEN + b"X: ", "/drip-status": b""}


def said(path: str, query: dict[str, str], asked: bytes) -> Iterator[bytes]:
    """What is sent, piece by piece, for as long as somebody takes it."""
    if path in ENDLESS:
        start, piece = ENDLESS[path]
        yield start
        while True:
            yield piece
    if path in DRIPPED:
        yield DRIPPED[path]
        while True:
            time.sleep(DRIP_S)
            yield b"x"
    match path:
        case "/sky.png" | "/held":
            yield answer(png(int(query.get("seed", "0"))))
        case "/echo":
            yield answer(asked)
        case "/to":
            yield answer(b"", f"Location: {query['url']}", status="302 Found")
        case "/again":
            left = int(query["left"])
            where = f"/again?left={left - 1}" if left > 1 else "/sky.png"
            yield answer(b"", f"Location: {where}", status="307 Temporary Redirect")
        case "/status":
            yield answer(png(), status=query["is"])
        case _:
            yield WHOLE.get(path, answer(b"no", status="404 Not Found"))


class MaliciousServer:
    """`with Hostile() as host:` serves on a free port; its end waits until every caller has let go."""

    def __init__(self, address: str = "127.0.0.1", *, port: int = 0, secure: bool = False) -> None:
        self.sent, self.asked = Counter[str](), Counter[str]()
        self.release = threading.Event()  # what was asked for at /held is answered from then on
        self._tls = None
        if secure:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(CERTIFICATE)
        self._listener = socket.create_server((address, port))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # inherited by what is accepted
        self.port = int(self._listener.getsockname()[1])
        self.url = f"{'https' if secure else 'http'}://{address}:{self.port}"
        self._threads = [threading.Thread(target=self._accept, name="hostile")]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,), name="hostile-connection")
                self._threads.append(thread)
                thread.start()

    def _serve(self, plain: socket.socket) -> None:
        self.asked["connections"] += 1
        with contextlib.suppress(OSError), plain, self._secured(plain) as connection:  # until the caller lets go
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := connection.recv(65_536)):
                    return
                head += data
                if head.startswith(b"\x16"):  # TLS, of which this host knows nothing
                    connection.sendall(answer(b"", status="400 Bad Request"))
                    return
            url = urlsplit(head.split(b" ")[1].decode("ascii"))
            self.asked[url.path] += 1
            if url.path == "/silent":
                connection.recv(1)
                return
            if url.path == "/held":
                self.release.wait(LET_GO_WITHIN_S)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            for piece in said(url.path, query, head):
                connection.sendall(piece)
                self.sent[url.path] += len(piece)

    def _secured(self, plain: socket.socket) -> socket.socket:
        return self._tls.wrap_socket(plain, server_side=True) if self._tls else plain

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Waits until every caller has let go."""
        with contextlib.suppress(OSError):  # stopped before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(LET_GO_WITHIN_S)
            assert not thread.is_alive(), "somebody holds on to a connection"
