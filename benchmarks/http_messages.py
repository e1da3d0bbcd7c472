"""HTTP/1.1 for the load generator: requests as bytes, and a response parser."""

from collections.abc import Sequence
from urllib.parse import urlsplit

BOUNDARY = "astrodetect-benchmark"
WITHOUT_BODY = (204, 304)
LENGTH = b"\r\ncontent-length:"


def address(url: str) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


def get(url: str) -> bytes:
    """A GET request."""
    parts = urlsplit(url)
    return f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()


def post(url: str, files: Sequence[tuple[str, bytes]]) -> list[bytes]:
    """A POST request per file, as multipart field `file`."""
    parts = urlsplit(url)
    requests = []
    for name, data in files:
        disposition = f'Content-Disposition: form-data; name="file"; filename="{name}"'
        before = f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
        body = before + data + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        head = f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {kind}\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return requests


def parse(received: bytes | bytearray) -> tuple[int, bytes, bool] | None:
    """Status, body and whether the connection closes; None while the response is incomplete."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[: end + 2]).lower()
    status = int(head[9:12])
    at = head.find(LENGTH)
    if at < 0 and status not in WITHOUT_BODY:
        raise ValueError("a response without Content-Length")
    length = int(head[at + len(LENGTH) : head.find(b"\r\n", at + 2)]) if at >= 0 else 0
    if len(received) < end + 4 + length:
        return None
    return status, bytes(received[end + 4 : end + 4 + length]), b"\r\nconnection: close\r\n" in head
