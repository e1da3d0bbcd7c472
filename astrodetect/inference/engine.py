"""The compiled network: batches of pixels to Outputs."""

import queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.bundle import Bundle, canary
from astrodetect.errors import ModelError
from astrodetect.inference import openvino
from astrodetect.records import Outputs

REQUESTS = 2  # passes at a time: each holds the memory of one, and more would share the same cores
CANARY_TOLERANCE = 0.01  # between this processor's float32 and the one that trained
SCORE, FEATURES, MAP = "score", "features", "map"  # the outputs' names, in the network that serves


class Engine:
    """A verified model, compiled for this processor and asked whether it is itself; safe to call from many threads."""

    def __init__(self, bundle: Bundle) -> None:
        self.manifest = bundle.manifest
        core = openvino.Core()
        try:
            network = core.read_model(bundle.xml, bundle.weights)
            # Named, not left to the default: bfloat16 would change scores by up to 0.01 where the processor has it.
            precision = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            self._network = core.compile_model(network, "CPU", precision)
        except RuntimeError as error:
            raise ModelError(f"model {self.manifest.name}: its network cannot be compiled") from error
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(REQUESTS):
            self._requests.put(self._network.create_infer_request())
        size = self.manifest.image.size
        score = float(self.run(canary(size)[np.newaxis]).scores[0])
        if not abs(score - self.manifest.canary_score) <= CANARY_TOLERANCE:
            said = f"scores its canary {score:.3f}, not {self.manifest.canary_score:.3f}"
            raise ModelError(f"model {self.manifest.name} {said}: train it again")

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        """One pass over (n, size, size, 3)."""
        request = self._requests.get()
        try:
            found = request.infer({0: pixels}, share_outputs=False)
        finally:
            self._requests.put(request)
        return Outputs(scores=found[SCORE][:, 0], features=found[FEATURES], maps=found[MAP])
