"""The upload page: cards with and without a script, samples, and errors beside the form."""

import gc
import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import colour_models
import pytest
from programs import query
from starlette.testclient import TestClient

from astrodetect import images
from astrodetect.service.web import upload
from astrodetect.settings import Settings
from main import create_app

PART = {"HX-Request": "true"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MAX_BYTES = 100_000
HOSTILE = "<script>alert(1)</script>\u202egpj.png"
UPSCALING = 10
Start = Callable[..., TestClient]


def wide_png(name: str, seed: int) -> bytes:
    return images.encode_png(colour_models.image(name, seed).repeat(UPSCALING, axis=0).repeat(2 * UPSCALING, axis=1))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a sample, and a picture outside it."""
    folder = tmp_path_factory.mktemp("data")
    for kind in ("E", "SB"):
        class_folder = folder / "sample" / "test" / kind
        class_folder.mkdir(parents=True)
        for number in range(5):
            images.write_jpeg(class_folder / f"{number:05}.jpg", colour_models.image("lawn", number))
    (folder / "secret.jpg").write_bytes(wide_png("lawn", 1))
    return folder


@pytest.fixture(scope="module")
def client(colour_models_dir: Path, data_dir: Path, log_url: str) -> Iterator[TestClient]:
    settings = Settings(DATABASE_URL=log_url, models_dir=colour_models_dir, data_dir=data_dir, max_body_bytes=MAX_BYTES)
    with TestClient(create_app(settings), follow_redirects=False) as client:
        yield client
    gc.collect()  # apps are reference cycles


@pytest.fixture
def service_settings(data_dir: Path) -> dict[str, Any]:
    return {"data_dir": data_dir, "max_body_bytes": MAX_BYTES}


def send(client: TestClient, data: bytes, name: str = "m51.png", headers: Any = PART, **fields: str) -> Any:
    return client.post("/try", files={"file": (name, data)}, data=fields, headers=headers)


def prediction_id(card: Any) -> int:
    """The prediction that a card links to."""
    assert card.status_code == 200, card.text
    [id_] = re.findall(r'<h3 class="name"><a href="/history/(\d+)"', card.text)
    return int(id_)


def text(page: Any) -> str:
    """The text content."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page.text)))


def test_a_plain_form_gets_the_page_with_the_card_of_a_logged_row(client: TestClient) -> None:
    page = send(client, wide_png("lawn", 100), headers=BROWSER)
    row = client.get(f"/predictions/{prediction_id(page)}").json()
    assert "<h1>" in page.text
    assert re.search(r'<li class="card anomalous">', page.text)
    content = text(page)
    for expected in (
        row["result"],
        f"score {row['score']:.3f}, threshold 0.5",
        "Novelty above that of",
        f"{row['model']} {row['model_version']}",
        "Influence, not proof",
        "lawn",
        "nebula",
    ):
        assert expected in content, expected
    assert re.search(r"Time \d+ ms", content)
    assert "<details open>" in page.text
    assert f'href="/history/{row["id"]}/alike"' in page.text
    assert f'action="/history/{row["id"]}/label"' in page.text


def test_a_card_shows_the_whole_frame_with_the_heat_map_over_the_network_input(client: TestClient) -> None:
    card = send(client, wide_png("lawn", 101))
    [frame] = re.findall(r'<svg class="frame" viewBox="0 0 (\d+) (\d+)"', card.text)
    assert int(frame[0]) == 2 * int(frame[1])
    [picture] = re.findall(r'<image class="pixels" href="(/pictures/[0-9a-f]{64})"', card.text)
    assert client.get(picture).headers["content-type"] == "image/jpeg"
    [(x, width)] = re.findall(
        r'class="heat-map" href="data:image/png;base64,[^"]+" x="([\d.]+)" .*?width="([\d.]+)"', card.text
    )
    assert (float(x), float(width)) == (int(frame[0]) / 4, int(frame[1]))


def test_the_script_gets_the_card_and_its_sort_keys(client: TestClient) -> None:
    card = send(client, wide_png("lawn", 102))
    row = client.get(f"/predictions/{prediction_id(card)}").json()
    assert "<html" not in card.text
    assert "<details>" in card.text
    [(novelty, flags)] = re.findall(r'data-novelty="([^"]+)" data-flags="([^"]*)"', card.text)
    assert float(novelty) == row["novelty"]
    assert flags.split() == ["anomaly"] + ["unusual"] * (row["novelty"] >= 0.99)
    assert "/alike" in card.text


def test_a_repeated_idempotency_key_gives_the_same_row(client: TestClient) -> None:
    headers = PART | {"Idempotency-Key": "1732-0.5"}
    assert prediction_id(send(client, wide_png("lawn", 103), headers=headers)) == prediction_id(
        send(client, wide_png("lawn", 103), headers=headers)
    )


def test_a_card_shows_the_label_of_its_image(client: TestClient) -> None:
    id_ = prediction_id(send(client, wide_png("lawn", 104)))
    client.post(f"/history/{id_}/label", data={"label": "artefact"})
    assert '<span class="chip artefact">artefact</span>' in send(client, wide_png("lawn", 104)).text


def test_errors_are_shown_beside_the_form_and_sent_as_json_to_scripts(client: TestClient) -> None:
    for data, name, status, words in (
        (b"these are words", "x.txt", 415, "Not a supported image"),
        (b"", "x.png", 422, "The file is empty"),
        (b"", "", 422, "Choose an image first"),
    ):
        page, fragment = send(client, data, name, BROWSER), send(client, data, name)
        assert page.status_code == fragment.status_code == status
        assert words in re.findall(r'id="error">([^<]*)<', page.text)[0]
        assert 'aria-describedby="error"' in page.text
        assert words.lower() in fragment.json()["error"]["message"].lower()
    nothing = client.post("/try", headers=BROWSER)
    assert nothing.status_code == 422
    assert "Choose an image first" in nothing.text


def test_a_file_that_is_too_large_is_an_error_page_or_json(client: TestClient) -> None:
    page, fragment = (send(client, b"x" * MAX_BYTES, headers=headers) for headers in (BROWSER, PART))
    assert page.status_code == fragment.status_code == 413
    assert page.headers["content-type"].startswith("text/html")
    assert f"larger than {MAX_BYTES:,} bytes" in page.text
    assert page.headers["connection"] == "close"
    assert fragment.json()["error"]["code"] == "body_too_large"
    assert client.get("/try", headers=BROWSER).headers["location"] == "/"


def test_the_model_can_be_chosen_if_there_are_several(client: TestClient) -> None:
    page = client.get("/")
    [choice] = re.findall(r'<select id="model".*?</select>', page.text)
    options = re.findall(r"<option ([^>]*)>([^<]+)<", choice)
    assert [(name, "selected" in attributes) for attributes, name in options] == [
        ("resnet50_model", True),
        ("colours", False),
    ]
    response = send(client, wide_png("ocean", 105), headers=BROWSER, model="colours")
    assert client.get(f"/predictions/{prediction_id(response)}").json()["result"] == "ocean"
    assert re.search(r"<option [^>]*selected>colours</option>", response.text)
    unknown = send(client, wide_png("ocean", 105), headers=BROWSER, model="nothing")
    assert (unknown.status_code, "nothing" in re.findall(r'id="error">([^<]*)<', unknown.text)[0]) == (404, True)
    assert send(client, wide_png("ocean", 105), model="../x").status_code == 422


def test_markup_in_a_name_is_escaped(client: TestClient, log_url: str) -> None:
    for headers in (PART, BROWSER):
        card = send(client, wide_png("lawn", 106), HOSTILE, headers)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;⟨U+202E⟩gpj.png" in card.text
        assert "<script>alert" not in card.text
    assert query(log_url, "SELECT DISTINCT image_name FROM predictions WHERE image_name LIKE '<s%'") == [(HOSTILE,)]


def test_only_listed_sample_images_can_be_scored(client: TestClient) -> None:
    offered = re.findall(r'name="sample" value="([^"]+)"', client.get("/").text)
    assert offered == [f"{kind}/0000{number}.jpg" for kind in ("E", "SB") for number in range(upload.SAMPLES_PER_CLASS)]
    assert images.detect_format(client.get(f"/samples/{offered[0]}").content) == "JPEG"
    page = client.post("/try", data={"sample": offered[4]}, headers=BROWSER)
    assert client.get(f"/predictions/{prediction_id(page)}").json()["image_name"] == offered[4]
    for name in ("E/00004.jpg", "../secret.jpg", "E/../../../secret.jpg", "..%2Fsecret.jpg", "/etc/passwd", "E"):
        assert client.get(f"/samples/{name}").status_code == 404
        assert client.post("/try", data={"sample": name}, headers=PART).status_code == 404


def test_neighbours_are_a_fragment_or_a_page(client: TestClient) -> None:
    first, second = (
        prediction_id(send(client, wide_png("nebula", 107), "a.png")),
        prediction_id(send(client, wide_png("nebula", 108), "b.png")),
    )
    fragment = client.get(f"/history/{first}/alike", headers=PART)
    assert "<html" not in fragment.text
    assert f'href="/history/{second}"' in fragment.text
    assert f'href="/history/{first}"' not in fragment.text
    page = client.get(f"/history/{first}/alike", headers=BROWSER)
    assert "<h1>Nearest neighbours</h1>" in page.text
    assert f'href="/history/{second}"' in page.text
    assert client.get("/history/999999/alike", headers=BROWSER).status_code == 404


def test_missing_neighbours_are_explained(client: TestClient) -> None:
    without_vector = prediction_id(send(client, wide_png("ocean", 109), model="colours"))
    fragment = client.get(f"/history/{without_vector}/alike", headers=PART)
    assert (fragment.status_code, "had no detectors" in fragment.text) == (200, True)
    database = client.app.state.services.database  # type: ignore[attr-defined]
    database._has_vectors = False
    try:
        assert "lacks pgvector" in client.get(f"/history/{without_vector}/alike", headers=PART).text
    finally:
        database._has_vectors = None


def test_the_page_counts_unlabelled_unusual_images(client: TestClient, log_url: str) -> None:
    query(log_url, "UPDATE predictions SET novelty = 0.5")
    assert "No unlabelled unusual image" in text(client.get("/try/waiting", headers=PART))
    unusual = prediction_id(send(client, wide_png("nebula", 110)))
    query(log_url, "UPDATE predictions SET novelty = 0.995 WHERE id = %s", unusual)
    assert "1 unusual image to label in Review" in text(client.get("/try/waiting", headers=PART))
    client.post(f"/predictions/{unusual}/label", json={"label": "ordinary"})
    assert "No unlabelled unusual image" in text(client.get("/try/waiting", headers=PART))


def test_without_the_database_the_card_lacks_only_links_and_labels(start: Start, tmp_path: Path) -> None:
    client = start(database_url="postgresql://nobody@127.0.0.1:1/none", data_dir=tmp_path)
    assert client.get("/", headers=BROWSER).status_code == 200
    card = send(client, wide_png("lawn", 111))
    assert client.get("/try/waiting", headers=PART).status_code == 503
    assert card.status_code == 200
    assert "queued on disk" in card.text
    assert '<image class="heat-map"' in card.text
    assert "/history/" not in card.text


def test_a_service_without_thumbnails_says_why(start: Start) -> None:
    card = send(start(thumbnail_max_bytes=0), wide_png("lawn", 112))
    assert "no thumbnail" in card.text
    assert "ASTRODETECT_THUMBNAIL_MAX_BYTES is 0" in card.text


def test_without_a_model_the_page_says_how_to_train_one(start: Start, tmp_path: Path) -> None:
    client = start(models_dir=tmp_path)
    page, refused = client.get("/"), send(client, wide_png("lawn", 113), headers=BROWSER)
    assert "No model is trained yet" in page.text
    assert "python train_model.py" in page.text
    assert 'id="file"' not in page.text
    assert refused.status_code == 503


def test_the_page_has_no_inline_scripts_or_styles(client: TestClient) -> None:
    for page in (client.get("/"), send(client, wide_png("lawn", 114), headers=BROWSER)):
        assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page.text) == []
