"""Galaxy10 DECaLS: 17,736 galaxies in ten classes, out of one HDF5 file into class folders, a few at a time."""

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
from astrodetect.progress import Bar
from astrodetect.records import Pixels
from astrodetect.settings import Settings

SOURCE = "galaxy10"
LICENSE = "MIT; images of the DESI Legacy Imaging Surveys, labels of Galaxy Zoo"
FILE = "Galaxy10_DECals.h5"
SHA256 = "19aefc477c41bb7f77ff07599a6b82a038dc042f889a111b0d4d98bb755c1571"
LARGEST_FILE_BYTES = 4_000_000_000
BLOCK_BYTES = 256_000_000  # of images in memory, at most
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


def download_galaxy10(folder: Path, chosen: Settings) -> Path:
    """The file, fetched into the folder if it is not there."""
    path = folder / FILE
    if not path.exists():
        HttpClient(chosen).download(chosen.galaxy10_url, path, sha256=SHA256, max_bytes=LARGEST_FILE_BYTES)
    return path


def unpack(ledger: CollectionManifest, path: Path, *, limit: int | None) -> None:
    """Each image as a PNG, which loses nothing, in the folder of its class; the first `limit` of each class."""
    galaxies = _galaxies(path)
    asked, counts = [], Counter[str]()
    for number, galaxy in enumerate(galaxies):
        counts[galaxy.label] += 1
        if limit is None or counts[galaxy.label] <= limit:
            asked.append(number)
    wanted = np.array([number for number in asked if not ledger.knows(galaxies[number])], dtype=np.int64)
    with Bar("unpacking", len(asked)) as bar:
        bar.step(len(asked) - len(wanted))
        for number, pixels in _images(path, wanted):
            ledger.save(galaxies[number], images.png(pixels), f"{number:05}")
            bar.step()


def _galaxies(path: Path) -> list[ManifestEntry]:
    """All but the pixels of each."""
    with _opened(path) as file:
        classes = [CLASSES[number] for number in file["ans"][:].tolist()]
        columns = [[str(value) for value in file[name][:].tolist()] for name in ("ra", "dec", "redshift", "pxscale")]
        return [
            ManifestEntry(
                label=label,
                source=SOURCE,
                source_id=str(number),
                url="",
                license=LICENSE,
                ra=ra,
                dec=dec,
                redshift=redshift,
                pxscale=pxscale,
            )
            for number, (label, ra, dec, redshift, pxscale) in enumerate(zip(classes, *columns, strict=True))
        ]


def _images(path: Path, wanted: NDArray[np.int64]) -> Iterator[tuple[int, Pixels]]:
    """By number, in order; whole stored blocks at a time, as a block that is read twice is unpacked twice."""
    with _opened(path) as file:
        stored = file["images"]
        if stored.ndim != 4 or stored.shape[3] != 3 or stored.dtype != np.uint8:
            raise ValueError(f"images of {stored.dtype} {stored.shape}")
        block = max(1, min((stored.chunks or stored.shape)[0], BLOCK_BYTES // max(1, math.prod(stored.shape[1:]))))
        for start in range(0, len(stored), block):
            here = wanted[(start <= wanted) & (wanted < start + block)]
            pixels = stored[start : start + block] if here.size else ()
            for number in here.tolist():
                yield number, pixels[number - start]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import h5py  # noqa: PLC0415 - a third of a second, for this alone

    try:
        with h5py.File(path) as file:
            yield file
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}") from error
    except (OSError, KeyError, IndexError, ValueError, TypeError) as error:  # what h5py makes of damage
        raise DataError(f"{path} is damaged or not Galaxy10's file: {error}") from error
