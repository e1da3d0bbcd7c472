"""Reading small images from an S3 server on this machine: one by one, in shards, and beside local files.

    python -m benchmarks.storage [--images 5000] [--delay-ms 20]

The server is moto's, in a process of its own; `--delay-ms` is added to each request, as the network and the store take.
"""

import argparse
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import requests

from astrodetect import images
from astrodetect.datasets import listing
from astrodetect.storage import objects

SIDE_PX = 64
BUCKET = "s3://sky"
ROWS_PER_GROUP = 1000
START_S = 30.0
SERVER = """
import logging, sys, time
from werkzeug.serving import run_simple
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
logging.getLogger("werkzeug").setLevel(logging.ERROR)
app, delay = DomainDispatcherApplication(create_backend_app), float(sys.argv[2]) / 1000
def delayed(environ, start_response):
    time.sleep(delay)
    return app(environ, start_response)
run_simple("127.0.0.1", int(sys.argv[1]), delayed, threaded=True)
"""


@contextmanager
def s3_server(delay_ms: float) -> Iterator[None]:
    """An S3 server, named in the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    os.environ |= {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port), str(delay_ms)])
    try:
        end = time.monotonic() + START_S
        while True:
            try:
                requests.put(f"{url}/sky", timeout=5).raise_for_status()
                break
            except requests.ConnectionError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.wait()


def write_images(folder: Path, count: int) -> None:
    """The same images in a local folder, on the server, and in shards of both."""
    rng = np.random.default_rng(0)
    contents = {
        f"{number:05}.jpg": images.encode_thumbnail(
            rng.integers(0, 255, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8), SIDE_PX
        )
        for number in range(count)
    }
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    table = pa.table({"image": [{"bytes": data, "path": name} for name, data in contents.items()]})
    for root in (str(folder), BUCKET):
        for name, data in contents.items():
            objects.write_bytes(f"{root}/images/{name}", data)
        objects.write_bytes(f"{root}/sky.tar", archive.getvalue())
        with objects.open_writer(f"{root}/sky.parquet") as file:
            pq.write_table(table, file, row_group_size=ROWS_PER_GROUP)


def read_rate(name: str, count: int) -> float:
    """Images per second: listed, read and checked."""
    started = time.monotonic()
    read = sum(bool(file.read()) for file in listing.open_images(listing.list_references([name])))
    if read != count:
        raise RuntimeError(f"{name}: {read} images")
    return count / (time.monotonic() - started)


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, s3_server(arguments.delay_ms):
        write_images(Path(folder), arguments.images)
        names = [f"{root}/{kind}" for kind in ("images", "sky.tar", "sky.parquet") for root in (folder, BUCKET)]
        rates = [[read_rate(name, arguments.images) for name in names] for _ in range(arguments.rounds)]
        started = time.monotonic()
        some = [f"{BUCKET}/images/{number:05}.jpg" for number in range(min(arguments.images, 500))]
        for url in some:
            images.read_bytes(url)
        one_by_one = len(some) / (time.monotonic() - started)
    for name, of_name in zip(names, zip(*rates, strict=True), strict=True):
        print(f"{name.replace(folder, '(local)'):24} {' '.join(f'{rate:8,.0f}' for rate in of_name)} images/s")
    print(f"{f'{BUCKET}/images, one by one':24} {one_by_one:8,.0f} images/s")


if __name__ == "__main__":
    main()
