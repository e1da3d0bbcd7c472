"""TIFF: refuses files that Pillow reads slowly, or with other values than they have; stretches values of many bits."""

import math
import struct

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from astrodetect import fits
from astrodetect.errors import ImageError, ImageTooManyPixels, ImageUnsupported
from astrodetect.records import ImageContract

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two of BigTIFF
WIDE_GREY_MODES = ("I", "I;16", "I;16B", "I;16L")  # 16-bit grey, which Pillow would clip instead of scaling
VALUE_MODES = (*WIDE_GREY_MODES, "F")  # of measured values, which are stretched as those of FITS
BIG_ENDIAN = b"MM"
UNCHECKED = {"tiff_ccitt", "group3", "group4", "tiff_raw_16", "lzma"}  # damage is a line on stderr each, and no error
MAX_STRIPS = 1 << 16  # or tiles, as of 16 × 16 pixels; each takes Pillow 16 µs
MAX_TAG_VALUES = 3 << 16  # as of a palette of 16 bits
BYTE_TYPES = (1, 2, 6, 7)  # types of values that are read at once: BYTE, ASCII, SBYTE, UNDEFINED
STRIP_TAGS = (273, 324)  # StripOffsets, TileOffsets
TILE_TAGS = (322, 323)  # TileWidth, TileLength
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339  # tags
WHITE_IS_ZERO, SEPARATE_PLANES, SIGNED = 0, 2, 2  # values of three of them


def check_tags(data: bytes) -> None:
    """Raise ImageError where the first directory of a TIFF declares more values than Pillow reads soon."""
    order, big = "<" if data.startswith(b"II") else ">", 43 in data[2:4]  # BigTIFF
    offset, length, entry = (
        struct.Struct(order + kind) for kind in (("Q", "Q", "HHQ8x") if big else ("I", "H", "HHI4x"))
    )
    try:
        (start,) = offset.unpack_from(data, 8 if big else 4)
        (count,) = length.unpack_from(data, start)
    except struct.error:  # as Pillow will say
        return
    start += length.size
    entries = data[start : start + min(count, max(0, len(data) - start) // entry.size) * entry.size]
    for tag, kind, number in entry.iter_unpack(entries):
        if kind not in BYTE_TYPES and number > (MAX_STRIPS if tag in STRIP_TAGS else MAX_TAG_VALUES):
            raise ImageError(f"TIFF with {number:,} {'strips or tiles' if tag in STRIP_TAGS else 'values in a tag'}")


def check_layout(image: TiffImageFile, max_pixels: int) -> None:
    """Raise ImageError for a TIFF that Pillow reads with other values than it has, or with much memory."""
    tags, compression = image.tag_v2, image.info.get("compression")
    if compression in UNCHECKED:
        raise ImageUnsupported(
            "TIFF compressed as a fax or by LZMA, which is not read: save it with another compression"
        )
    if image.mode in VALUE_MODES and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts 8 bits alone
        raise ImageUnsupported("TIFF whose high values are black (WhiteIsZero): save it with BlackIsZero")
    if image.mode == "L" and SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise ImageUnsupported("TIFF of signed 8-bit values, which is not read: save it as unsigned")
    if tags.get(PLANAR) == SEPARATE_PLANES and (
        image.mode == "LA" or (compression == "raw" and max(tags.get(BITS, (1,))) > 8)
    ):
        raise ImageUnsupported("TIFF of separate planes, which is not read: save it with interleaved channels")
    if image.mode in {"I", "F"} and compression != "raw" and tags.prefix == BIG_ENDIAN:  # bytes in the wrong order
        raise ImageUnsupported("big-endian TIFF that is compressed, which is not read: save it without compression")
    tile = [int(tags.get(tag, 1)) for tag in TILE_TAGS]
    if math.prod(tile) > max_pixels:
        raise ImageTooManyPixels(f"tiles of {tile[0]} × {tile[1]} pixels: the limit is {max_pixels:,} pixels")


def stretch_values(image: TiffImageFile, contract: ImageContract) -> Image.Image:
    """Grey values of more than 8 bits, stretched as those of FITS; 16 bits can be scaled without a stretch."""
    if image.mode not in VALUE_MODES:
        return image
    bits, sample_format = image.tag_v2.get(BITS), image.tag_v2.get(SAMPLE_FORMAT)
    if contract.stretch != "none":
        values = np.asarray(image)
        if bits == (32,) and image.mode == "I" and sample_format != (SIGNED,):
            values = values.view(np.uint32)
        return Image.fromarray(fits.stretch_planes([values], contract.stretch))
    if image.mode in {"I", "F"} or bits == (12,):
        kind = "32-bit" if bits == (32,) else "12-bit" if bits == (12,) else "signed 16-bit"
        raise ImageUnsupported(f"TIFF of {kind} values, and this model has no stretch: train one with --stretch asinh")
    return image
