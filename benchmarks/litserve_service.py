"""A peer of `benchmarks.serving`: the same network behind LitServe, which batches requests, as written in a day.

A worker runs the published network with OpenVINO, in batches of what arrives within two milliseconds. The rows of a
batch are inserted by one statement, and committed before their answers. The settings were tuned for it: see
docs/benchmarks.md. Run it as `python -m benchmarks.litserve_service --port 8000` with MODEL, the .xml, and
DATABASE_URL.
"""

import argparse
import io
import os
from typing import Any, TypeAlias

import litserve
import numpy as np
import openvino
from fastapi import Request
from numpy.typing import NDArray
from PIL import Image

from benchmarks import peer_rows

MAX_BATCH, BATCH_TIMEOUT_S = 32, 0.002

NamedPixels: TypeAlias = tuple[str, NDArray[np.uint8]]


class Detector(litserve.LitAPI):  # type: ignore[misc]  # LitServe need not be installed
    """Scores batches of images and logs them."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - always the CPU
        """A network and a connection for as long as the worker runs."""
        network = openvino.Core().compile_model(os.environ["MODEL"], "CPU", {"NUM_STREAMS": 1})  # on all cores
        self.size = network.input().get_partial_shape()[1].get_length()
        self.request = network.create_infer_request()
        self.connection = peer_rows.connect(os.environ["DATABASE_URL"])

    def decode_request(self, request: Request) -> NamedPixels:
        """The name and the pixels of the form's file: LitServe has read the form."""
        file: Any = request["file"]
        image = Image.open(io.BytesIO(file.file.read())).convert("RGB").resize((self.size, self.size))
        return file.filename, np.asarray(image)

    def batch(self, inputs: list[NamedPixels]) -> tuple[list[str], NDArray[np.uint8]]:
        """The names, and the pixels as one array."""
        return [name for name, _ in inputs], np.stack([pixels for _, pixels in inputs])

    def predict(self, batch: tuple[list[str], NDArray[np.uint8]]) -> list[dict[str, Any]]:
        """One pass of the network, and one commit."""
        names, pixels = batch
        scores = self.request.infer({0: pixels})["score"][:, 0].tolist()
        return peer_rows.record(self.connection, names, scores)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """An answer for each image."""
        return output


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.litserve_service", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    api = Detector(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S, api_path="/detect")
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    port = parser.parse_args().port
    server.run("127.0.0.1", port, num_api_servers=1, generate_client_file=False, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
