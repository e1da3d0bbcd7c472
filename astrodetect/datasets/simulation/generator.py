"""Generator of labelled simulated survey images: the default sample and test data."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astrodetect import atomic_files, images
from astrodetect.datasets.listing import SIMULATION_FILE
from astrodetect.datasets.simulation import galaxies, rare
from astrodetect.datasets.simulation.observing import FRAME, SimulatedField
from astrodetect.errors import DataError
from astrodetect.parent_process import when_parent_ends
from astrodetect.progress import ProgressBar, print_notice
from astrodetect.records import Pixels

RECIPE = 3  # increment whenever a seed gives different pixels
IMAGES_PER_TASK = 16
SEEDS_PER_PART = 2**32  # distance between the seed ranges of parts
TRAIN, TEST = 0, 1  # seed ranges

ClassModel = Callable[[np.random.Generator, SimulatedField], None]

_CLASS_MODELS: dict[str, ClassModel] = {
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
CLASSES: tuple[str, ...] = tuple(_CLASS_MODELS)


@dataclass(frozen=True, slots=True)
class RenderTask:
    """Images of one class rendered by one task; image n has the seed `first_seed` + n."""

    folder: Path
    kind: str
    numbers: tuple[int, ...]
    first_seed: int
    size: int

    def run(self) -> int:
        """Render and atomically write the images; return their number."""
        for number in self.numbers:
            images.write_jpeg(_path(self.folder, number), render_image(self.kind, self.first_seed + number, self.size))
        return len(self.numbers)


def render_image(kind: str, seed: int, size: int = int(FRAME)) -> Pixels:
    """Render one image; the pixels depend only on class, seed and size."""
    _check_classes(kind)
    rng = np.random.default_rng([*kind.encode(), seed])
    field = SimulatedField(rng)
    _CLASS_MODELS[kind](rng, field)
    field.add_field_objects()
    return field.observe(size)


def make_dataset(
    folder: Path, counts: Mapping[str, int], *, seed: int, size: int = int(FRAME), workers: int | None = None
) -> Path:
    """Write `counts` images per class as `folder/CLASS/00001.jpg` …; existing files are kept."""
    _check_classes(*counts)
    _check_plan(folder, seed, size)
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
    """Write `train` and `test` images per class to `folder/train` and `folder/test`.

    The parts share no image: their seed ranges do not overlap.
    """
    _check_classes(*classes)
    _check_plan(folder, seed, size)
    parts = (("train", train, TRAIN), ("test", test, TEST))
    tasks = [
        task for name, count, part in parts
        for task in _tasks(folder / name, dict.fromkeys(classes, count), seed, part, size)
    ]  # fmt: skip
    _run(tasks, workers)
    return folder


def _check_classes(*kinds: str) -> None:
    for kind in kinds:
        if kind not in _CLASS_MODELS:
            raise DataError(f"no simulated class is called {kind!r}: choose from {', '.join(CLASSES)}")


def _check_plan(folder: Path, seed: int, size: int) -> None:
    """Record seed, size and recipe in the folder; raise DataError if it holds images made with others, or other files.

    Those would be marked as simulated, and an image of theirs taken for one that is made already.
    """
    plan = json.dumps({"recipe": RECIPE, "seed": seed, "size": size}) + "\n"
    plan_file = folder / SIMULATION_FILE
    folder.mkdir(parents=True, exist_ok=True)
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not plan_file.exists() and (other := next(files, None)):
        raise DataError(f"{other} was not simulated: choose another folder")
    atomic_files.remove_abandoned(plan_file)
    with suppress(FileExistsError), atomic_files.creating(plan_file) as part:  # one of two processes at once
        part.write_text(plan)  # whole or not at all, or a full disk would end all later runs
    if plan_file.read_text() != plan:
        raise DataError(f"{folder} holds images made with another seed, size or version: choose another folder")


def _tasks(folder: Path, counts: Mapping[str, int], seed: int, part: int, size: int) -> list[RenderTask]:
    """Tasks for the images still missing in the folder."""
    tasks = []
    for kind, count in counts.items():
        class_folder = folder / kind
        class_folder.mkdir(parents=True, exist_ok=True)
        missing = [number for number in range(1, count + 1) if not _path(class_folder, number).exists()]
        first_seed = (2 * seed + part) * SEEDS_PER_PART
        tasks += [
            RenderTask(class_folder, kind, tuple(missing[start : start + IMAGES_PER_TASK]), first_seed, size)
            for start in range(0, len(missing), IMAGES_PER_TASK)
        ]
    return tasks


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.jpg"


def _run(tasks: list[RenderTask], workers: int | None) -> None:
    """Run the tasks in a process pool; on Ctrl-C each worker finishes its current task only."""
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    pool = _start_pool(workers) if workers > 1 else None
    with ProgressBar("simulating images", sum(len(task.numbers) for task in tasks)) as bar:
        if pool is None:
            for task in tasks:
                bar.step(task.run())
            return
        try:
            with _interrupts_ignored():  # workers start here and inherit it until their initializer runs
                pending: set[Future[int]] = {pool.submit(task.run) for task in tasks}
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    bar.step(future.result())
        except BrokenProcessPool as error:
            raise DataError("a worker was killed, as without memory: run the same command again to continue") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_pool(workers: int) -> ProcessPoolExecutor | None:
    """A process pool, or None where the system has no semaphores to share with workers."""
    try:
        return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_initialise_worker)
    except (OSError, ImportError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        print_notice(f"shared memory (/dev/shm) cannot be used: {reason}; simulating in one process")
        return None


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _initialise_worker() -> None:
    """Initialise a worker: Ctrl-C reaches the whole process group, and only the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    when_parent_ends(lambda: os._exit(1))  # each holds all ends of the queue of tasks: they would wait for ever
