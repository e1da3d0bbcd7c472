"""The page on which people label: one image after the other, undo, skip, and what it says where nothing is left."""

import gc
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import colour_models
import numpy as np
import pytest
from malicious_server import png
from programs import query
from starlette.testclient import TestClient

from astrodetect import images
from astrodetect.db.values import BIGINT_MAX
from astrodetect.records import ImageContract
from astrodetect.service.web import review_session
from astrodetect.settings import Settings
from main import create_app

HTMX = {"HX-Request": "true"}
BROWSER = {"Accept": "text/html"}
USUAL = [png(seed) for seed in range(300, 320)]
HOSTILE = '<script>alert(1)</script>\u202egpj.png"' + "x" * 10_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with detectors."""
    folder = tmp_path_factory.mktemp("models")
    colour_models.publish(folder, "resnet50_model", colour_models.TWO_CLASSES)
    usual = np.stack([images.read(data, ImageContract(size=colour_models.SIZE)) for data in USUAL])
    colour_models.attach_novelty(folder, "resnet50_model", usual)
    return folder


@pytest.fixture
def app(database_url: str, folder: Path) -> Any:
    return create_app(Settings(DATABASE_URL=database_url, models_dir=folder))


@pytest.fixture
def client(app: Any) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client
    gc.collect()  # an app is a ring of references, and each holds a network


@pytest.fixture
def ids(client: TestClient) -> list[int]:
    """Five images in the log."""
    return [score(client, data, f"{n}.png") for n, data in enumerate(USUAL[:5])]


def score(client: TestClient, data: bytes, name: str) -> int:
    return int(client.post("/detect", files={"file": (name, data)}).json()["id"])


def at(page: Any) -> int:
    """The prediction whose image is to be looked at."""
    assert page.status_code == 200, page.text
    [id_] = re.findall(r'name="id" value="(\d+)"', page.text)
    return int(id_)


def given(database_url: str) -> list[tuple[Any, ...]]:
    return query(database_url, "SELECT prediction_id, label, who, note FROM labels ORDER BY id")


def test_without_scripts_every_image_is_labelled_once_and_then_the_page_says_so(
    client: TestClient, ids: list[int], database_url: str
) -> None:
    page, seen = client.get("/review"), []
    for label in ("interesting", "ordinary", "artefact", "ordinary", "interesting"):
        seen.append(at(page))
        sent = {"id": str(at(page)), "label": label, "by": "interest", "note": "  a ring? "}
        answer = client.post("/review/label", data=sent, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/review?by=interest")
        page = client.get(answer.headers["location"])
    assert sorted(seen) == ids
    assert "Everything is labelled" in page.text
    assert given(database_url)[0] == (seen[0], "interesting", None, "a ring?")
    assert "2 interesting among 5 looked at: 40 per hundred." in page.text
    assert re.search(r'<svg class="chart"[^>]*aria-label="2 interesting among 5', page.text)


def test_a_label_brings_the_next_image_in_the_same_answer_and_says_what_was_done(
    client: TestClient, ids: list[int]
) -> None:
    first = at(client.get("/review?by=novelty"))
    sent = {"id": str(first), "label": "ordinary", "by": "novelty"}
    part = client.post("/review/label", data=sent, headers=HTMX)
    assert at(part) in set(ids) - {first}
    assert "<html" not in part.text
    assert part.headers["hx-replace-url"] == "/review?by=novelty"
    assert part.headers["hx-trigger"] == '{"say": "Labelled ordinary; 1 done"}'


def test_undo_goes_back_step_by_step_and_shows_each_image_with_its_note(
    client: TestClient, ids: list[int], database_url: str
) -> None:
    page, seen = client.get("/review?by=novelty"), []
    streak, usual = {"label": "artefact", "note": "a streak"}, {"label": "ordinary"}
    for path, said in (("label", streak), ("skip", {}), ("label", usual)):
        seen.append(at(page))
        page = client.post(f"/review/{path}", data={"id": str(at(page)), "by": "novelty", **said}, headers=HTMX)
    for expected, left in zip(reversed(seen), (1, 1, 0), strict=True):
        page = client.post("/review/undo", data={"by": "novelty"}, headers=HTMX)
        assert (at(page), len(given(database_url))) == (expected, left)
    assert ">a streak</textarea>" in page.text
    assert re.search(r'id="undo"[^>]* disabled', page.text)
    page = client.post("/review/undo", data={"by": "novelty"}, headers=HTMX)
    assert page.headers["hx-trigger"] == '{"say": "Nothing to undo; 0 done"}'


def test_an_undo_of_what_somebody_else_took_back_goes_on(client: TestClient, ids: list[int], database_url: str) -> None:
    client.post("/review/label", data={"id": str(ids[0]), "label": "ordinary"}, headers=HTMX)
    query(database_url, "DELETE FROM labels")
    page = client.post("/review/undo", headers=HTMX)
    assert "had gone already" in page.headers["hx-trigger"]
    assert at(page) in ids
    assert re.search(r'id="undo"[^>]* disabled', page.text)


def test_what_is_skipped_comes_again_only_when_asked_for(client: TestClient, ids: list[int]) -> None:
    page, seen = client.get("/review?by=random"), []
    for _ in ids:
        seen.append(at(page))
        page = client.post("/review/skip", data={"id": str(at(page)), "by": "random"})
    assert sorted(seen) == ids
    assert "Only skipped images are left" in page.text
    assert "5 skipped: show them again" in page.text
    assert "Only skipped" in client.get("/review?by=novelty").text
    assert at(client.post("/review/again", data={"by": "random"})) in ids


def test_a_name_given_once_stands_beside_each_label_and_only_in_that_browser(
    client: TestClient, ids: list[int], database_url: str
) -> None:
    client.post("/review/name", data={"who": "Åda <b>"})
    assert 'value="Åda &lt;b&gt;"' in client.get("/review").text
    client.post("/review/label", data={"id": str(ids[0]), "label": "ordinary"})
    client.cookies.clear()
    client.post("/review/label", data={"id": str(ids[1]), "label": "ordinary"})
    assert [row[2] for row in given(database_url)] == ["Åda <b>", None]
    said = client.post("/review/name", data={"who": " "}, headers=HTMX)
    assert "no name" in said.headers["hx-trigger"]
    assert client.post("/review/name", data={"who": "x" * 61}).status_code == 422


def test_two_reviewers_are_given_different_images(app: Any, client: TestClient, ids: list[int]) -> None:
    other = TestClient(app)  # another browser: cookies of its own
    mine = at(client.get("/review?by=novelty"))
    assert client.post("/review/turn", data={"id": str(mine)}).status_code == 204  # as the page does when it is there
    others = at(other.get("/review?by=novelty"))
    assert mine != others
    assert at(other.get("/review?by=novelty")) == others
    assert (at(client.get("/review?by=novelty")), at(other.get("/review?by=novelty"))) == (mine, others)
    for id_ in set(ids) - {mine}:
        client.post("/review/skip", data={"id": str(id_)})
    assert at(client.get("/review")) == mine
    client.post("/review/label", data={"id": str(mine), "label": "ordinary"})
    assert "Only skipped" in client.get("/review").text
    assert at(other.get("/review?by=novelty")) == others


def test_whoever_only_asks_for_the_page_takes_no_image_from_anybody(
    app: Any, client: TestClient, ids: list[int]
) -> None:
    first = at(client.get("/review?by=novelty"))
    for _ in range(3):
        program = TestClient(app)  # which keeps no cookies, such as a monitor
        page = program.get("/review?by=novelty")
        assert at(page) == first
        assert f"""hx-post="/review/turn" hx-trigger="load" hx-swap="none" hx-vals='{{"id": {first}}}'""" in page.text
        program.cookies.clear()
        program.post("/review/turn", data={"id": str(first)})
    assert app.state.review.turns.taken("nobody") == set()
    page = client.get("/review?by=novelty")
    assert (at(page), "/review/turn" in page.text) == (first, False)
    assert len(app.state.review.turns.taken("nobody")) == 1
    assert client.post("/review/turn", data={"id": "999"}).status_code == 404


def test_what_is_known_of_the_image_stands_beside_it(client: TestClient, ids: list[int]) -> None:
    client.post(f"/predictions/{ids[0]}/label", json={"label": "artefact"})
    page = client.get(f"/review?id={ids[1]}")
    assert at(page) == ids[1]
    assert 'href="/history/2"' in page.text
    assert '<span class="chip artefact">artefact</span>' in page.text  # a neighbour that is labelled
    again = client.get(f"/review?id={ids[0]}")
    assert "the newest label counts" in again.text
    assert client.get("/review?id=999", headers=BROWSER).status_code == 404
    assert re.search(r"More unusual than [^.]*training", unescape(client.get("/review").text))


def test_a_name_that_is_markup_is_text_and_short(client: TestClient, ids: list[int], database_url: str) -> None:
    query(database_url, "UPDATE predictions SET image_name = %s", HOSTILE)
    page = client.get("/review").text
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert "x" * 200 not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;⟨U+202E⟩gpj.png" in page


def test_an_empty_log_leads_to_where_images_come_from(client: TestClient, database_url: str) -> None:
    page = client.get("/review")
    assert "No image has been scored yet" in page.text
    assert 'href="/"' in page.text
    query(database_url, "INSERT INTO predictions (image_name, score, result) VALUES ('old.jpg', 0.5, 'No Anomaly')")
    assert "none with a novelty" in client.get("/review").text


def test_without_detectors_or_vectors_the_page_says_what_the_order_is(
    client: TestClient, ids: list[int], database_url: str
) -> None:
    query(database_url, "DROP TABLE features")
    client.app.state.database._vectors = False  # type: ignore[attr-defined]
    page = client.get("/review")
    assert at(page) in ids
    assert "keeps no vectors" in page.text


def test_what_cannot_be_is_refused_and_labels_nothing(client: TestClient, ids: list[int], database_url: str) -> None:
    for path, sent in (
        ("/review/label", {"id": str(ids[0]), "label": "odd"}),
        ("/review/label", {"label": "ordinary"}),
        ("/review/label", {"id": str(ids[0]), "label": "ordinary", "note": "x" * 10_001}),
        ("/review/skip", {"id": "0"}),
        ("/review/undo", {"by": "luck"}),
    ):
        assert client.post(path, data=sent).status_code == 422, sent
    assert client.post("/review/label", data={"id": "999", "label": "ordinary"}).status_code == 404
    assert client.get("/review?by=luck", headers=BROWSER).status_code == 422
    assert given(database_url) == []


@pytest.mark.parametrize(
    "said",
    [
        "",
        "x",
        "l1.s2",
        "0123456789abcdef.x1",
        "0123456789abcdef" + ".s1" * 151,
        "0123456789abcdef.s9223372036854775808",
    ],
)
def test_a_cookie_that_is_none_of_ours_starts_anew(client: TestClient, said: str) -> None:
    client.cookies.set(review_session.COOKIE, said)
    answer = client.get("/review")
    assert answer.status_code == 200
    assert re.search(rf"{review_session.COOKIE}=[0-9a-f]{{16}};.*samesite=strict", answer.headers["set-cookie"], re.I)


def test_a_long_sitting_fits_its_cookie_and_forgets_its_first_steps(client: TestClient) -> None:
    sat = review_session.ReviewSession("0123456789abcdef")
    for n in range(200):
        sat = sat.after(review_session.ReviewStep("s", BIGINT_MAX - n))
    said = ".".join([sat.name, *(f"s{id_}" for id_ in sat.skipped)])
    assert len(said) < 4000
    client.cookies.set(review_session.COOKIE, said)
    page = client.post("/review/again", headers=HTMX)
    assert page.headers["set-cookie"].startswith(f"{review_session.COOKIE}={sat.name};")
    assert sat.skipped[0] == BIGINT_MAX - 50


def test_while_postgresql_is_away_the_page_says_so(folder: Path) -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/astrodetect"
    with TestClient(create_app(Settings(DATABASE_URL=url, models_dir=folder))) as client:
        page = client.get("/review", headers=BROWSER)
        assert (page.status_code, "hunter2" in page.text) == (503, False)
        assert "<h1>" in page.text
        assert client.post("/review/label", data={"id": "1", "label": "ordinary"}, headers=HTMX).status_code == 503
    gc.collect()
