"""Mixed traffic under faults drawn at random, an hour with --full, after which the promises are checked; and leaks."""

import random
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import colour_models
import numpy as np
import psutil
import pytest
from programs import Service, query

from faults.clients import LoadClients, form_part, post_request, send_in_turn, sha256, upload_request
from faults.postgres_process import PredictionsDatabase, TcpProxy
from faults.service_state import Start, outbox_files, outbox_is_empty
from faults.test_model_swaps import IMAGES as SCORED
from faults.test_model_swaps import NAME, SCALES, TOLERANCE, scores
from faults.test_mutations import mutate

SOAK_S, FULL_SOAK_S = 0.0, 3600.0  # each fault happens once at least
CLIENTS, INTERVAL_S = 6, 0.1  # of the requests of a client: two hundred thousand in an hour
BAD = 10  # every so many requests have a damaged image
SLOW_CLIENTS = 20
DISK_BYTES = 8 * 2**20
REQUESTS, FULL_REQUESTS = 4000, 100_000  # for leaks; memory grows by some 10 MB in the first thousand
WARM_UP = 0.25  # share of them
SAMPLES = 40
LATE_THREADS = 4  # of the loop's executor, which has 4 more than there are cores, and starts one when all are busy
SLOPE_BYTES, FULL_SLOPE_BYTES = 5000, 100  # of memory for each request; a short run has more noise
rng = random.Random(20)


def request(client: int, number: int) -> bytes:
    """A whole image, or a damaged one."""
    data = SCORED[(client + number) % len(SCORED)]
    if number % BAD == BAD - 1:
        return upload_request(f"bad-{client}-{number}.jpg", mutate(data, random.Random(number), SCORED[0]))
    return upload_request(f"{(client + number) % len(SCORED)}.jpg", data)


@pytest.fixture
def proxy(log: PredictionsDatabase) -> Iterator[TcpProxy]:
    proxy = TcpProxy(log.server)
    yield proxy
    proxy.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """The data folder as a file system of its own, of DISK_BYTES; None where this user may not mount one."""
    folder = tmp_path / "data"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_under_random_faults_every_promise_is_kept(
    log: PredictionsDatabase, proxy: TcpProxy, start: Start, tmp_path: Path, *, small_disk: Path | None, full: bool
) -> None:
    folder = tmp_path / "models"
    expected = {publish(folder, scale): scores(folder) for scale in SCALES}
    url = proxy.url(log.database)

    def start_service() -> Service:
        return start(url=url, models_dir=folder, model=NAME, database_timeout_s=1, request_timeout_s=5)

    service, counts = start_service(), Counter[str]()
    with LoadClients(service.port, request, CLIENTS, interval_s=INTERVAL_S) as clients:

        def restart(number: signal.Signals) -> None:
            nonlocal service
            service.signal(number)
            service.wait()
            service = start_service()
            clients.port = service.port

        def postgresql_away(stop: Callable[[], None], begin: Callable[[], None]) -> None:
            stop()
            time.sleep(rng.uniform(0.2, 3.0))
            begin()

        faults: dict[str, Callable[[], object]] = {
            "kill": lambda: restart(signal.SIGKILL),
            "shutdown": lambda: restart(signal.SIGTERM),
            "postgresql stopped": lambda: postgresql_away(log.server.stop, log.server.start),
            "postgresql crashed": lambda: postgresql_away(log.server.crash, log.server.start),
            "postgresql hangs": lambda: postgresql_away(proxy.freeze, proxy.thaw),
            "model swapped": lambda: publish(folder, rng.choice(SCALES)),
            "slow clients": lambda: send_slowly(service.port),
        }
        if small_disk:
            faults["disk full"] = partial(with_full_disk, small_disk, faults["postgresql stopped"])
        drawn: list[str] = []
        end = time.monotonic() + (FULL_SOAK_S if full else SOAK_S)
        while time.monotonic() < end or len(drawn) < len(faults):
            fault = rng.choice(sorted(faults)) if len(drawn) >= len(faults) else sorted(faults)[len(drawn)]
            drawn.append(fault)
            faults[fault]()
            time.sleep(rng.uniform(0.0, 1.0))
        service.wait_until(service.ready)
    service.wait_until(lambda: outbox_is_empty(service))
    assert outbox_files() == []
    assert "Traceback" not in service.output

    for call in clients.calls:
        status, bad = call.response.status, call.number % BAD == BAD - 1
        kind = "refused" if call.response.error_code == "outbox_full" else "damaged" if bad else "whole"
        counts[f"{kind} image: {status}"] += 1
        assert status in {200, 503} or (bad and 400 <= status < 500), (status, call.response.body)
    rows = query(log.url, "SELECT request_id::text, image_name, image_sha256, score, model_version FROM predictions")
    stored = {request_id: (name, sha) for request_id, name, sha, *_ in rows}
    assert len(stored) == len(rows)
    for call in clients.calls:
        if call.response.status == 200:
            answer = call.response.json
            assert stored[answer["request_id"]] == (answer["image_name"], answer["image_sha256"])
    for _, name, sha, score, version in rows:
        if not name.startswith("bad"):
            number = int(name.removesuffix(".jpg"))
            assert sha == sha256(SCORED[number])
            assert abs(expected[version][number] - score) <= TOLERANCE
    assert log.in_order()
    assert counts["whole image: 200"] > 0.9 * sum(counts[name] for name in counts if name.startswith("whole"))
    print(counts, Counter(drawn), f"{len(clients.lost)} connections lost, {len(rows)} rows")  # noqa: T201 - of the hour


def test_many_requests_leave_no_memory_descriptors_or_threads(
    log: PredictionsDatabase, start: Start, full: bool
) -> None:
    service = start()
    process, count = psutil.Process(service.process.pid), FULL_REQUESTS if full else REQUESTS
    memory, handles = [], []
    for part in range(SAMPLES):
        requests = [request(part, number) for number in range(count // SAMPLES)]
        statuses = {response.status for response in send_in_turn(service.port, requests, client_count=8)}
        assert 200 in statuses
        assert all(status == 200 or 400 <= status < 500 for status in statuses)
        if part >= WARM_UP * SAMPLES:
            memory.append(process.memory_full_info().uss)
            handles.append((process.num_fds(), process.num_threads()))
    slope = float(np.polyfit(np.arange(len(memory)) * (count // SAMPLES), memory, 1)[0])
    print(f"{slope * 10_000 / 1e6:.2f} MB for 10,000 requests; {handles[0]} → {handles[-1]}")  # noqa: T201 - figures
    assert slope < (FULL_SLOPE_BYTES if full else SLOPE_BYTES), memory
    descriptors, threads = (np.array(column) for column in zip(*handles, strict=True))
    assert np.median(descriptors[-5:]) <= np.median(descriptors[:5]) + 2, descriptors
    assert np.median(threads[-5:]) <= np.median(threads[:5]) + LATE_THREADS, threads


def publish(folder: Path, scale: float) -> str:
    """Publishes a version of the model, as a training in another process does; returns its name."""
    return colour_models.publish(folder, NAME, colour_models.TWO_CLASSES, scale=scale).version


def with_full_disk(disk: Path, fault: Callable[[], object]) -> None:
    """The fault, with no space left for rows."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
    fault()
    (disk / "filler").unlink()


def send_slowly(port: int) -> None:
    """Connections that send a part of an image, and are left open."""
    part = form_part("slow.jpg", SCORED[0])[:200]
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(SLOW_CLIENTS)]
    for connection in connections:
        connection.sendall(post_request("/detect", part, length=100_000))
    time.sleep(rng.uniform(0.0, 2.0))
    for connection in connections:
        connection.close()
