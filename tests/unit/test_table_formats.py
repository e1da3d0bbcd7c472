"""Tables as FITS and HATS, read back by astropy and hats, and sent by SAMP to a listening program."""

import io
import re
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import run_here

from astrodetect import __main__
from astrodetect.errors import DataError
from astrodetect.parquet_table import ColumnType
from astrodetect.sky import fits_table, hats, table_writers, votable
from astrodetect.sky.healpix import cells_of
from astrodetect.sky.table_writers import write_table

COLUMNS: dict[str, ColumnType] = {
    "path": "text", "score": "number", "in_domain": "boolean", "rank": "integer", "ra": "number", "dec": "number",
}  # fmt: skip
ROWS: list[list[object]] = [
    ["a.jpg", 0.25, True, 3, 10.5, -20.25],
    ["é\udcff\n.jpg", None, False, None, 200.0, 45.0],
    [None, 0.5, None, 2**40, None, None],
]


@pytest.mark.filterwarnings("ignore:Column .in_domain. contains NULL")  # and astropy makes it False
def test_a_fits_table_has_the_values_and_says_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from astropy.io import fits
    from astropy.table import Table

    monkeypatch.setattr("astrodetect.parquet_table.ROWS_PER_GROUP", 2)
    write_table(str(tmp_path / "t.fits"), COLUMNS, iter(ROWS), "Scores")
    with fits.open(tmp_path / "t.fits", checksum=False) as hdus:
        hdus.verify("exception")
        assert hdus[1].header["TUCD5"] == "pos.eq.ra;meta.main"
        assert (tmp_path / "t.fits").stat().st_size % 2880 == 0
        assert hdus[1].data["in_domain"].tolist() == [True, False, False]
    table = Table.read(tmp_path / "t.fits")
    assert table.colnames == list(COLUMNS)
    assert [str(name) for name in table["path"]][:2] == ["a.jpg", "\\xe9\\udcff\\n.jpg"]
    assert table["score"].filled(np.nan).tolist()[0] == 0.25
    assert table["rank"].tolist() == [3, None, 2**40]
    assert table["ra"].unit == "deg"
    from astrodetect.sky.table_readers import read_object_table

    read = read_object_table(str(tmp_path / "t.fits")).columns
    assert read["score"] == [0.25, None, 0.5]
    assert read["rank"] == [3, None, 2**40]
    assert read["in_domain"] == [True, False, None]
    write_table(str(tmp_path / "none.fits"), COLUMNS, [], "Scores")
    assert len(Table.read(tmp_path / "none.fits")) == 0


def test_one_long_text_does_not_widen_a_fits_table_without_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from astropy.table import Table

    monkeypatch.setattr(fits_table, "BUFFER_BYTES", 3 * fits_table.MAX_TEXT)
    names = [*map(str, range(9)), "a" * fits_table.MAX_TEXT, "\N{PILE OF POO}" * 16_000]
    tracemalloc.start()
    write_table(str(tmp_path / "t.fits"), {"path": "text"}, ([name] for name in names * 100), "Scores")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (tmp_path / "t.fits").stat().st_size < 1_110 * fits_table.MAX_TEXT
    read = [str(name) for name in Table.read(tmp_path / "t.fits")["path"]]
    assert read[-11:-1] == names[:-1]
    assert read[-1].endswith("\\U0001f4a9\\U0...")


def test_astropy_reads_a_fits_table_whose_columns_have_long_names(tmp_path: Path) -> None:
    from astropy.table import Table

    names = ["p_эллиптическая", "p_эллиптический", "L" * 68, "'" * 40]  # an escape of a letter takes six characters
    write_table(str(tmp_path / "t.fits"), dict.fromkeys(names, "number"), [[1.0, 2.0, 3.0, 4.0]], "Scores")
    table = Table.read(tmp_path / "t.fits")
    assert [*table[0]] == [1, 2, 3, 4]
    assert table.colnames[2] == names[2]
    assert table.colnames[0].startswith("p_\\u044d\\u043b")


def test_numbers_of_a_votable_that_are_not_finite_are_written_as_the_standard_says() -> None:
    from astropy.io import votable as reader

    values = [float("nan"), float("inf"), float("-inf"), 0.5]
    document = "".join(votable.votable([votable.VOField("x", "double")], [[value] for value in values], title=""))
    assert re.findall("<TD>(.*)</TD>", document) == ["NaN", "+Inf", "-Inf", "0.5"]
    assert reader.parse(io.BytesIO(document.encode())).get_first_table().array["x"].data.tolist()[1:] == values[1:]


def test_a_votable_keeps_carriage_returns_of_file_names() -> None:
    from astropy.io import votable as reader

    document = "".join(votable.votable([votable.VOField("path")], [["a\r.jpg"], ["b\r\n&.jpg"]], title=""))
    table = reader.parse(io.BytesIO(document.encode())).get_first_table()
    assert table.array["path"].tolist() == ["a\r.jpg", "b\r\n&.jpg"]


def test_bytes_of_file_names_that_are_not_utf8_are_told_apart_in_a_votable() -> None:
    document = "".join(votable.votable([votable.VOField("path")], [["a\udcff.jpg"], ["a\udcfe\x00.jpg"]], title=""))
    assert re.findall("<TD>(.*)</TD>", document) == [r"a\xff.jpg", "a\\xfe\ufffd.jpg"]


def test_hats_partitions_are_cells_of_positions_and_hats_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hats as reader
    from hats.io.validation import is_valid_catalog

    monkeypatch.setattr(hats, "MAX_PARTITION_ROWS", 50)
    random = np.random.default_rng(0)
    ra, dec = random.uniform(0, 360, 300), np.degrees(np.arcsin(random.uniform(-1, 1, 300)))
    ra[:100], dec[:100] = 150 + random.normal(0, 0.05, 100), random.normal(2, 0.05, 100)
    rows = [[f"{n}.jpg", n / 300, None, n, *at] for n, at in enumerate(zip(ra.tolist(), dec.tolist(), strict=True))]
    target = tmp_path / "scores.hats"
    write_table(str(target), COLUMNS, [*rows, ROWS[2]], "Scores")
    assert "1 rows have no position" in capsys.readouterr().err
    assert is_valid_catalog(target, strict=True, verbose=False)
    catalogue = reader.read_hats(target)
    assert int(catalogue.catalog_info.total_rows) == 300
    names = []
    for pixel in catalogue.get_healpix_pixels():
        part = read_partition(target, pixel.order, pixel.pixel)
        assert 0 < len(part["path"]) <= 50
        cells = cells_of(np.array(part["ra"]), np.array(part["dec"]))
        assert part["_healpix_29"] == cells.tolist() == sorted(cells.tolist())
        assert {*(cells >> 2 * (29 - pixel.order)).tolist()} == {pixel.pixel}
        names += part["path"]
    assert sorted(names) == sorted(str(row[0]) for row in rows)
    assert max(pixel.order for pixel in catalogue.get_healpix_pixels()) > 4
    of_hats: dict[str, ColumnType] = {"_healpix_29": "integer", **COLUMNS}  # as of a part of such a catalogue
    write_table(str(target), of_hats, [[0, *row] for row in rows[:5]], "Scores")  # replaces it as a whole
    assert int(reader.read_hats(target).catalog_info.total_rows) == 5
    assert reader.read_hats(target).schema.names == ["_healpix_29", *COLUMNS]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.hats"]


def read_partition(folder: Path, order: int, pixel: int) -> dict[str, list[Any]]:
    from pyarrow import parquet

    path = folder / f"dataset/Norder={order}/Dir={pixel // 10_000 * 10_000}/Npix={pixel}.parquet"
    columns: dict[str, list[Any]] = parquet.read_table(path, partitioning=None).to_pydict()
    return columns


def test_hats_needs_positions_and_replaces_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image has one: add --catalogue"):
        write_table(str(tmp_path / "t.hats"), {"path": "text"}, [["a"]], "Scores")
    with pytest.raises(DataError, match="no image has one: see the columns"):
        write_table(str(tmp_path / "t.hats"), COLUMNS, ROWS[2:], "Scores")
    (tmp_path / "mine.hats").mkdir()
    (tmp_path / "mine.hats" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is no catalogue of HATS"):
        write_table(str(tmp_path / "mine.hats"), COLUMNS, ROWS, "Scores")
    with pytest.raises(DataError, match="HATS is written to a local folder"):
        table_writers.check_hats("s3://bucket/t.hats")
    with pytest.raises(DataError, match="names in UTF-8 only"):
        table_writers.check_hats("\udcff.hats")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.hats"]


@pytest.fixture
def samp_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub of the test's own."""
    from pyvo.samp import SAMPHubServer, conf

    monkeypatch.setenv("SAMP_HUB", f"std-lockurl:file://{tmp_path}/samp")
    with conf.set_temp("use_internet", False):
        hub = SAMPHubServer(web_profile=False, lockfile=str(tmp_path / "samp"), addr="127.0.0.1")
        hub.start()
        yield hub
        hub.stop()


def test_a_votable_is_sent_to_a_program_that_listens(
    tmp_path: Path, samp_hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyvo.samp import SAMPIntegratedClient

    from astrodetect.sky.samp import LOAD_VOTABLE, send_votable

    monkeypatch.setattr("astrodetect.sky.samp.CALL_S", 300.0)
    monkeypatch.setattr("astrodetect.sky.samp.LOAD_S", 300)
    path = tmp_path / "a table.vot"
    write_table(str(path), COLUMNS, ROWS, "Scores")
    with pytest.raises(DataError, match="no program at the SAMP hub reads VOTables"):
        send_votable(path, "Scores")
    received = []
    answers = [
        {"samp.status": "samp.ok", "samp.result": {}},
        {"samp.status": "samp.error", "samp.error": {"samp.errortxt": "no memory"}},
    ]

    def receive(_key: str, _sender: str, id: str, _type: str, parameters: dict[str, str], _extra: object) -> None:  # noqa: A002
        received.append(parameters)
        reply(topcat, id, answers.pop(0))

    def receive_too(_key: str, _sender: str, id: str, *_: object) -> None:  # noqa: A002
        reply(aladin, id, {"samp.status": "samp.ok", "samp.result": {}})

    def reply(client: SAMPIntegratedClient, id: str, answer: dict[str, Any]) -> None:  # noqa: A002
        while id not in samp_hub._sync_msg_ids_heap:  # this hub loses an answer that comes before it waits for one
            time.sleep(0.001)
        client.reply(id, answer)

    topcat, aladin = (SAMPIntegratedClient(name=name, addr="127.0.0.1") for name in ("listener", "another"))
    topcat.connect()
    aladin.connect()
    try:
        topcat.bind_receive_call(LOAD_VOTABLE, receive)
        assert send_votable(path, "Scores") == ["listener"]
        aladin.bind_receive_call(LOAD_VOTABLE, receive_too)
        message = r"listener cannot read file:///.*a%20table.vot: no memory; another has read it"
        with pytest.raises(DataError, match=message):
            send_votable(path, "Scores")
    finally:
        topcat.disconnect()
        aladin.disconnect()
    assert received[0]["name"] == "Scores"
    from astropy.table import Table

    assert len(Table.read(received[0]["url"].removeprefix("file://").replace("%20", " "), format="votable")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("score . --output t.csv", "name a local --output that ends in .vot"),
        ("anomalies .", "add --format vot, and a local --output"),
    ],
)
def test_samp_needs_a_votable_on_this_machine(tmp_path: Path, arguments: str, message: str) -> None:
    done = run_here(__main__.main, *arguments.split(), "--samp", folder=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1, f"astrodetect: --samp sends a VOTable on this machine: {message}",
    )  # fmt: skip


def test_without_a_hub_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from astrodetect.sky.samp import send_votable

    monkeypatch.setenv("SAMP_HUB", f"std-lockurl:file://{tmp_path}/none")
    with pytest.raises(DataError, match="no SAMP hub runs on this machine"):
        send_votable(tmp_path / "t.vot", "Scores")
