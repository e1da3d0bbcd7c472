"""What the report pages share: the Jinja environment, and thumbnails and heat maps as data URIs."""

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
from astrodetect.settings import SETUP_DB_COMMAND, TRAIN_COMMAND

REPORT_TEMPLATES = Path(__file__).parent / "templates"
TILE_PX = 48
TILES_PER_ROW = 50
HEAT_COLOUR = (255, 128, 0)  # orange contrasts with a dark sky; the opacity is the evidence

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def template_environment(templates: Path) -> Environment:
    """Jinja for a folder of templates: values are escaped, undefined ones are an error."""
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"train_command": TRAIN_COMMAND, "setup_db_command": SETUP_DB_COMMAND}
    return environment


def display_name(path: Path) -> str:
    """The file with its folder only, so that a page does not reveal paths of this machine."""
    return "/".join(path.parts[-2:]).encode(errors="surrogateescape").decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class NamedThumbnail:
    """A thumbnail with the name of its file."""

    name: str
    data: str  # a data URI; empty if the file can no longer be read


@dataclass(frozen=True, slots=True)
class ThumbnailReader:
    """Reads images with the contract of the detectors, at any size."""

    contract: ImageContract
    max_pixels: int

    def read(self, path: Path, side: int) -> Pixels | None:
        """The pixels; None if the file can no longer be read."""
        try:
            return images.decode_file(path, replace(self.contract, size=side), max_pixels=self.max_pixels)
        except ImageError:
            return None


ThumbnailRequest = tuple[Path, int]  # a file and the side in pixels


def read_thumbnails(
    requests: Iterable[ThumbnailRequest], reader: ThumbnailReader
) -> dict[ThumbnailRequest, NamedThumbnail]:
    """Read each distinct thumbnail once, in parallel."""
    distinct = sorted(set(requests))

    def thumbnail(request: ThumbnailRequest) -> NamedThumbnail:
        path, side = request
        pixels = reader.read(path, side)
        return NamedThumbnail(display_name(path), "" if pixels is None else _pixels_uri(pixels))

    return dict(zip(distinct, _parallel_map(thumbnail, distinct, "drawing the gallery"), strict=True))


def thumbnail_sprite(paths: Sequence[Path], reader: ThumbnailReader) -> str:
    """Tiles of all images in one image, TILES_PER_ROW per row, as a data URI."""
    rows = max(1, math.ceil(len(paths) / TILES_PER_ROW))
    sprite = np.zeros((rows * TILE_PX, TILES_PER_ROW * TILE_PX, 3), np.uint8)
    tiles = _parallel_map(lambda path: reader.read(path, TILE_PX), paths, "drawing the map")
    for index, pixels in enumerate(tiles):
        if pixels is not None:
            top, left = (TILE_PX * position for position in divmod(index, TILES_PER_ROW))
            sprite[top : top + TILE_PX, left : left + TILE_PX] = pixels
    return _pixels_uri(sprite)


def jpeg_uri(jpeg: bytes) -> str:
    """A JPEG as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def heat_map_overlay(evidence: Floats | NDArray[np.uint8]) -> str:
    """A heat map as the data URI of a transparent PNG: more opaque where there is more evidence for the class."""
    rgba = np.empty((*evidence.shape, 4), dtype=np.uint8)
    rgba[..., :3] = HEAT_COLOUR
    rgba[..., 3] = to_intensity(evidence)
    return "data:image/png;base64," + base64.b64encode(_png(rgba)).decode("ascii")


def _pixels_uri(pixels: Pixels) -> str:
    return jpeg_uri(images.encode_thumbnail(pixels, max(pixels.shape)))


def _png(rgba: NDArray[np.uint8]) -> bytes:
    """A PNG of (height, width, 4): a few hundred bytes."""
    height, width, _ = rgba.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in rgba)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def _parallel_map(function: Callable[[_Item], _Result], items: Sequence[_Item], title: str) -> list[_Result]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            return list(track_progress(pool.map(function, items), title, len(items)))
        finally:
            pool.shutdown(cancel_futures=True)
