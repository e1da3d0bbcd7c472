"""Keras, imported without TensorFlow's start-up messages, and the devices it computes on.

Modules of `learning` import `keras` from here, so that this import is always the first.
"""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from astrodetect.records import Floats

__all__ = ["accelerators", "data_parallel", "dtype_policy", "keras", "pad_to_devices", "raw_ops"]


@contextlib.contextmanager
def _native_stderr_suppressed() -> Iterator[None]:
    """Hold back what TensorFlow's C++ code writes to stderr while loading; show it only if loading fails."""
    with tempfile.TemporaryFile() as captured:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException:
            captured.seek(0)
            os.write(terminal, captured.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow's default only where the processor has VNNI
with _native_stderr_suppressed():
    import keras

    keras.ops.convert_to_numpy(keras.ops.zeros(1))  # initialises the device, of which TensorFlow logs too
raw_ops: Any = None  # TensorFlow's kernels, where it is Keras's backend
if keras.backend.backend() == "tensorflow":
    import tensorflow

    raw_ops = tensorflow.raw_ops
logging.getLogger("absl").setLevel(logging.ERROR)  # warns of the `.h5` format, which users ask for


def accelerators() -> list[str]:
    """The devices other than the CPU."""
    return [device for device in keras.distribution.list_devices() if not device.lower().startswith("cpu")]


@contextlib.contextmanager
def data_parallel(devices: list[str]) -> Iterator[bool]:
    """Train networks built within on all devices, each with a share of every batch; yields whether it is active.

    Of Keras's backends only JAX can.
    """
    if len(devices) < 2 or keras.backend.backend() != "jax":
        yield False
        return
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    try:
        yield True
    finally:
        keras.distribution.set_distribution(None)


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Set Keras's dtype policy for layers created within."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


def pad_to_devices(rows: Floats) -> Floats:
    """Repeat the last row until the batch divides evenly among the devices."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return rows
    missing = -len(rows) % int(distribution.device_mesh.devices.size)
    return np.concatenate([rows, *([rows[-1:]] * missing)])
