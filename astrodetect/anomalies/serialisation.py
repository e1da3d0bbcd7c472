"""Fitted detectors as a file of plain arrays (.npz), read without pickle and with every size checked."""

import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import IO, Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from astrodetect.errors import ModelError
from astrodetect.records import Floats

MAX_BYTES = 256_000_000  # of all arrays; an autoencoder of 2048 features has 23 MB, 20,000 images 3 MB
MAX_ARRAYS = 1_000
METADATA = "said"  # the stored name of the metadata: JSON as bytes
DTYPES = ("f4", "f8", "i4", "u1")
# What zipfile, NumPy and json raise on damaged data.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError, ValueError)
REMEDY = "fit them again with python -m astrodetect anomalies"

Arrays = dict[str, NDArray[Any]]


def flatten(value: Any, name: str) -> Arrays:
    """The arrays of a dataclass, by dotted field names; fields are arrays, tuples or dataclasses.

    A field's name is the name in the file: renaming it makes earlier files unreadable.
    """
    if is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, tuple):
        parts = {str(index): part for index, part in enumerate(value)}
    else:
        return {name: np.asarray(value)}
    arrays: Arrays = {}
    for part_name, part in parts.items():
        arrays |= flatten(part, f"{name}.{part_name}")
    return arrays


def write_arrays(file: IO[bytes], metadata: Mapping[str, Any], arrays: Arrays) -> None:
    """Write an .npz; equal arrays give equal bytes."""
    encoded = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    np.savez(file, allow_pickle=False, **{METADATA: encoded}, **arrays)


def unusable_error(reason: str) -> ModelError:
    """The error for a file of detectors that cannot be used, with the remedy."""
    return ModelError(f"the detectors of this model cannot be used ({reason}): {REMEDY}")


@dataclass(frozen=True, slots=True)
class StoredArrays:
    """Arrays by name as read from a file; each access checks dtype, shape and values."""

    metadata: Mapping[str, Any]
    arrays: Arrays
    prefix: str = ""

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Read what `write_arrays` wrote; anything else is a ModelError."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                entries = archive.infolist()
                if len(entries) > MAX_ARRAYS or sum(entry.file_size for entry in entries) > MAX_BYTES:
                    raise unusable_error(f"more than {MAX_BYTES:,} bytes")
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                    raise unusable_error("compressed arrays")  # zipfile unpacks more than an entry declares
                arrays = {entry.filename.removesuffix(".npy"): _read_array(archive.read(entry)) for entry in entries}
            metadata = json.loads(arrays.pop(METADATA).tobytes())
        except UNREADABLE as error:
            raise unusable_error("no file of detectors, or a damaged one") from error
        if not isinstance(metadata, dict):
            raise unusable_error("its metadata is missing")
        return cls(metadata, arrays)

    def section(self, name: str) -> "StoredArrays":
        """The arrays whose names start with `name` and a dot."""
        return StoredArrays(self.metadata, self.arrays, f"{self.prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        return f"{self.prefix}{name}" in self.arrays

    def floats(self, name: str, *shape: int | None) -> Floats:
        """A finite float32 array of this shape; None stands for any length but 0."""
        return self._finite(name, np.float32, shape)

    def doubles(self, name: str, *shape: int | None) -> NDArray[np.float64]:
        """A finite float64 array of this shape."""
        return self._finite(name, np.float64, shape)

    def scalar(self, name: str) -> float:
        """A finite float64 scalar."""
        return float(self.doubles(name))

    def indices(self, name: str, *shape: int | None, below: int) -> NDArray[np.int32]:
        """An int32 array of indices from 0 to `below` - 1."""
        array = self._checked(name, np.int32, shape)
        if array.min() < 0 or array.max() >= below:
            raise unusable_error(f"{self.prefix}{name} points outside")
        return array

    def _finite(self, name: str, dtype: type[Any], shape: tuple[int | None, ...]) -> NDArray[Any]:
        array = self._checked(name, dtype, shape)
        if not np.isfinite(array).all():
            raise unusable_error(f"{self.prefix}{name} is not finite")
        return array

    def _checked(self, name: str, dtype: type[Any], shape: tuple[int | None, ...]) -> NDArray[Any]:
        array = self.arrays.get(f"{self.prefix}{name}")
        if array is None:
            raise unusable_error(f"{self.prefix}{name} is missing")
        fits = len(shape) == array.ndim and all(
            actual > 0 and expected in {None, actual} for expected, actual in zip(shape, array.shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            raise unusable_error(f"{self.prefix}{name} has another shape or dtype")
        return array


def _read_array(content: bytes) -> NDArray[Any]:
    """An array whose header matches its length: NumPy alone would allocate whatever the header claims."""
    file = io.BytesIO(content)
    if npy.read_magic(file) != (1, 0):
        raise ValueError("another version of the .npy format")
    shape, fortran_order, dtype = npy.read_array_header_1_0(file)
    if dtype.str[1:] not in DTYPES or dtype.str[0] == ">" or fortran_order:
        raise ValueError("an unsupported dtype or memory order")
    if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError("the length does not match the header")
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)
