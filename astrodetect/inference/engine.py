"""The OpenVINO engine: a verified model compiled for this processor, batches of pixels to Outputs."""

import math
import mmap
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import ModelError
from astrodetect.images import ORIENTATIONS, orient
from astrodetect.model_store import store
from astrodetect.model_store.manifest import Manifest, Precision, canary
from astrodetect.model_store.store import VerifiedModel
from astrodetect.records import Outputs, as_probabilities, parse_prior
from astrodetect.settings import settings

# OpenVINO reports every import and conversion through this package if it is installed. Nothing is sent from here.
sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))
CONVERTER = "openvino.tools.ovc"  # imports much, and only training needs it
sys.modules.setdefault(CONVERTER, cast(ModuleType, None))

import openvino as openvino  # noqa: E402, PLC0414

if sys.modules[CONVERTER] is None:
    del sys.modules[CONVERTER]

LATENCY_PRECISIONS = ("int8",)  # 24 MB of weights are held twice, for latency and throughput; the others' 94 MB once
CORES_PER_STREAM = 2  # with one compiled model for both: a compromise between latency and throughput
CORES_FACTOR = (
    2  # of a process among several: connections are not spread evenly, and a busy one takes the others' cores
)
MEASURED_CORES = 2  # up to which a lone pass of a small network on all cores delays what runs beside it
MAX_STREAMS = 8  # each holds the activations of one inference
MAX_BATCH, MAX_BATCH_PIXELS = 16, 2 * 227 * 227  # larger batches cost memory and latency, and gain no throughput
WARM_UP_IMAGES = 4  # batch sizes up to here are warmed up: the first inference of a size takes three times as long
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of processor time in a period, or "max"
# Difference from the canary score of training. Rounding to fewer bits amplifies the differences between processors,
# since a value near the middle of a quantisation step may fall to either side.
CANARY_TOLERANCE = {"f32": 0.01, "bf16": 0.03, "int8": 0.05}
# Output names of the served network. Binary models have one score, of the second class; others one for each class.
SCORE, FEATURES, MAP = "score", "features", "map"
BINARY = 2  # classes
CORE = openvino.Core()  # the only one: with several, a signal may end the process (docs/decisions/serving.md)
UNUSABLE = (RuntimeError, ValueError, LookupError, MemoryError)  # what OpenVINO and NumPy raise for damaged networks


class Engine:
    """A compiled model whose canary score was checked; thread-safe.

    A single image that runs alone gets the latency model, which uses every core. Concurrent calls share the throughput
    model, with one stream for each core where the network is small enough to be held in both forms: an inference over
    several cores waits for the slowest of them, and the process's other work slows one down. Where several processes
    serve on these cores, each has twice its part of them for the throughput model.

    Outputs are means over `views` orientations of each image, by default as many as the manifest says. Without
    `keep_weights` the model's bytes, 94 MB in float32, are released before the network is compiled.
    """

    def __init__(
        self,
        model: VerifiedModel,
        *,
        check: bool = True,
        cores: int | None = None,
        processes: int = 1,
        views: int | None = None,
        keep_weights: bool = True,
    ) -> None:
        self.manifest, self.precision, self._prior_weights = model.manifest, model.precision, model.prior_weights
        self._views = views or self.manifest.views
        cores, size = cores or available_cores(), self.manifest.image.size
        part = min(cores, math.ceil(CORES_FACTOR * cores / processes))
        has_latency_model = self.precision in LATENCY_PRECISIONS
        streams = min(MAX_STREAMS, part if has_latency_model else max(1, part // CORES_PER_STREAM))
        self.batch_size = max(1, min(MAX_BATCH, MAX_BATCH_PIXELS // size**2))
        small = self.batch_size == MAX_BATCH
        self._gains_little = small and cores <= MEASURED_CORES  # from a second core
        # What an int8 network keeps in floating point is as good in bfloat16 (docs/decisions/models.md), and for large
        # images a tenth faster.
        low = self.precision == "bf16" or (self.precision == "int8" and not small and has_bf16())
        floats = "bf16" if low else "f32"
        try:
            self._weights = _as_mapped_file(model.weights)
            network = CORE.read_model(model.xml.decode(), openvino.Tensor(np.frombuffer(self._weights, np.uint8), True))
            if not keep_weights:
                model.weights = b""
            _check_shapes(network, model.manifest)
            throughput = _compile(network, floats, part, streams)
        except UNUSABLE as error:
            raise ModelError(f"model {self.manifest.name}: its network cannot be compiled") from error
        self.streams = max(streams, 2)  # concurrent requests: reading outputs in Python leaves no stream idle
        self._throughput_requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.streams):
            self._throughput_requests.put(throughput.create_infer_request())
        # Compiled when the first image runs alone: until then, and in bulk, it is not needed.
        latency = partial(_compile, network, floats, cores, 1)
        self._compile_latency = latency if has_latency_model else None
        self._latency_request = None if has_latency_model else throughput.create_infer_request()
        self._running, self._lock = 0, threading.Lock()
        if check:
            try:
                self._check()
            except UNUSABLE as error:
                raise ModelError(f"model {self.manifest.name}: its network cannot be run") from error
        self._release_weights()

    @property
    def prior(self) -> str:
        """The factors of the probabilities, where another class balance than the calibration's is assumed."""
        return "" if self._prior_weights is None else " ".join(f"{weight:.6g}" for weight in self._prior_weights)

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        """One inference over (n, size, size, 3)."""
        with self._lock:
            self._running += 1
            alone = self._running == 1 and len(pixels) == 1
        try:
            return self._run_latency(pixels) if alone else self.run_batch(pixels)
        finally:
            with self._lock:
                self._running -= 1

    def _run_latency(self, pixels: NDArray[np.uint8]) -> Outputs:
        with self._lock:
            compile_latency, self._compile_latency = self._compile_latency, None
        if compile_latency:  # the first: it and those that come meanwhile do not wait for it
            threading.Thread(target=self._add_latency_model, args=(compile_latency,), name="compiling").start()
        if self._latency_request is None:
            return self.run_batch(pixels)
        return self._infer(self._latency_request, pixels, self._views)

    def _add_latency_model(self, compile_latency: Callable[[], Any]) -> None:
        request = compile_latency().create_infer_request()
        self._infer(request, canary(self.manifest.image.size)[np.newaxis], 1)  # the first takes three times as long
        self._latency_request = request
        self._release_weights()

    def _release_weights(self) -> None:
        """Takes the weights out of memory: compiled networks have their own form, and seldom read the original."""
        if isinstance(self._weights, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._weights.madvise(mmap.MADV_DONTNEED)

    def run_batch(self, pixels: NDArray[np.uint8]) -> Outputs:
        """`run` by the throughput model, so that the outputs do not depend on what else is running."""
        request = self._throughput_requests.get()
        try:
            return self._infer(request, pixels, self._views)
        finally:
            self._throughput_requests.put(request)

    def run_beside(self, pixels: NDArray[np.uint8]) -> Outputs:
        """`run_all` of a few images while another thread of the caller computes, which a second core is left to."""
        return self.run_batch(pixels) if self._gains_little else self.run_all(pixels)

    def _infer(self, request: Any, pixels: NDArray[np.uint8], views: int) -> Outputs:
        outputs = average_views(lambda view: _outputs(request.infer({0: view}, share_outputs=False)), pixels, views)
        if not np.isfinite(outputs.probabilities).all():  # its weights overflow with some images
            raise ModelError(f"model {self.manifest.name}: its network gives a score that is no number: train it again")
        if self._prior_weights is None:
            return outputs
        weighted = outputs.probabilities * self._prior_weights
        return replace(outputs, probabilities=weighted / weighted.sum(axis=1, keepdims=True))

    def canary(self) -> float:
        """This network's score, on this processor, for the canary image: the probability of the second class.

        It identifies the network: a single view, without another prior.
        """
        request = self._throughput_requests.get()
        try:
            tensors = request.infer({0: canary(self.manifest.image.size)[np.newaxis]}, share_outputs=False)
            return float(_outputs(tensors).scores[0])
        finally:
            self._throughput_requests.put(request)

    def run_all(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Inference over any number of images, in batches."""
        size = self.batch_size
        return Outputs.concatenate([self.run(pixels[i : i + size]) for i in range(0, len(pixels), size)])

    def _check(self) -> None:
        expected, score = self.manifest.expected_canary_score(self.precision), self.canary()
        if not abs(score - expected) <= CANARY_TOLERANCE[self.precision]:
            difference = f"scores its canary {score:.3f} in {self.precision}, not {expected:.3f}"
            remedy = "train it again" if self.precision == "f32" else "set ASTRODETECT_PRECISION=f32"
            raise ModelError(f"model {self.manifest.name} {difference}: {remedy}")
        image = canary(self.manifest.image.size)
        for count in range(1, min(self.batch_size, WARM_UP_IMAGES) + 1):
            self.run_batch(np.stack([image] * count))


def average_views(run: Callable[[NDArray[np.uint8]], Outputs], pixels: NDArray[np.uint8], views: int) -> Outputs:
    """The mean of the outputs over the first `views` orientations, with each activation map transformed back."""
    outputs = []
    for view in range(views):
        oriented = run(orient(pixels, view))
        maps = np.rot90(oriented.maps, -view, axes=(1, 2))
        if view >= ORIENTATIONS // 2:
            maps = maps[:, :, ::-1]
        outputs.append(Outputs(oriented.probabilities, oriented.features, maps))
    if views == 1:
        return outputs[0]
    return Outputs(
        np.mean([output.probabilities for output in outputs], axis=0),
        np.mean([output.features for output in outputs], axis=0),
        np.mean([output.maps for output in outputs], axis=0),
    )


def has_bf16() -> bool:
    """Whether this processor computes in bfloat16 natively; others would only emulate it."""
    return "BF16" in CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def load_verified(
    folder: Path,
    name: str,
    precision: Precision | Literal["auto"] = "auto",
    *,
    prior: Mapping[str, float] | None = None,
) -> VerifiedModel:
    """`store.load` for what this processor can compute, at the class balance of `prior`.

    Without one it is that of the settings, if the model has the classes that they name.
    """
    model = store.load(folder, name, precision, has_bf16=has_bf16)
    if prior is None:
        expected = parse_prior(settings().prior)
        prior = expected if expected.keys() <= {*model.manifest.classes} else {}
    return replace(model, prior_weights=model.manifest.prior_weights(prior)) if prior else model


def save_network(network: Any, xml: Path) -> None:
    """Write a network as `xml` and the `.bin` beside it."""
    try:
        openvino.save_model(network, xml, compress_to_fp16=False)
    except RuntimeError as error:  # also of a full disk, without a word of it
        raise ModelError(f"cannot write {xml}, is the disk full? {str(error).strip().splitlines()[-1]}") from error


def _check_shapes(network: Any, manifest: Manifest) -> None:
    """ModelError where the manifest has another size of images, or other classes, than the network.

    Of two classes one output may suffice.
    """
    size = manifest.image.size
    if not network.input(0).get_partial_shape().compatible(openvino.PartialShape([-1, size, size, 3])):
        raise ModelError(f"model {manifest.name}: its network takes images of another size than {size} pixels")
    outputs = network.output(SCORE).get_partial_shape()[1].get_length()
    count = len(manifest.classes)
    if outputs != count and (outputs, count) != (1, BINARY):
        classes = ", ".join(manifest.classes)
        raise ModelError(
            f"model {manifest.name}: its network has {outputs} outputs, its manifest the classes {classes}"
        )


def _as_mapped_file(weights: bytes) -> bytearray | mmap.mmap:
    """The bytes as a mapping of an unnamed file, which nobody else can change; in memory where there is no space.

    OpenVINO does not copy them, and keeps no reference.
    """
    try:
        with tempfile.TemporaryFile() as file:
            file.write(weights)
            file.flush()
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError):  # ValueError: there are none
        return bytearray(weights)  # OpenVINO wants to be able to write


def _compile(network: Any, floats: str, cores: int, streams: int) -> Any:
    options = {
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": cores,
        "ENABLE_CPU_PINNING": False,  # threads may move away from a core that the process's other work occupies
        "ENABLE_HYPER_THREADING": True,  # two processors of a virtual machine may be one core
        "INFERENCE_PRECISION_HINT": floats,  # explicit: the default is bfloat16 wherever the processor has it
    }
    return CORE.compile_model(network, "CPU", options)


def _outputs(tensors: Any) -> Outputs:
    return Outputs(as_probabilities(tensors[SCORE]), tensors[FEATURES], tensors[MAP])


def available_cores(quota_file: Path = CPU_QUOTA) -> int:
    """Processors that this process may run on, and no more than a container's quota of processor time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return cores if quota == "max" else min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such control group
        return cores
