"""Batches on a Ray cluster: the results of batches of images, in order, the same as on one machine."""

import os
import pickle
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, cast

import ray
from ray import exceptions
from threadpoolctl import threadpool_limits

from astrodetect.cluster.connection import MODELS_DIR, check_visible, connect_to_ray, node_error
from astrodetect.datasets.tables import ListedImage
from astrodetect.errors import ClusterError
from astrodetect.features.extraction import Applied, FeatureCache, FeatureExtractor, FeatureFile, extract_batch
from astrodetect.inference.pipeline import open_network_extractor
from astrodetect.records import BatchRunner

BATCHES_PER_TASK = 8
TASKS_PER_CPU = 2  # in flight: one computed, one waiting
RETRIES = 3  # by Ray, where a task's node or process is lost

Batch = list[ListedImage]
# A function of a module with its arguments, which every process of a node calls once, for what it applies to batches.
OpenFunction = Callable[[], Callable[[Batch], Any]]


@contextmanager
def ray_cluster(address: str) -> Iterator[Callable[[OpenFunction], BatchRunner]]:
    """Connects to a cluster; yields what makes BatchRunners, which ignore the functions that they are given."""
    connect_to_ray(address)
    try:
        # Their functions hold what does not travel, such as open files: the nodes open their own.
        yield lambda open_function: cast(BatchRunner, _Runner(pickle.dumps(open_function)))
    finally:
        ray.shutdown()


def open_extractor_of_node(models: Path, *options: Any) -> FeatureExtractor:
    """`open_network_extractor`, from the folder that the node's environment names, else that of the driver."""
    return open_network_extractor(Path(os.environ.get(MODELS_DIR, models)), *options)


def open_extraction(
    open_extractor: Callable[[], FeatureExtractor],
    cache_key: str,
    cache_folder: Path,
    max_pixels: int,
    apply: Callable[[list[FeatureFile]], Applied],
) -> Callable[[Batch], tuple[list[FeatureFile], Applied]]:
    """Extracts features and applies a function to them; the nodes read the cache, the driver alone adds to it.

    ClusterError if they would not be the driver's, whose cache key this is.
    """
    extractor = open_extractor()
    if extractor.cache_key != cache_key:
        raise ClusterError(
            f"the node {socket.gethostname()} has another version of the model or of astrodetect, or another precision"
        )
    cache = FeatureCache(cache_folder, extractor.cache_key).open()
    return lambda batch: extract_batch(batch, extractor, cache, max_pixels, apply)


class _Runner:
    def __init__(self, function: bytes) -> None:
        self._function = function

    def __call__(self, batches: Iterable[Batch], *_: object) -> Generator[Any]:
        task = ray.remote(_run).options(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")
        remaining, folder = iter(batches), str(Path.cwd())
        function = ray.put(self._function)  # once: it may hold detectors, of megabytes
        reference: str | None = None  # the first image, which every node must see if this process does
        in_flight: deque[Any] = deque()
        try:
            while True:
                cpus = int(ray.cluster_resources().get("CPU", 1))
                while len(in_flight) < TASKS_PER_CPU * cpus and (part := list(islice(remaining, BATCHES_PER_TASK))):
                    if reference is None:
                        first = str(part[0][0].path)
                        reference = first if Path(first).exists() else ""
                    in_flight.append(task.remote(function, folder, reference, part))
                if not in_flight:
                    return
                yield from ray.get(in_flight[0])
                in_flight.popleft()
        except exceptions.RayError as error:
            lost = f"batches were lost with their nodes {RETRIES + 1} times: {str(error).splitlines()[0]}"
            raise node_error(error) or ClusterError(lost) from error


def _run(function: bytes, folder: str, reference: str, batches: list[Batch]) -> list[Any]:
    """The task: the results of some batches."""
    if Path(folder).is_dir():
        os.chdir(folder)
    check_visible(reference, socket.gethostname())
    process = _opened(function)
    with threadpool_limits(1, user_api="blas"):  # as `read_ahead` does
        return [process(batch) for batch in batches]


@lru_cache(maxsize=1)
def _opened(function: bytes) -> Callable[[Batch], Any]:
    """Kept by the process for its next tasks."""
    open_function: OpenFunction = pickle.loads(function)  # noqa: S301 - from the driver, as the task itself
    return open_function()
