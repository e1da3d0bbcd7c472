"""Cutouts of mosaics in Python."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from astrodetect.errors import DataError
from astrodetect.records import ImageContract
from astrodetect.sky.catalogue import read_objects
from astrodetect.sky.catalogue_columns import CatalogueColumns
from astrodetect.sky.cutouts import Cutout, CutoutSize, CutoutSource, cut_out_objects
from astrodetect.sky.mosaics import MosaicFiles
from astrodetect.storage.references import is_url


def cutouts(
    mosaic: str | Path | Sequence[str | Path],
    *,
    catalogue: str | Path,
    size: str,
    bands: Sequence[str] = (),
    ra: str | None = None,
    dec: str | None = None,
    object_id: str | None = None,
) -> list[Cutout]:
    """The objects of a catalogue, cut out of FITS mosaics as they are read, for `predict`, `describe` and `rank`.

    `mosaic` are files or URLs; `size` is such as "8arcsec" or "64px"; `bands` are the names of HDUs, filters or files,
    by increasing wavelength. The catalogue's columns are found by their names, unless `ra`, `dec` and `object_id` name
    them. An image has the name of its object, and its `position`; objects outside of the mosaics are left out.
    """
    given = [mosaic] if isinstance(mosaic, str | Path) else list(mosaic)
    if not given:
        raise DataError("no mosaics are given: name one FITS image or more")
    files = tuple(str(file) if is_url(file) else str(Path(file).absolute()) for file in given)
    try:
        source = CutoutSource(MosaicFiles(files, tuple(bands)), CutoutSize.parse(str(size)))
    except ValueError as error:
        raise DataError(str(error)) from error
    objects = read_objects(str(catalogue), CatalogueColumns(ra, dec, object_id))
    return cut_out_objects(source, objects)[0]


def check_cutouts(images: Iterable[object], contract: ImageContract) -> None:
    """DataError where cutouts are not of the bands that the contract of a model reads."""
    for source in {image.source for image in images if isinstance(image, Cutout)}:
        source.mosaics.check_contract(source.open().plane_count, contract)
