"""The Models page and its API: serving versions, metrics, reports and rollback."""

import html
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import colour_models
import pytest
from malicious_server import png
from starlette.testclient import TestClient

from astrodetect.model_store import versions as archive
from astrodetect.model_store.manifest import read_manifest
from astrodetect.service import model_registry as models_module
from astrodetect.service.middleware.security import CONTENT_SECURITY_POLICY

NAME = "m"
HTMX = {"HX-Request": "true"}
BROWSER = {"Accept": "text/html"}


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """Empty; modified by the tests."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def versions(models_dir: Path) -> list[str]:
    """Of one model, the newest last."""
    return [
        colour_models.publish(models_dir, NAME, colour_models.TWO_CLASSES, scale=sure).version for sure in (0.02, 0.05)
    ]


@pytest.fixture
def service_settings() -> dict[str, Any]:
    return {"model": NAME}


@pytest.fixture(autouse=True)
def short_check_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_module, "CHECK_S", 0.0)


def listed(client: TestClient) -> dict[str, Any]:
    return {model["name"]: model for model in client.get("/models").json()}


def serving_version(client: TestClient) -> str:
    return str(client.post("/detect", files={"file": ("m51.png", png())}).json()["model_version"])


def text_of(page: str) -> str:
    inline = re.sub(r"</?bdi>", "", page)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", inline)).split())


def poll_until(client: TestClient, text: str, serving: str = "") -> str:
    """What an open page shows once it contains the text; no prediction is requested meanwhile."""
    give_up = time.monotonic() + 20
    while text not in (page := text_of(client.get(f"/models-page?serving={serving}", headers=HTMX).text)):
        assert time.monotonic() < give_up, page
        time.sleep(0.02)
    return page


def test_a_rollback_over_the_api_takes_effect_at_once_and_keeps_the_newer_version(
    versions: list[str], client: TestClient
) -> None:
    assert serving_version(client) == versions[1]
    response = client.post(f"/models/{NAME}/rollback")
    assert response.status_code == 200
    assert serving_version(client) == response.json()["version"] == versions[0]
    model = listed(client)[NAME]
    assert (model["serving"], model["loaded"], model["problem"]) == (True, True, None)
    assert [entry["version"] for entry in model["earlier"]] == [versions[1]]
    forward = client.post(f"/models/{NAME}/rollback", json={"version": versions[1]})
    assert serving_version(client) == forward.json()["version"] == versions[1]
    assert client.post(f"/models/{NAME}/rollback", json={"version": versions[1]}).json()["version"] == versions[1]


def test_a_rollback_accepts_only_archived_versions(versions: list[str], client: TestClient, models_dir: Path) -> None:
    before = sorted(path.name for path in models_dir.iterdir())
    for name, body, refusal in (
        ("none", None, (404, "model_unknown")),
        (NAME, {"version": "0123456789ab"}, (404, "model_unknown")),
        (NAME, {"version": "../../secret"}, (422, "bad_arguments")),
        (NAME, {"url": "https://elsewhere.example/model.h5"}, (422, "bad_arguments")),
        ("..%2Fm", None, (404, "not_found")),
        (".m", None, (422, "bad_arguments")),
    ):
        response = client.post(f"/models/{name}/rollback", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == refusal
    assert serving_version(client) == versions[1]
    assert sorted(path.name for path in models_dir.iterdir()) == before


def test_a_version_that_fails_its_canary_is_not_restored(
    versions: list[str], client: TestClient, models_dir: Path
) -> None:
    [archived] = (models_dir / f".{NAME}.earlier").iterdir()
    manifest = archived / f"{NAME}.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"canary_score": 0.0}))
    response = client.post(f"/models/{NAME}/rollback")
    assert response.status_code == 503
    assert "scores its canary" in response.json()["error"]["message"]
    assert read_manifest(models_dir / f"{NAME}.json").version == serving_version(client) == versions[1]


def test_the_page_describes_each_model(versions: list[str], client: TestClient, models_dir: Path) -> None:
    colour_models.publish(models_dir, "kinds")
    page = client.get("/models-page").text
    first, second = (text_of(part) for part in page.split("<article")[1:])
    for text in (
        "m serving the default model, used when a request names none",
        f"Version {versions[1]}",
        "nebula, lawn; anomaly: lawn, at a score above 0.5",
        "largest central square, scaled to 24 × 24 pixels, RGB; FITS is refused",
        "python -m astrodetect anomalies NORMAL --attach m adds them",
        "f32, as trained",
        f"Roll back to {versions[0]}",
    ):
        assert text in first
    assert "kinds on disk loaded when a request names it" in second
    assert "nebula, lawn, ocean" in second
    assert "<bdi>nebula</bdi>, <bdi>lawn</bdi>" in page  # names written from right to left keep their place
    assert "Earlier versions" not in second
    client.post("/classify?model=kinds", files={"file": ("m51.png", png())})
    assert "kinds loaded used when a request names it" in text_of(client.get("/models-page").text)


def test_the_form_rolls_back_without_scripts(versions: list[str], client: TestClient) -> None:
    page = client.get("/models-page", headers=BROWSER).text
    [action] = re.findall(r'<form method="post" action="([^"]+)"', page)
    [version] = re.findall(r'name="version" value="([^"]+)"', page)
    response = client.post(action, data={"version": version}, headers=BROWSER)
    assert (response.status_code, response.headers["location"]) == (303, f"/models-page?done={NAME}")
    assert f"m is rolled back to version {versions[0]}." in text_of(client.get(response.headers["location"]).text)
    assert serving_version(client) == versions[0]


def test_htmx_gets_the_outcome_of_a_rollback_and_no_body_while_nothing_changes(
    versions: list[str], client: TestClient
) -> None:
    page = client.get("/models-page").text
    [poll] = re.findall(r'hx-get="([^"]+)" hx-trigger="every 5s"', page)
    assert client.get(html.unescape(poll), headers=HTMX).status_code == 204
    fragment = client.post(f"/models-page/{NAME}/rollback", data={"version": versions[0]}, headers=HTMX)
    assert fragment.status_code == 200
    assert "<html" not in fragment.text
    assert re.search(
        rf'id="outcome"[^>]*hx-swap-oob="innerHTML">m is rolled back to version {versions[0]}', fragment.text
    )
    update = client.get(html.unescape(poll), headers=HTMX).text
    assert f">Version {versions[0]} is serving now.<" in update


def test_an_open_page_shows_a_newly_published_model(client: TestClient, models_dir: Path) -> None:
    assert "No model yet" in text_of(client.get("/models-page").text)
    first = colour_models.publish(models_dir, NAME, colour_models.TWO_CLASSES)
    poll_until(client, "m serving the default model, used when a request names none")
    second = colour_models.publish(models_dir, NAME, colour_models.TWO_CLASSES, scale=0.05)
    page = poll_until(client, f"Version {second.version} is serving now.", first.version)
    assert f"Roll back to {first.version}" in page
    assert serving_version(client) == second.version


def test_a_damaged_model_is_reported_while_the_loaded_version_keeps_serving(
    versions: list[str], client: TestClient, models_dir: Path
) -> None:
    assert serving_version(client) == versions[1]
    third = colour_models.publish(models_dir, NAME, colour_models.TWO_CLASSES, scale=0.1)
    (models_dir / f"{NAME}.bin").write_bytes(b"torn")
    page = poll_until(client, "keeps serving")
    assert "m.bin does not match the SHA-256 in its manifest" in page
    assert serving_version(client) == versions[1]
    assert "does not match" in listed(client)[NAME]["problem"]
    assert listed(client)[NAME]["loaded"] is False
    client.post(f"/models/{NAME}/rollback", json={"version": versions[1]})
    assert listed(client)[NAME]["problem"] is None
    assert third.version not in [entry["version"] for entry in listed(client)[NAME]["earlier"]]  # it was damaged

    (models_dir / f"{NAME}.json").write_text("{")
    page = text_of(client.get("/models-page").text)
    assert (
        f"m.json cannot be read: train it again with python train_model.py Version {versions[1]} keeps serving" in page
    )
    assert f"{versions[0]} will replace the unreadable version" in page
    client.post(f"/models-page/{NAME}/rollback", data={"version": versions[0]})
    assert serving_version(client) == versions[0]
    (models_dir / "m.json").unlink()
    page = text_of(client.get("/models-page").text)
    assert f"its files were deleted. Version {versions[0]} keeps serving" in page
    assert serving_version(client) == versions[0]


def test_a_report_is_shown_for_its_version_only_and_in_a_sandbox(
    versions: list[str], client: TestClient, models_dir: Path
) -> None:
    missing = client.get(f"/models-page/{NAME}/report", headers=BROWSER)
    assert missing.status_code == 404
    assert "python -m astrodetect evaluate m DATA" in text_of(missing.text)
    (models_dir / f"{NAME}.html").write_text("<script>1</script>the older one's")
    (models_dir / f"{NAME}.metrics.json").write_text(json.dumps({"version": versions[0]}))
    assert client.get(f"/models-page/{NAME}/report").status_code == 404
    (models_dir / f"{NAME}.metrics.json").write_text(json.dumps({"version": versions[1]}))
    response = client.get(f"/models-page/{NAME}/report")
    assert response.text == "<script>1</script>the older one's"
    policy = response.headers["content-security-policy"]
    assert policy != CONTENT_SECURITY_POLICY
    assert "sandbox allow-scripts" in policy
    assert "default-src 'none'" in policy
    assert "allow-same-origin" not in policy
    assert f'href="/models-page/{NAME}/report"' in client.get("/models-page").text
    client.post(f"/models/{NAME}/rollback")
    assert client.get(f"/models-page/{NAME}/report").status_code == 404
    assert client.get(f"/models-page/{NAME}/report?version={versions[1]}").text == response.text
    for path in ("/models-page/none/report", f"/models-page/{NAME}/report?version=0123456789ab"):
        program, page = client.get(path), client.get(path, headers=BROWSER)
        assert (program.status_code, program.json()["error"]["code"], page.status_code) == (404, "model_unknown", 404)


def test_markup_in_a_manifest_is_escaped(client: TestClient, models_dir: Path) -> None:
    colour_models.publish(models_dir, NAME, colour_models.TWO_CLASSES)
    path = models_dir / f"{NAME}.json"
    evil = "<script>alert(1)</script>\u202e"
    manifest_fields = {"settings": {evil: evil}, "data": {evil: {"images": {evil: 3}, "fingerprint": evil}, "odd": 7}}
    manifest_fields |= {"metrics": {evil: {"accuracy": 0.5}}, "recipe": evil, "classes": ["a", evil]}
    path.write_text(json.dumps(json.loads(path.read_text()) | manifest_fields))
    page = client.get("/models-page").text
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert re.findall(r"<style|\sstyle=|\son\w+=", page) == []


def test_the_page_says_whether_a_taught_network_takes_part_in_the_ranking(client: TestClient, models_dir: Path) -> None:
    colour_models.publish(models_dir, NAME, colour_models.TWO_CLASSES)
    path = models_dir / f"{NAME}.json"
    assert "Ranking" not in text_of(client.get("/models-page").text)
    precision = {"ranking": 0.677, "labels": 0.744, "network": 0.494, "together": 0.723}
    for teaching, text in (
        ({"improves": False, "average_precision": precision}, "average precision 0.723 with it, 0.744 without"),
        ({"improves": True, "average_precision": precision | {"together": 0.8}}, "0.800 with it, 0.744 without"),
        ({"improves": False}, "takes no part in it"),
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": {"teaching": teaching}}))
        page = text_of(client.get("/models-page").text)
        assert f"takes {'part' if teaching['improves'] else 'no part'} in it" in page
        assert text in page


def test_paths_in_the_settings_are_shown_by_their_last_component(client: TestClient, models_dir: Path) -> None:
    colour_models.publish(models_dir, NAME, colour_models.TWO_CLASSES)
    path = models_dir / f"{NAME}.json"
    manifest_fields = {
        "settings": {"train": "/home/ada/night-7", "test": "C:\\ada\\sky-2", "seed": 0, "limit": [], "data": None}
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | manifest_fields))
    page = client.get("/models-page").text
    assert "night-7" in page
    assert "sky-2" in page
    assert "ada" not in page
    assert "<dt>seed</dt><dd>0</dd>" in page
    assert "<dt>limit</dt>" not in page


def test_the_page_is_shown_while_an_archived_version_is_deleted(
    versions: list[str], client: TestClient, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_versions, calls = archive.version_folders, 0

    def delete_meanwhile(*args: Any) -> dict[str, Path]:
        nonlocal calls
        if calls:
            shutil.rmtree(models_dir / f".{NAME}.earlier")
        calls += 1
        return list_versions(*args)

    monkeypatch.setattr(archive, "version_folders", delete_meanwhile)
    page = client.get("/models-page")
    assert page.status_code == 200
    assert f"Roll back to {versions[0]}" in text_of(page.text)


def test_the_old_address_redirects_with_its_query(client: TestClient) -> None:
    for path in ("", f"/{NAME}/report"):
        response = client.get(f"/trained{path}?version=0123456789ab&done=m")
        assert response.status_code == 308
        assert response.headers["location"] == f"/models-page{path}?version=0123456789ab&done=m"


def test_every_page_says_that_the_model_was_trained_on_simulated_images(
    versions: list[str], start: Callable[..., TestClient], models_dir: Path
) -> None:
    sentence, path = "Trained on simulated images: not validated on real ones", models_dir / f"{NAME}.json"
    manifest = json.loads(path.read_text())
    client = start()
    assert (listed(client)[NAME]["simulated"], listed(client)[NAME]["warnings"]) == (None, [])
    path.write_text(json.dumps(manifest | {"simulated": True}))
    client = start()
    client.post("/detect", files={"file": ("m51.png", png())})
    for page in ("/", "/history", "/review", "/map", "/models-page", "/live", "/history/1"):
        assert sentence in client.get(page, headers=BROWSER).text, page
    assert listed(client)[NAME]["warnings"] == [sentence]
    path.write_text(json.dumps(manifest | {"simulated": True, "data": {"test": {"simulated": 0}}}))
    assert listed(client)[NAME]["warnings"] == ["Trained on simulated images"]


def test_pages_have_the_warnings_of_other_models_once_they_are_used(
    versions: list[str], client: TestClient, models_dir: Path
) -> None:
    colour_models.publish(models_dir, "other", colour_models.TWO_CLASSES)
    path = models_dir / "other.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"simulated": True}))
    sentence = "Model other: Trained on simulated images"
    assert sentence not in client.get("/history", headers=BROWSER).text
    assert client.post("/detect?model=other", files={"file": ("m51.png", png())}).status_code == 200
    assert sentence in client.get("/history", headers=BROWSER).text


def test_the_pages_show_a_models_warnings_and_only_the_formats_that_it_accepts(
    versions: list[str], client: TestClient, models_dir: Path
) -> None:
    upload = client.get("/").text
    assert "JPEG, PNG, WebP or TIFF , up to" in text_of(upload)
    assert ".fits" not in upload
    path = models_dir / f"{NAME}.json"
    fields = json.loads(path.read_text())
    fields["image"]["stretch"] = "asinh"
    path.write_text(json.dumps(fields | {"better_than_chance": False, "metrics": {"test": {"auc": 0.512}}}))
    upload = client.get("/").text
    assert "JPEG, PNG, WebP, TIFF or FITS , up to" in text_of(upload)
    [accept] = re.findall(r'type="file" accept="([^"]+)"', upload)
    assert {"image/jpeg", ".tiff", ".fits", ".fits.fz"} <= set(accept.split(","))
    warning = "No better than chance on its test images: AUC 0.512"
    assert warning in text_of(client.get("/models-page").text)
    assert listed(client)[NAME]["warnings"] == [warning]
