"""Heat maps by occlusion: computed on demand where the network's own activation map has too few places."""

import io
import re
from pathlib import Path
from typing import Any

import colour_models
import numpy as np
import pytest
from PIL import Image
from programs import query
from starlette.testclient import TestClient

from astrodetect import images
from astrodetect.records import Floats
from astrodetect.service import heat_maps

NAME = "m"
GREEN = slice(14, 18)  # rows and columns of a green square on a dark image, of 24


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    colour_models.publish(folder, NAME, colour_models.TWO_CLASSES, scale=1.0, places=2)
    return folder


@pytest.fixture
def service_settings() -> dict[str, Any]:
    return {"model": NAME}


def detect(client: TestClient, value: int = 200) -> Any:
    pixels = np.full((colour_models.SIZE, colour_models.SIZE, 3), 20, np.uint8)
    pixels[GREEN, GREEN, 1] = value
    large = images.encode_png(pixels.repeat(8, axis=0).repeat(8, axis=1))
    return client.post("/detect", files={"file": ("green.png", large)}).json()


def opacity(client: TestClient, id: int) -> Floats:  # noqa: A002
    response = client.get(f"/history/{id}/heat-map")
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    rgba = np.asarray(Image.open(io.BytesIO(response.content)).convert("RGBA"))
    return np.asarray(rgba[..., 3] / 255, np.float32)


def test_a_map_by_occlusion_marks_the_places_that_matter_and_nothing_else(client: TestClient) -> None:
    row = detect(client)
    page = client.get(f"/history/{row['id']}").text
    assert f'<image class="heat-map" href="/history/{row["id"]}/heat-map"' in page
    assert "By occlusion" in page
    shown = opacity(client, row["id"])
    centre = np.array(np.unravel_index(shown.argmax(), shown.shape)) / len(shown) * colour_models.SIZE
    assert np.abs(centre - (GREEN.start + 2)).max() < 2
    assert shown.max() > 0.5
    assert shown[:16, :16].max() < 0.02


def test_the_scale_is_the_same_for_all_images(client: TestClient) -> None:
    faint, bright = (opacity(client, detect(client, value)["id"]).max() for value in (110, 150))
    assert 0 < 1.5 * faint < bright


def test_cards_load_maps_when_they_are_in_view(client: TestClient) -> None:
    data = images.encode_png(colour_models.image("lawn", 1).repeat(8, axis=0).repeat(8, axis=1))
    card = client.post("/try", files={"file": ("a.png", data)}, headers={"HX-Request": "true"}).text
    assert re.search(r'<image class="heat-map" data-href="/history/\d+/heat-map"', card)


def test_a_map_is_computed_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    row = detect(client)
    first = opacity(client, row["id"])
    monkeypatch.setattr(heat_maps, "odds_map", None)
    assert (opacity(client, row["id"]) == first).all()
    assert (opacity(client, detect(client)["id"]) == first).all()


def test_maps_beyond_the_limit_are_refused_for_the_moment(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    row = detect(client)
    monkeypatch.setattr(heat_maps, "MAX_MAPS", 0)
    refused = client.get(f"/history/{row['id']}/heat-map")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert client.get(f"/history/{row['id']}").status_code == 200


def test_a_map_is_finished_even_if_images_never_cease_to_arrive(client: TestClient) -> None:
    app: Any = client.app
    app.state.services.heat_maps._in_flight = lambda: 1
    assert opacity(client, detect(client)["id"]).max() > 0.5


def test_a_prediction_of_a_version_that_is_gone_has_no_map(client: TestClient, database_url: str) -> None:
    row = detect(client)
    query(database_url, "UPDATE predictions SET model_version = 'another'")
    page = client.get(f"/history/{row['id']}").text
    assert "heat-map" not in page.replace("heat-map-legend", "")
    assert "version of the model that made this prediction is not here any more" in page
    assert client.get(f"/history/{row['id']}/heat-map").status_code == 404
    query(database_url, "UPDATE predictions SET model = 'none'")
    assert client.get(f"/history/{row['id']}").status_code == 200
    assert client.get("/history/999/heat-map").status_code == 404
