"""Small images for a page, cut as the detectors see them."""

import base64
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.errors import ImageError
from astrodetect.inference.decision import to_intensity
from astrodetect.progress import track_progress
from astrodetect.records import Floats, ImageContract, Pixels

TILE_PX = 48
TILES_A_ROW = 50
HEAT_COLOUR = (255, 128, 0)  # orange contrasts with a dark sky; the opacity is the evidence

One = TypeVar("One")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class NamedThumbnail:
    """A small image with the name of its file."""

    name: str
    data: str  # a data URI; empty where the file has gone meanwhile


@dataclass(frozen=True, slots=True)
class ThumbnailReader:
    """Reads images as the detectors see them, at any size."""

    contract: ImageContract
    max_pixels: int

    def read(self, path: Path, side: int) -> Pixels | None:
        """Its pixels; None where it can no longer be read."""
        try:
            return images.decode_file(path, replace(self.contract, size=side), max_pixels=self.max_pixels)
        except ImageError:
            return None


ThumbnailKey = tuple[Path, int]  # a file, and the side in pixels


def read_thumbnails(wanted: Iterable[ThumbnailKey], reader: ThumbnailReader) -> dict[ThumbnailKey, NamedThumbnail]:
    """Each of them, once."""
    some = sorted(set(wanted))

    def picture(one: ThumbnailKey) -> NamedThumbnail:
        pixels = reader.read(*one)
        return NamedThumbnail(display_name(one[0]), "" if pixels is None else _uri(pixels))

    return dict(zip(some, _each(picture, some, "drawing the gallery"), strict=True))


def thumbnail_sprite(paths: Sequence[Path], reader: ThumbnailReader) -> str:
    """Many tiny images as one, TILES_A_ROW side by side: a data URI."""
    whole = np.zeros((max(1, math.ceil(len(paths) / TILES_A_ROW)) * TILE_PX, TILES_A_ROW * TILE_PX, 3), np.uint8)
    tiles = _each(lambda path: reader.read(path, TILE_PX), paths, "drawing the map")
    for number, pixels in enumerate(tiles):
        if pixels is not None:
            down, across = (TILE_PX * at for at in divmod(number, TILES_A_ROW))
            whole[down : down + TILE_PX, across : across + TILE_PX] = pixels
    return _uri(whole)


def display_name(path: Path) -> str:
    """Its folder and its own name: no more of this machine's paths."""
    return "/".join(path.parts[-2:]).encode(errors="surrogateescape").decode(errors="backslashreplace")


def _uri(pixels: Pixels) -> str:
    return (
        f"data:image/jpeg;base64,{base64.b64encode(images.encode_thumbnail(pixels, max(pixels.shape))).decode('ascii')}"
    )


def _each(make: Callable[[One], Made], some: Sequence[One], title: str) -> list[Made]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            return list(track_progress(pool.map(make, some), title, len(some)))
        finally:
            pool.shutdown(cancel_futures=True)


def heat_map_overlay(evidence: Floats | NDArray[np.uint8]) -> str:
    """A heat map as the data URI of a transparent PNG: more opaque where there is more evidence for the class."""
    rgba = np.empty((*evidence.shape, 4), dtype=np.uint8)
    rgba[..., :3] = HEAT_COLOUR
    rgba[..., 3] = to_intensity(evidence)
    return "data:image/png;base64," + base64.b64encode(_png(rgba)).decode("ascii")


def _png(rgba: NDArray[np.uint8]) -> bytes:
    """A PNG of (height, width, 4): a few hundred bytes."""
    height, width, _ = rgba.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in rgba)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def template_environment(templates: Path) -> Environment:
    """For the templates of this folder."""
    return Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
