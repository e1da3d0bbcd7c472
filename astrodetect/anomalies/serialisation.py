"""Fitted detectors as a file of plain arrays (.npz): nothing in it is run, and nothing is larger than it says."""

import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from astrodetect.errors import ModelError
from astrodetect.records import Floats

MAX_BYTES = 256_000_000  # of all arrays; an autoencoder of 2048 numbers has 23 MB, 20,000 images 3 MB
MAX_ARRAYS = 1_000
METADATA = "said"  # what is not an array, as JSON in bytes
DTYPES = ("f4", "f8", "i4", "u1")
# What zipfile, NumPy and json raise of other bytes.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError, ValueError)
REMEDY = "fit them again with python -m astrodetect anomalies"

Arrays = dict[str, NDArray[Any]]


def flatten(thing: Any, name: str) -> Arrays:
    """The fields of a dataclass by their dotted names: arrays, and tuples and dataclasses of such."""
    if is_dataclass(thing):
        parts = {field.name: getattr(thing, field.name) for field in fields(thing)}
    elif isinstance(thing, tuple):
        parts = {str(number): part for number, part in enumerate(thing)}
    else:
        return {name: np.asarray(thing)}
    found: Arrays = {}
    for part, value in parts.items():
        found |= flatten(value, f"{name}.{part}")
    return found


def write_arrays(path: Path, said: Mapping[str, Any], arrays: Arrays) -> None:
    """The same arrays give the same bytes."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **{METADATA: np.frombuffer(json.dumps(said).encode(), np.uint8)}, **arrays)


def unusable_error(why: str) -> ModelError:
    """What is wrong with a file of detectors, and what to do."""
    return ModelError(f"the detectors of this model cannot be used ({why}): {REMEDY}")


@dataclass(frozen=True, slots=True)
class StoredArrays:
    """What was read: arrays by name, each checked as it is taken."""

    said: Mapping[str, Any]
    arrays: Arrays
    prefix: str = ""

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Anything that `write` did not make is a ModelError."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                entries = archive.infolist()
                if len(entries) > MAX_ARRAYS or sum(entry.file_size for entry in entries) > MAX_BYTES:
                    raise unusable_error(f"more than {MAX_BYTES:,} bytes")
                arrays = {entry.filename.removesuffix(".npy"): _array(archive.read(entry)) for entry in entries}
            said = json.loads(arrays.pop(METADATA).tobytes())
        except UNREADABLE as error:
            raise unusable_error("no file of detectors, or a damaged one") from error
        if not isinstance(said, dict):
            raise unusable_error("it does not say what it holds")
        return cls(said, arrays)

    def part(self, name: str) -> "StoredArrays":
        """Those whose names begin so."""
        return StoredArrays(self.said, self.arrays, f"{self.prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        return f"{self.prefix}{name}" in self.arrays

    def floats(self, name: str, *shape: int | None) -> Floats:
        """Finite numbers in single precision, of this shape; None is any length but 0."""
        return self._numbers(name, np.float32, shape)

    def doubles(self, name: str, *shape: int | None) -> NDArray[np.float64]:
        """In double precision."""
        return self._numbers(name, np.float64, shape)

    def number(self, name: str) -> float:
        """A single one, in double precision."""
        return float(self.doubles(name))

    def places(self, name: str, *shape: int | None, below: int) -> NDArray[np.int32]:
        """Whole numbers from 0, all smaller than `below`."""
        array = self._taken(name, np.int32, shape)
        if array.min() < 0 or array.max() >= below:
            raise unusable_error(f"{self.prefix}{name} points outside")
        return array

    def _numbers(self, name: str, kind: type[Any], shape: tuple[int | None, ...]) -> NDArray[Any]:
        array = self._taken(name, kind, shape)
        if not np.isfinite(array).all():
            raise unusable_error(f"{self.prefix}{name} is not all numbers")
        return array

    def _taken(self, name: str, kind: type[Any], shape: tuple[int | None, ...]) -> NDArray[Any]:
        array = self.arrays.get(f"{self.prefix}{name}")
        if array is None:
            raise unusable_error(f"it has no {self.prefix}{name}")
        fits = len(shape) == array.ndim and all(
            have > 0 and wanted in {None, have} for wanted, have in zip(shape, array.shape, strict=True)
        )
        if array.dtype != kind or not fits:
            raise unusable_error(f"{self.prefix}{name} is of another size or kind")
        return array


def _array(content: bytes) -> NDArray[Any]:
    """An array whose header says no more than there is: NumPy alone would make room for whatever it claims."""
    file = io.BytesIO(content)
    if npy.read_magic(file) != (1, 0):
        raise ValueError("another format of arrays")
    shape, backwards, kind = npy.read_array_header_1_0(file)
    if kind.str[1:] not in DTYPES or kind.str[0] == ">" or backwards:
        raise ValueError("an array of other things than numbers")
    if math.prod(shape) * kind.itemsize != len(content) - file.tell():
        raise ValueError("an array of another length than it says")
    return np.frombuffer(content, kind, offset=file.tell()).reshape(shape)
