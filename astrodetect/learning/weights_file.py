"""Keras `.h5` files of weights, which may come from anyone: only arrays that lie in the file itself are read."""

import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

from astrodetect.errors import ModelError

MODEL_WEIGHTS = "model_weights"  # of whole models; files of weights alone begin with the layers
MAX_NAMES = 10_000
MAX_CHUNK_BYTES = 2**20  # of a compressed array, unless the array is as large
PROBE_S = 60.0  # to read the names; HDF5 reads some damaged files without end, and crashes with others
PACKAGE_FOLDER = Path(__file__).parents[2]
LOCAL_LAYOUTS = {h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED}


@contextmanager
def open_weights(path: Path) -> Iterator[Mapping[str, Sequence[h5py.Dataset]]]:
    """The arrays by layer, not read yet; the network configuration in the file is never deserialised.

    Another process looks at the file first, so that HDF5 may fail there.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        program = "import sys; from astrodetect.learning import weights_file as w; w.probe(sys.argv[1])"
        probe = subprocess.run(
            [sys.executable, "-c", program, path.absolute()], cwd=PACKAGE_FOLDER, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{path} is damaged: HDF5 does not finish reading it") from error
    if probe.returncode:
        raise ModelError(f"{path} is damaged: HDF5 cannot read it")
    try:
        with h5py.File(path) as file:
            try:
                weights = _arrays(file)
            except ModelError as error:
                raise ModelError(f"{path}: {error}") from error
            yield {layer: arrays for layer, arrays in weights.items() if arrays}
    except (OSError, KeyError, AttributeError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise ModelError(f"{path} is not a Keras .h5 file of weights by layer") from error


def probe(path: str) -> None:
    """Reads what `open_weights` does; errors are left to it."""
    with suppress(Exception), h5py.File(path) as file:
        _arrays(file)


def _arrays(file: h5py.File) -> dict[str, list[h5py.Dataset]]:
    root = _member(file, MODEL_WEIGHTS) if MODEL_WEIGHTS in file.keys() else file  # noqa: SIM118 - follows no link
    groups = {layer: _member(root, layer) for layer in _names(root, "layer_names")}
    return {layer: [_array(group, name) for name in _names(group, "weight_names")] for layer, group in groups.items()}


def _names(group: h5py.Group, attribute: str) -> list[str]:
    stored = group.attrs.get_id(attribute)
    if math.prod(stored.shape) > MAX_NAMES:
        raise ModelError(f"{attribute} has more than {MAX_NAMES:,} names")
    return [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs[attribute]]


def _member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    for part in name.strip("/").split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ModelError(f"{name} is a link, which may lead to another file")
        group = group[part]
    return group


def _array(group: h5py.Group, name: str) -> h5py.Dataset:
    array = _member(group, name)
    if not isinstance(array, h5py.Dataset) or array.dtype.kind not in "fiu":
        raise ModelError(f"{name} is no array of numbers")
    if array.id.get_create_plist().get_layout() not in LOCAL_LAYOUTS or array.external:
        raise ModelError(f"the values of {name} are not in this file")
    if array.chunks and math.prod(array.chunks) * array.dtype.itemsize > max(MAX_CHUNK_BYTES, 2 * array.nbytes):
        raise ModelError(f"{name} is stored in parts that are larger than itself")
    return array
