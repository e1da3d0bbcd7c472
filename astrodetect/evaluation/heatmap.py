"""A class activation map as a picture to lay over its image."""

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Floats

COLOUR = (255, 128, 0)  # orange stands out from a dark sky; how much of it is seen is how much the place counts


def speaking(places: Floats, said: int, *, of_two: bool) -> Floats:
    """An activation map for the class that is said: of two classes networks map what speaks for the second."""
    return -places if of_two and said == 0 else places


def strengths(places: Floats | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """0 where nothing speaks for the class, 255 where most does."""
    found = np.maximum(np.nan_to_num(places), 0)
    return np.asarray(255 * (found / max(float(found.max()), 1e-12)), np.uint8)


def overlay(places: Floats | NDArray[np.uint8]) -> str:
    """A data URI of a picture that is clear where nothing speaks for the class, and strongest where most does."""
    picture = np.empty((*places.shape, 4), dtype=np.uint8)
    picture[..., :3] = COLOUR
    picture[..., 3] = strengths(places)
    return "data:image/png;base64," + base64.b64encode(_png(picture)).decode("ascii")


def _png(picture: NDArray[np.uint8]) -> bytes:
    """Of (height, width, 4): a few hundred bytes, which need no library for pictures."""
    height, width, _ = picture.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
