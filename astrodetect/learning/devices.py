"""What Keras computes on: this machine's processor, or accelerators, each of which takes a share of every batch."""

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np

from astrodetect.records import Floats


def accelerators() -> list[str]:
    """What is faster than this machine's processor."""
    return [device for device in keras.distribution.list_devices() if not device.lower().startswith("cpu")]


@contextlib.contextmanager
def shared(devices: list[str], say: Callable[[str], None]) -> Iterator[bool]:
    """Whether networks made within are trained on several devices at once, where Keras's backend can do that."""
    if len(devices) < 2 or keras.backend.backend() != "jax":
        yield False
        return
    say(f"learning on {len(devices)} devices at once")
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    try:
        yield True
    finally:
        keras.distribution.set_distribution(None)


def filled(rows: Floats) -> Floats:
    """The last row repeated until every device gets as many as the others."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return rows
    missing = -len(rows) % int(distribution.device_mesh.devices.size)
    return np.concatenate([rows, *([rows[-1:]] * missing)])
