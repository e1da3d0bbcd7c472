"""The compiled network: batches of pixels to Outputs."""

import os
import queue
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import ModelError
from astrodetect.inference.openvino_runtime import openvino
from astrodetect.model_store.store import Precision, VerifiedModel, canary
from astrodetect.records import Outputs, as_probabilities

SMALL = ("int8",)  # 24 MB of weights; the others' 94 MB are held but once
CORES_A_STREAM = 2  # of those: a compromise between a lone image and many
MOST_STREAMS = 8  # each holds the memory of a pass
MOST_IMAGES, MOST_PIXELS = 16, 2 * 227 * 227  # in a batch: past these nothing is gained but memory and waiting
WARM_UP_IMAGES = 4  # batches up to here are run once at the start: the first of its size takes three times as long
# Between the score that the training measured and this processor's: rounding to fewer bits multiplies what little
# processors differ by, since a value close to the middle of a step may fall to either side of it.
CANARY_TOLERANCE = {"f32": 0.01, "bf16": 0.03, "int8": 0.05}
# The outputs' names, in the network that serves. Two classes have one score, of the second; more have one each.
SCORE, FEATURES, MAP = "score", "features", "map"


class Engine:
    """A verified model, compiled for this processor and asked whether it is itself; safe to call from many threads.

    An image that is alone gets every core at once. Many calls get a core each where the network is small enough to be
    held in both forms: a pass over several cores waits for the slowest of them, and what else the process does makes
    one the slowest.
    """

    def __init__(self, bundle: VerifiedModel, *, check: bool = True) -> None:
        self.manifest, self.precision = bundle.manifest, bundle.precision
        cores, size = _cores(), self.manifest.image.size
        streams = min(MOST_STREAMS, cores if self.precision in SMALL else max(1, cores // CORES_A_STREAM))
        self.batch = max(1, min(MOST_IMAGES, MOST_PIXELS // size**2))
        core = openvino.Core()
        try:
            network = core.read_model(bundle.xml, bundle.weights)
            many = _compiled(core, network, self.precision, cores, streams)
            lone = _compiled(core, network, self.precision, cores, 1) if self.precision in SMALL else many
        except RuntimeError as error:
            raise ModelError(f"model {self.manifest.name}: its network cannot be compiled") from error
        self.streams = max(streams, 2)  # calls at once: while one's outputs are read, no stream waits for Python
        self._lone = lone.create_infer_request()
        self._many: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.streams):
            self._many.put(many.create_infer_request())
        self._running, self._guard = 0, threading.Lock()
        if check:
            self._check()

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        """One pass over (n, size, size, 3)."""
        with self._guard:
            self._running += 1
            alone = self._running == 1 and len(pixels) == 1
        try:
            return self._alone(pixels) if alone else self._among_many(pixels)
        finally:
            with self._guard:
                self._running -= 1

    def _alone(self, pixels: NDArray[np.uint8]) -> Outputs:
        return _outputs(self._lone.infer({0: pixels}, share_outputs=False))

    def _among_many(self, pixels: NDArray[np.uint8]) -> Outputs:
        request = self._many.get()
        try:
            return _outputs(request.infer({0: pixels}, share_outputs=False))
        finally:
            self._many.put(request)

    def canary(self) -> float:
        """What this network, on this processor, says of the canary: the probability of the second class."""
        return float(self.run(canary(self.manifest.image.size)[np.newaxis]).scores[0])

    def run_all(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Passes over as many images as there are."""
        return Outputs.joined([self.run(pixels[i : i + self.batch]) for i in range(0, len(pixels), self.batch)])

    def _check(self) -> None:
        expected, found = self.manifest.canary_of(self.precision), self.canary()
        if not abs(found - expected) <= CANARY_TOLERANCE[self.precision]:
            said = f"scores its canary {found:.3f} in {self.precision}, not {expected:.3f}"
            way_out = "train it again" if self.precision == "f32" else "set ASTRODETECT_PRECISION=f32"
            raise ModelError(f"model {self.manifest.name} {said}: {way_out}")
        image = canary(self.manifest.image.size)
        for count in range(1, min(self.batch, WARM_UP_IMAGES) + 1):
            self._among_many(np.stack([image] * count))


def _compiled(core: Any, network: Any, precision: Precision, cores: int, streams: int) -> Any:
    options = {
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": cores,
        "ENABLE_CPU_PINNING": False,  # a pass may move where another thread of the process has taken its core
        "ENABLE_HYPER_THREADING": True,  # two of a virtual machine's processors may be one core
        # Named, not left to the default: bfloat16 would be taken wherever the processor has it. What of an int8
        # network is left in float was left so for its exactness.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    return core.compile_model(network, "CPU", options)


def _outputs(found: Any) -> Outputs:
    return Outputs(as_probabilities(found[SCORE]), found[FEATURES], found[MAP])


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
