"""`python -m benchmarks.load URL`: a load generator that sends images, single-threaded and light on the CPU.

Closed loop: each caller sends its next image when its response arrives. Open loop (`--rate`): images are due at a
steady rate whatever the service does, and latency counts from the due time, so that no waiting is left out (no
coordinated omission). All benchmarks use this generator. At 10,000 requests/s it takes 30 µs per request; at a few
hundred, where it mostly sleeps, some 100 µs, which is 1 % of two cores. Its own CPU time is in the report.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import http_messages
from benchmarks.load_generator import LoadGenerator


def main(argv: list[str] | None = None) -> int:
    """One run: exit code 0 if every response was 200."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("url", help="such as http://127.0.0.1:8000/detect")
    add("--callers", type=int, default=8, help="connections, each with one request at a time (default: 8)")
    add("--seconds", type=float, default=10.0, help="duration of the measurement (default: 10)")
    add("--warm", type=float, default=0.0, help="warm-up before it, seconds (default: 0)")
    add("--rate", type=float, help="open loop of so many requests/s (default: closed loop)")
    add("--images", type=Path, help="folder with JPEGs to send (default: 32 simulated ones)")
    add("--reconnect", action="store_true", help="callers reconnect after errors")
    add("--keep", type=Path, help="write every response to this file, as JSON Lines")
    add("--json", action="store_true", help="the report as one JSON object")
    arguments = parser.parse_args(argv)
    files = (
        [(path.name, path.read_bytes()) for path in sorted((arguments.images or Path()).rglob("*.jpg"))]
        if arguments.images
        else simulated_files()
    )
    if not files:
        parser.error(f"no .jpg under {arguments.images}")
    callers = LoadGenerator(
        arguments.url,
        http_messages.post(arguments.url, files),
        count=arguments.callers,
        rate=arguments.rate,
        reconnect=arguments.reconnect,
        keep=arguments.keep is not None,
    )
    report = callers.run(arguments.seconds, arguments.warm)
    if arguments.keep:
        report.write_responses(arguments.keep)
    print(json.dumps(report.figures()) if arguments.json else report.as_text())
    return 0 if report.ok else 1


def jpegs(folder: Path) -> list[tuple[str, bytes]]:
    """Name and bytes of each JPEG below the folder."""
    return [(path.name, path.read_bytes()) for path in sorted(folder.rglob("*.jpg"))]


def simulated_files(count: int = 32) -> list[tuple[str, bytes]]:
    """Simulated JPEGs."""
    import io  # noqa: PLC0415 - slow to import

    from PIL import Image  # noqa: PLC0415

    from astrodetect.datasets.simulation import generator  # noqa: PLC0415

    files = []
    for seed in range(count):
        file = io.BytesIO()
        Image.fromarray(generator.render_image(("E", "SB")[seed % 2], seed)).save(file, "JPEG", quality=92)
        files.append((f"{seed:05}.jpg", file.getvalue()))
    return files


if __name__ == "__main__":
    sys.exit(main())
