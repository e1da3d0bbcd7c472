"""`python -m benchmarks.novelty`: what novelty costs `/detect`, as a share of its throughput.

The same model twice, with detectors and without, each in a service of its own with a database of its own; both are up,
and one is under load at a time, in turns. No image comes twice, so that every one leaves a vector; between two loads
the graph takes in what is fresh, which would else take its time from the other's turn.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import setup_db
from astrodetect.anomalies.analysis import fit_novelty
from astrodetect.datasets import dataset
from astrodetect.datasets.simulation import generator
from astrodetect.db.embedded import server
from astrodetect.inference.pipeline import read_ahead
from astrodetect.model_store import store
from astrodetect.model_store.manifest import read_manifest
from benchmarks import hardware, http_messages, model
from benchmarks.load import jpegs
from benchmarks.processes import ServiceProcess, print_progress, run_module
from database import Database

WITH, WITHOUT = "with_novelty", "without"
LEARNT = 400  # simulated images that the detectors know
SENT = 6000  # images, each sent once
CALLERS = 32
SEED = 11  # of the simulated images


def main() -> None:
    """Measures and prints a line, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.novelty", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=8.0, help="of load, each service in each round (default: 8)")
    add("--json", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {WITH: [], WITHOUT: []}
    with tempfile.TemporaryDirectory() as place, services(Path(place)) as running:
        shares = send(Path(place), arguments.rounds)
        for number, images in enumerate(shares):
            for name in (WITH, WITHOUT) if number % 2 else (WITHOUT, WITH):
                side = running[name]
                found[name].append(load(side.service, images, arguments.seconds))
                settle(side.url)
                print_progress(f"{name}: {found[name][-1]:.1f} requests/s")
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    ratios = [one / other for one, other in zip(found[WITH], found[WITHOUT], strict=True)]
    cost = 1 - statistics.median(ratios)
    figures: dict[str, Any] = {"cost": cost, "ratios": ratios, "medians": medians, "machine": hardware.describe()}
    said = f"{medians[WITH]:.1f} requests/s with novelty, {medians[WITHOUT]:.1f} without: it costs {cost:.1%}"
    print(json.dumps(figures) if arguments.json else said)


class Side(NamedTuple):
    """A service, and the database that it logs to."""

    service: ServiceProcess
    url: str


@contextmanager
def services(place: Path) -> Iterator[dict[str, Side]]:
    """One whose model carries detectors, one whose model does not."""
    plain = model.prepare()
    knowing = place / "models"
    shutil.copytree(plain, knowing)
    sky = generator.make_dataset(place / "sky", {"E": LEARNT // 2, "SB": LEARNT // 2}, seed=SEED)
    contract = read_manifest(plain / f"{model.NAME}.json").image
    catalogue = dataset.read_dataset(sky, ("E", "SB"), title="skies", contract=contract)
    store.attach_detectors(knowing, model.NAME, fit_novelty(catalogue, contract, SEED, read_ahead).save)
    with ExitStack() as stack:
        found = {}
        for name, models in ((WITH, knowing), (WITHOUT, plain)):
            url = stack.enter_context(server.embedded_server(place / "postgres", name))
            setup_db.create_database(url)
            setup_db.migrate(url)
            environment = {
                "DATABASE_URL": url,
                "ASTRODETECT_MODELS_DIR": str(models),
                "ASTRODETECT_DATA_DIR": str(place / name),
                "ASTRODETECT_MODEL": model.NAME,
            }
            service = stack.enter_context(ServiceProcess("main:app", environment, place / f"{name}.log"))
            service.until_answered(http_messages.get(f"{service.url}/health/ready"))
            found[name] = Side(service, url)
        yield found


def send(place: Path, rounds: int) -> list[Path]:
    """A folder of images for each round, none like any other: what follows a JPEG's end is nobody's pixels."""
    skies = jpegs(place / "sky")
    found = []
    for number in range(rounds):
        folder = place / f"round-{number}"
        folder.mkdir()
        for image in range(SENT // rounds):
            _, data = skies[image % len(skies)]
            (folder / f"{image}.jpg").write_bytes(data + f"{number} {image}".encode())
        found.append(folder)
    return found


def settle(url: str) -> None:
    """Until the service has nothing left to index."""
    database = Database(url, connections=1, timeout_s=5.0)
    try:
        while database.count_unindexed_vectors():
            time.sleep(0.2)
    finally:
        database.close()


def load(service: ServiceProcess, images: Path, seconds: float) -> float:
    """Requests/s of many callers at once."""
    arguments = (
        f"{service.url}/detect", "--images", str(images), "--callers", str(CALLERS), "--seconds", str(seconds),
        "--warm", "1", "--json",
    )  # fmt: skip
    return float(json.loads(run_module("benchmarks.load", *arguments))["per_s"])


if __name__ == "__main__":
    main()
