"""What the report pages share: the Jinja environment, and thumbnails and heat maps as data URIs."""

import base64
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.anomalies.occlusion import enlarge
from astrodetect.errors import ImageError
from astrodetect.progress import track_progress
from astrodetect.records import Floats, ImageContract, ImagePath, Pixels
from astrodetect.settings import SETUP_DB_COMMAND, TRAIN_COMMAND
from astrodetect.sky.archives import archive_links, format_position
from astrodetect.storage.references import printable_url

REPORT_TEMPLATES = Path(__file__).parent / "templates"
TILE_PX = 48
TILES_PER_ROW = 50
HEAT_MAP_PX, HEAT_LEVELS = 64, 64
# The upper part of viridis: even steps of lightness, for every kind of colour vision, in hues that no galaxy has.
HEAT_COLOURS = ((44, 113, 142), (33, 144, 141), (39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37))

HeatLegend = Literal["odds", "activation", "strength"]
HEAT_LEGENDS: dict[HeatLegend, tuple[str, ...]] = {  # from transparent to opaque, in even steps
    "odds": ("odds halved", "× 0.35", "× 0.25", "× 0.18 or less"),
    "activation": ("none", "strongest place of this image"),
    "strength": ("1.25 × less rare", "2 ×", "3.2 ×", "5 × or more"),
}
LEGEND_WIDTH, LEGEND_HEIGHT, DARK_SKY = 320, 10, (11, 14, 19)

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
    environment.globals |= {
        "archive_links": archive_links,
        "format_position": format_position,
        "heat_legend": heat_legend,
        "train_command": TRAIN_COMMAND,
        "setup_db_command": SETUP_DB_COMMAND,
    }
    return environment


def display_name(path: ImagePath) -> str:
    """The file with its folder only, so that a page does not reveal paths of this machine."""
    return (
        "/".join(PurePosixPath(printable_url(str(path))).parts[-2:])
        .encode(errors="surrogateescape")
        .decode(errors="backslashreplace")
    )


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

    def read(self, path: ImagePath, side: int) -> Pixels | None:
        """The pixels; None if the file can no longer be read."""
        try:
            return images.decode_file(path, replace(self.contract, size=side), max_pixels=self.max_pixels)
        except ImageError:
            return None


ThumbnailRequest = tuple[ImagePath, int]  # a file and the side in pixels


def read_thumbnails(
    requests: Iterable[ThumbnailRequest], reader: ThumbnailReader
) -> dict[ThumbnailRequest, NamedThumbnail]:
    """Read each distinct thumbnail once, in parallel."""
    distinct = sorted(set(requests), key=lambda request: (str(request[0]), request[1]))

    def thumbnail(request: ThumbnailRequest) -> NamedThumbnail:
        path, side = request
        pixels = reader.read(path, side)
        return NamedThumbnail(display_name(path), "" if pixels is None else pixels_uri(pixels))

    return dict(zip(distinct, _parallel_map(thumbnail, distinct, "drawing the gallery"), strict=True))


def thumbnail_sprite(paths: Sequence[ImagePath], reader: ThumbnailReader) -> str:
    """Tiles of all images in one image, TILES_PER_ROW per row, as a data URI."""
    rows = max(1, math.ceil(len(paths) / TILES_PER_ROW))
    sprite = np.zeros((rows * TILE_PX, TILES_PER_ROW * TILE_PX, 3), np.uint8)
    tiles = _parallel_map(lambda path: reader.read(path, TILE_PX), paths, "drawing the map")
    for index, pixels in enumerate(tiles):
        if pixels is not None:
            top, left = (TILE_PX * position for position in divmod(index, TILES_PER_ROW))
            sprite[top : top + TILE_PX, left : left + TILE_PX] = pixels
    return pixels_uri(sprite)


def jpeg_uri(jpeg: bytes) -> str:
    """A JPEG as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def heat_map_overlay(intensity: Floats) -> str:
    """`heat_map_png` as a data URI."""
    return "data:image/png;base64," + base64.b64encode(heat_map_png(intensity)).decode("ascii")


def heat_map_png(intensity: Floats) -> bytes:
    """A heat map of places (0 to 1) as a smooth image with colours from transparent to opaque: about two kilobytes."""
    levels = np.rint((HEAT_LEVELS - 1) * np.clip(enlarge(intensity, HEAT_MAP_PX), 0, 1)).astype(np.uint8)
    return _palette_png(levels, heat_palette())


def heat_legend(kind: HeatLegend) -> Markup:
    """The colour scale of heat maps over a dark sky, with what its colours mean."""
    texts = HEAT_LEGENDS[kind]
    palette = heat_palette()
    opacity = palette[:, 3:] / 255
    colours = np.rint(opacity * palette[:, :3] + (1 - opacity) * DARK_SKY).astype(int).tolist()
    steps = "".join(  # each over the rest of the one before it, so that there are no seams
        f'<rect x="{x:g}" width="{LEGEND_WIDTH - x:g}" height="{LEGEND_HEIGHT}" fill="rgb({red},{green},{blue})"/>'
        for x, (red, green, blue) in zip(np.linspace(0, LEGEND_WIDTH, HEAT_LEVELS + 1), colours, strict=False)
    )
    anchors = ["start", *["middle"] * (len(texts) - 2), "end"]
    labels = "".join(
        f'<text x="{x:g}" y="{LEGEND_HEIGHT + 13}" text-anchor="{anchor}">{text}</text>'
        for x, text, anchor in zip(np.linspace(0, LEGEND_WIDTH, len(texts)), texts, anchors, strict=True)
    )
    return Markup(  # noqa: S704 - our own numbers and texts
        f'<svg class="heat-legend" viewBox="0 0 {LEGEND_WIDTH} {LEGEND_HEIGHT + 18}" role="img" '
        f'aria-label="Colour scale: {", ".join(texts)}">{steps}{labels}</svg>'
    )


def heat_palette() -> NDArray[np.uint8]:
    """(HEAT_LEVELS, 4) red, green, blue and opacity of each level."""
    stops, levels = np.linspace(0, 1, len(HEAT_COLOURS)), np.linspace(0, 1, HEAT_LEVELS)
    colours = [np.interp(levels, stops, band) for band in np.transpose(HEAT_COLOURS)]
    return np.asarray(np.rint(np.stack([*colours, 255 * levels**0.7], axis=1)), np.uint8)


def pixels_uri(pixels: Pixels) -> str:
    """An image as the data URI of a JPEG."""
    return jpeg_uri(images.encode_thumbnail(pixels, max(pixels.shape)))


def _palette_png(levels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """A PNG of (height, width) indices of (n, 4) colours."""
    height, width = levels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette[:, :3].tobytes()),
        (b"tRNS", palette[:, 3].tobytes()),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in levels), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def _parallel_map(function: Callable[[_Item], _Result], items: Sequence[_Item], title: str) -> list[_Result]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            return list(track_progress(pool.map(function, items), title, len(items)))
        finally:
            pool.shutdown(cancel_futures=True)
