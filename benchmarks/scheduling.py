"""`python -m benchmarks.scheduling`: what handing out chunks costs on a Ray cluster, with a fake engine.

Nodes are simulated on this machine (`ray.cluster_utils`). Each has an actor and a worker process as in `score --ray`,
but the worker waits instead of computing, so that many nodes fit on few cores. A chunk has the paths of 4,096 images,
and its part the size of a real one. Without a wait, the rate is the ceiling of the driver and of this machine.
"""

import argparse
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from astrodetect.cluster.ray_pool import RayPool
from astrodetect.scoring import worker_messages
from astrodetect.scoring.chunks import MAX_CHUNK_IMAGES, Chunk, Counts, ScoredChunk, WorkerReady, WorkerTask
from astrodetect.scoring.worker_messages import WorkerChannel

OBJECT_STORE_BYTES = 80 * 2**20
PART_BYTES = 100_000  # of 4,096 rows
WAIT_MS = "ASTRODETECT_BENCHMARK_WAIT_MS"
WORKER = ("-m", "benchmarks.scheduling", "--worker")


def main() -> None:
    """Measure and print, or be a worker."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling", description=__doc__)
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--nodes", default="2,4,8", help="numbers of nodes (default: %(default)s)")
    parser.add_argument("--wait-ms", type=float, default=20.0, help="of a worker for each chunk (default: 20)")
    parser.add_argument("--images", type=int, default=MAX_CHUNK_IMAGES, help="of a chunk; 1 as for shards")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(float(os.environ[WAIT_MS]) / 1000)
        return
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - slow to import

    for nodes in map(int, arguments.nodes.split(",")):
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES},
        )
        for _ in range(nodes):
            cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
        speed = chunks_per_s(cluster.address, nodes, arguments)
        cluster.shutdown()
        possible = nodes / (arguments.wait_ms / 1000) if arguments.wait_ms else float("nan")
        print(f"{nodes} nodes: {speed:.0f} chunks/s of at most {possible:.0f} ({speed / possible:.0%})", flush=True)


def chunks_per_s(address: str, nodes: int, arguments: argparse.Namespace) -> float:
    """The rate, from when all nodes are ready."""
    environment = {WAIT_MS: str(arguments.wait_ms), "PYTHONPATH": str(Path.cwd())}
    with RayPool(address, WORKER, WorkerTask("fake"), environment=environment, notify=print) as pool:
        pool.wait_ready("")
        while not pool.note.startswith(f" on {nodes} "):
            list(pool.score(chunks(nodes, arguments.images)))
        began, done = time.monotonic(), 0
        cpu = time.process_time()
        for event in pool.score(chunks(arguments.chunks, arguments.images)):
            done += isinstance(event, ScoredChunk)
        took = time.monotonic() - began
        print(f"driver: {1000 * (time.process_time() - cpu) / done:.2f} ms of processor time for a chunk")
    assert done == arguments.chunks  # noqa: S101
    return done / took


def chunks(count: int, images: int) -> Iterator[Chunk]:
    """Chunks with realistic paths."""
    run = str(uuid.uuid4())
    for number in range(count):
        paths = tuple(f"/survey/2026-11-26/{number:06}/{image:05}.jpg" for image in range(images))
        yield Chunk(number, f"{number:012x}", paths, run)


def work(wait_s: float) -> None:
    """The protocol of a worker process, without the work."""
    channel, part = WorkerChannel(), os.urandom(PART_BYTES)
    channel.receive()
    ready = WorkerReady("1", "f32", 16, ("path",))
    channel.send({worker_messages.READY: asdict(ready)})
    while (request := channel.receive()) is not None:
        time.sleep(wait_s)
        counts = Counts(len(request["references"]))
        channel.send({worker_messages.CHUNK_PART: request["number"], "counts": counts.as_message()}, part)


if __name__ == "__main__":
    main()
