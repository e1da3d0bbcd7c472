"""Models on the page and over HTTP: what answers, how good it is, and going back to an earlier version."""

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

from astrodetect.model_store import archive
from astrodetect.model_store.manifest import read_manifest
from astrodetect.service import model_registry as models_module
from astrodetect.service.middleware.security_headers import CONTENT_SECURITY_POLICY

NAME = "m"
HTMX = {"HX-Request": "true"}
BROWSER = {"Accept": "text/html"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def versions(folder: Path) -> list[str]:
    """Of one model, the newest last."""
    return [colour_models.publish(folder, NAME, colour_models.TWO_CLASSES, scale=sure).version for sure in (0.02, 0.05)]


@pytest.fixture
def client(start: Callable[..., TestClient], folder: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr(models_module, "LOOK_S", 0.0)
    folder.mkdir(exist_ok=True)
    return start(model=NAME)


def listed(client: TestClient) -> dict[str, Any]:
    return {model["name"]: model for model in client.get("/models").json()}


def answering(client: TestClient) -> str:
    return str(client.post("/detect", files={"file": ("m51.png", png())}).json()["model_version"])


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def until(client: TestClient, said: str, running: str = "") -> str:
    """What a page that is left open gets, once it says this; nobody asks for a verdict meanwhile."""
    give_up = time.monotonic() + 20
    while said not in (page := words(client.get(f"/trained?running={running}", headers=HTMX).text)):
        assert time.monotonic() < give_up, page
        time.sleep(0.02)
    return page


def test_rolled_back_over_http_the_earlier_version_answers_at_once_and_the_newer_one_waits(
    versions: list[str], client: TestClient
) -> None:
    assert answering(client) == versions[1]
    answer = client.post(f"/models/{NAME}/rollback")
    assert answer.status_code == 200
    assert answering(client) == answer.json()["version"] == versions[0]
    model = listed(client)[NAME]
    assert (model["serving"], model["loaded"], model["problem"]) == (True, True, None)
    assert [one["version"] for one in model["earlier"]] == [versions[1]]
    forward = client.post(f"/models/{NAME}/rollback", json={"version": versions[1]})
    assert answering(client) == forward.json()["version"] == versions[1]
    assert client.post(f"/models/{NAME}/rollback", json={"version": versions[1]}).json()["version"] == versions[1]


def test_only_versions_that_are_here_are_rolled_back_to(versions: list[str], client: TestClient, folder: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())
    for name, body, refusal in (
        ("none", None, (404, "model_unknown")),
        (NAME, {"version": "0123456789ab"}, (404, "model_unknown")),
        (NAME, {"version": "../../secret"}, (422, "bad_arguments")),
        (NAME, {"url": "https://elsewhere.example/model.h5"}, (422, "bad_arguments")),
        ("..%2Fm", None, (404, "not_found")),
        (".m", None, (422, "bad_arguments")),
    ):
        answer = client.post(f"/models/{name}/rollback", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == refusal
    assert answering(client) == versions[1]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_what_could_not_answer_is_not_put_in_place(versions: list[str], client: TestClient, folder: Path) -> None:
    [kept] = (folder / f".{NAME}.earlier").iterdir()
    manifest = kept / f"{NAME}.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"canary_score": 0.0}))
    answer = client.post(f"/models/{NAME}/rollback")
    assert answer.status_code == 503
    assert "scores its canary" in answer.json()["error"]["message"]
    assert read_manifest(folder / f"{NAME}.json").version == answering(client) == versions[1]


def test_the_page_says_what_answers_and_what_it_wants(versions: list[str], client: TestClient, folder: Path) -> None:
    colour_models.publish(folder, "kinds")
    page = client.get("/trained").text
    first, second = (words(part) for part in page.split("<article")[1:])
    for said in (
        "m answers where no model is named",
        f"Version {versions[1]}",
        "lawn, the anomaly, from nebula: a score above 0.5 says lawn",
        "the largest square in its middle, scaled to 24 × 24 pixels, in colour; FITS is refused",
        "python -m astrodetect anomalies NORMAL --attach m gives it detectors",
        "f32, as it was trained",
        f"Roll back to {versions[0]}",
    ):
        assert said in first
    assert "kinds on disk loads when it is named" in second
    assert "nebula, lawn, ocean apart" in second
    assert "Earlier versions" not in second
    client.post("/classify?model=kinds", files={"file": ("m51.png", png())})
    assert "kinds loaded answers where it is named" in words(client.get("/trained").text)


def test_a_form_rolls_back_without_scripts(versions: list[str], client: TestClient) -> None:
    page = client.get("/trained", headers=BROWSER).text
    [action] = re.findall(r'<form method="post" action="([^"]+)"', page)
    [version] = re.findall(r'name="version" value="([^"]+)"', page)
    answer = client.post(action, data={"version": version}, headers=BROWSER)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/trained?done={NAME}")
    assert f"Version {versions[0]} of m is in place." in words(client.get(answer.headers["location"]).text)
    assert answering(client) == versions[0]


def test_a_part_for_htmx_says_what_happened_and_an_unchanged_one_is_not_sent(
    versions: list[str], client: TestClient
) -> None:
    page = client.get("/trained").text
    [poll] = re.findall(r'hx-get="([^"]+)" hx-trigger="every 5s"', page)
    assert client.get(html.unescape(poll), headers=HTMX).status_code == 204
    part = client.post(f"/trained/{NAME}/rollback", data={"version": versions[0]}, headers=HTMX)
    assert part.status_code == 200
    assert "<html" not in part.text
    assert re.search(rf'id="done"[^>]*hx-swap-oob="innerHTML">Version {versions[0]} of m is in place', part.text)
    news = client.get(html.unescape(poll), headers=HTMX).text
    assert f">{versions[0]} answers now.<" in news


def test_a_page_left_open_sees_a_new_model_come(client: TestClient, folder: Path) -> None:
    assert "No model yet" in words(client.get("/trained").text)
    first = colour_models.publish(folder, NAME, colour_models.TWO_CLASSES)
    until(client, "m answers where no model is named")
    second = colour_models.publish(folder, NAME, colour_models.TWO_CLASSES, scale=0.05)
    page = until(client, f"{second.version} answers now.", first.version)
    assert f"Roll back to {first.version}" in page
    assert answering(client) == second.version


def test_a_model_published_broken_is_told_of_with_what_goes_on(
    versions: list[str], client: TestClient, folder: Path
) -> None:
    assert answering(client) == versions[1]
    third = colour_models.publish(folder, NAME, colour_models.TWO_CLASSES, scale=0.1)
    (folder / f"{NAME}.bin").write_bytes(b"torn")
    page = until(client, "goes on answering")
    assert "m.bin does not match the SHA-256 in its manifest" in page
    assert answering(client) == versions[1]
    assert "is not the file" in listed(client)[NAME]["problem"]
    assert listed(client)[NAME]["loaded"] is False
    client.post(f"/models/{NAME}/rollback", json={"version": versions[1]})
    assert listed(client)[NAME]["problem"] is None
    assert third.version not in [one["version"] for one in listed(client)[NAME]["earlier"]]  # it was broken

    (folder / f"{NAME}.json").write_text("{")
    page = words(client.get("/trained").text)
    assert f"m.json cannot be read: train it again with python train_model.py Version {versions[1]} goes on" in page
    assert f"{versions[0]} will take the place of the broken one" in page
    client.post(f"/trained/{NAME}/rollback", data={"version": versions[0]})
    assert answering(client) == versions[0]


def test_a_report_is_shown_where_it_is_of_this_version_and_can_do_nothing_here(
    versions: list[str], client: TestClient, folder: Path
) -> None:
    missing = client.get(f"/trained/{NAME}/report", headers=BROWSER)
    assert missing.status_code == 404
    assert "python -m astrodetect evaluate m DATA" in words(missing.text)
    (folder / f"{NAME}.html").write_text("<script>1</script>the older one's")
    (folder / f"{NAME}.metrics.json").write_text(json.dumps({"version": versions[0]}))
    assert client.get(f"/trained/{NAME}/report").status_code == 404
    (folder / f"{NAME}.metrics.json").write_text(json.dumps({"version": versions[1]}))
    answer = client.get(f"/trained/{NAME}/report")
    assert answer.text == "<script>1</script>the older one's"
    policy = answer.headers["content-security-policy"]
    assert policy != CONTENT_SECURITY_POLICY
    assert "sandbox allow-scripts" in policy
    assert "default-src 'none'" in policy
    assert "allow-same-origin" not in policy
    assert f'href="/trained/{NAME}/report"' in client.get("/trained").text
    client.post(f"/models/{NAME}/rollback")
    assert client.get(f"/trained/{NAME}/report").status_code == 404
    assert client.get(f"/trained/{NAME}/report?version={versions[1]}").text == answer.text
    for path in ("/trained/none/report", f"/trained/{NAME}/report?version=0123456789ab"):
        program, page = client.get(path), client.get(path, headers=BROWSER)
        assert (program.status_code, program.json()["error"]["code"], page.status_code) == (404, "model_unknown", 404)


def test_what_a_manifest_says_is_text_on_the_page(client: TestClient, folder: Path) -> None:
    colour_models.publish(folder, NAME, colour_models.TWO_CLASSES)
    path = folder / f"{NAME}.json"
    evil = "<script>alert(1)</script>\u202e"
    said = {"settings": {evil: evil}, "data": {evil: {"images": {evil: 3}, "fingerprint": evil}, "odd": 7}}
    said |= {"metrics": {evil: {"accuracy": 0.5}}, "recipe": evil, "classes": ["a", evil]}
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    page = client.get("/trained").text
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert re.findall(r"<style|\sstyle=|\son\w+=", page) == []


def test_where_a_model_was_trained_is_told_by_name_alone(client: TestClient, folder: Path) -> None:
    colour_models.publish(folder, NAME, colour_models.TWO_CLASSES)
    path = folder / f"{NAME}.json"
    said = {"settings": {"train": "/home/ada/night-7", "test": "C:\\ada\\sky-2", "seed": 0, "limit": [], "data": None}}
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    page = client.get("/trained").text
    assert "night-7" in page
    assert "sky-2" in page
    assert "ada" not in page
    assert "<dt>seed</dt><dd>0</dd>" in page
    assert "<dt>limit</dt>" not in page


def test_the_page_is_shown_while_an_earlier_version_is_let_go(
    versions: list[str], client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed_then, looks = archive.version_folders, 0

    def let_go(*asked: Any) -> dict[str, Path]:
        nonlocal looks
        if looks:
            shutil.rmtree(folder / f".{NAME}.earlier")
        looks += 1
        return listed_then(*asked)

    monkeypatch.setattr(archive, "version_folders", let_go)
    page = client.get("/trained")
    assert page.status_code == 200
    assert f"Roll back to {versions[0]}" in words(page.text)
