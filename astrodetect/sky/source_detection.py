"""Sources of mosaics, found by SExtractor's method (the package sep), in tiles, so that memory stays bounded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import DataError
from astrodetect.extras import require_extra
from astrodetect.parquet_table import ColumnType
from astrodetect.progress import track_progress
from astrodetect.records import Floats
from astrodetect.sky.cutouts import CutoutMaker
from astrodetect.sky.mosaics import BandImage
from astrodetect.sky.positions import unused_name

DEPTH_SIGMA = 3.0  # default: standard deviations of the noise, after smoothing
MIN_AREA_PX = 9  # default: pixels above the depth
TILE_PX, MARGIN_PX = 2048, 128  # sources nearer to an edge are those of the neighbouring tile
BACKGROUND_PX = 64  # side of the boxes that the background is measured in
PIXEL_STACK = 4_000_000  # pixels above the depth, of a tile
MIN_DEFINED = 0.01  # share of a tile's pixels, below which it has no sources

SOURCE_COLUMNS: dict[str, ColumnType] = {
    "object_id": "text", "ra": "number", "dec": "number", "x_pixel": "number", "y_pixel": "number",
    "peak_snr": "number", "area": "integer", "a": "number", "b": "number", "theta": "number", "flag": "integer",
    "mosaic": "text",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class DetectionOptions:
    """How faint and how small sources may be."""

    depth: float = DEPTH_SIGMA
    min_area: int = MIN_AREA_PX


def detect_sources(maker: CutoutMaker, options: DetectionOptions) -> list[list[Any]]:
    """The sources of the mosaics, rows of SOURCE_COLUMNS: those of overlapping images once, of the first of them."""
    require_extra("sources", "mosaics without a --catalogue")
    rows: list[list[Any]] = []
    names = set[str]()
    for number, image in enumerate(maker.reference_images):
        tiles = [(x, y) for y in range(0, image.height, TILE_PX) for x in range(0, image.width, TILE_PX)]
        for left, bottom in track_progress(tiles, f"finding sources in {image.name}", len(tiles)):
            sources = _sources_of_tile(maker, image, left, bottom, options)
            ra, dec = image.grid.positions(sources["x"], sources["y"])
            new = ~_in_earlier(maker.reference_images[:number], ra, dec)
            for source, source_ra, source_dec in zip(sources[new], ra[new].tolist(), dec[new].tolist(), strict=True):
                name = unused_name(source_ra, source_dec, names)
                names.add(name)
                rows.append(
                    [
                        name, source_ra, source_dec, float(source["x"]) + 1, float(source["y"]) + 1,
                        float(source["peak"]), int(source["npix"]), float(source["a"]), float(source["b"]),
                        math.degrees(float(source["theta"])), int(source["flag"]), image.name,
                    ]
                )  # fmt: skip
    if not rows:
        raise DataError(f"no source is above {options.depth:g} standard deviations: lower --depth or --min-area")
    return rows


def _sources_of_tile(
    maker: CutoutMaker, image: BandImage, left: int, bottom: int, options: DetectionOptions
) -> NDArray[np.void]:
    """sep's table of the sources whose centre is in the tile, with x and y in the image, and the peak in noise."""
    import sep  # noqa: PLC0415 - optional

    x, y = max(0, left - MARGIN_PX), max(0, bottom - MARGIN_PX)
    width = min(image.width, left + TILE_PX + MARGIN_PX) - x
    height = min(image.height, bottom + TILE_PX + MARGIN_PX) - y
    planes = maker.aligned_window(image, x, y, width, height)
    signal, undefined = _signal_to_noise(planes)
    sep.set_extract_pixstack(PIXEL_STACK)
    try:
        sources = sep.extract(signal, options.depth, err=1.0, minarea=options.min_area, mask=undefined)
    except Exception as error:  # sep raises Exception
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"sources in {image.name} cannot be separated: raise --depth or --min-area ({reason})"
        ) from error
    sources["x"] += x
    sources["y"] += y
    inside = (sources["x"] >= left - 0.5) & (sources["x"] < left + TILE_PX - 0.5)
    inside &= (sources["y"] >= bottom - 0.5) & (sources["y"] < bottom + TILE_PX - 0.5)
    return np.asarray(sources[inside])


def _signal_to_noise(planes: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """(height, width) of all bands together: the mean of their signals in units of the noise; and what is undefined."""
    import sep  # noqa: PLC0415 - optional

    total, undefined, bands = np.zeros(planes.shape[1:], np.float32), np.zeros(planes.shape[1:], bool), 0
    for plane in planes:
        mask = ~np.isfinite(plane)
        undefined |= mask
        if mask.mean() > 1 - MIN_DEFINED:
            continue
        values = np.ascontiguousarray(np.where(mask, 0, plane), np.float32)
        background = sep.Background(values, mask=mask, bw=BACKGROUND_PX, bh=BACKGROUND_PX)
        noise = background.globalrms
        if noise > 0:
            total += (values - background.back()) / np.float32(noise)
            bands += 1
    return np.ascontiguousarray(total / np.float32(math.sqrt(max(1, bands)))), undefined


def _in_earlier(images: Sequence[BandImage], ra: Any, dec: Any) -> NDArray[np.bool_]:
    earlier = np.zeros(len(ra), bool)
    for image in images:
        x, y = image.grid.pixels(ra, dec)
        for index in np.flatnonzero(image.grid.contains(x, y) & ~earlier):
            value = image.window(round(x[index]), round(y[index]), 1, 1)
            earlier[index] = bool(np.isfinite(value).all())
    return earlier
