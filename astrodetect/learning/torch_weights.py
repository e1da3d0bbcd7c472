"""Reading a PyTorch weights file of the legacy format (before the zip one) with NumPy, without PyTorch.

The file is a sequence of pickles (magic number, protocol, system, tensors, storage keys), then the values of each
storage. Its SHA-256 is checked first, and the unpickler knows nothing but what such a file needs.
"""

import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import ModelError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
STORAGE_TYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Storage:
    """The values of one or more tensors, which follow the pickles."""

    key: str
    dtype: str


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage; counted in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, values: NDArray[Any]) -> NDArray[Any]:
        """The tensor as a view of its storage's values; ValueError if it is larger than they are."""
        size = values.itemsize
        strides = [stride * size for stride in self.strides]
        return np.ndarray(self.shape, values.dtype, values, self.offset * size, strides)  # checks the bounds


def read_torch_weights(path: Path, sha256: str) -> Tensors:
    """Tensor name → array; ModelError if the file is missing or not the expected one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ModelError(f"{path} is not the published file: its SHA-256 differs; install its package again")
    try:
        return _read(io.BytesIO(data))
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _read(file: BinaryIO) -> Tensors:
    if _RestrictedUnpickler(file).load() != MAGIC_NUMBER:
        raise pickle.UnpicklingError("no PyTorch file of the legacy format")
    _protocol, _system = (_RestrictedUnpickler(file).load() for _ in range(2))
    tensors: dict[str, _Tensor] = _RestrictedUnpickler(file).load()
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
    values = {}
    for key in _RestrictedUnpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        values[key] = np.frombuffer(file.read(count * np.dtype(dtypes[key]).itemsize), dtypes[key], count)
    return {name: tensor.view(values[tensor.storage.key]) for name, tensor in tensors.items()}


class _RestrictedUnpickler(pickle.Unpickler):
    """Builds dictionaries and `_Tensor`, and refuses every other class or function."""

    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        raise pickle.UnpicklingError(f"it contains {module}.{name}, which weights do not need")

    def persistent_load(self, pid: tuple[Any, ...]) -> _Storage:
        _kind, dtype, key, *_ = pid
        return _Storage(key, dtype)


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)
