"""Galaxy10 DECaLS: 17,736 galaxies in ten classes, unpacked from one HDF5 file into class folders."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.datasets.sources.http import HttpClient
from astrodetect.datasets.sources.manifest import CollectionManifest, ManifestEntry
from astrodetect.errors import DataError
from astrodetect.extras import require_extra
from astrodetect.progress import ProgressBar
from astrodetect.records import Pixels
from astrodetect.settings import Settings

SOURCE = "galaxy10"
LICENSE = "MIT; images of the DESI Legacy Imaging Surveys, labels of Galaxy Zoo"
FILE = "Galaxy10_DECals.h5"
SHA256 = "19aefc477c41bb7f77ff07599a6b82a038dc042f889a111b0d4d98bb755c1571"
MAX_FILE_BYTES = 4_000_000_000
MAX_BLOCK_BYTES = 256_000_000  # of pixels in memory
CLASSES = (
    "Disturbed",
    "Merging",
    "Round_Smooth",
    "In-between_Round_Smooth",
    "Cigar_Shaped_Smooth",
    "Barred_Spiral",
    "Unbarred_Tight_Spiral",
    "Unbarred_Loose_Spiral",
    "Edge-on_without_Bulge",
    "Edge-on_with_Bulge",
)


def download_galaxy10(folder: Path, settings: Settings) -> Path:
    """Path of the HDF5 file, downloaded into the folder if missing."""
    path = folder / FILE
    if not path.exists():
        HttpClient(settings).download(settings.galaxy10_url, path, sha256=SHA256, max_bytes=MAX_FILE_BYTES)
    return path


def unpack(manifest: CollectionManifest, path: Path, *, limit: int | None) -> None:
    """Save the first `limit` images of each class as PNG (lossless) in class folders."""
    entries = _read_entries(path)
    selected, counts = [], Counter[str]()
    for index, entry in enumerate(entries):
        counts[entry.label] += 1
        if limit is None or counts[entry.label] <= limit:
            selected.append(index)
    missing = np.array([index for index in selected if not manifest.already_tried(entries[index])], dtype=np.int64)
    with ProgressBar("unpacking", len(selected)) as bar:
        bar.step(len(selected) - len(missing))
        for index, pixels in _read_images(path, missing):
            manifest.save(entries[index], images.encode_png(pixels), f"{index:05}")
            bar.step()


def _read_entries(path: Path) -> list[ManifestEntry]:
    """Metadata of every galaxy."""
    with _open_hdf5(path) as file:
        classes = [CLASSES[index] for index in file["ans"][:].tolist()]
        columns = [[str(value) for value in file[name][:].tolist()] for name in ("ra", "dec", "redshift", "pxscale")]
        return [
            ManifestEntry(
                label=label,
                source=SOURCE,
                source_id=str(index),
                url="",
                license=LICENSE,
                ra=ra,
                dec=dec,
                redshift=redshift,
                pxscale=pxscale,
            )
            for index, (label, ra, dec, redshift, pxscale) in enumerate(zip(classes, *columns, strict=True))
        ]


def _read_images(path: Path, indices: NDArray[np.int64]) -> Iterator[tuple[int, Pixels]]:
    """(index, pixels) in order, read by whole HDF5 chunks so that each is decompressed once."""
    with _open_hdf5(path) as file:
        stored = file["images"]
        if stored.ndim != 4 or stored.shape[3] != 3 or stored.dtype != np.uint8:
            raise ValueError(f"images of {stored.dtype} {stored.shape}")
        block = max(1, min((stored.chunks or stored.shape)[0], MAX_BLOCK_BYTES // max(1, math.prod(stored.shape[1:]))))
        for start in range(0, len(stored), block):
            in_block = indices[(start <= indices) & (indices < start + block)]
            pixels = stored[start : start + block] if in_block.size else ()
            for index in in_block.tolist():
                yield index, pixels[index - start]


@contextmanager
def _open_hdf5(path: Path) -> Iterator[Any]:
    require_extra("train", "reading Galaxy10's file")
    import h5py  # noqa: PLC0415 - takes a third of a second to import

    try:
        with h5py.File(path) as file:
            yield file
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}") from error
    except (OSError, KeyError, IndexError, ValueError, TypeError) as error:  # what h5py raises on damaged files
        raise DataError(f"{path} is damaged or not the Galaxy10 file: {error}") from error
