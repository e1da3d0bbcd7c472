"""Labelled sky images made here, as a survey would show them: the embedded default and the tests' data."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astrodetect import images
from astrodetect.datasets.simulation import galaxies, rare
from astrodetect.datasets.simulation.observing import FRAME, SimulatedField
from astrodetect.errors import DataError
from astrodetect.progress import Bar
from astrodetect.records import Pixels

RECIPE = 1  # raise it whenever the same seed gives other pixels
PLAN_FILE = ".simulated.json"  # what the images in a folder were made from
IMAGES_PER_TASK = 16
LARGEST_PART = 2**32  # images of a class in one part; the parts' seeds lie this far apart
TRAIN, TEST = 0, 1

Painter = Callable[[np.random.Generator, SimulatedField], None]

_PAINTERS: dict[str, Painter] = {
    "E": galaxies.elliptical,
    "SB": galaxies.barred_spiral,
    "S": galaxies.spiral,
    "edge": galaxies.edge_on,
    "merger": rare.merger,
    "ring": rare.ring,
    "lens": rare.lens,
    "trail": rare.trail,
    "ghost": rare.ghost,
}
CLASSES: tuple[str, ...] = tuple(_PAINTERS)


@dataclass(frozen=True, slots=True)
class RenderTask:
    """Images of one class to be made in one go; image number n of a part has the seed `first_seed` + n."""

    folder: Path
    kind: str
    numbers: tuple[int, ...]
    first_seed: int
    size: int

    def run(self) -> int:
        """Makes them and says how many; each file is there whole or not at all."""
        for number in self.numbers:
            images.write_jpeg(_path(self.folder, number), render_image(self.kind, self.first_seed + number, self.size))
        return len(self.numbers)


def render_image(kind: str, seed: int, size: int = int(FRAME)) -> Pixels:
    """One image of this class; the same class, seed and size give the same pixels in every run."""
    _check(kind)
    rng = np.random.default_rng([*kind.encode(), seed])
    sky = SimulatedField(rng)
    _PAINTERS[kind](rng, sky)
    sky.add_neighbours()
    return sky.develop(size)


def make_dataset(
    folder: Path, counts: Mapping[str, int], *, seed: int, size: int = int(FRAME), workers: int | None = None
) -> Path:
    """Writes `folder/E/00001.jpg` and so on, as many a class as `counts` says; files already there are kept."""
    _check(*counts)
    _claim(folder, seed, size)
    _run(_tasks(folder, counts, seed, TRAIN, size), workers)
    return folder


def make_sample(
    folder: Path,
    train: int,
    test: int,
    *,
    classes: tuple[str, ...] = ("E", "SB"),
    seed: int,
    size: int = int(FRAME),
    workers: int | None = None,
) -> Path:
    """Writes `folder/train` and `folder/test`, `train` and `test` images a class.

    The two never share an image: each part counts its seeds in a range of its own, LARGEST_PART wide.
    """
    _check(*classes)
    _claim(folder, seed, size)
    parts = (("train", train, TRAIN), ("test", test, TEST))
    tasks = [
        task for name, count, part in parts
        for task in _tasks(folder / name, dict.fromkeys(classes, count), seed, part, size)
    ]  # fmt: skip
    _run(tasks, workers)
    return folder


def _check(*kinds: str) -> None:
    for kind in kinds:
        if kind not in _PAINTERS:
            raise DataError(f"no simulated class is called {kind!r}: choose from {', '.join(CLASSES)}")


def _claim(folder: Path, seed: int, size: int) -> None:
    """Marks the folder with what its images are made from, so that it is never continued with anything else."""
    plan = json.dumps({"recipe": RECIPE, "seed": seed, "size": size}) + "\n"
    mark = folder / PLAN_FILE
    if mark.exists() and mark.read_text() != plan:
        raise DataError(f"{folder} holds images made with another seed, size or version: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(plan)


def _tasks(folder: Path, counts: Mapping[str, int], seed: int, part: int, size: int) -> list[RenderTask]:
    """What is still missing in the folder, in pieces."""
    tasks = []
    for kind, count in counts.items():
        home = folder / kind
        home.mkdir(parents=True, exist_ok=True)
        missing = [number for number in range(1, count + 1) if not _path(home, number).exists()]
        first_seed = (2 * seed + part) * LARGEST_PART
        tasks += [
            RenderTask(home, kind, tuple(missing[at : at + IMAGES_PER_TASK]), first_seed, size)
            for at in range(0, len(missing), IMAGES_PER_TASK)
        ]
    return tasks


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.jpg"


def _run(tasks: list[RenderTask], workers: int | None) -> None:
    """Runs the tasks on as many processes; Ctrl-C lets each finish the few images in its hands, no more."""
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    with Bar("simulating images", sum(len(task.numbers) for task in tasks)) as bar:
        if workers <= 1:
            for task in tasks:
                bar.step(task.run())
            return
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_ignore_interrupts)
        try:
            with _deaf_to_interrupts():  # the processes start here, and inherit it until their initializer runs
                waiting: set[Future[int]] = {pool.submit(task.run) for task in tasks}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    bar.step(future.result())
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ignore_interrupts() -> None:
    """In each worker: Ctrl-C reaches the whole process group, and it is the parent that answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
