"""The Review page: labelling, undo, skipping, leases of images, and its empty states."""

import re
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
from astrodetect.records import BIGINT_MAX, ImageContract
from astrodetect.service.web import review_session
from astrodetect.settings import Settings
from main import create_app

HTMX = {"HX-Request": "true"}
BROWSER = {"Accept": "text/html"}
TRAINING_IMAGES = [png(seed) for seed in range(300, 320)]
HOSTILE = '<script>alert(1)</script>\u202egpj.png"' + "x" * 10_000


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose detectors were fitted on the images that are reviewed."""
    folder = tmp_path_factory.mktemp("models")
    pixels = np.stack([images.decode(data, ImageContract(size=colour_models.SIZE)) for data in TRAINING_IMAGES])
    colour_models.publish_with_detectors(folder, "resnet50_model", pixels)
    return folder


@pytest.fixture
def client(client: TestClient) -> TestClient:
    """Follows redirects, as a browser does."""
    client.follow_redirects = True
    return client


@pytest.fixture
def app(client: TestClient) -> Any:
    return client.app


@pytest.fixture
def ids(client: TestClient) -> list[int]:
    """Five images in the log."""
    return [score(client, data, f"{n}.png") for n, data in enumerate(TRAINING_IMAGES[:5])]


def score(client: TestClient, data: bytes, name: str) -> int:
    return int(client.post("/detect", files={"file": (name, data)}).json()["id"])


def candidate_id(page: Any) -> int:
    """The prediction whose image is to be labelled."""
    assert page.status_code == 200, page.text
    [id_] = re.findall(r'name="id" value="(\d+)"', page.text)
    return int(id_)


def stored_labels(database_url: str) -> list[tuple[Any, ...]]:
    return query(database_url, "SELECT prediction_id, label, who, note FROM labels ORDER BY id")


def test_own_names_become_buttons_and_links_to_more_of_their_kind(
    client: TestClient, ids: list[int], database_url: str
) -> None:
    page = client.get("/review")
    form = {"id": str(candidate_id(page)), "label": "", "own": " Merger  of two ", "by": "interest"}
    page = client.post("/review/label", data=form)
    assert stored_labels(database_url)[0][1] == "merger of two"
    assert 'value="merger of two" class="secondary" data-key="1"' in page.text
    assert 'href="/review?by=interest&like=merger+of+two"' in unescape(page.text)
    page = client.get("/review?by=interest&like=merger%20of%20two")
    assert "More of the kind labelled merger of two" in page.text
    form = {"id": str(candidate_id(page)), "label": "merger of two", "by": "interest", "like": "merger of two"}
    response = client.post("/review/label", data=form, follow_redirects=False)
    assert response.headers["location"] == "/review?by=interest&like=merger+of+two"
    for wrong in ("", "<b>", "x" * 41):
        assert client.post("/review/label", data=form | {"label": "", "own": wrong}).status_code == 422
    assert "2 interesting of 2 labelled" in client.get("/review").text


def test_without_scripts_each_image_is_shown_once_until_all_are_labelled(
    client: TestClient, ids: list[int], database_url: str
) -> None:
    page, shown = client.get("/review"), []
    for label in ("interesting", "ordinary", "artefact", "ordinary", "interesting"):
        shown.append(candidate_id(page))
        form = {"id": str(candidate_id(page)), "label": label, "by": "interest", "note": "  a ring? "}
        response = client.post("/review/label", data=form, follow_redirects=False)
        assert (response.status_code, response.headers["location"]) == (303, "/review?by=interest")
        page = client.get(response.headers["location"])
    assert sorted(shown) == ids
    assert "All images are labelled" in page.text
    assert stored_labels(database_url)[0] == (shown[0], "interesting", None, "a ring?")
    assert "2 interesting of 5 labelled: 40 per hundred." in page.text
    assert re.search(r'<svg class="chart"[^>]*aria-label="2 interesting of 5', page.text)


def test_the_response_to_a_label_holds_the_next_image_and_a_message(client: TestClient, ids: list[int]) -> None:
    first = candidate_id(client.get("/review?by=novelty"))
    form = {"id": str(first), "label": "ordinary", "by": "novelty"}
    fragment = client.post("/review/label", data=form, headers=HTMX)
    assert candidate_id(fragment) in set(ids) - {first}
    assert "<html" not in fragment.text
    assert fragment.headers["hx-replace-url"] == "/review?by=novelty"
    assert fragment.headers["hx-trigger"] == '{"announce": "Labelled ordinary; 1 labelled"}'


def test_a_label_that_replaces_the_one_of_another_reviewer_names_it(client: TestClient, ids: list[int]) -> None:
    for id_, label in zip(ids, ("merger", "merger", "ring"), strict=False):
        client.post(f"/predictions/{id_}/label", json={"label": label, "who": "eve"})
    answer = client.post("/review/label", data={"id": ids[0], "label": "artefact"}, headers=HTMX)
    assert "Labelled artefact, instead of merger; 3 labelled" in answer.headers["HX-Trigger"]
    answer = client.post("/review/label", data={"id": ids[0], "label": "artefact"}, headers=HTMX)
    assert "Labelled artefact; 3 labelled" in answer.headers["HX-Trigger"]
    answer = client.post("/review/grid/label", data={"chosen": ids[:4], "label": "merger"}, headers=HTMX)
    assert answer.json()["message"] == "4 images labelled merger, instead of 1 artefact, 1 ring"


def test_undo_reverts_the_steps_in_turn_and_restores_image_and_note(
    client: TestClient, ids: list[int], database_url: str
) -> None:
    page, shown = client.get("/review?by=novelty"), []
    streak, usual = {"label": "artefact", "note": "a streak"}, {"label": "ordinary"}
    for path, fields in (("label", streak), ("skip", {}), ("label", usual)):
        shown.append(candidate_id(page))
        page = client.post(
            f"/review/{path}", data={"id": str(candidate_id(page)), "by": "novelty", **fields}, headers=HTMX
        )
    for expected, left in zip(reversed(shown), (1, 1, 0), strict=True):
        page = client.post("/review/undo", data={"by": "novelty"}, headers=HTMX)
        assert (candidate_id(page), len(stored_labels(database_url))) == (expected, left)
    assert ">a streak</textarea>" in page.text
    assert re.search(r'id="undo"[^>]* disabled', page.text)
    page = client.post("/review/undo", data={"by": "novelty"}, headers=HTMX)
    assert page.headers["hx-trigger"] == '{"announce": "Nothing to undo; 0 labelled"}'


def test_undo_of_a_label_that_was_removed_elsewhere_continues(
    client: TestClient, ids: list[int], database_url: str
) -> None:
    client.post("/review/label", data={"id": str(ids[0]), "label": "ordinary"}, headers=HTMX)
    query(database_url, "DELETE FROM labels")
    page = client.post("/review/undo", headers=HTMX)
    assert "already undone" in page.headers["hx-trigger"]
    assert candidate_id(page) in ids
    assert re.search(r'id="undo"[^>]* disabled', page.text)


def test_skipped_images_return_only_on_request(client: TestClient, ids: list[int]) -> None:
    page, shown = client.get("/review?by=random"), []
    for _ in ids:
        shown.append(candidate_id(page))
        page = client.post("/review/skip", data={"id": str(candidate_id(page)), "by": "random"})
    assert sorted(shown) == ids
    assert "Only skipped images are left" in page.text
    assert "5 skipped: show them again" in page.text
    assert "Only skipped" in client.get("/review?by=novelty").text
    assert candidate_id(client.post("/review/again", data={"by": "random"})) in ids


def test_the_reviewer_name_is_stored_with_labels_of_the_same_browser(
    client: TestClient, ids: list[int], database_url: str
) -> None:
    client.post("/review/name", data={"who": "Åda <b>"})
    assert 'value="Åda &lt;b&gt;"' in client.get("/review").text
    client.post("/review/label", data={"id": str(ids[0]), "label": "ordinary"})
    client.cookies.clear()
    client.post("/review/label", data={"id": str(ids[1]), "label": "ordinary"})
    assert [row[2] for row in stored_labels(database_url)] == ["Åda <b>", None]
    response = client.post("/review/name", data={"who": " "}, headers=HTMX)
    assert "No name" in response.headers["hx-trigger"]
    assert client.post("/review/name", data={"who": "x" * 61}).status_code == 422


def test_two_reviewers_get_different_images(app: Any, client: TestClient, ids: list[int]) -> None:
    other = TestClient(app)  # another browser, with its own cookies
    mine = candidate_id(client.get("/review?by=novelty"))
    assert client.post("/review/turn", data={"id": str(mine)}).status_code == 204  # as the page's script does
    others = candidate_id(other.get("/review?by=novelty"))
    assert mine != others
    assert candidate_id(other.get("/review?by=novelty")) == others
    assert (candidate_id(client.get("/review?by=novelty")), candidate_id(other.get("/review?by=novelty"))) == (
        mine,
        others,
    )
    for id_ in set(ids) - {mine}:
        client.post("/review/skip", data={"id": str(id_)})
    assert candidate_id(client.get("/review")) == mine
    client.post("/review/label", data={"id": str(mine), "label": "ordinary"})
    assert "Only skipped" in client.get("/review").text
    assert candidate_id(other.get("/review?by=novelty")) == others


def test_a_request_without_cookies_leases_no_image(
    app: Any, client: TestClient, ids: list[int], database_url: str
) -> None:
    first = candidate_id(client.get("/review?by=novelty"))
    for _ in range(3):
        program = TestClient(app)  # without cookies, such as a monitor
        page = program.get("/review?by=novelty")
        assert candidate_id(page) == first
        assert f"""hx-post="/review/turn" hx-trigger="load" hx-swap="none" hx-vals='{{"id": {first}}}'""" in page.text
        program.cookies.clear()
        program.post("/review/turn", data={"id": str(first)})
    assert query(database_url, "SELECT count(*) FROM leases WHERE name LIKE 'review %'") == [(0,)]
    page = client.get("/review?by=novelty")
    assert (candidate_id(page), "/review/turn" in page.text) == (first, False)
    assert query(database_url, "SELECT count(*) FROM leases WHERE name LIKE 'review %'") == [(1,)]
    assert client.post("/review/turn", data={"id": "999"}).status_code == 404


def test_the_page_shows_the_neighbours_and_the_current_label_of_the_image(client: TestClient, ids: list[int]) -> None:
    client.post(f"/predictions/{ids[0]}/label", json={"label": "artefact"})
    page = client.get(f"/review?id={ids[1]}")
    assert candidate_id(page) == ids[1]
    assert 'href="/history/2"' in page.text
    assert '<span class="chip artefact">artefact</span>' in page.text  # a neighbour that is labelled
    again = client.get(f"/review?id={ids[0]}")
    assert "A new label replaces it" in again.text
    assert client.get("/review?id=999", headers=BROWSER).status_code == 404
    assert re.search(r"Novelty above that of [^<]*training", unescape(client.get("/review").text))


def test_markup_in_a_name_is_escaped_and_shortened(client: TestClient, ids: list[int], database_url: str) -> None:
    query(database_url, "UPDATE predictions SET image_name = %s", HOSTILE)
    page = client.get("/review").text
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert "x" * 200 not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;⟨U+202E⟩gpj.png" in page


@pytest.mark.parametrize("path", ["/review?by=novelty", "/review/grid?by=novelty&count=12"])
def test_known_objects_are_hidden_where_images_were_compared(
    client: TestClient, ids: list[int], database_url: str, path: str
) -> None:
    assert "Hide what is known" not in client.get(path).text
    query(database_url, "INSERT INTO catalogue_matches (prediction_id, known) SELECT id, id > 1 FROM predictions")
    assert "unknown=true" in client.get(path).text
    page = client.get(f"{path}&unknown=true").text
    assert 'name="unknown" value="true"' in page
    assert re.findall(r'(?:name="id" value|data-id)="(\d+)"', page) == ["1"]
    query(database_url, "UPDATE catalogue_matches SET known = true")
    assert "No image of an unknown object is left" in client.get(f"{path}&unknown=true").text


def test_an_empty_queue_says_how_to_fill_it(client: TestClient, database_url: str) -> None:
    page = client.get("/review")
    assert "No image has been scored yet" in page.text
    assert 'href="/"' in page.text
    query(database_url, "INSERT INTO predictions (image_name, score, result) VALUES ('old.jpg', 0.5, 'No Anomaly')")
    assert "No image has a novelty yet" in client.get("/review").text


def test_without_vectors_the_page_says_why_the_order_differs(
    client: TestClient, ids: list[int], database_url: str
) -> None:
    query(database_url, "DROP TABLE features")
    client.app.state.services.database._has_vectors = False  # type: ignore[attr-defined]
    page = client.get("/review")
    assert candidate_id(page) in ids
    assert "stores no vectors" in page.text


def test_invalid_forms_are_refused_and_store_nothing(client: TestClient, ids: list[int], database_url: str) -> None:
    for path, form in (
        ("/review/label", {"id": str(ids[0]), "label": "odd?"}),
        ("/review/label", {"label": "ordinary"}),
        ("/review/label", {"id": str(ids[0]), "label": "ordinary", "note": "x" * 10_001}),
        ("/review/skip", {"id": "0"}),
        ("/review/undo", {"by": "luck"}),
    ):
        assert client.post(path, data=form).status_code == 422, form
    assert client.post("/review/label", data={"id": "999", "label": "ordinary"}).status_code == 404
    assert client.get("/review?by=luck", headers=BROWSER).status_code == 422
    assert stored_labels(database_url) == []


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "x",
        "l1.s2",
        "0123456789abcdef.x1",
        "0123456789abcdef" + ".s1" * 151,
        "0123456789abcdef.s9223372036854775808",
        *("0" * 16 + ".u1~" + tag for tag in ("AA", "YTti", "PWNtZA")),  # tags that no one can give: NUL, "a;b", "=cmd"
    ],
)
def test_an_invalid_session_cookie_starts_a_new_session(client: TestClient, cookie: str) -> None:
    client.cookies.set(review_session.SESSION_COOKIE, cookie)
    response = client.get("/review")
    assert response.status_code == 200
    assert re.search(
        rf"{review_session.SESSION_COOKIE}=[0-9a-f]{{16}};.*samesite=strict", response.headers["set-cookie"], re.I
    )


def test_a_long_session_fits_its_cookie_and_drops_its_first_steps(client: TestClient) -> None:
    session = review_session.ReviewSession("0123456789abcdef")
    for n in range(200):
        session = session.add(review_session.ReviewStep("l", BIGINT_MAX - n, review_session.MAX_SPAN))
    cookie = ".".join([session.id, *map(str, session.steps)])
    assert len(cookie) < 4000
    client.cookies.set(review_session.SESSION_COOKIE, cookie)
    page = client.post("/review/again", headers=HTMX)
    assert page.headers["set-cookie"].startswith(f"{review_session.SESSION_COOKIE}={session.id}.l")
    assert session.steps[0].id == BIGINT_MAX - 50


def test_without_postgresql_the_page_is_an_error(models_dir: Path) -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/astrodetect"
    with TestClient(create_app(Settings(DATABASE_URL=url, models_dir=models_dir))) as client:
        page = client.get("/review", headers=BROWSER)
        assert (page.status_code, "hunter2" in page.text) == (503, False)
        assert "<h1>" in page.text
        assert client.post("/review/label", data={"id": "1", "label": "ordinary"}, headers=HTMX).status_code == 503
