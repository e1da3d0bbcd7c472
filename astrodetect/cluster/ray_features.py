"""Features on a Ray cluster: batches of images to feature vectors, in order, the same as on one machine."""

import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, cast

import ray
from ray import exceptions
from threadpoolctl import threadpool_limits

from astrodetect.cluster.connection import check_visible, connect_to_ray, task_error
from astrodetect.datasets.tables import ListedImage
from astrodetect.errors import ClusterError
from astrodetect.features.extraction import FeatureCache, FeatureExtractor, FeatureFile, extract_batch
from astrodetect.records import BatchRunner

BATCHES_PER_TASK = 8
TASKS_PER_CPU = 2  # in flight: one computed, one waiting
RETRIES = 3  # by Ray, where a task's node or process is lost


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """How a node computes the features of images."""

    open_extractor: Callable[[], FeatureExtractor]  # a function of a module, with its arguments
    cache_folder: Path  # is read where the nodes see it; the driver alone adds to it
    max_pixels: int
    folder: str = ""  # of relative paths
    reference: str = ""  # an image that every node must see


@contextmanager
def features_on_ray(address: str, source: FeatureSource) -> Iterator[BatchRunner]:
    """A BatchRunner for `extract_features`, which ignores its functions and computes the features on a cluster."""
    connect_to_ray(address)
    try:
        # Its functions hold the cache's files, which do not travel: the nodes have their own.
        yield cast(BatchRunner, _Runner(replace(source, folder=str(Path.cwd()))))
    finally:
        ray.shutdown()


class _Runner:
    def __init__(self, source: FeatureSource) -> None:
        self._source = source

    def __call__(self, batches: Iterable[list[ListedImage]], *_: object) -> Generator[list[FeatureFile]]:
        task = ray.remote(_extract).options(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")
        remaining = iter(batches)
        source: Any = None
        in_flight: deque[Any] = deque()
        try:
            while True:
                cpus = int(ray.cluster_resources().get("CPU", 1))
                while len(in_flight) < TASKS_PER_CPU * cpus and (part := list(islice(remaining, BATCHES_PER_TASK))):
                    source = source or ray.put(self._with_reference(part))
                    in_flight.append(task.remote(source, part))
                if not in_flight:
                    return
                yield from ray.get(in_flight[0])
                in_flight.popleft()
        except exceptions.RayTaskError as error:
            raise task_error(error) from error
        except exceptions.RayError as error:
            reason = str(error).splitlines()[0]
            raise ClusterError(f"features were lost with their nodes {RETRIES + 1} times: {reason}") from error

    def _with_reference(self, part: list[list[ListedImage]]) -> FeatureSource:
        first = str(part[0][0].path)
        return replace(self._source, reference=first if Path(first).exists() else "")


def _extract(source: FeatureSource, batches: list[list[ListedImage]]) -> list[list[FeatureFile]]:
    """The task: the features of some batches."""
    if Path(source.folder).is_dir():
        os.chdir(source.folder)
    check_visible(source.reference, socket.gethostname())
    extractor, cache = _opened(source)
    with threadpool_limits(1, user_api="blas"):  # as `read_ahead` does
        return [extract_batch(batch, extractor, cache, source.max_pixels) for batch in batches]


@lru_cache(maxsize=1)
def _opened(source: FeatureSource) -> tuple[FeatureExtractor, FeatureCache]:
    """Kept by the process for its next tasks."""
    extractor = source.open_extractor()
    return extractor, FeatureCache(source.cache_folder, extractor.cache_key).open()
