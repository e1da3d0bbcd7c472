"""Values of FITS uploads: stored beside the thumbnail, shown with a band and a stretch, deleted with it."""

import hashlib
import io
import re
from pathlib import Path

import colour_models
import numpy as np
import pytest
from astropy.io import fits
from malicious_server import png
from PIL import Image
from programs import query
from starlette.testclient import TestClient

from astrodetect.fits_values import band_values, compress_values
from astrodetect.records import Thumbnail
from database import Database

SIDE = 40


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fits_models")
    colour_models.publish(folder, "resnet50_model", colour_models.TWO_CLASSES, stretch="asinh")
    return folder


def fits_cube(seed: int = 0) -> bytes:
    """Three bands; the first has a bright square in its lower left corner."""
    cube = np.random.default_rng(seed).normal(100, 3, (3, SIDE, SIDE)).astype(np.float32)
    cube[0, :8, :8] = 5000
    file = io.BytesIO()
    fits.PrimaryHDU(cube).writeto(file)
    return file.getvalue()


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_fits_upload_is_shown_with_a_band_and_a_stretch_of_its_values(client: TestClient, log: Database) -> None:
    data = fits_cube()
    row = client.post("/detect", files={"file": ("a.fits", data)}).json()
    address = f"/pictures/{hashlib.sha256(data).hexdigest()}/values"
    while not re.search(r'data-bands="3"', client.get(f"/history/{row['id']}").text):
        pass  # until the thumbnail is compressed
    response = client.get(f"{address}?bands=0&stretch=linear&low=10&high=99")
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert {"private", "immutable"} <= set(response.headers["cache-control"].split(", "))
    band = opened(response.content)
    assert band.shape == (SIDE, SIDE)
    assert band[-8:, :8].min() == 255  # FITS counts rows from the bottom
    assert band[:20].max() < 20
    assert opened(client.get(f"{address}?bands=1&stretch=linear").content).std() > 30
    assert opened(client.get(f"{address}?bands=2,1,0&stretch=log").content).shape == (SIDE, SIDE, 3)
    assert client.get(f"{address}?bands=\u0660").status_code == 422  # an Arabic digit
    again = client.get(
        f"{address}?bands=0&stretch=linear&low=10&high=99", headers={"If-None-Match": response.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    for arguments, status in (("bands=3", 404), ("low=50&high=50", 400), ("bands=0,1", 422), ("stretch=cubic", 422)):
        assert client.get(f"{address}?{arguments}").status_code == status, arguments


def test_other_uploads_have_no_values(client: TestClient, database_url: str) -> None:
    row = client.post("/detect", files={"file": ("a.png", png())}).json()
    assert "data-bands" not in client.get(f"/history/{row['id']}").text
    assert client.get(f"/pictures/{row['image_sha256']}/values").status_code == 404
    assert query(database_url, "SELECT count(*) FROM fits_values") == [(0,)]


def test_values_count_towards_the_limit_of_thumbnails_and_go_with_them(log: Database, database_url: str) -> None:
    names = [f"{number:064x}" for number in range(4)]
    for name in names:
        values = compress_values(name, [np.random.default_rng(0).normal(size=(SIDE, SIDE))], SIDE)
        log.fits_values.save(values)  # without a thumbnail: of no effect
        assert log.fits_values.read(name) is None
        log.save_thumbnails([Thumbnail(name, bytes(1000), 2, 1)], [])
        log.fits_values.save(values)
        log.fits_values.save(values)
    stored = log.fits_values.read(names[0])
    assert stored is not None
    assert band_values(stored, 0).shape == (SIDE, SIDE)
    thumbnail = log.thumbnail(names[0])
    assert thumbnail is not None
    assert thumbnail.bands == 1
    each = 1000 + len(stored.content)
    assert log.prune_thumbnails(days=30, max_bytes=4 * each) == 0
    assert log.prune_thumbnails(days=30, max_bytes=2 * each) == 2
    assert query(database_url, "SELECT image_sha256 FROM fits_values ORDER BY 1") == [(name,) for name in names[2:]]
