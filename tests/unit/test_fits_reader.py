"""Headers that astropy would read without end are refused at once: of images, mosaics and catalogues."""

from pathlib import Path

import pytest

from astrodetect import images
from astrodetect.errors import DataError, ImageError
from astrodetect.records import ImageContract
from astrodetect.sky.mosaics import MosaicFiles
from astrodetect.sky.table_readers import read_object_table

WCS = {
    "CTYPE1": "'RA---TAN'", "CTYPE2": "'DEC--TAN'", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 16.0, "CRPIX2": 16.0,
    "CDELT1": -1e-3, "CDELT2": 1e-3,
}  # fmt: skip
IMAGE = {"SIMPLE": "T", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 32, "NAXIS2": 32, **WCS}
TILES = {
    "XTENSION": "'BINTABLE'", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 8, "NAXIS2": 1, "PCOUNT": 0, "GCOUNT": 1,
    "TFIELDS": 1, "TTYPE1": "'COMPRESSED_DATA'", "TFORM1": "'1PB(9)'", "ZIMAGE": "T", "ZCMPTYPE": "'RICE_1'",
    "ZBITPIX": 8, "ZNAXIS": 2, "ZNAXIS1": 32, "ZNAXIS2": 32, "ZTILE1": 32, "ZTILE2": 1,
}  # fmt: skip
MANY = 300_000  # which takes astropy a second; an upload may say any number


def hdu(cards: dict[str, object]) -> bytes:
    text = "".join(f"{name:8}= {value!s:>20}".ljust(80) for name, value in cards.items()) + "END".ljust(80)
    return text.ljust(-(-len(text) // 2880) * 2880).encode() + bytes(2880)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"NAXIS": MANY}, "has more than 999 axes"),
        ({"NAXIS1": MANY, "NAXIS2": "'64'"}, "has a NAXIS2 that is no number"),
        ({"PCOUNT": MANY, "GCOUNT": "'64'"}, "has a GCOUNT that is no number"),
    ],
)
def test_an_image_of_endless_axes_is_refused_from_its_header(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    data = hdu(IMAGE | changed)
    with pytest.raises(ImageError, match=message):
        images.decode(data, ImageContract(size=32, stretch="asinh"))
    assert images.sky_object(data) is None
    path = tmp_path / "mosaic.fits"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        MosaicFiles((str(path),)).open()
    with pytest.raises(DataError, match=message):
        read_object_table(str(path))


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"TFIELDS": MANY}, "has more than 999 columns"), ({"ZTILE1": MANY, "ZTILE2": "'64'"}, "damaged FITS: 'str'")],
)
def test_tiles_of_endless_columns_are_refused_from_their_header(changed: dict[str, object], message: str) -> None:
    data = hdu({"SIMPLE": "T", "BITPIX": 8, "NAXIS": 0})[:2880] + hdu(TILES | changed)
    with pytest.raises(ImageError, match=message):
        images.decode(data, ImageContract(size=32, stretch="asinh"))


@pytest.mark.parametrize("changed", [{"BSCALE": "'x'"}, {"BZERO": "'y'"}, {"BITPIX": -8}, {"BLANK": "'z'"}])
def test_a_mosaic_of_unknown_values_is_refused_in_one_line(tmp_path: Path, changed: dict[str, object]) -> None:
    path = tmp_path / "mosaic.fits"
    path.write_bytes(hdu(IMAGE | changed))
    with pytest.raises(DataError, match=r"^the mosaic mosaic\.fits (has values of an unknown kind|is truncated)$"):
        MosaicFiles((str(path),)).open()


def test_astropy_logs_nothing_of_an_image(capfd: pytest.CaptureFixture[str]) -> None:
    sip = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 0.1, "B_0_2": 0.1}  # which CTYPE does not say
    assert images.sky_object(hdu(IMAGE | sip)) is not None
    assert capfd.readouterr() == ("", "")
