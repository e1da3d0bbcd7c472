"""`python -m benchmarks.load URL`: callers that send images, from one thread and with little of the processor.

Closed loop: each caller sends its next image as its answer comes. Open loop (`--rate`): images fall due at a steady
rate whatever the service does, and latency counts from when an image was due, so that no waiting is left out.
It is the one generator of these benchmarks. At 10,000 requests/s it takes 30 µs a request; at a few hundred, where it
mostly sleeps, some 100 µs, which is 1 % of two cores. A compiled one would change nothing that can be seen, and what
this one takes is in its report.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import http_messages
from benchmarks.load_generator import LoadGenerator


def main(argv: list[str] | None = None) -> int:
    """One run: 0 where every request was answered with 200."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("url", help="such as http://127.0.0.1:8000/detect")
    add("--callers", type=int, default=8, help="connections, each with one request at a time (default: 8)")
    add("--seconds", type=float, default=10.0, help="how long the figures are taken (default: 10)")
    add("--warm", type=float, default=0.0, help="seconds of load before that (default: 0)")
    add("--rate", type=float, help="requests/s, whatever the answers do (default: closed loop)")
    add("--images", type=Path, help="folder with JPEGs to send (default: 32 simulated ones)")
    add("--reconnect", action="store_true", help="callers go on after errors")
    add("--keep", type=Path, help="write every answer there: one line of JSON each")
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
        report.write_answers(arguments.keep)
    print(json.dumps(report.figures()) if arguments.json else report.in_words())
    return 0 if report.all_well else 1


def jpegs(folder: Path) -> list[tuple[str, bytes]]:
    """Names and bytes of what the folder holds."""
    return [(path.name, path.read_bytes()) for path in sorted(folder.rglob("*.jpg"))]


def simulated_files(count: int = 32) -> list[tuple[str, bytes]]:
    """Images made here."""
    import io  # noqa: PLC0415 - what follows takes longer to load than all the rest

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
