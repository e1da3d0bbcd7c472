"""An S3 server (moto's) in this process, with a proxy before it that can fail in chosen ways."""

import http.client
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.server import ThreadedMotoServer

ACCESS_KEY, SECRET_KEY = "test-key", "test-secret"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
Fault = Callable[["FaultProxy"], bool]  # answers a request; False lets it pass


@dataclass
class S3Server:
    """Addresses of the server and of the proxy, and what the proxy did."""

    direct: str
    proxy: str
    requests: list[str] = field(default_factory=list)  # method, path and range of each
    faults: list[Fault] = field(default_factory=list)  # of the next requests, one each

    @property
    def environment(self) -> dict[str, str]:
        """What a client is configured with."""
        return {
            "AWS_ENDPOINT_URL": self.proxy,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str) -> str:
        """The URL of a new bucket."""
        host = self.direct.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
        connection.close()
        return f"s3://{name}"


class FaultProxy(BaseHTTPRequestHandler):
    """Forwards each request, or lets a fault answer it."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # an answer is sent at once
    state: S3Server
    body: bytes

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Any method."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        try:
            if not (self.state.faults and self.state.faults.pop(0)(self)):
                self.forward()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - of the base class

    def forward(self, send: Callable[[bytes], bytes] = bytes) -> None:
        """Answer as the server does, with the part of the body that `send` returns."""
        connection = http.client.HTTPConnection(self.state.direct.removeprefix("http://"), timeout=30)
        connection.request(self.command, self.path, self.body, dict(self.headers))
        response = connection.getresponse()
        data = response.read()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "server", "date", "content-length"}:
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        connection.close()
        if self.command != "HEAD":
            part = send(data)
            self.wfile.write(part)
            self.close_connection = len(part) < len(data)


def slow_down(proxy: FaultProxy) -> bool:
    """503 SlowDown, as S3 answers too many requests."""
    proxy.send_response(503)
    proxy.send_header("Content-Length", str(len(SLOW_DOWN)))
    proxy.end_headers()
    if proxy.command != "HEAD":
        proxy.wfile.write(SLOW_DOWN)
    return True


def cut_body(proxy: FaultProxy) -> bool:
    """Half of the body, then a closed connection."""
    proxy.forward(lambda data: data[: len(data) // 2])
    return True


def cut_connection(proxy: FaultProxy) -> bool:
    """A closed connection instead of an answer."""
    proxy.close_connection = True
    return True


def reset_connection(proxy: FaultProxy) -> bool:
    """A connection that is reset instead of an answer."""
    proxy.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    proxy.connection.close()
    return cut_connection(proxy)


def stall(seconds: float) -> Fault:
    """Half of the body, then nothing for a time."""

    def fault(proxy: FaultProxy) -> bool:
        def send(data: bytes) -> bytes:
            proxy.wfile.write(data[: len(data) // 2])
            proxy.wfile.flush()
            time.sleep(seconds)
            return b""

        proxy.forward(send)
        return True

    return fault


def forbidden(proxy: FaultProxy) -> bool:
    """403 AccessDenied."""
    body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    proxy.send_response(403)
    proxy.send_header("Content-Length", str(len(body)))
    proxy.end_headers()
    if proxy.command != "HEAD":
        proxy.wfile.write(body)
    return True


@contextmanager
def run_s3_server() -> Iterator[S3Server]:
    """A server on free ports, until the block ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    state = S3Server(f"http://{host}:{port}", "")
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Proxy", (FaultProxy,), {"state": state}))
    proxy.daemon_threads = True
    state.proxy = f"http://127.0.0.1:{proxy.server_port}"
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.stop()
