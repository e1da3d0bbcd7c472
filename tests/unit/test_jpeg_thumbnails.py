"""A small JPEG is its own thumbnail, without its metadata; all others are left to the encoder."""

import io

import numpy as np
import pytest
from PIL import Image

from astrodetect.jpeg_thumbnails import max_bytes, reuse_as_thumbnail

SIDE = 128
SKY = np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8).repeat(4, 0).repeat(4, 1)


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(SKY).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    "data",
    [
        jpeg(),
        jpeg("L"),
        jpeg(quality=95, subsampling=0, optimize=True),
        jpeg(comment=b"taken at home", icc_profile=b"profile" * 99),
        jpeg(restart_marker_rows=1),
        jpeg() + b"<script>alert(1)</script>" + jpeg(),
    ],
)
def test_the_pixels_of_a_small_jpeg_are_kept_and_nothing_else(data: bytes) -> None:
    thumbnail = reuse_as_thumbnail("ab", data, SIDE)
    assert thumbnail
    assert (thumbnail.image_sha256, thumbnail.width, thumbnail.height) == ("ab", 96, 64)
    assert (pixels(thumbnail.jpeg) == pixels(data)).all()
    assert not any(word in thumbnail.jpeg for word in (b"home", b"profile", b"script"))
    assert reuse_as_thumbnail("ab", thumbnail.jpeg, SIDE) == thumbnail


EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned by 90°


@pytest.mark.parametrize(
    "data",
    [
        jpeg(exif=EXIF),
        jpeg(progressive=True),
        jpeg("CMYK"),
        jpeg() + bytes(max_bytes(SIDE)),
        jpeg()[:300],
        jpeg()[:-2],
        jpeg().replace(b"\xff\xc0", b"\xff\xc9"),
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n",
        b"",
    ],
)
def test_others_are_left_to_the_encoder(data: bytes) -> None:
    assert reuse_as_thumbnail("ab", data, SIDE) is None


def test_a_jpeg_that_is_larger_than_a_thumbnail_is_scaled() -> None:
    assert reuse_as_thumbnail("ab", jpeg(), 95) is None
