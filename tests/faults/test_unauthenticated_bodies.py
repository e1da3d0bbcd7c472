"""Bodies of requests without a key: refused before they are read."""

import socket

import httpx2
import psutil

from faults.clients import small_image
from faults.service_state import Start

DECLARED = 1_000_000_000
SOCKET_BUFFER_BYTES = 16_000_000  # more than the system buffers on loopback
MORE_MEMORY = 5_000_000
CHUNK = b"10000\r\n" + b"\0" * 65_536 + b"\r\n"
HEAD = (
    "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
)


def test_a_gigabyte_without_a_key_uses_neither_memory_nor_disk(start: Start) -> None:
    service = start(api_key="correct horse")
    assert httpx2.get(f"{service.url}/history").is_success  # has loaded the routes that are loaded after the start
    process = psutil.Process(service.process.pid)
    before, files = process.memory_info().rss, len(process.open_files())
    for path in ("/detect", "/detect/batch", "/detect-anomalies", "/nowhere"):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(HEAD.format(path=path).encode())
            sent_bytes = 0
            try:
                while sent_bytes < DECLARED:
                    connection.sendall(CHUNK)
                    sent_bytes += len(CHUNK)
            except ConnectionError:
                pass
            assert sent_bytes < SOCKET_BUFFER_BYTES
    assert process.memory_info().rss - before < MORE_MEMORY
    assert len(process.open_files()) == files
    response = service.detect(small_image(0))
    assert (response.status_code, response.json()["error"]["code"]) == (401, "key_refused")
    url, keyed = f"{service.url}/detect", {"Authorization": "Bearer correct horse"}
    assert httpx2.post(url, files={"file": small_image(0)}, headers=keyed).status_code == 200
    assert "correct horse" not in service.output
