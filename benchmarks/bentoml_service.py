"""A peer of `benchmarks.serving`: the same network behind BentoML, whose adaptive batching groups the requests.

A worker runs the published network with OpenVINO on all cores. The rows of a batch are inserted by one statement, and
committed before their answers, each a list of one. They lack the names of the files: for those BentoML would write each
image to disk, which takes it a tenth more processor time. The settings were tuned for it: see docs/benchmarks.md. Run
it as `python -m benchmarks.bentoml_service --port 8000` with MODEL, the .xml, and DATABASE_URL.
"""

import argparse
import os
import sys
from typing import Any

import bentoml
import numpy as np
import openvino
from PIL import Image

from benchmarks import peer_rows

MAX_BATCH = 32
MAX_LATENCY_MS = 10_000  # BentoML refuses requests that it expects to take longer


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Detector:
    """Scores batches of images and logs them."""

    def __init__(self) -> None:
        network = openvino.Core().compile_model(os.environ["MODEL"], "CPU", {"NUM_STREAMS": 1})
        self.size = network.input().get_partial_shape()[1].get_length()
        self.request = network.create_infer_request()
        self.connection = peer_rows.connect(os.environ["DATABASE_URL"])

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=MAX_LATENCY_MS)  # type: ignore[untyped-decorator]
    def detect(self, file: list[Image.Image]) -> list[dict[str, Any]]:
        """One pass of the network, and one commit; the parameter is the field of the form."""
        pixels = np.stack([np.asarray(image.convert("RGB").resize((self.size, self.size))) for image in file])
        scores = self.request.infer({0: pixels})["score"][:, 0].tolist()
        return peer_rows.record(self.connection, [None] * len(file), scores)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bentoml_service", description=__doc__)
    parser.add_argument("--port", required=True)
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    command = "-m", "bentoml", "serve", "benchmarks.bentoml_service:Detector", "--host", "127.0.0.1"
    os.execv(sys.executable, [sys.executable, *command, "--port", parser.parse_args().port])  # noqa: S606 - no shell


if __name__ == "__main__":
    main()
