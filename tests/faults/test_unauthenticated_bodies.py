"""Bodies from callers without a key: refused before they are read, however long they are."""

import socket

import httpx2
import psutil

from faults.clients import picture
from faults.service_state import Start

DECLARED = 1_000_000_000
IN_BUFFERS = 16_000_000  # what a system takes off a sender's hands on loopback, whether anybody reads it or not
MORE_MEMORY = 5_000_000
CHUNK = b"10000\r\n" + b"\0" * 65_536 + b"\r\n"
HEAD = (
    "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
)


def test_a_gigabyte_without_a_key_costs_neither_memory_nor_disk(start: Start) -> None:
    service = start(api_key="correct horse")
    process = psutil.Process(service.process.pid)
    before, files = process.memory_info().rss, len(process.open_files())
    for path in ("/detect", "/detect/batch", "/detect-anomalies", "/nowhere"):
        with socket.create_connection(("127.0.0.1", service.port)) as line:
            line.sendall(HEAD.format(path=path).encode())
            taken = 0
            try:
                while taken < DECLARED:
                    line.sendall(CHUNK)
                    taken += len(CHUNK)
            except ConnectionError:
                pass
            assert taken < IN_BUFFERS
    assert process.memory_info().rss - before < MORE_MEMORY
    assert len(process.open_files()) == files
    answer = service.detect(picture(0))
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "key_refused")
    url, keyed = f"{service.url}/detect", {"Authorization": "Bearer correct horse"}
    assert httpx2.post(url, files={"file": picture(0)}, headers=keyed).status_code == 200
    assert "correct horse" not in service.output
