"""TIFF files: what Pillow reads slowly or with other values is refused, and values of many bits are stretched."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from test_images import WHOLE, encoded, gradient

from astrodetect import images
from astrodetect.errors import ImageError, ImageTooManyPixels, ImageUnsupported
from astrodetect.records import ImageContract


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4", "tiff_raw_16", "lzma"])
def test_a_compression_whose_damage_is_no_error_is_rejected(compression: str) -> None:
    """For 20 kB of damaged rows libtiff wrote 500,000 lines to stderr; for 0.4 MB of LZMA 65,536, and no error."""
    buffer = io.BytesIO()
    Image.new("1", (64, 64)).save(buffer, "TIFF", compression=compression)
    with pytest.raises(ImageUnsupported, match="fax or by LZMA"):
        images.decode(buffer.getvalue(), WHOLE)


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_of_very_many_strips_is_rejected_from_its_header(*, big: bool) -> None:
    """20 MB of them took Pillow 40 s."""
    buffer = io.BytesIO()
    gradient(64, 64).save(buffer, "TIFF", big_tiff=big)
    data = bytearray(buffer.getvalue())
    images.decode(bytes(data), WHOLE)
    entry = data.index(struct.pack("<H", 273))
    data[entry + 4 : entry + 8] = struct.pack("<I", 70_000)
    with pytest.raises(ImageError, match="70,000 strips"):
        images.decode(bytes(data), WHOLE)
    data[entry : entry + 2] = struct.pack("<H", 282)  # XResolution
    data[entry + 4 : entry + 8] = struct.pack("<I", 200_000)
    with pytest.raises(ImageError, match="200,000 values"):
        images.decode(bytes(data), WHOLE)


def test_tiff_values_of_more_than_8_bits_are_stretched_or_scaled_over_16_bits() -> None:
    grey = np.asarray(gradient(64, 64).convert("L"))
    sixteen, faint = (encoded(Image.fromarray(values), "TIFF") for values in (grey.astype(np.uint16) * 257, grey * 0.1))
    assert np.array_equal(images.decode(sixteen, WHOLE)[..., 0], grey)
    stretched = ImageContract(size=64, stretch="linear")
    for data in (sixteen, faint):
        pixels = images.decode(data, stretched)[..., 0].astype(int)
        assert pixels.max() - pixels.min() == 255
        assert np.corrcoef(pixels.ravel(), grey.ravel())[0, 1] > 0.99
    with pytest.raises(ImageUnsupported, match="--stretch asinh"):
        images.decode(faint, WHOLE)


def test_a_tiff_of_inverted_values_is_rejected() -> None:
    data = encoded(Image.fromarray(np.zeros((64, 64), np.uint16)), "TIFF", tiffinfo={262: 0})
    with pytest.raises(ImageUnsupported, match="WhiteIsZero"):
        images.decode(data, WHOLE)


def tiff_of(values: NDArray[Any], order: str = "<", **changed: tuple[int, ...]) -> bytes:
    """64 × 64 pixels of these values, with tags that Pillow does not write."""
    tags: dict[str, tuple[int, ...]] = {"256": (64,), "257": (64,), "259": (1,), "262": (1,), "277": (1,)}
    tags |= {"258": (8 * values.itemsize,), "278": (64,), "279": (values.nbytes,)} | {
        name.strip("t"): value for name, value in changed.items()
    }
    start = 14 + 12 * (len(tags) + 1)
    lists = b"".join(struct.pack(f"{order}{len(value)}I", *value) for value in tags.values() if len(value) > 1)
    tags["273"] = (start + len(lists),)
    entries, end = b"", start
    for tag, value in sorted(tags.items()):
        entries += struct.pack(f"{order}HHII", int(tag), 4, len(value), value[0] if len(value) == 1 else end)
        end += 4 * len(value) if len(value) > 1 else 0
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4) + lists + values.tobytes()


def test_unsigned_values_of_a_tiff_of_32_bits_stay_positive() -> None:
    grey = np.asarray(gradient(64, 64).convert("L")).astype(np.uint32)
    pixels = images.decode(tiff_of(grey * 0x1010101), ImageContract(size=64, stretch="linear"))[..., 0]
    assert np.corrcoef(pixels.ravel(), grey.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff_of(np.zeros((64, 64), np.int8), t339=(2,)), "signed 8-bit"),
        (tiff_of(np.zeros((64, 96), np.uint8), t258=(12,)), "12-bit values, and this model has no stretch"),
        (
            tiff_of(np.zeros((128, 64), np.uint8), t258=(8, 8), t277=(2,), t284=(2,), t338=(2,)),
            "separate planes",
        ),
        (
            tiff_of(np.zeros((192, 64), np.uint16), t258=(16,) * 3, t262=(2,), t277=(3,), t284=(2,)),
            "separate planes",
        ),
    ],
)
def test_a_tiff_that_pillow_would_read_with_other_values_is_rejected(data: bytes, message: str) -> None:
    with pytest.raises(ImageUnsupported, match=message):
        images.decode(data, WHOLE)


@pytest.mark.parametrize(("kind", "sample_format"), [(">i2", 2), (">i4", 2), (">f4", 3)])
def test_a_compressed_tiff_of_big_endian_values_is_rejected(kind: str, sample_format: int) -> None:
    """Pillow read each value with its bytes in the opposite order."""
    values = np.arange(64 * 64, dtype=kind)
    packed = np.frombuffer(zlib.compress(values.tobytes()), np.uint8)
    data = tiff_of(packed, ">", t258=(8 * values.itemsize,), t259=(8,), t339=(sample_format,))
    with pytest.raises(ImageUnsupported, match="big-endian"):
        images.decode(data, ImageContract(size=64, stretch="linear"))


def test_a_huge_tile_of_a_tiff_is_rejected_from_its_header() -> None:
    """A reader allocates a tile as it is declared, whatever the size of the image."""
    tags = {256: 64, 257: 64, 258: 8, 259: 5, 262: 1, 277: 1, 322: 2**20, 323: 2**16, 324: 8, 325: 100}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    with pytest.raises(ImageTooManyPixels, match="tiles of 1048576 × 65536 pixels"):
        images.decode(data, WHOLE)


def test_random_bytes_of_a_tiff_raise_image_errors_only() -> None:
    random, refused = np.random.default_rng(5), 0
    for round_ in range(300):
        good = encoded(gradient(60, 40), "TIFF", compression=("tiff_lzw", "tiff_adobe_deflate", "jpeg")[round_ % 3])
        data = np.frombuffer(good, dtype=np.uint8).copy()
        first = 8 if round_ % 2 else max(8, len(data) - 300)  # the header is at the end
        data[random.integers(first, len(data), size=8)] = random.integers(0, 256, size=8)
        try:
            assert images.decode(data.tobytes(), WHOLE).shape == (64, 64, 3)
        except ImageError:
            refused += 1
    assert refused > 50
