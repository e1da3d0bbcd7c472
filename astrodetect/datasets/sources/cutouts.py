"""Images of a survey around the positions of a catalogue: each request once, places without an image listed."""

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from astrodetect import images
from astrodetect.datasets.sources.http import HttpClient, build_url
from astrodetect.datasets.sources.manifest import CollectionManifest, ManifestEntry
from astrodetect.errors import DataError, FetchError, ImageBlank, ImageError
from astrodetect.progress import Bar
from astrodetect.records import ImageContract
from astrodetect.settings import Settings

# names of columns, in small letters
RA = ("ra", "ra_deg", "raj2000", "_raj2000", "ra_j2000", "ra_icrs", "right_ascension")
DEC = ("dec", "dec_deg", "dej2000", "_dej2000", "dec_j2000", "de_icrs", "dec_icrs", "declination")
LABEL = ("label", "class", "gz2class", "morphology")
NAME = ("name", "objid", "object_id", "id", "iauname", "dr7objid", "source_id", "galaxyid", "main_id")
ARCSECONDS = 3600  # a degree
REQUEST, SHORT = 16, 8  # digits that tell requests apart: in the catalogue, in the names of files
KINDS = {"jpg": "JPEG", "fits": "FITS"}
NO_LABEL = "cutouts"  # the folder of places without one
SHOWN = ImageContract(stretch="linear")  # how FITS is looked at, to see that there is something


@dataclass(frozen=True, slots=True)
class Survey:
    """A service that cuts images out of surveys."""

    license: str
    pxscale: float  # arcseconds, where nobody asks for another
    layers: Mapping[str, str]  # what it cuts out of for each format that it has, where nobody names another


SURVEYS = {
    "legacy": Survey("DESI Legacy Imaging Surveys", 0.262, {"jpg": "ls-dr10", "fits": "ls-dr10"}),
    "sdss": Survey("SDSS", 0.396127, {"jpg": ""}),
    "hips": Survey("that of the survey", 1.0, {"jpg": "CDS/P/DSS2/color", "fits": "CDS/P/DSS2/red"}),
}


@dataclass(frozen=True, slots=True)
class SkyPosition:
    """A position in the sky, in degrees."""

    ra: float
    dec: float
    label: str
    name: str


@dataclass(frozen=True, slots=True)
class CutoutRequest:
    """How cutouts are made."""

    survey: str
    kind: str  # jpg or fits
    side: int  # pixels, each way
    pxscale: float  # arcseconds
    layer: str

    def address(self, place: SkyPosition, chosen: Settings) -> str:
        """Where the cutout around this place is."""
        centre = {"ra": place.ra, "dec": place.dec}
        box = {"width": self.side, "height": self.side}
        if self.survey == "legacy":
            bands = {"bands": "grz"} if self.kind == "fits" else {}
            cut = {"size": self.side, "layer": self.layer, "pixscale": self.pxscale}
            return build_url(f"{chosen.legacy_url}/cutout.{self.kind}", **centre, **cut, **bands)
        if self.survey == "sdss":
            return build_url(f"{chosen.sdss_url}/getjpeg", **centre, scale=self.pxscale, **box)
        seen = {"fov": self.side * self.pxscale / ARCSECONDS, "projection": "TAN", "format": self.kind}
        return build_url(f"{chosen.hips_url}/hips2fits", hips=self.layer, **centre, **box, **seen)


def read_positions(
    path: Path, *, ra: str | None, dec: str | None, label: str | None, name: str | None
) -> list[SkyPosition]:
    """The rows of a CSV file, whose columns go by these names, or else by usual ones; one row that is wrong ends it."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            names = rows.fieldnames or ()
            in_ra, in_dec = _column(path, names, ra, RA), _column(path, names, dec, DEC)
            in_label, in_name = _column(path, names, label, LABEL), _column(path, names, name, NAME)
            if not (in_ra and in_dec):
                missing = "dec" if in_ra else "ra"
                raise DataError(f"{path} has no column of a usual name for {missing.upper()}: name it with --{missing}")
            return [_place(row[in_ra], row[in_dec], row.get(in_label or ""), row.get(in_name or "")) for row in rows]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not CSV in UTF-8: {error}") from error
    except ValueError as error:
        raise DataError(f"{path}, line {rows.line_num}: {error}") from error


def collect_cutouts(
    ledger: CollectionManifest, places: Sequence[SkyPosition], cut: CutoutRequest, chosen: Settings
) -> None:
    """A cutout of each place, in the folder of its label; what is here is not asked for again."""
    remote = HttpClient(chosen)

    def checked(data: bytes) -> bytes:
        if (kind := images.sniff(data)) != KINDS[cut.kind]:
            raise ImageError(f"{kind} came where {cut.kind} was asked for")
        pixels = images.read(data, SHOWN, max_pixels=chosen.max_image_pixels)
        if pixels.min() == pixels.max():
            raise ImageBlank("one value all over: the survey has no image here")
        return data

    with Bar(f"cutouts of {cut.survey}", len(places)) as bar:
        for place in places:
            entry = _entry(place, cut, cut.address(place, chosen))
            if not ledger.knows(entry):
                try:
                    data = remote.get(entry.url, checked)
                except FetchError as error:
                    ledger.skip(entry, str(error))
                else:
                    ledger.save(entry, data, f"{place.name}-{entry.source_id[:SHORT]}")
            bar.step(note=f"{ledger.skipped} skipped")


def _entry(place: SkyPosition, cut: CutoutRequest, url: str) -> ManifestEntry:
    request = hashlib.sha256(url.encode()).hexdigest()[:REQUEST]
    return ManifestEntry(
        label=place.label,
        source=cut.survey,
        source_id=request,
        url=url,
        title=place.name,
        license=SURVEYS[cut.survey].license,
        ra=str(place.ra),
        dec=str(place.dec),
        pxscale=str(cut.pxscale),
    )


def _place(ra: str | None, dec: str | None, label: str | None, name: str | None) -> SkyPosition:
    east, north = _degrees(ra, "RA", 0, 360), _degrees(dec, "Dec", -90, 90)
    return SkyPosition(east, north, label or NO_LABEL, name or f"{east:.5f}{north:+.5f}")


def _degrees(text: str | None, axis: str, least: float, most: float) -> float:
    try:
        found = float(text or "")
    except ValueError:
        found = math.nan
    if not least <= found <= most:
        raise ValueError(f"{axis} in degrees from {least} to {most}, not {text!r}")
    return found


def _column(path: Path, names: Sequence[str], asked: str | None, usual: Sequence[str]) -> str | None:
    """The column as the file calls it."""
    if asked is not None and asked not in names:
        raise DataError(f"{path} has no column {asked}: it has {', '.join(names)}")
    small = {name.strip().lower(): name for name in names}
    return asked or next((small[name] for name in usual if name in small), None)
