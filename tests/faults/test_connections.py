"""Many idle connections: the service keeps descriptors for its own work, and its connections for those who send."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
from programs import query

from faults.clients import send_in_turn, small_image, upload_request
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, read_metric, read_readiness

DESCRIPTORS = 384  # of the service
IDLE = 500  # connections that send nothing
REQUESTS = 20


@contextmanager
def descriptor_limit(limit: int) -> Iterator[None]:
    """The limit of processes that are started within."""
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, own[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, own)


def test_idle_connections_leave_descriptors_and_connections_for_work(log: PredictionsDatabase, start: Start) -> None:
    with descriptor_limit(DESCRIPTORS):
        service = start()
    own = psutil.Process(service.process.pid).num_fds()

    def send(prefix: str) -> list[str]:
        requests = [upload_request(f"{prefix}{n}.jpg", small_image(n)) for n in range(REQUESTS)]
        responses = send_in_turn(service.port, requests)
        assert {(response.status, response.json["logged"]) for response in responses} == {(200, "committed")}
        return [response.json["request_id"] for response in responses]

    with ExitStack() as stack:
        attackers = [stack.enter_context(socket.socket()) for _ in range(IDLE)]
        for attacker in attackers:
            attacker.setblocking(False)
            attacker.connect_ex(("127.0.0.1", service.port))
        service.wait_until(lambda: read_metric(service, "astrodetect_connections") >= (DESCRIPTORS - 128) // 2 - 10)
        ids = send("a")
        assert psutil.Process(service.process.pid).num_fds() < DESCRIPTORS - own // 2
        assert read_readiness(service)["status"] == "ready"
        assert read_metric(service, "astrodetect_ended_threads") == 0
        ids += send("b")
    assert log.requests() == ids
    assert "Too many open files" not in service.output
    service.wait_until(lambda: query(log.url, "SELECT count(*) FROM pictures") == [(REQUESTS,)])
