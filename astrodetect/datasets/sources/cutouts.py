"""Survey cutouts around the positions of a catalogue (Legacy Surveys, SDSS, HiPS)."""

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from astrodetect import images
from astrodetect.datasets.sources.http import HttpClient, build_url
from astrodetect.datasets.sources.manifest import CollectionManifest, ManifestEntry
from astrodetect.errors import DataError, ImageBlank, ImageError, SourceUrlError
from astrodetect.progress import ProgressBar
from astrodetect.records import ImageContract
from astrodetect.settings import Settings
from astrodetect.sky.catalogue_columns import DEC_COLUMNS, RA_COLUMNS

# usual column names, in lower case
LABEL_COLUMNS = ("label", "class", "gz2class", "morphology")
NAME_COLUMNS = ("name", "objid", "object_id", "id", "iauname", "dr7objid", "source_id", "galaxyid", "main_id")
ARCSEC_PER_DEGREE = 3600
ID_DIGITS, FILE_ID_DIGITS = 16, 8  # of the URL's SHA-256 that identifies a request: in catalogue.csv, in file names
FORMATS = {"jpg": "JPEG", "fits": "FITS"}
NO_LABEL = "cutouts"  # label of positions without one
CHECK_CONTRACT = ImageContract(stretch="linear")  # to decode FITS for the check that it is not blank


@dataclass(frozen=True, slots=True)
class Survey:
    """A cutout service and its defaults."""

    license: str
    pxscale: float  # default, arcseconds
    layers: Mapping[str, str]  # default layer for each format that it supports


SURVEYS = {
    "legacy": Survey("DESI Legacy Imaging Surveys", 0.262, {"jpg": "ls-dr10", "fits": "ls-dr10"}),
    "sdss": Survey("SDSS", 0.396127, {"jpg": ""}),
    "hips": Survey("that of the survey", 1.0, {"jpg": "CDS/P/DSS2/color", "fits": "CDS/P/DSS2/red"}),
}


@dataclass(frozen=True, slots=True)
class SkyPosition:
    """A sky position in degrees, with label and name."""

    ra: float
    dec: float
    label: str
    name: str


@dataclass(frozen=True, slots=True)
class CutoutRequest:
    """Survey, format and geometry of cutouts."""

    survey: str
    format: str  # jpg or fits
    side: int  # pixels, each way
    pxscale: float  # arcseconds
    layer: str

    def url(self, position: SkyPosition, settings: Settings) -> str:
        """URL of the cutout around this position."""
        centre = {"ra": position.ra, "dec": position.dec}
        size = {"width": self.side, "height": self.side}
        if self.survey == "legacy":
            bands = {"bands": "grz"} if self.format == "fits" else {}
            geometry = {"size": self.side, "layer": self.layer, "pixscale": self.pxscale}
            return build_url(f"{settings.legacy_url}/cutout.{self.format}", **centre, **geometry, **bands)
        if self.survey == "sdss":
            return build_url(f"{settings.sdss_url}/getjpeg", **centre, scale=self.pxscale, **size)
        view = {"fov": self.side * self.pxscale / ARCSEC_PER_DEGREE, "projection": "TAN", "format": self.format}
        return build_url(f"{settings.hips_url}/hips2fits", hips=self.layer, **centre, **size, **view)


def read_positions(
    path: Path, *, ra: str | None, dec: str | None, label: str | None, name: str | None
) -> list[SkyPosition]:
    """The rows of a CSV file; columns not named are found by their usual names. An invalid row is an error."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            names = rows.fieldnames or ()
            ra_column = _find_column(path, names, ra, RA_COLUMNS)
            dec_column = _find_column(path, names, dec, DEC_COLUMNS)
            label_column = _find_column(path, names, label, LABEL_COLUMNS)
            name_column = _find_column(path, names, name, NAME_COLUMNS)
            if not (ra_column and dec_column):
                missing = "dec" if ra_column else "ra"
                raise DataError(
                    f"{path} has no column with a usual name for {missing.upper()}: name it with --{missing}"
                )
            return [
                _parse_position(
                    row[ra_column], row[dec_column], row.get(label_column or ""), row.get(name_column or "")
                )
                for row in rows
            ]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not UTF-8 CSV: {error}") from error
    except ValueError as error:
        raise DataError(f"{path}, line {rows.line_num}: {error}") from error


def download_cutouts(
    manifest: CollectionManifest, positions: Sequence[SkyPosition], request: CutoutRequest, settings: Settings
) -> None:
    """Collect a cutout of each position into the folder of its label; collected cutouts are not requested again."""
    client = HttpClient(settings)

    def check(data: bytes) -> bytes:
        if (received := images.detect_format(data)) != FORMATS[request.format]:
            raise ImageError(f"received {received} instead of {request.format}")
        pixels = images.decode(data, CHECK_CONTRACT, max_pixels=settings.max_image_pixels)
        if pixels.min() == pixels.max():
            raise ImageBlank("all pixels are equal: the survey has no image here")
        return data

    with ProgressBar(f"cutouts of {request.survey}", len(positions)) as bar:
        for position in positions:
            entry = _manifest_entry(position, request, request.url(position, settings))
            if not manifest.already_tried(entry):
                try:
                    data = client.get(entry.url, check)
                except SourceUrlError as error:
                    manifest.skip(entry, str(error))
                else:
                    manifest.save(entry, data, f"{position.name}-{entry.source_id[:FILE_ID_DIGITS]}")
            bar.step(note=f"{manifest.skipped} skipped")


def _manifest_entry(position: SkyPosition, request: CutoutRequest, url: str) -> ManifestEntry:
    request_id = hashlib.sha256(url.encode()).hexdigest()[:ID_DIGITS]
    return ManifestEntry(
        label=position.label,
        source=request.survey,
        source_id=request_id,
        url=url,
        title=position.name,
        license=SURVEYS[request.survey].license,
        ra=str(position.ra),
        dec=str(position.dec),
        pxscale=str(request.pxscale),
    )


def _parse_position(ra: str | None, dec: str | None, label: str | None, name: str | None) -> SkyPosition:
    ra_deg, dec_deg = _parse_degrees(ra, "RA", 0, 360), _parse_degrees(dec, "Dec", -90, 90)
    return SkyPosition(ra_deg, dec_deg, label or NO_LABEL, name or f"{ra_deg:.5f}{dec_deg:+.5f}")


def _parse_degrees(text: str | None, axis: str, low: float, high: float) -> float:
    try:
        degrees = float(text or "")
    except ValueError:
        degrees = math.nan
    if not low <= degrees <= high:
        raise ValueError(f"{axis} in degrees from {low} to {high}, not {text!r}")
    return degrees


def _find_column(path: Path, names: Sequence[str], requested: str | None, usual: Sequence[str]) -> str | None:
    """The requested column, or the first with a usual name, as spelt in the file."""
    if requested is not None and requested not in names:
        raise DataError(f"{path} has no column {requested}: it has {', '.join(names)}")
    by_lower_case = {name.strip().lower(): name for name in names}
    return requested or next((by_lower_case[name] for name in usual if name in by_lower_case), None)
