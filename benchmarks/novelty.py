"""`python -m benchmarks.novelty`: the cost of novelty scores, as a share of the throughput of `/detect`.

Two services with the same model, with novelty detectors and without, and a database each; both run, and take turns
under load. No image is sent twice, so that each stores a vector; between loads the pending vectors are indexed, so that
this does not slow the other service's turn.
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
from astrodetect.db.embedded import lifetime
from astrodetect.inference.pipeline import read_ahead
from astrodetect.model_store import store
from astrodetect.model_store.manifest import read_manifest
from benchmarks import hardware, http_messages, model
from benchmarks.load import jpegs
from benchmarks.processes import ServiceProcess, print_progress, run_module
from database import Database

WITH, WITHOUT = "with_novelty", "without"
TRAIN_IMAGES = 400  # simulated, that the detectors are fitted to
SENT = 6000  # images, each sent once
CALLERS = 32
SEED = 11  # of the simulated images


def main() -> None:
    """Measure; print a line or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.novelty", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=8.0, help="of load, each service in each round (default: 8)")
    add("--json", action="store_true")
    arguments = parser.parse_args()
    loads: dict[str, list[Load]] = {WITH: [], WITHOUT: []}
    with tempfile.TemporaryDirectory() as place, services(Path(place)) as running:
        shares = write_images(Path(place), arguments.rounds)
        for number, images in enumerate(shares):
            for name in (WITH, WITHOUT) if number % 2 else (WITHOUT, WITH):
                side = running[name]
                loads[name].append(load(side.service, images, arguments.seconds))
                wait_until_indexed(side.url)
                print_progress(f"{name}: {loads[name][-1].per_s:.1f} requests/s, {loads[name][-1].cpu_ms:.2f} ms each")
    medians = {name: Load(*map(statistics.median, zip(*runs, strict=True))) for name, runs in loads.items()}
    ratios = [ours.per_s / other.per_s for ours, other in zip(loads[WITH], loads[WITHOUT], strict=True)]
    cost = 1 - statistics.median(ratios)
    cpu_ms = medians[WITH].cpu_ms - medians[WITHOUT].cpu_ms
    figures: dict[str, Any] = {
        "cost": cost,
        "ratios": ratios,
        "cpu_ms": cpu_ms,
        "medians": {name: median._asdict() for name, median in medians.items()},
        "machine": hardware.describe(),
    }
    text = (
        f"{medians[WITH].per_s:.1f} requests/s with novelty, {medians[WITHOUT].per_s:.1f} without: "
        f"it costs {cost:.1%}\n"
        f"processor time of the service: {medians[WITH].cpu_ms:.2f} ms a request with novelty, "
        f"{medians[WITHOUT].cpu_ms:.2f} ms without: {cpu_ms / medians[WITHOUT].cpu_ms:.1%} more"
    )
    print(json.dumps(figures) if arguments.json else text)


class Load(NamedTuple):
    """What a service made of its turn under load."""

    per_s: float  # requests
    cpu_ms: float  # processor time of the service, per request: other processes disturb it less than throughput


class LoggedService(NamedTuple):
    """A service and the URL of its database."""

    service: ServiceProcess
    url: str


@contextmanager
def services(place: Path) -> Iterator[dict[str, LoggedService]]:
    """A service whose model has novelty detectors, and one whose model has none."""
    plain = model.prepare()
    with_detectors = attach_detectors(plain, place)
    with ExitStack() as stack:
        services_by_name = {}
        for name, models in ((WITH, with_detectors), (WITHOUT, plain)):
            url = stack.enter_context(lifetime.embedded_server(place / "postgres", name))
            setup_db.create_database(url)
            setup_db.migrate(url)
            environment = {
                "DATABASE_URL": url,
                "ASTRODETECT_MODELS_DIR": str(models),
                "ASTRODETECT_DATA_DIR": str(place / name),
                "ASTRODETECT_MODEL": model.NAME,
            }
            service = stack.enter_context(ServiceProcess("main:app", environment, place / f"{name}.log"))
            service.wait_for_response(http_messages.get(f"{service.url}/health/ready"))
            services_by_name[name] = LoggedService(service, url)
        yield services_by_name


def attach_detectors(models: Path, place: Path) -> Path:
    """A copy of the models folder below `place`, with detectors, fitted to the images of `place`/sky."""
    copy = place / "models"
    shutil.copytree(models, copy)
    sky = generator.make_dataset(place / "sky", {"E": TRAIN_IMAGES // 2, "SB": TRAIN_IMAGES // 2}, seed=SEED)
    contract = read_manifest(models / f"{model.NAME}.json").image
    catalogue = dataset.read_dataset(sky, ("E", "SB"), title="skies", contract=contract)
    store.attach_detectors(copy, model.NAME, fit_novelty(catalogue, contract, SEED, read_ahead).save)
    return copy


def write_images(place: Path, rounds: int) -> list[Path]:
    """A folder of distinct images for each round: bytes after a JPEG's end make files differ, not pixels."""
    skies = jpegs(place / "sky")
    folders = []
    for number in range(rounds):
        folder = place / f"round-{number}"
        folder.mkdir()
        for image in range(SENT // rounds):
            _, data = skies[image % len(skies)]
            (folder / f"{image}.jpg").write_bytes(data + f"{number} {image}".encode())
        folders.append(folder)
    return folders


def wait_until_indexed(url: str) -> None:
    """Wait until the service has indexed all vectors."""
    database = Database(url, connections=1, timeout_s=5.0)
    try:
        while database.count_unindexed_vectors():
            time.sleep(0.2)
    finally:
        database.close()


def load(service: ServiceProcess, images: Path, seconds: float) -> Load:
    """A turn with CALLERS concurrent callers."""
    arguments = (
        f"{service.url}/detect", "--images", str(images), "--callers", str(CALLERS), "--seconds", str(seconds),
        "--warm", "1", "--json",
    )  # fmt: skip
    before = hardware.cpu_s(service.process.pid)
    report = json.loads(run_module("benchmarks.load", *arguments))
    cpu_s = hardware.cpu_s(service.process.pid) - before
    return Load(float(report["per_s"]), 1000 * cpu_s / sum(report["statuses"].values()))


if __name__ == "__main__":
    main()
