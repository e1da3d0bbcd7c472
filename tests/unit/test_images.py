"""Bytes to pixels: the same way everywhere, and nothing but our own errors on the way."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astrodetect import images
from astrodetect.errors import ImageEmpty, ImageError, ImageTooManyPixels, ImageTooSmall, ImageUnsupported
from astrodetect.records import ImageContract

WHOLE = ImageContract(size=64)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / height, np.full_like(x, 90)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("size", [(227, 227), (224, 224), (64, 64), (400, 300), (16, 2000)])
def test_every_size_and_format_becomes_what_the_network_sees(kind: str, size: tuple[int, int]) -> None:
    pixels = images.decode(encoded(gradient(*size), kind), ImageContract(size=227))
    assert pixels.shape == (227, 227, 3)
    assert pixels.dtype == np.uint8
    assert pixels[..., 0].mean(axis=0)[-20:].mean() > pixels[..., 0].mean(axis=0)[:20].mean()  # not mirrored
    assert pixels[-20:, :, 1].mean() >= pixels[:20, :, 1].mean()  # not upside down


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = gradient(64, 64)
    assert np.array_equal(images.decode(encoded(image), WHOLE), np.asarray(image))


def test_a_crop_looks_at_the_centre_alone() -> None:
    image = gradient(200, 200)
    image.paste((255, 0, 255), (0, 0, 200, 49))
    image.paste((255, 0, 255), (0, 0, 49, 200))
    centre = images.decode(encoded(image), ImageContract(size=100, crop=0.5))
    assert np.array_equal(centre, np.asarray(image.crop((50, 50, 150, 150))))


def test_grey_is_the_same_in_every_band() -> None:
    pixels = images.decode(encoded(gradient(64, 64).convert("L"), "JPEG"), WHOLE)
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    assert pixels.std() > 10


def test_sixteen_bit_greys_are_scaled_and_not_clipped() -> None:
    wide = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = images.decode(encoded(Image.fromarray(wide)), WHOLE)
    assert np.array_equal(pixels[..., 0], wide // 257)


def test_what_is_transparent_shows_black_sky() -> None:
    image = gradient(64, 64).convert("RGBA")
    image.putalpha(Image.new("L", (64, 64), 0))
    assert images.decode(encoded(image), WHOLE).max() == 0
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([250, 250, 250] * 256)
    assert images.decode(encoded(palette, transparency=1), WHOLE).max() == 0
    assert images.decode(encoded(palette, transparency=0), WHOLE).min() == 250


def test_cmyk_keeps_its_colours() -> None:
    red = Image.new("RGB", (64, 64), (200, 20, 20))
    pixels = images.decode(encoded(red.convert("CMYK"), "JPEG", quality=95), WHOLE)
    assert np.abs(pixels.astype(int) - (200, 20, 20)).max() < 12


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_camera_turned_by_exif_gives_upright_pixels(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = gradient(64, 64)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation → the transposition that a camera applied
    stored = upright.transpose(Image.Transpose(undo[turn])) if turn in undo else upright
    pixels = images.decode(encoded(stored, "PNG", exif=exif), WHOLE)
    assert np.array_equal(pixels, np.asarray(upright))


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert tuple(images.decode(data, WHOLE)[32, 32]) == (250, 0, 0)


@pytest.mark.parametrize(
    "kind", ["GIF", "TIFF", "BMP", "PPM", "ICO", "TGA", "PCX", "EPS", "PDF", "JPEG2000", "DDS", "SGI"]
)
def test_no_other_picture_is_read_whatever_the_name_says(kind: str) -> None:
    with pytest.raises(ImageUnsupported, match="send JPEG, PNG, WebP or FITS"):
        images.decode(encoded(gradient(64, 64), kind), WHOLE)


@pytest.mark.parametrize("data", [b"<html>", b"\0" * 100, b"\xff\xd8", b"RIFF\0\0\0\0WAVE", b"%!PS-Adobe"])
def test_bytes_that_are_no_image_are_told_apart(data: bytes) -> None:
    with pytest.raises(ImageUnsupported):
        images.decode(data, WHOLE)


def test_an_empty_file_is_told_apart() -> None:
    with pytest.raises(ImageEmpty, match="the file is empty"):
        images.decode(b"", WHOLE)


def test_a_bomb_is_refused_by_its_header() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(ImageTooManyPixels, match="50000 × 50000 pixels"):
        images.decode(data, WHOLE)


def test_the_callers_limit_of_pixels_counts() -> None:
    data = encoded(gradient(200, 100))
    assert images.decode(data, WHOLE, max_pixels=20_000).shape == (64, 64, 3)
    with pytest.raises(ImageTooManyPixels):
        images.decode(data, WHOLE, max_pixels=19_999)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (15, 64)])
def test_slivers_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooSmall, match="at least 16"):
        images.decode(encoded(gradient(*size)), WHOLE)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_truncated_image_is_refused_and_not_half_read(kind: str) -> None:
    data = encoded(gradient(200, 200), kind)
    with pytest.raises(ImageError, match=f"damaged {kind}"):
        images.decode(data[: len(data) * 2 // 3], WHOLE)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_whatever_the_bytes_only_our_errors_leave(kind: str) -> None:
    random = np.random.default_rng(7)
    good = np.frombuffer(encoded(gradient(48, 40), kind), dtype=np.uint8)
    refused = 0
    for _ in range(700):
        data = good.copy()
        for place in random.integers(8 if kind == "PNG" else 3, len(data), size=random.integers(1, 20)):
            data[place] = random.integers(256)
        cut = int(random.integers(len(data) // 2, len(data) + 1))
        try:
            pixels = images.decode(data[:cut].tobytes(), WHOLE)
        except ImageError:
            refused += 1
        else:
            assert pixels.shape == (64, 64, 3)
    assert refused > 100


def test_a_file_that_cannot_be_opened_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        images.decode_file(tmp_path / "gone.jpg", WHOLE)


def test_a_jpeg_is_written_whole_and_always_the_same(tmp_path: Path) -> None:
    pixels = np.asarray(gradient(64, 64))
    for name in ("a.jpg", "b.jpg"):
        images.write_jpeg(tmp_path / name, pixels)
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg"]
    assert np.abs(images.decode_file(tmp_path / "a.jpg", WHOLE).astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_probe_tells_format_and_size(kind: str) -> None:
    assert images.probe(encoded(gradient(400, 300), kind)) == images.Probe(kind, 400, 300)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_probe_decodes_nothing(kind: str) -> None:
    data = encoded(gradient(400, 300), kind)
    cut = data[: len(data) // 2]
    assert images.probe(cut) == images.Probe(kind, 400, 300)
    with pytest.raises(ImageError, match=f"damaged {kind}"):
        images.decode(cut, WHOLE)


def test_a_probe_judges_as_reading_does() -> None:
    with pytest.raises(ImageTooManyPixels):
        images.probe(encoded(gradient(200, 100)), max_pixels=19_999)
    with pytest.raises(ImageTooSmall):
        images.probe(encoded(gradient(15, 64)))
    with pytest.raises(ImageUnsupported):
        images.probe(b"<html>")


def test_a_thumbnail_is_a_small_jpeg_that_keeps_the_shape() -> None:
    pixels = np.asarray(gradient(400, 200))
    data = images.encode_thumbnail(pixels, 96)
    assert images.probe(data) == images.Probe("JPEG", 96, 48)
    assert data == images.encode_thumbnail(pixels, 96)
    assert len(data) < 3_000
    assert images.probe(images.encode_thumbnail(pixels, 1_000)) == images.Probe("JPEG", 400, 200)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("RGB", "L", "P", "RGBA", "I;16")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    ],
)
@pytest.mark.parametrize("turn", [1, 6])
def test_a_picture_beside_them_changes_no_pixel_that_the_network_sees(kind: str, mode: str, turn: int) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.asarray(gradient(700, 500).convert("L"), dtype=np.uint16) * 200)
    else:
        image = gradient(700, 500).convert(mode)
    exif = Image.Exif()
    exif[images.ORIENTATION] = turn
    data = encoded(image, kind, exif=exif)
    for contract in (ImageContract(size=100), ImageContract(size=64, crop=0.5), ImageContract(size=500)):
        pixels, whole = images.decode_with_frame(data, contract, 256)
        assert np.array_equal(pixels, images.decode(data, contract))
        assert whole.shape == ((183, 256, 3) if turn == 1 else (256, 183, 3))


def test_a_picture_shows_the_whole_frame_upright_and_is_never_enlarged() -> None:
    image = gradient(400, 200)
    exif = Image.Exif()
    exif[images.ORIENTATION] = 3
    _, whole = images.decode_with_frame(encoded(image.rotate(180), exif=exif), ImageContract(size=32, crop=0.2), 100)
    shown = np.asarray(image.resize((100, 50), Image.Resampling.BOX), dtype=int)
    assert whole.shape == (50, 100, 3)
    assert np.abs(whole.astype(int) - shown).max() <= 8
    _, small = images.decode_with_frame(encoded(gradient(40, 20)), WHOLE, 256)
    assert np.array_equal(small, np.asarray(gradient(40, 20)))
    _, thin = images.decode_with_frame(encoded(gradient(16, 2000)), WHOLE, 100)
    assert thin.shape == (100, 1, 3)


def test_a_picture_says_nothing_of_where_and_when_it_was_taken() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    exif.get_ifd(0x8825)[1] = "N"
    data = encoded(gradient(64, 64), "JPEG", exif=exif, comment=b"a secret", icc_profile=b"a secret")
    assert data.count(b"a secret") == 3
    _, whole = images.decode_with_frame(data, WHOLE, 256)
    picture = images.make_thumbnail("ab", whole)
    assert (picture.width, picture.height) == (64, 64)
    assert b"secret" not in picture.jpeg
    assert not Image.open(io.BytesIO(picture.jpeg)).getexif()
