"""Catalogues of every format, by names and UCDs."""

import csv
import gzip
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astrodetect.cli._catalogue import open_catalogue
from astrodetect.errors import DataError
from astrodetect.records import SkyObject
from astrodetect.sky import table_readers
from astrodetect.sky.catalogue import read_catalogue
from astrodetect.sky.catalogue_columns import CatalogueColumns

OBJECTS = {
    "RAJ2000": [10.5, 20.25, 359.75],
    "DEJ2000": [-5.5, 0.0, 89.5],
    "objid": [587722981742084144, 2, 3],
    "filename": ["a.jpg", "sub/b.jpg", "c.jpg"],
    "mag": [17.5, None, 19.25],
    "survey": ["SDSS", "", "DES"],
}


def write_catalogue(path: Path, columns: Mapping[str, Any], ucds: dict[str, str] | None = None) -> Path:
    """A catalogue in the format of its suffix."""
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    elif path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table(columns), path)
    else:
        from astropy.table import Table

        table = Table({name: [np.nan if cell is None else cell for cell in cells] for name, cells in columns.items()})
        for name, ucd in (ucds or {}).items():
            table[name].meta["ucd"] = ucd
        table.write(path, format="fits" if path.suffix == ".fits" else "votable")
    return path


def test_columns_that_no_csv_can_hold_are_left_out(tmp_path: Path) -> None:
    from astropy.io import fits

    lists = np.array([np.array([1.0]), np.array([2.0, 3.0])], object)
    columns = [fits.Column(name, "D", array=[10.0, 20.0]) for name in ("RA", "DEC")]
    columns += [fits.Column("v", "PD()", array=lists), fits.Column("z", "M", array=np.array([1j, 2j]))]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "objects.fits")
    assert [*table_readers.read_object_table(str(tmp_path / "objects.fits")).columns] == ["RA", "DEC"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".fits", ".vot"])
def test_every_format_gives_the_same_objects_and_columns(tmp_path: Path, suffix: str) -> None:
    catalogue = read_catalogue([write_catalogue(tmp_path / f"objects{suffix}", OBJECTS)])
    joined = catalogue.join(["path", "score"])
    names = ["ra", "dec", "object_id", "RAJ2000", "DEJ2000", "objid", "mag", "survey"]
    assert list(joined.columns) == names
    kinds = ["number", "number", "text", "number", "number", "integer", "number", "text"]
    assert list(joined.columns.values()) == kinds
    a = [10.5, -5.5, "587722981742084144", 10.5, -5.5, 587722981742084144, 17.5, "SDSS"]
    assert joined.cells(tmp_path / "a.jpg", typed=True) == a
    b = [20.25, 0.0, "2", 20.25, 0.0, 2, None, None]
    assert joined.cells(tmp_path / "sub" / "b.jpg", typed=True) == b
    assert joined.cells(tmp_path / "d.jpg") == [None] * len(names)


@pytest.mark.parametrize(
    ("unit", "degrees"),
    [("deg", 1), ("Degrees", 1), ("hours", 15), ("hr", 15), ("radians", 180 / np.pi), ("arcmin", 1 / 60), ("m", None)],
)
def test_the_unit_of_a_position_is_that_of_its_column(tmp_path: Path, unit: str, degrees: float | None) -> None:
    from astropy.io import fits

    for ra in (1.5, "1.5"):  # a column of texts may spell numbers
        path = write_catalogue(tmp_path / f"{type(ra).__name__}.fits", {"id": ["a"], "ra": [ra], "dec": [-2.5]})
        fits.setval(path, "TUNIT2", value=unit, ext=1)
        if degrees is None:
            with pytest.raises(DataError, match="ra has the unit m: degrees, hours or radians are read"):
                read_catalogue([path])
        else:
            assert read_catalogue([path]).objects[0].ra == pytest.approx(1.5 * degrees)


def test_positions_of_another_frame_are_refused_and_left_for_those_of_j2000(tmp_path: Path) -> None:
    from astropy.io import fits
    from astropy.io.votable import from_table, tree, writeto
    from astropy.table import Table

    path = write_catalogue(tmp_path / "objects.fits", {"id": ["a"], "ra": [1.5], "dec": [-2.5]})
    fits.setval(path, "RADESYS", value="FK4", ext=1)
    with pytest.raises(DataError, match="ra is in FK4, and positions are read in ICRS or J2000: convert them"):
        read_catalogue([path])

    table = from_table(Table({"id": ["a"], "RA": [1.5], "DE": [-2.5], "_RA": [2.1], "_DE": [-2.2]}))
    table.resources[0].coordinate_systems.append(tree.CooSys(ID="old", system="eq_FK4", equinox="B1950"))
    ucds = (None, "pos.eq.ra;meta.main", "pos.eq.dec;meta.main", "pos.eq.ra", "pos.eq.dec")
    for field, ucd in zip(table.get_first_table().fields, ucds, strict=True):
        field.ucd, field.ref = ucd, "old" if field.name in {"RA", "DE"} else None
    writeto(table, str(tmp_path / "both.vot"))
    assert read_catalogue([tmp_path / "both.vot"]).objects == [SkyObject(2.1, -2.2, "a")]
    with pytest.raises(DataError, match="RA is in eq_FK4 B1950"):
        read_catalogue([tmp_path / "both.vot"], CatalogueColumns(ra="RA", dec="DE"))
    with pytest.raises(DataError, match="RA1950 is in B1950"):
        read_catalogue(
            [write_catalogue(tmp_path / "old.csv", {"id": ["a"], "RA1950": [1.5], "DE1950": [2]})],
            CatalogueColumns(ra="RA1950", dec="DE1950"),
        )


def test_columns_are_found_by_ucd_or_named(tmp_path: Path) -> None:
    from astropy.io import votable
    from astropy.table import Table

    table = votable.from_table(Table({"x": [10.0], "y": [20.0], "z": ["M51"], "ra": [1.0], "dec": [2.0]}))
    ucds = ("pos.eq.ra;meta.main", "pos.eq.dec;meta.main", "meta.id;meta.main", "", "")
    for field, ucd in zip(table.get_first_table().fields, ucds, strict=True):
        field.ucd = ucd or None
    table.to_xml(str(tmp_path / "objects.vot"))
    by_ucd = read_catalogue([tmp_path / "objects.vot"])
    assert by_ucd.sky_object("folder/M51.fits.gz") == SkyObject(10, 20, "M51")
    assert list(by_ucd.join([]).columns)[3:] == ["x", "y", "z", "catalogue_ra", "catalogue_dec"]
    named = read_catalogue([tmp_path / "objects.vot"], CatalogueColumns(ra="ra", dec="dec", object_id="z"))
    assert named.sky_object("M51.jpg") == SkyObject(1, 2, "M51")
    with pytest.raises(DataError, match="has no column RA: it has x, y, z, ra, dec"):
        read_catalogue([tmp_path / "objects.vot"], CatalogueColumns(ra="RA"))


def test_the_columns_of_a_position_are_of_one_pair(tmp_path: Path) -> None:
    columns = {"RA": [1], "dec": [2], "ra": [3], "DEC": [4], "id": ["a"]}
    [item] = read_catalogue([write_catalogue(tmp_path / "objects.csv", columns)]).objects
    assert (item.ra, item.dec) == (3, 2)


def test_a_row_without_a_folder_is_of_the_image_of_that_name_unless_there_is_one_beside_the_catalogue(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.jpg").touch()
    catalogue = read_catalogue([write_catalogue(tmp_path / "objects.csv", OBJECTS)])
    assert catalogue.sky_object("elsewhere/c.jpg") == SkyObject(359.75, 89.5, "3")
    assert catalogue.sky_object("shard.tar#night/c.jpg") == SkyObject(359.75, 89.5, "3")
    assert catalogue.sky_object("elsewhere/a.jpg") is None
    assert catalogue.sky_object("elsewhere/b.jpg") is None


def test_the_rows_of_a_parquet_file_of_images_are_those_of_its_images_and_their_numbers_no_identifiers(
    tmp_path: Path,
) -> None:
    columns = {"image": [b"1", b"2", b"3"], **OBJECTS}
    file = write_catalogue(tmp_path / "sky.parquet", columns)
    arguments = Namespace(catalogue=None, ra=None, dec=None, id=None, path=None)
    catalogue = open_catalogue(arguments, [file, tmp_path], [])
    assert catalogue is not None
    assert list(catalogue.join([]).columns)[3:] == ["RAJ2000", "DEJ2000", "objid", "filename", "mag", "survey"]
    assert (
        catalogue.sky_object(f"{file}#1") == catalogue.sky_object(tmp_path / "sub/b.jpg") == SkyObject(20.25, 0.0, "2")
    )
    others = read_catalogue([write_catalogue(tmp_path / "objects.csv", {"id": [1], "ra": [1], "dec": [2]})])
    assert others.sky_object(f"{file}#1") is None
    assert others.sky_object("sky.tar#1.png") == SkyObject(1, 2, "1")


def test_several_catalogues_are_one(tmp_path: Path) -> None:
    (tmp_path / "night").mkdir()
    first = write_catalogue(
        tmp_path / "objects.csv", {"path": ["a.jpg"], "ra": ["12:00:00"], "dec": ["-1"], "x": ["7"]}
    )
    second = write_catalogue(tmp_path / "night" / "b.csv", {"path": ["b.jpg"], "ra": [""], "dec": ["nan"], "y": ["8"]})
    joined = read_catalogue([first, second]).join([])
    assert list(joined.columns) == ["ra", "dec", "object_id", "catalogue_ra", "x", "y"]
    assert joined.cells(tmp_path / "a.jpg") == [180.0, -1.0, None, "12:00:00", "7", None]
    assert joined.cells(tmp_path / "night" / "b.jpg") == [None, None, None, None, None, "8"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("o.csv", "path,ra,dec\na.jpg,1,2\nb.jpg,400,2\n", "row 2: RA in degrees from 0 to 360"),
        ("o.csv", "path,ra,dec\na.jpg,1,north\n", "row 1: Dec in degrees from -90 to 90"),
        ("o.csv", "path,x,dec\n", "no column with a usual name for RA: name it with --ra"),
        ("o.csv", "ra,dec\n1,2\n", "no column of paths or identifiers: name one with --path or --id"),
        ("o.fits", "no FITS", "is no FITS"),
        ("o.vot", "<VOTABLE", "cannot be read"),
        ("o.parquet", "no Parquet", "cannot be read"),
        ("o.txt", "", "ends in none of .csv .fits"),
    ],
)
def test_what_is_wrong_with_a_catalogue_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as refused:
        read_catalogue([tmp_path / name])
    assert message in str(refused.value)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


VOTABLE = """<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE nrows="{rows}">
<FIELD name="ra" datatype="double"/><FIELD name="id" datatype="char" arraysize="{length}"/><DATA>{data}</DATA></TABLE>
</RESOURCE></VOTABLE>"""
CELLS = "<TABLEDATA><TR><TD>1</TD><TD>x</TD></TR></TABLEDATA>"


@pytest.mark.parametrize(
    ("rows", "length", "data", "message"),
    [
        (1, 1, '<BINARY><STREAM href="file:///etc/hostname"/></BINARY>', "has its values in another file"),
        (1, 1, '<v:FITS xmlns:v="x"><v:STREAM href="http://127.0.0.1:9/"/></v:FITS>', "has its values in another file"),
        (10**9, 1, CELLS, "has more than 100,000,000 cells"),
        (1, 10**10, CELLS, "has more than 100,000,000 cells"),
    ],
)
def test_a_votable_opens_no_other_file_and_allocates_only_what_it_holds(
    tmp_path: Path, rows: int, length: int, data: str, message: str
) -> None:
    path = tmp_path / "objects.vot"
    path.write_text(VOTABLE.format(rows=rows, length=length, data=data))
    with pytest.raises(DataError, match=message):
        read_catalogue([path])


@pytest.mark.parametrize(("key", "value"), [("TFIELDS", 999_999_999), ("NAXIS2", 10**12)])
def test_a_fits_allocates_no_more_than_a_table_may_have(tmp_path: Path, key: str, value: int) -> None:
    data = write_catalogue(tmp_path / "objects.fits", {"ra": [1.0], "dec": [2.0], "id": ["x"]}).read_bytes()
    start = data.rindex(f"{key:8}=".encode())
    for name, content in (("o.fits", data), ("o.fits.gz", gzip.compress(data))):
        assert read_catalogue([write_bytes(tmp_path / name, content)]).objects == [SkyObject(1.0, 2.0, "x")]
    damaged = data[:start] + f"{key:8}= {value:>20}".ljust(80).encode() + data[start + 80 :]
    with pytest.raises(DataError, match="has more than"):
        read_catalogue([write_bytes(tmp_path / "damaged.fits", damaged)])


def test_a_parquet_repeats_no_text_beyond_a_limit(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 501), pa.array(["x" * 2**23]))
    table = pa.table({"id": range(501), "ra": [1.0] * 501, "dec": [2.0] * 501, "text": texts})
    parquet.write_table(table, tmp_path / "objects.parquet", compression="zstd")
    assert (tmp_path / "objects.parquet").stat().st_size < 100_000
    with pytest.raises(DataError, match=r"objects\.parquet cannot be read: has more than 4,000,000,000 bytes"):
        read_catalogue([tmp_path / "objects.parquet"])


def test_an_undefined_value_of_a_fits_is_the_one_that_the_file_stores(tmp_path: Path) -> None:
    from astropy.io import fits

    scaled = np.array([("a", 100_000, 1), ("b", -99, -32768)], [("id", "S1"), ("dec", ">i4"), ("count", ">i2")])
    scaled_hdu = fits.BinTableHDU(scaled.view(fits.FITS_rec))
    scaled_hdu.header.update({"TSCAL2": 1e-3, "TNULL2": -99, "TZERO3": 32768, "TNULL3": -32768})
    texts = [fits.Column("id", "A1", array=["a", "b"]), fits.Column("dec", "I6", array=[100, -99], null="-99")]
    for name, hdu in (("scaled", scaled_hdu), ("ascii", fits.TableHDU.from_columns(texts))):
        hdu.writeto(tmp_path / f"{name}.fits")
        table = table_readers.read_object_table(str(tmp_path / f"{name}.fits"))
        assert list(table.columns["dec"]) == [100, None]
        assert list(table.columns.get("count", [32769, None])) == [32769, None]


def test_a_gzip_of_a_table_is_unpacked_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_readers, "MAX_UNPACKED_BYTES", 1_000_000)
    path = write_bytes(tmp_path / "objects.fits.gz", gzip.compress(b"SIMPLE" + bytes(1_000_000)))
    with pytest.raises(DataError, match="unpacks to more than 1,000,000 bytes"):
        read_catalogue([path])


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
