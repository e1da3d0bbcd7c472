"""Measured peak FLOP/s of the CPU: large convolutions in OpenVINO."""

import time
from typing import Any

import numpy as np

from astrodetect.inference.engine import openvino

IMAGES, CHANNELS, SIDE, LAYERS = 16, 256, 28, 4  # a shape of ResNet50's, with nothing in between
OPERATIONS = 2 * IMAGES * SIDE * SIDE * CHANNELS * CHANNELS * 9 * LAYERS
INT8_LEVELS = 256


def measure_peak(precision: str, seconds: float = 1.0) -> float:
    """Operations per second of the fastest pass; a multiply-add counts as two."""
    core = openvino.Core()
    hint = "bf16" if precision == "bf16" else "f32"
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    request = core.compile_model(network(quantised=precision == "int8"), "CPU", options).create_infer_request()
    request.infer()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        request.infer()
        best = min(best, time.perf_counter() - began)
    return OPERATIONS / best


def network(*, quantised: bool) -> Any:
    """A chain of 3×3 convolutions with ReLU; int8 if `quantised`."""
    from openvino import opset13 as ops  # noqa: PLC0415 - after astrodetect.inference, which keeps it from calling home

    random = np.random.default_rng(0)
    inputs = ops.parameter([IMAGES, CHANNELS, SIDE, SIDE], np.float32)
    activation: Any = inputs
    for _ in range(LAYERS):
        kernel = ops.constant(random.normal(0, 0.02, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32))
        if quantised:
            activation = ops.fake_quantize(activation, *(np.float32(edge) for edge in (0, 2.55, 0, 2.55)), INT8_LEVELS)
            kernel = ops.fake_quantize(kernel, *(np.float32(edge) for edge in (-0.1, 0.1, -0.1, 0.1)), INT8_LEVELS - 1)
        activation = ops.relu(ops.convolution(activation, kernel, [1, 1], [1, 1], [1, 1], [1, 1]))
    return openvino.Model([activation], [inputs])
