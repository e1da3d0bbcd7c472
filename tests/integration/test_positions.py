"""Where an image is on the sky, from the request to the row, the page of predictions, exports, and the outbox."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import colour_models
import numpy as np
import pytest
from malicious_server import png
from programs import query
from starlette.testclient import TestClient

from astrodetect.records import ScoredImage, SkyObject
from astrodetect.service.outbox import Outbox
from astrodetect.settings import Settings
from astrodetect.sky.healpix import cell_index
from database import Database

M51 = SkyObject(202.46957, 47.19525, "M51")
POSITION = "SELECT ra, dec, object_id, healpix FROM predictions ORDER BY id DESC LIMIT 1"
MANIFEST = "path,ra,dec,id,mag\na.png,10.5,-20.25,A,17\nE/1.png,12:30:00,+5:00:00,B,\nc.png,,,C,\n"


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fits_models")
    colour_models.publish(folder, "resnet50_model", colour_models.TWO_CLASSES, stretch="asinh")
    return folder


def detect(client: TestClient, query: dict[str, str] | None = None, *, path: str = "/detect", **form: str) -> Any:
    return client.post(path, files={"file": ("a.png", png(1))}, data=form, params=query or {})


@pytest.mark.parametrize("path", ["/detect", "/classify"])
def test_a_position_in_the_form_or_the_query_is_in_the_answer_and_in_the_row(
    client: TestClient, database_url: str, path: str
) -> None:
    sexagesimal = {"ra": "13:29:52.6968", "dec": "+47:11:42.9", "object_id": " M51 "}
    degrees = {"ra": "202.46957", "dec": "47.19525", "object_id": "M51"}
    for form, arguments in ((sexagesimal, {}), ({}, degrees), (degrees, sexagesimal)):
        row = detect(client, arguments, path=path, **form).json()
        assert (row["ra"], row["dec"], row["object_id"]) == (pytest.approx(M51.ra), pytest.approx(M51.dec), "M51")
        [[ra, dec, object_id, healpix]] = query(database_url, POSITION)
        assert (ra, dec, object_id) == (row["ra"], row["dec"], row["object_id"])
        assert healpix == cell_index(ra, dec)
        assert client.get(f"/predictions/{row['id']}").json() == row


def test_a_server_that_shortens_numbers_returns_positions_as_they_were_sent(
    start: Callable[..., TestClient], database_url: str
) -> None:
    [(name,)] = query(database_url, "SELECT current_database()")
    query(database_url, f"ALTER DATABASE {name} SET extra_float_digits = 0")  # the default before PostgreSQL 12
    answer = detect(start(), ra="202.46957012345678", dec="0.1234567890123456789")
    assert (answer.status_code, answer.json().get("ra")) == (200, 202.46957012345678), answer.text


def test_without_a_position_its_fields_are_null(client: TestClient, database_url: str) -> None:
    for answer in (detect(client), detect(client, ra="", dec="", object_id=""), detect(client, path="/classify")):
        assert [answer.json()[name] for name in ("ra", "dec", "object_id")] == [None] * 3
        assert query(database_url, POSITION) == [(None, None, None, None)]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"ra": "400", "dec": "0"}, "position: RA in degrees from 0 to 360, or as 12:34:56.7 in hours, not 400"),
        ({"ra": "nan", "dec": "0"}, "position: RA in degrees from 0 to 360, or as 12:34:56.7 in hours, not nan"),
        ({"ra": "1", "dec": "-91"}, "position: Dec in degrees from -90 to 90, or as -12:34:56.7, not -91"),
        ({"ra": "1"}, "position: RA alone is no position: give ra and dec"),
    ],
)
def test_a_bad_position_is_one_clear_line_and_makes_no_row(
    client: TestClient, database_url: str, form: dict[str, str], message: str
) -> None:
    answer = detect(client, None, **form)
    assert (answer.status_code, answer.json()["error"]) == (422, {"code": "bad_arguments", "message": message})
    assert query(database_url, "SELECT count(*) FROM predictions") == [(0,)]


@pytest.mark.parametrize("path", ["/detect", "/classify", "/similar", "/detect/batch", "/detect-anomalies"])
def test_fields_and_parameters_that_a_route_does_not_take_are_refused(
    client: TestClient, database_url: str, path: str
) -> None:
    file = {"file": ("a.png", png(1))}
    for answer in (
        client.post(path, files=file, data={"model": "colours"}),
        client.post(path, files=file, data={"RA": "1", "DEC": "2"}),
        client.post(path, files=file, data={"manifest": MANIFEST}),
        client.post(path, files=file, data={"ra": ["1", "2"], "dec": "2"}),
        client.post(path, files=file, params={"model": ["colours", "resnet50_model"]}),
        client.post(path, files=file, params={"modle": "colours"}),
        client.post(path, files=file, params={"RA": "1", "DEC": "2"}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request"), answer.text
    assert query(database_url, "SELECT count(*) FROM predictions") == [(0,)]


def test_an_idempotency_key_belongs_to_one_position_and_object(client: TestClient) -> None:
    def send(**fields: str) -> Any:
        files = {"file": ("a.png", png(1))}
        return client.post("/detect", files=files, data=fields, headers={"Idempotency-Key": "night 1"})

    first = send(ra="13:29:52.7", dec="47.1", object_id="M51\0").json()
    for same in ({"ra": "13:29:52.7", "dec": "47.1", "object_id": "M51\0"}, {}):
        assert send(**same).json() == first
    for other in ({"ra": "13:29:52.8", "dec": "47.1"}, {"object_id": "M52"}):
        assert send(**other).json()["error"]["code"] == "idempotency_key_conflict"


def batch(client: TestClient, *parts: tuple[str, tuple[str, bytes]]) -> list[dict[str, Any]]:
    answer = client.post("/detect/batch", files=list(parts))
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_manifest_gives_the_positions_of_a_batch(client: TestClient, database_url: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("E/1.png", png(1))
        archive.writestr("E/2.png", png(2))
    lines = batch(
        client,
        ("manifest", ("objects.csv", MANIFEST.encode())),
        ("file", ("a.png", png(3))),
        ("file", ("many.zip", buffer.getvalue())),
        ("file", ("c.png", png(4))),
    )
    assert [(line["ra"], line["dec"], line["object_id"]) for line in lines] == [
        (10.5, -20.25, "A"),
        (187.5, 5.0, "B"),
        (None, None, None),
        (None, None, "C"),
    ]
    assert query(database_url, "SELECT count(healpix), count(object_id), count(*) FROM predictions") == [(2, 3, 4)]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("path,ra,dec\na.png,400,1\n", "the manifest, row 1: RA in degrees from 0 to 360"),
        ("path,x,dec\na.png,4,1\n", "the manifest has no column with a usual name for RA"),
        ("ra,dec\n4,1\n", "the manifest has no column of paths or identifiers"),
        ("ra,ra\n4,1\n", "the manifest is no CSV in UTF-8: it names a column twice"),
        # 16,000 columns and rows of one cell: 200 kB that took gigabytes and a minute
        (",".join(f"c{n}" for n in range(16_000)) + "\n4" * 30_000, "the manifest has more than 10,000 columns"),
        (",".join(f"c{n}" for n in range(8_000)) + "\n4" * 30_000, "the manifest has more than 1,000,000 cells"),
        (f"name,ra,dec\n{'x' * 300},4,1\n", "the manifest, row 1: an identifier of more than 255 characters"),
    ],
)
def test_a_bad_manifest_is_refused_with_the_reason(client: TestClient, manifest: str, message: str) -> None:
    parts = [("manifest", ("m.csv", manifest.encode())), ("file", ("a.png", png(3)))]
    answer = client.post("/detect/batch", files=parts)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)
    assert "before the images" in client.post("/detect/batch", files=[parts[1], parts[0], parts[1]]).text


def test_positions_are_in_the_exports(client: TestClient) -> None:
    row = detect(client, ra=str(M51.ra), dec=str(M51.dec), object_id=str(M51.object_id)).json()
    header, line = client.get("/predictions.csv").text.splitlines()
    assert "novelty_view,ra,dec,object_id,known,known_name" in header
    assert line.endswith("202.46957,47.19525,M51,,,,,,,")
    assert client.get("/predictions.json").json() == [row]


def test_rows_keep_their_position_in_the_outbox(log: Database, database_url: str, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", max_bytes=10**6)
    without = ScoredImage("b.png", "cd" * 32, 0.75, 0.5, "resnet50_model", "1")
    outbox.append([replace(without, ra=M51.ra, dec=M51.dec, object_id=M51.object_id, request_id=uuid4()), without])
    outbox.drain(10, lambda rows: None if log.record_many(rows) else rows)
    outbox.close()
    assert query(database_url, "SELECT ra, dec, object_id, healpix IS NULL FROM predictions ORDER BY id") == [
        (M51.ra, M51.dec, M51.object_id, False),
        (None, None, None, True),
    ]


def test_score_records_the_positions_of_its_catalogue(database_url: str, tmp_path: Path) -> None:
    from astrodetect.cli.score_worker import open_recorder
    from astrodetect.sky.catalogue import read_catalogue

    (tmp_path / "objects.csv").write_text("id,ra,dec\nb,10,-20\n")
    config = Settings.model_validate({"database_url": database_url, "data_dir": tmp_path})
    scored = [ScoredImage(f"night/{name}.png", name * 64, 0.75, 0.5, "resnet50_model", "1") for name in "abc"]
    with open_recorder(config, read_catalogue([tmp_path / "objects.csv"])) as record:
        record(scored, [], [])
    assert query(database_url, "SELECT ra, dec, object_id FROM predictions ORDER BY image_name") == [
        (None, None, None),
        (10, -20, "b"),
        (None, None, None),
    ]


def fits_image() -> bytes:
    """An image of noise with a WCS around M51."""
    from astropy.io import fits
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [M51.ra, M51.dec], [20.5, 16.5]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).normal(size=(32, 40)).astype(np.float32)
    fits.PrimaryHDU(pixels, header=wcs.to_header()).writeto(buffer)
    return buffer.getvalue()


def test_a_fits_has_the_position_of_its_wcs_unless_the_request_gives_one(client: TestClient) -> None:
    files = {"file": ("m51.fits", fits_image())}
    row = client.post("/detect", files=files, data={"object_id": "M51"}).json()
    assert (row["ra"], row["dec"], row["object_id"]) == (pytest.approx(M51.ra), pytest.approx(M51.dec), "M51")
    row = client.post("/detect", files=files).json()
    assert (row["ra"], row["object_id"]) == (pytest.approx(M51.ra), None)
    row = client.post("/detect", files=files, params={"ra": "1", "dec": "2"}).json()
    assert (row["ra"], row["dec"]) == (1, 2)
    [line] = batch(client, ("file", ("m51.fits", fits_image())))
    assert line["dec"] == pytest.approx(M51.dec)
