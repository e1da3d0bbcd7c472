"""`python -m benchmarks.attacks`: what healthy callers of /detect notice of an attack, as the ratio of their p99s.

For each attack in turn: a while without it, a while with it, and so on. The callers' images are due at a steady rate.
Each attack comes from a process of its own, is kept up for the while, and is bounded, since it shares the machine's
processors with the service and its callers.
"""

import argparse
import asyncio
import contextlib
import io
import json
import multiprocessing
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import setup_db
from astrodetect.db.embedded import lifetime
from benchmarks import hardware, http_messages, model
from benchmarks.load import simulated_files
from benchmarks.load_generator import LoadGenerator
from benchmarks.processes import ServiceProcess, exit_on_signals, print_progress

KEY = "benchmark"
RATE, CALLERS = 20.0, 8  # requests/s, and connections
WARM_S = 1.0
PAUSE_S = 0.05  # between two steps of a connection of an attack
HEAD = b"Host: localhost\r\nAuthorization: Bearer %s\r\n" % KEY.encode()
SLOW_BODY = b"POST /detect HTTP/1.1\r\n" + HEAD + b"Content-Type: multipart/form-data; boundary=x\r\n"


@cache
def zip_bomb() -> bytes:
    """A request to /detect/batch with a zip of a kilobyte for each megabyte that it unpacks to."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(200_000_000))
    [request] = http_messages.post("http://localhost/detect/batch", [("a.zip", archive.getvalue())])
    return request.replace(b"Host: localhost\r\n", HEAD)


def guesses() -> Iterator[bytes]:
    """Requests with another key each."""
    for number in range(10**9):
        yield b"DELETE /labels/1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %d\r\n\r\n" % number


def forever(first: bytes, then: bytes) -> Iterator[bytes]:
    """The beginning of a request that does not end."""
    yield first
    while True:
        yield then


# Connections, and what each sends piece by piece; a connection that is closed is opened anew.
ATTACKS: dict[str, tuple[int, Callable[[], Iterator[bytes]]]] = {
    "slow headers": (200, lambda: forever(b"GET / HTTP/1.1\r\n", b"X: y\r\n")),
    "slow bodies": (100, lambda: forever(SLOW_BODY + b"Content-Length: 100000\r\n\r\n--x\r\n", b"-")),
    "header flood": (4, lambda: forever(b"GET / HTTP/1.1\r\n", b"X: " + b"y" * 60_000 + b"\r\n")),
    "small chunks": (4, lambda: forever(SLOW_BODY + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n-\r\n" * 10_000)),
    "pipelines": (2, lambda: forever(b"", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5)),
    "zip bombs": (2, lambda: forever(b"", zip_bomb())),
    "guessing": (4, guesses),
}


def main() -> None:
    """Print the p99s and their ratios."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each while (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="whiles with, and without, each attack (default: 3)")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS), help="default: all")
    parser.add_argument("--size", type=int, default=model.SIZE, help=f"of the network, px (default: {model.SIZE})")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object")
    arguments = parser.parse_args()
    figures = {}
    with exit_on_signals(), tempfile.TemporaryDirectory() as place, service(Path(place), arguments.size) as url:
        for name in arguments.attacks:
            alone, attacked = [], []
            for _ in range(arguments.rounds):
                alone.append(p99_ms(url, arguments.seconds))
                with attack(url, name):
                    attacked.append(p99_ms(url, arguments.seconds))
            with_it, without = statistics.median(attacked), statistics.median(alone)
            figures[name] = {"p99_ms": with_it, "p99_ms_without": without, "ratio": with_it / without}
            print_progress(f"{name}: p99 {with_it:.0f} ms, {without:.0f} ms without: {with_it / without:.2f}")
    if arguments.json:
        print(json.dumps({"attacks": figures, "machine": hardware.describe()}))


@contextlib.contextmanager
def service(place: Path, size: int) -> Iterator[str]:
    """A service that asks for keys, and its URL."""
    models = model.prepare(size)
    with lifetime.embedded_server(place / "postgres", "attacks") as database:
        setup_db.create_database(database)
        setup_db.migrate(database)
        environment = {
            "DATABASE_URL": database,
            "ASTRODETECT_MODELS_DIR": str(models),
            "ASTRODETECT_DATA_DIR": str(place),
            "ASTRODETECT_MODEL": model.NAME,
            "ASTRODETECT_API_KEY": KEY,
        }
        with ServiceProcess("main:app", environment, place / "log") as process:
            process.wait_for_response(http_messages.get(f"{process.url}/health/ready"))
            yield process.url


def p99_ms(url: str, seconds: float) -> float:
    """The 99th percentile of the callers' latencies; all are answered by 200."""
    requests = [
        request.replace(b"\r\n", b"\r\nAuthorization: Bearer %s\r\n" % KEY.encode(), 1)
        for request in http_messages.post(f"{url}/detect", simulated_files())
    ]
    report = LoadGenerator(f"{url}/detect", requests, count=CALLERS, rate=RATE).run(seconds, WARM_S)
    if not report.ok:
        raise SystemExit(f"healthy callers were not all answered: {report.as_text()}")
    return report.p99_ms


@contextlib.contextmanager
def attack(url: str, name: str) -> Iterator[None]:
    """The attack goes on within the block."""
    process = multiprocessing.get_context("spawn").Process(target=run_attack, args=[url, name], daemon=True)
    process.start()
    try:
        time.sleep(WARM_S)
        yield
    finally:
        process.terminate()
        process.join()


def run_attack(url: str, name: str) -> None:
    """Attack without end."""
    count, pieces = ATTACKS[name]

    async def connections() -> None:
        await asyncio.gather(*(connection(url, pieces) for _ in range(count)))

    asyncio.run(connections())


async def connection(url: str, pieces: Callable[[], Iterator[bytes]]) -> None:
    """Sends the pieces, without waiting for answers, on one connection after the other."""
    host, port = http_messages.address(url)
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            received = asyncio.ensure_future(reader.read())
            with contextlib.suppress(OSError):
                for piece in pieces():
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(PAUSE_S)
                    if received.done():
                        break
            received.cancel()
            writer.transport.abort()
        await asyncio.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
