"""The decoder: every format to the same pixels, and ImageError for everything else."""

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


@pytest.mark.parametrize("kind", sorted(images.FILE_FORMATS.keys() - {"FITS"}))
@pytest.mark.parametrize("size", [(227, 227), (224, 224), (64, 64), (400, 300), (16, 2000)])
def test_every_size_and_format_is_decoded_to_the_contract(kind: str, size: tuple[int, int]) -> None:
    pixels = images.decode(encoded(gradient(*size), kind), ImageContract(size=227))
    assert pixels.shape == (227, 227, 3)
    assert pixels.dtype == np.uint8
    assert pixels[..., 0].mean(axis=0)[-20:].mean() > pixels[..., 0].mean(axis=0)[:20].mean()  # not mirrored
    assert pixels[-20:, :, 1].mean() >= pixels[:20, :, 1].mean()  # not upside down


def test_an_image_of_the_final_size_is_unchanged() -> None:
    image = gradient(64, 64)
    assert np.array_equal(images.decode(encoded(image), WHOLE), np.asarray(image))


def test_crop_uses_the_centre_only() -> None:
    image = gradient(200, 200)
    image.paste((255, 0, 255), (0, 0, 200, 49))
    image.paste((255, 0, 255), (0, 0, 49, 200))
    centre = images.decode(encoded(image), ImageContract(size=100, crop=0.5))
    assert np.array_equal(centre, np.asarray(image.crop((50, 50, 150, 150))))


def test_grey_images_have_equal_channels() -> None:
    pixels = images.decode(encoded(gradient(64, 64).convert("L"), "JPEG"), WHOLE)
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    assert pixels.std() > 10


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    wide = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = images.decode(encoded(Image.fromarray(wide)), WHOLE)
    assert np.array_equal(pixels[..., 0], wide // 257)


def test_transparent_pixels_become_black() -> None:
    image = gradient(64, 64).convert("RGBA")
    image.putalpha(Image.new("L", (64, 64), 0))
    assert images.decode(encoded(image), WHOLE).max() == 0
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([250, 250, 250] * 256)
    assert images.decode(encoded(palette, transparency=1), WHOLE).max() == 0
    assert images.decode(encoded(palette, transparency=0), WHOLE).min() == 250


@pytest.mark.parametrize(("mode", "white"), [("L", 255), ("RGB", (255, 255, 255)), ("I;16", 65535)])
def test_pixels_of_a_transparent_colour_become_black_before_they_are_interpolated(mode: str, white: object) -> None:
    grey = np.asarray(gradient(100, 80).convert("L")).clip(0, 250)
    black, keyed = grey.copy(), grey.copy()
    black[:, 60:], keyed[:, 60:] = 0, 255
    stored = Image.fromarray(keyed.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(keyed).convert(mode)
    pixels = images.decode(encoded(stored, transparency=white), WHOLE).astype(int)
    assert np.abs(pixels - images.decode(encoded(Image.fromarray(black)), WHOLE)).max() <= 1


def test_a_large_transparent_image_is_interpolated_as_a_small_one() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1030, 1400, 4), dtype=np.uint8)
    image, contract = Image.fromarray(pixels), ImageContract(size=64, crop=0.7)
    side = 1030 * 0.7
    box = ((1400 - side) / 2, (1030 - side) / 2, (1400 + side) / 2, (1030 + side) / 2)
    expected = image.resize((64, 64), Image.Resampling.BILINEAR, box)
    black = Image.alpha_composite(Image.new("RGBA", (64, 64), (0, 0, 0, 255)), expected).convert("RGB")
    assert np.array_equal(images.crop_array(pixels, contract), np.asarray(black))


def test_cmyk_keeps_its_colours() -> None:
    red = Image.new("RGB", (64, 64), (200, 20, 20))
    pixels = images.decode(encoded(red.convert("CMYK"), "JPEG", quality=95), WHOLE)
    assert np.abs(pixels.astype(int) - (200, 20, 20)).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = gradient(64, 64)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation → the transposition that a camera applied
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation in undo else upright
    pixels = images.decode(encoded(stored, "PNG", exif=exif), WHOLE)
    assert np.array_equal(pixels, np.asarray(upright))


def test_the_first_frame_of_an_animation_is_decoded() -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert tuple(images.decode(data, WHOLE)[32, 32]) == (250, 0, 0)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PPM", "ICO", "TGA", "PCX", "EPS", "PDF", "JPEG2000", "DDS", "SGI"])
def test_other_image_formats_are_rejected_whatever_their_file_name(kind: str) -> None:
    with pytest.raises(ImageUnsupported, match="send JPEG, PNG, WebP, TIFF or FITS"):
        images.decode(encoded(gradient(64, 64), kind), WHOLE)


@pytest.mark.parametrize("data", [b"<html>", b"\0" * 100, b"\xff\xd8", b"RIFF\0\0\0\0WAVE", b"%!PS-Adobe"])
def test_bytes_that_are_no_image_raise_image_unsupported(data: bytes) -> None:
    with pytest.raises(ImageUnsupported):
        images.decode(data, WHOLE)


def test_an_empty_file_raises_image_empty() -> None:
    with pytest.raises(ImageEmpty, match="the file is empty"):
        images.decode(b"", WHOLE)


def test_a_decompression_bomb_is_rejected_from_its_header() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(ImageTooManyPixels, match="50000 × 50000 pixels"):
        images.decode(data, WHOLE)


def test_a_jpeg_of_very_many_scans_is_rejected_and_not_decoded() -> None:
    data = encoded(gradient(4000, 4000), "JPEG", progressive=True, quality=5)
    scans = data.count(images.SCAN)
    scan = data[data.rindex(images.SCAN) :][:14]  # each takes a pass over all pixels
    images.decode(data[:-2] + scan * (images.MAX_SCANS - scans) + data[-2:], WHOLE)
    with pytest.raises(ImageError, match="scans"):
        images.decode(data[:-2] + scan * 40_000 + data[-2:], WHOLE)  # half a megabyte, 80 s


@pytest.mark.parametrize(
    ("kind", "at", "part"),
    [
        ("JPEG", 2, b"\xff\xfe\0\2"),
        ("JPEG", 2, b"\xff"),
        ("JPEG", 20, b"\0"),
        ("PNG", 33, b"\0\0\0\0vpAg\x01\x55\xc2\xb3"),
        ("PNG", -12, b"\0\0\0\0tEXt\x96\x42\xc5\x85"),
    ],
)
def test_an_image_in_very_many_parts_is_rejected(
    monkeypatch: pytest.MonkeyPatch, kind: str, at: int, part: bytes
) -> None:
    """Each takes µs of Python: 20 MB of them took up to 20 s."""
    monkeypatch.setattr(images, "MAX_READS", 1_000)
    data = encoded(gradient(64, 64), kind)
    images.decode(data[:at] + part * 50 + data[at:], WHOLE)
    with pytest.raises(ImageError, match="very many parts"):
        images.decode(data[:at] + part * 2_000 + data[at:], WHOLE)


def test_the_limit_of_pixels_is_a_parameter() -> None:
    data = encoded(gradient(200, 100))
    assert images.decode(data, WHOLE, max_pixels=20_000).shape == (64, 64, 3)
    with pytest.raises(ImageTooManyPixels):
        images.decode(data, WHOLE, max_pixels=19_999)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (15, 64)])
def test_narrow_images_are_rejected(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooSmall, match="at least 16"):
        images.decode(encoded(gradient(*size)), WHOLE)


@pytest.mark.parametrize("kind", sorted(images.FILE_FORMATS.keys() - {"FITS"}))
def test_truncated_images_are_rejected(kind: str) -> None:
    data = encoded(gradient(200, 200), kind)
    with pytest.raises(ImageError, match=f"damaged {kind}"):
        images.decode(data[: len(data) * 2 // 3], WHOLE)


@pytest.mark.parametrize("kind", sorted(images.FILE_FORMATS.keys() - {"FITS"}))
def test_random_bytes_raise_image_errors_only(kind: str) -> None:
    random = np.random.default_rng(7)
    good = np.frombuffer(encoded(gradient(48, 40), kind), dtype=np.uint8)
    refused = 0
    for _ in range(700):
        data = good.copy()
        for position in random.integers(8 if kind == "PNG" else 3, len(data), size=random.integers(1, 20)):
            data[position] = random.integers(256)
        cut = int(random.integers(len(data) // 2, len(data) + 1))
        try:
            pixels = images.decode(data[:cut].tobytes(), WHOLE)
        except ImageError:
            refused += 1
        else:
            assert pixels.shape == (64, 64, 3)
    assert refused > 100


def test_an_image_is_not_said_to_be_damaged_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", fail)
    with pytest.raises(ImageError, match="not enough memory to decode this PNG, or it is damaged"):
        images.decode(encoded(gradient(80, 80)), WHOLE)


def test_a_file_that_cannot_be_opened_raises_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        images.decode_file(tmp_path / "gone.jpg", WHOLE)


def test_write_jpeg_is_atomic_and_deterministic(tmp_path: Path) -> None:
    pixels = np.asarray(gradient(64, 64))
    for name in ("a.jpg", "b.jpg"):
        images.write_jpeg(tmp_path / name, pixels)
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg"]
    assert np.abs(images.decode_file(tmp_path / "a.jpg", WHOLE).astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("kind", sorted(images.FILE_FORMATS.keys() - {"FITS"}))
def test_probe_returns_format_and_size(kind: str) -> None:
    assert images.probe(encoded(gradient(400, 300), kind)) == images.Probe(kind, 400, 300)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_probe_does_not_decode_pixels(kind: str) -> None:
    data = encoded(gradient(400, 300), kind)
    cut = data[: len(data) // 2]
    assert images.probe(cut) == images.Probe(kind, 400, 300)
    with pytest.raises(ImageError, match=f"damaged {kind}"):
        images.decode(cut, WHOLE)


def test_probe_rejects_what_decode_rejects() -> None:
    with pytest.raises(ImageTooManyPixels):
        images.probe(encoded(gradient(200, 100)), max_pixels=19_999)
    with pytest.raises(ImageTooSmall):
        images.probe(encoded(gradient(15, 64)))
    with pytest.raises(ImageUnsupported):
        images.probe(b"<html>")


def test_a_thumbnail_is_a_small_jpeg_of_the_same_aspect_ratio() -> None:
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
        *(("TIFF", mode) for mode in ("RGB", "L", "P", "RGBA", "CMYK", "I;16")),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_decoding_the_frame_too_does_not_change_the_network_pixels(kind: str, mode: str, orientation: int) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.asarray(gradient(700, 500).convert("L"), dtype=np.uint16) * 200)
    else:
        image = gradient(700, 500).convert(mode)
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    data = encoded(image, kind, exif=exif)
    for contract in (ImageContract(size=100), ImageContract(size=64, crop=0.5), ImageContract(size=500)):
        pixels, whole = images.decode_with_frame(data, contract, 256)
        assert np.array_equal(pixels, images.decode(data, contract))
        assert whole.shape == ((183, 256, 3) if orientation == 1 else (256, 183, 3))


def test_the_frame_is_whole_upright_and_never_enlarged() -> None:
    image = gradient(400, 200)
    exif = Image.Exif()
    exif[images.ORIENTATION] = 3
    _, whole = images.decode_with_frame(encoded(image.rotate(180), exif=exif), ImageContract(size=32, crop=0.2), 100)
    expected = np.asarray(image.resize((100, 50), Image.Resampling.BOX), dtype=int)
    assert whole.shape == (50, 100, 3)
    assert np.abs(whole.astype(int) - expected).max() <= 8
    _, small = images.decode_with_frame(encoded(gradient(40, 20)), WHOLE, 256)
    assert np.array_equal(small, np.asarray(gradient(40, 20)))
    _, thin = images.decode_with_frame(encoded(gradient(16, 2000)), WHOLE, 100)
    assert thin.shape == (100, 1, 3)


def test_thumbnails_have_no_exif_metadata() -> None:
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


def test_a_model_accepts_the_formats_that_it_says_it_accepts() -> None:
    assert images.accepted_text() == "JPEG, PNG, WebP, TIFF or FITS"
    assert images.accepted_text(WHOLE) == "JPEG, PNG, WebP or TIFF"
    assert images.accepted_text(ImageContract(stretch="asinh")) == images.accepted_text()
