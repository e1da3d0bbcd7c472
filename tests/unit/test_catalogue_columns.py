"""The columns of a catalogue in the tables of anomalies and splits."""

import csv
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import run_here
from test_anomaly_results import run_results
from test_catalogue import write_catalogue

from astrodetect import __main__
from astrodetect.anomalies import results
from astrodetect.anomalies.results import AnomalyResults
from astrodetect.datasets import splits
from astrodetect.datasets.tables import ListedImage
from astrodetect.records import SkyObject
from astrodetect.sky.catalogue import Catalogue, read_catalogue
from astrodetect.sky.catalogue_columns import column_type

__all__ = ["run_results"]


@pytest.fixture
def sky_catalogue(tmp_path: Path) -> Catalogue:
    """Of `sky/10.jpg`, with a declination and a name that a spreadsheet would evaluate."""
    columns = {
        "path": ["sky/10.jpg"],
        "ra": ["10"],
        "dec": ["-20:00:00"],
        "id": ["=M51"],
        "label": ["S"],
        "x": ["1.50"],
    }
    path = write_catalogue(tmp_path / "objects.csv", columns)
    catalogue = Catalogue()
    return read_catalogue([path], catalogue=catalogue)


def test_the_table_of_anomalies_has_the_columns_of_the_catalogue(
    run_results: AnomalyResults, sky_catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow.parquet import read_table

    monkeypatch.chdir(tmp_path)
    plain = results.table_columns(run_results)
    joined = replace(run_results, catalogue=sky_catalogue)
    for kind in ("csv", "parquet", "vot"):
        (tmp_path / kind).mkdir()
        results.write_tables(tmp_path / kind, joined, kind)
    with Path("csv/anomalies.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    added = ["ra", "dec", "object_id", "catalogue_dec", "id"]
    assert [*rows["sky/10.jpg"]] == [*plain, *added, "catalogue_x"]
    assert [rows["sky/10.jpg"][name] for name in added] == ["10.0", "-20.0", "=M51", "-20:00:00", "=M51"]
    assert rows["sky/10.jpg"]["catalogue_x"] == "1.50"
    assert {rows["sky/11.jpg"][name] for name in added} == {""}
    [row] = [row for row in read_table("parquet/anomalies.parquet").to_pylist() if row["path"] == "sky/10.jpg"]
    assert (row["ra"], row["dec"], row["object_id"], row["catalogue_x"]) == (10, -20, "=M51", 1.5)

    from astropy.io import votable

    table = votable.parse("vot/anomalies.vot", verify="exception").get_first_table()
    [voted] = [voted for voted in table.array if voted["path"] == "sky/10.jpg"]
    for name, value in row.items():
        assert voted[name] is np.ma.masked or voted[name] == ("" if value is None else value), name
    assert [voted["ra"], voted["catalogue_x"], voted["rank"]] == [10, 1.5, row["rank"]]
    assert table.array["rank"].mask.tolist() == [False] * len(run_results) + [True]
    assert table.get_field_by_id_or_name("dec").ucd == "pos.eq.dec;meta.main"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_catalogue_that_was_compared_does_not_shift_the_columns_of_a_comparison(
    run_results: AnomalyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {"path": ["sky/10.jpg"], "ra": [10.0], "dec": [-20.0], "known": [True], "known_name": ["before"]}
    catalogue = read_catalogue([write_catalogue(tmp_path / "objects.parquet", before)])
    known = [[False, None, None, None, None, None]] * len(run_results)
    results.write_tables(tmp_path, replace(run_results, catalogue=catalogue, known=known), kind)
    [row] = [row for row in read_rows(tmp_path / f"anomalies.{kind}") if row["path"] == "sky/10.jpg"]
    assert (row["known"], row["known_name"]) == (("false", "") if kind == "csv" else (False, None))
    assert (str(row["catalogue_known"]).lower(), row["catalogue_known_name"]) == ("true", "before")


def read_rows(table: Path) -> list[dict[str, Any]]:
    if table.suffix == ".csv":
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return list(csv.DictReader(file, strict=True))
    from pyarrow.parquet import read_table

    return list(read_table(table).to_pylist())


def test_no_cell_is_rounded_or_left_out(tmp_path: Path) -> None:
    """As SPECOBJID of SDSS, which has 64 bits without a sign."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    columns = {
        "path": ["a.jpg"] * 3,
        "ra": [1.0, 2.0, 3.0],
        "dec": [1.0, 2.0, 3.0],
        "specobjid": pa.array([2**63 + 1, None, 7], pa.uint64()),
        "decimal": pa.array([Decimal(2**64), None, Decimal(1)], pa.decimal128(20)),
        "date": pa.array([date(2026, 1, 2), None, None]),
        "time": pa.array([1, None, None], pa.timestamp("ns", "Europe/Paris")),
        "flag": pa.array([2**53, None, 1]),
    }
    write_table(pa.table(columns), tmp_path / "objects.parquet")
    joined = read_catalogue([tmp_path / "objects.parquet"]).join(["path"])
    assert joined.cells(tmp_path / "a.jpg", typed=True)[3:] == [
        "9223372036854775809", "18446744073709551616", "2026-01-02", "1970-01-01 00:00:00.000000001+0000", 2**53,
    ]  # fmt: skip
    assert column_type([str(2**53 + 1), "1.5", ""]) == column_type([2**53 + 1, 1.5, None]) == "text"
    assert column_type([str(2**53), "1.5", "nan"]) == column_type([2**53, 1.5, None, float("nan")]) == "number"


def test_a_split_keeps_the_columns_of_the_catalogue(
    sky_catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sky").mkdir()
    Path("sky/10.jpg").write_bytes(b"image")
    items = [ListedImage(tmp_path / "sky" / "10.jpg", "S", "train")]
    splits.write_split(items, Path("split.csv"), catalogue=sky_catalogue)
    splits.write_split(items, Path("folders"), catalogue=sky_catalogue)
    for table, path in ((Path("split.csv"), "sky/10.jpg"), (Path("folders/catalogue.csv"), "train/S/10.jpg")):
        with table.open(newline="") as file:
            [row] = csv.DictReader(file)
        assert [*row] == ["path", "label", "part", "group", "ra", "dec", "object_id", "catalogue_dec", "id", "x"]
        assert (row["path"], row["ra"], row["dec"], row["x"]) == (path, "10.0", "-20.0", "1.50")
    found = read_catalogue(["folders/catalogue.csv"])
    assert found.sky_object("folders/train/S/10.jpg") == SkyObject(10, -20, "=M51")


@pytest.mark.parametrize("command", ["score", "anomalies", "split"])
def test_a_catalogue_of_other_images_is_refused_before_anything_is_computed(tmp_path: Path, command: str) -> None:
    (tmp_path / "data" / "S").mkdir(parents=True)
    (tmp_path / "data" / "S" / "1.jpg").write_bytes(b"no image")
    catalogue = write_catalogue(tmp_path / "objects.csv", {"id": ["7"], "ra": ["1"], "dec": ["2"]})
    output = tmp_path / ("out.csv" if command == "score" else "out")
    arguments = [command, tmp_path / "data", "--output", output, "--catalogue", catalogue]
    done = run_here(__main__.main, *arguments)
    assert done.returncode == 1
    assert "the catalogue has no row for" in done.stderr
    done = run_here(__main__.main, command, tmp_path / "data", "--output", output, "--ra", "RA")
    assert "add --catalogue FILE" in done.stderr
