"""FITS to pixels: limited by the header, robust to undefined pixels, and ImageError for everything else."""

import gzip
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.errors import ImageError, ImageTooManyPixels, ImageTooSmall, ImageUnsupported
from astrodetect.records import ImageContract
from astrodetect.service import detection

SIDE = 64
STRETCHES = ("asinh", "zscale", "linear")


def contract(stretch: str = "asinh", bands: str = "RGB") -> ImageContract:
    return ImageContract(size=SIDE, stretch=stretch, bands=bands)


def encoded(values: NDArray[Any], *before: fits.PrimaryHDU, **cards: object) -> bytes:
    hdu = (fits.ImageHDU if before else fits.PrimaryHDU)(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a BLANK among floats
        hdu.header.update(cards)
        buffer = io.BytesIO()
        fits.HDUList([*before, hdu]).writeto(buffer, output_verify="ignore")
    return buffer.getvalue()


def header(*cards: tuple[str, object]) -> bytes:
    """A FITS file written by hand, with headers that no library would write."""
    lines = [f"{name:8}= {value!s:>20}" for name, value in cards]
    return "".join(line.ljust(80) for line in [*lines, "END"]).ljust(2880).encode()


def galaxy(x: float, y: float, *, flux: float = 5_000.0, seed: int = 0) -> NDArray[np.float32]:
    """A blob on a noisy sky; the first row is at the bottom, as in FITS."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    sky = np.random.default_rng(seed).normal(100, 5, (SIDE, SIDE))
    blob = flux * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)
    return np.asarray(sky + blob, dtype=np.float32)


def brightest(row: NDArray[np.uint8]) -> int:
    """The quadrant of the centre of the brightest pixels."""
    return int(np.flatnonzero(row == row.max()).mean()) // (SIDE // 4)


@pytest.mark.parametrize("stretch", STRETCHES)
def test_a_plane_is_grey_with_the_first_row_at_the_bottom(stretch: str) -> None:
    pixels = images.decode(encoded(galaxy(48, 16)), contract(stretch))
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    assert pixels[SIDE - 1 - 16, 48, 0] > 240  # low in y is low in the picture
    assert pixels[10:20, 10:20].mean() < 120


def test_asinh_shows_faint_sources_that_linear_loses() -> None:
    faint = galaxy(16, 32, flux=60, seed=1) + galaxy(48, 32, flux=50_000, seed=2)
    contrasts = {}
    for stretch in ("asinh", "linear"):
        pixels = images.decode(encoded(faint), contract(stretch))[..., 0].astype(int)
        contrasts[stretch] = pixels[28:36, 12:20].mean() - pixels[:12, :12].mean()
    assert contrasts["asinh"] > 10 + contrasts["linear"]


@pytest.mark.parametrize("stretch", STRETCHES)
def test_the_longest_wavelength_of_a_cube_is_red(stretch: str) -> None:
    cube = np.stack([galaxy(10, 32), galaxy(32, 32), galaxy(54, 32)])  # as grz
    pixels = images.decode(encoded(cube), contract(stretch))
    assert [brightest(pixels[31, :, band]) for band in range(3)] == [3, 2, 0]


def test_asinh_preserves_the_colour_of_a_red_galaxy() -> None:
    cube = np.stack([galaxy(32, 32, flux=flux, seed=flux) for flux in (500, 2_000, 20_000)])
    red, green, blue = images.decode(encoded(cube), contract())[31, 32].tolist()
    assert red > green + 20 > blue + 40


def test_bands_select_planes_by_number() -> None:
    cube = np.stack([galaxy(10, 32), galaxy(32, 32), galaxy(54, 32), galaxy(32, 8), galaxy(32, 56)])
    data = encoded(cube)
    with pytest.raises(ImageError, match="FITS of 5 planes: --planes names three \\(2,1,0\\)"):
        images.decode(data, contract())
    picked = images.decode(data, contract(bands="4,0,2"))
    assert [brightest(picked[31, :, band]) for band in (1, 2)] == [0, 3]
    assert brightest(picked[:, 32, 0]) == 0
    grey = images.decode(data, contract(bands="0"))
    assert np.array_equal(grey[..., 0], grey[..., 1])
    assert np.array_equal(grey[..., 0], images.decode(encoded(cube[0]), contract())[..., 0])
    with pytest.raises(ImageError, match="there are no bands 5,0,0"):
        images.decode(data, contract(bands="5,0,0"))


def test_bands_and_stretch_do_not_change_jpeg_and_png() -> None:
    data = images.encode_thumbnail(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), SIDE)
    assert np.array_equal(images.decode(data, contract("zscale", "0")), images.decode(data, ImageContract(size=SIDE)))


def test_a_contract_without_stretch_rejects_fits_and_names_the_option() -> None:
    with pytest.raises(ImageUnsupported, match="--stretch asinh"):
        images.decode(encoded(galaxy(32, 32)), ImageContract(size=SIDE))


@pytest.mark.parametrize("stretch", STRETCHES)
def test_undefined_and_infinite_pixels_are_black_and_do_not_affect_others(stretch: str) -> None:
    values = galaxy(32, 32)
    whole = images.decode(encoded(values), contract(stretch)).astype(int)
    values[:4], values[4:8], values[8, :], values[9, :] = np.nan, np.inf, -np.inf, np.nan
    values[12, 20] = 3e38
    pixels = images.decode(encoded(values), contract(stretch)).astype(int)
    assert pixels[-10:].max() == 0
    assert pixels[-13, 20].tolist() == [255, 255, 255]
    assert np.abs(pixels[:40] - whole[:40]).mean() < (60 if stretch == "zscale" else 12)


@pytest.mark.parametrize("stretch", STRETCHES)
def test_a_plane_without_values_is_black_and_an_image_without_values_is_rejected(stretch: str) -> None:
    empty = np.full((SIDE, SIDE), np.nan, dtype=np.float32)
    pixels = images.decode(encoded(np.stack([galaxy(32, 32), empty, galaxy(32, 32)])), contract(stretch))
    assert pixels[..., 1].max() == 0
    assert pixels[..., 0].max() > 200
    with pytest.raises(ImageError, match="every pixel is undefined"):
        images.decode(encoded(empty), contract(stretch))


@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize("value", [0.0, -7.0, 1e300])
def test_a_constant_image_is_one_grey_level(stretch: str, value: float) -> None:
    pixels = images.decode(encoded(np.full((SIDE, SIDE), value)), contract(stretch))
    assert pixels.min() == pixels.max()


@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize("few", [1, 2, 5])
def test_a_few_defined_pixels_are_enough(stretch: str, few: int) -> None:
    values = np.full((SIDE, SIDE), np.nan)
    values[30, 30 : 30 + few] = np.arange(few)
    assert images.decode(encoded(values), contract(stretch)).shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_every_data_type_gives_the_same_pixels(kind: type) -> None:
    values = galaxy(40, 20, flux=120).clip(0, 255).astype(np.uint8)
    pixels = images.decode(encoded(values.astype(kind)), contract("linear"))
    assert np.array_equal(pixels, images.decode(encoded(values), contract("linear")))
    assert pixels.std() > 20


@pytest.mark.parametrize("blank", [-32768, 0])
def test_blank_bscale_and_bzero_are_applied(blank: int) -> None:
    values = galaxy(40, 20).astype(np.int16)
    values[:8] = blank
    pixels = images.decode(encoded(values, BLANK=blank, BSCALE=-0.5, BZERO=10.0), contract("linear"))
    meant = np.where(values == blank, np.nan, 10.0 - 0.5 * values)
    assert np.array_equal(pixels, images.decode(encoded(meant), contract("linear")))
    assert pixels[-8:].max() == 0 < pixels[:-8].mean()


@pytest.mark.parametrize("codec", [None, "RICE_1", "GZIP_1"])
def test_blank_of_unsigned_values_is_undefined(codec: str | None) -> None:
    values = galaxy(40, 20).clip(0, 60_000).astype(np.uint16)
    meant = values.astype(np.float32)
    values[:8], meant[:8] = 65_535, np.nan
    hdu = fits.CompImageHDU(values, compression_type=codec) if codec else fits.PrimaryHDU(values)
    hdu.header["BLANK"] = 32_767  # as it is stored, less BZERO
    buffer = io.BytesIO()
    hdu.writeto(buffer)
    assert np.array_equal(images.decode(buffer.getvalue(), contract()), images.decode(encoded(meant), contract()))


def test_an_image_in_an_extension_or_with_axes_of_length_1_is_found() -> None:
    values = galaxy(40, 20)
    expected = images.decode(encoded(values), contract())
    assert np.array_equal(images.decode(encoded(values, fits.PrimaryHDU()), contract()), expected)
    assert np.array_equal(images.decode(encoded(values[None, None]), contract()), expected)
    cube = np.stack([values, values, values])
    assert np.array_equal(images.decode(encoded(cube[:, None]), contract()), images.decode(encoded(cube), contract()))


def test_probe_returns_the_declared_size_without_reading_values() -> None:
    data = encoded(np.zeros((3, 40, 80), dtype=np.float32))[:2880]
    assert images.probe(data) == images.Probe("FITS", 80, 40)
    with pytest.raises(ImageError, match="damaged FITS"):
        images.decode(data, contract())


@pytest.mark.parametrize("sides", [(50_000, 50_000), (2**40, 16)])
def test_a_huge_image_is_rejected_from_its_header(sides: tuple[int, int]) -> None:
    width, height = sides
    data = header(("SIMPLE", "T"), ("BITPIX", -64), ("NAXIS", 2), ("NAXIS1", width), ("NAXIS2", height))
    with pytest.raises(ImageTooManyPixels, match=f"{width} × {height} pixels"):
        images.decode(data, contract())


def test_an_overflowing_size_raises_image_error() -> None:
    with pytest.raises(ImageError, match="damaged FITS"):
        images.decode(
            header(("SIMPLE", "T"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", 10**19), ("NAXIS2", 64)), contract()
        )


@pytest.mark.parametrize("sides", [(8, 200), (0, 64), (-64, -64)])
def test_narrow_images_are_rejected(sides: tuple[int, int]) -> None:
    data = header(("SIMPLE", "T"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", sides[0]), ("NAXIS2", sides[1]))
    with pytest.raises(ImageTooSmall, match="at least 16"):
        images.decode(data, contract())


def test_tables_and_hypercubes_are_rejected_with_a_message() -> None:
    table = fits.BinTableHDU.from_columns([fits.Column(name="ra", format="D", array=np.arange(9.0))])
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(buffer)
    with pytest.raises(ImageUnsupported, match="tables are not read"):
        images.decode(buffer.getvalue(), contract())
    with pytest.raises(ImageUnsupported, match="FITS of 4 axes"):
        images.decode(encoded(np.zeros((2, 2, 32, 32), dtype=np.uint8)), contract())
    axes = [(f"NAXIS{number}", 1) for number in range(1, 1000)]
    with pytest.raises(ImageError):
        images.decode(header(("SIMPLE", "T"), ("BITPIX", 8), ("NAXIS", 999), *axes), contract())


def test_a_gzip_is_decompressed_up_to_a_limit() -> None:
    data = encoded(galaxy(40, 20))
    assert np.array_equal(images.decode(gzip.compress(data), contract()), images.decode(data, contract()))
    members = gzip.compress(data[:3000]) + gzip.compress(b"") + gzip.compress(data[3000:]) + bytes(10)
    assert np.array_equal(images.decode(members, contract()), images.decode(data, contract()))
    with pytest.raises(ImageError, match="data follow the end"):
        images.decode(members + gzip.compress(b"") * 5000, contract())
    bomb = gzip.compress(header(("SIMPLE", "T"), ("BITPIX", 8), ("NAXIS", 0)) + bytes(2_000_000))
    assert len(bomb) < 10_000
    with pytest.raises(ImageTooManyPixels, match="more than 1,200,000 bytes"):
        images.decode(bomb, contract(), max_pixels=100_000)
    with pytest.raises(ImageError, match="truncated"):
        images.decode(gzip.compress(data)[:-40], contract())
    with pytest.raises(ImageUnsupported, match="no FITS"):
        images.decode(gzip.compress(b"<html>"), contract())
    with pytest.raises(ImageError, match="damaged FITS"):
        images.decode(b"\x1f\x8b" + bytes(40), contract())


def compressed(values: NDArray[Any], codec: str = "RICE_1", **options: Any) -> bytes:
    """As .fits.fz."""
    buffer = io.BytesIO()
    hdu = fits.CompImageHDU(values, compression_type=codec, **options)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    return buffer.getvalue()


def test_the_service_neither_unpacks_nor_parses_a_fits_on_its_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "probe", lambda _: pytest.fail("parsed"))
    plain = header(("SIMPLE", "T"), ("BITPIX", 8), ("NAXIS", 0)) + bytes(100_000)
    tiles = header(("SIMPLE", "T"), ("ZIMAGE", "T")) + bytes(100_000)
    large = [detection._is_large(data) for data in (gzip.compress(bytes(100)), plain, tiles)]
    assert large == [True, False, True]


@pytest.mark.parametrize("codec", ["RICE_1", "GZIP_1", "GZIP_2", "NOCOMPRESS"])
@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float32])
def test_a_tile_compressed_image_has_the_pixels_of_the_uncompressed_one(codec: str, kind: type) -> None:
    values: NDArray[Any] = galaxy(40, 20).astype(kind)
    pixels = images.decode(compressed(values, codec), contract()).astype(int)
    assert np.abs(pixels - images.decode(encoded(values), contract())).max() <= 1  # floats are quantised
    cube = np.stack([values, 2 * values, 3 * values])
    tiled = compressed(cube, codec, tile_shape=(3, 16, SIDE))
    assert np.abs(images.decode(tiled, contract()).astype(int) - images.decode(encoded(cube), contract())).max() <= 2
    assert images.probe(tiled) == images.Probe("FITS", SIDE, SIDE)


@pytest.mark.parametrize("codec", ["HCOMPRESS_1", "PLIO_1"])
def test_other_tile_compressions_are_rejected_with_the_remedy(codec: str) -> None:
    with pytest.raises(ImageUnsupported, match=f"compressed by {codec}.*funpack"):
        images.decode(compressed(galaxy(32, 32).astype(np.uint8), codec), contract())


def test_tile_compression_is_limited_by_the_declared_size_and_the_unpacked_bytes() -> None:
    data = compressed(galaxy(32, 32).astype(np.int16))

    def changed(**cards: int) -> bytes:
        changed_data = data
        for name, value in cards.items():
            start = changed_data.index(f"{name:8}=".encode())
            card = f"{name:8}= {value:>20}".ljust(80).encode()
            changed_data = changed_data[:start] + card + changed_data[start + 80 :]
        return changed_data

    with pytest.raises(ImageTooManyPixels, match="60000 × 60000 pixels"):
        images.decode(changed(ZNAXIS1=60_000, ZTILE1=60_000, ZNAXIS2=60_000), contract())
    for cards in ({"ZTILE1": 2**30}, {"ZTILE1": 0}, {"ZNAXIS2": 70_000}):
        with pytest.raises(ImageUnsupported, match="unpack it with funpack"):
            images.decode(changed(**cards), contract())
    with pytest.raises(ImageError, match="settings that do not exist"):
        images.decode(changed(ZVAL1=0), contract())
    bomb = compressed(np.zeros((512, 512), dtype=np.int16), "GZIP_1", tile_shape=(512, 512))
    assert len(bomb) < 20_000
    with pytest.raises(ImageTooManyPixels, match="gzip holds more than 480,000 bytes"):
        images.decode(bomb, contract(), max_pixels=40_000)


@pytest.mark.parametrize("make", [encoded, compressed])
@pytest.mark.parametrize("where", ["header", "values", "anywhere"])
def test_random_bytes_raise_image_errors_only(where: str, make: Callable[[NDArray[Any]], bytes]) -> None:
    random = np.random.default_rng(7)
    good = np.frombuffer(make(galaxy(32, 32)[:40, :40]), dtype=np.uint8)
    first, last = {"header": (9, 480), "values": (2880, len(good)), "anywhere": (9, len(good))}[where]
    refused = 0
    for round_ in range(400):
        data = good.copy()
        for position in random.integers(first, last, size=random.integers(1, 20)):
            data[position] = random.integers(32, 127) if where == "header" else random.integers(256)
        cut = int(random.integers(first, len(data) + 1)) if round_ % 2 else len(data)
        try:
            pixels = images.decode(data[:cut].tobytes(), contract(STRETCHES[round_ % 3]))
        except ImageError:
            refused += 1
        else:
            assert pixels.shape == (SIDE, SIDE, 3)
    assert refused > 100


def test_unusual_headers_cause_no_warnings() -> None:
    data = bytearray(encoded(galaxy(32, 32)))
    data[400:480] = b"odd key = 'never closed".ljust(80)
    before = list(warnings.filters)
    assert images.decode(bytes(data), contract()).std() > 5  # a warning would be an error here
    assert list(warnings.filters) == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"stretch": "log"},
        {"stretch": ""},
        {"bands": "grz"},
        {"bands": "0,1"},
        {"bands": "-1"},
        {"bands": "2,1,0,"},
        {"resample": "nearest"},
        {"crop": 0.0},
        {"crop": float("nan")},
        {"size": 0},
    ],
)
def test_an_invalid_contract_is_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not"):
        ImageContract(**wrong)
