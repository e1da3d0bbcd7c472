"""The grid of the Review page: batches of labels, undo, skipping, leases, and forms without scripts."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from malicious_server import png
from programs import query
from starlette.testclient import TestClient

from astrodetect.errors import NotFound
from astrodetect.records import BIGINT_MAX
from astrodetect.service.review_queue import ReviewLeases
from astrodetect.service.web.review_session import SESSION_PATTERN, ReviewSession, ReviewStep
from database import Database

SCRIPT = {"HX-Request": "true"}


@pytest.fixture(scope="module")
def models_dir(noise_models_dir: Path) -> Path:
    return noise_models_dir


@pytest.fixture
def ids(client: TestClient, database_url: str) -> list[int]:
    """Fourteen images in the log, more than the smallest grid shows, with the thumbnails that they are sorted by."""
    client.follow_redirects = True
    ids = [
        int(client.post("/detect", files={"file": (f"{seed}.png", png(seed))}).json()["id"]) for seed in range(100, 114)
    ]
    deadline = time.monotonic() + 30
    while query(database_url, "SELECT count(*) FROM pictures") != [(len(ids),)]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return ids


def shown(page: Any) -> list[int]:
    """The predictions of the grid, in order."""
    assert page.status_code == 200, page.text
    return [int(id_) for id_ in re.findall(r'name="shown" value="(\d+)"', page.text)]


def stored_labels(database_url: str) -> list[tuple[Any, ...]]:
    return query(database_url, "SELECT prediction_id, label, who FROM labels ORDER BY id")


def test_a_batch_of_labels_is_stored_and_undone_as_one_step(
    client: TestClient, ids: list[int], database_url: str
) -> None:
    client.post("/review/name", data={"who": "ada", "count": "12"})
    grid = shown(client.get("/review/grid?by=novelty&count=12"))
    assert len(set(grid)) == 12
    assert set(grid) <= set(ids)
    answer = client.post("/review/grid/label", data={"chosen": grid[:3], "label": "artefact"}, headers=SCRIPT)
    assert answer.json() == {"message": "3 images labelled artefact", "ids": grid[:3]}
    assert stored_labels(database_url) == [(id_, "artefact", "ada") for id_ in grid[:3]]
    assert len(query(database_url, 'SELECT DISTINCT "timestamp" FROM labels')) == 1  # of one transaction
    client.post("/review/grid/label", data={"chosen": grid[3:4], "own": " Ring  galaxy"}, headers=SCRIPT)
    client.post("/review/grid/rest/label", data={"shown": grid, "label": "ordinary"}, headers=SCRIPT)
    assert [row[1] for row in stored_labels(database_url)[3:]] == ["ring galaxy"] + ["ordinary"] * 8
    for left, message, undone in ((4, "8 labels removed", grid[4:]), (3, "Label ring galaxy removed", grid[3:4])):
        answer = client.post("/review/grid/undo", headers=SCRIPT).json()
        assert (answer, len(stored_labels(database_url))) == ({"message": message, "ids": undone}, left)
    page = client.post("/review/undo", data={"by": "novelty"}, headers=SCRIPT)  # one at a time: its first image
    assert f'name="id" value="{grid[0]}"' in page.text
    assert stored_labels(database_url) == []
    assert client.post("/review/grid/undo", headers=SCRIPT).json() == {"message": "Nothing to undo", "ids": []}


def test_the_grid_is_a_form_without_scripts(client: TestClient, ids: list[int], database_url: str) -> None:
    form: dict[str, Any] = {"by": "novelty", "count": "12"}
    first = shown(client.get("/review/grid", params=form))
    page = client.post("/review/grid/label", data=form | {"shown": first, "chosen": first[1:3], "label": "interesting"})
    second = shown(page)
    assert not set(first[1:3]) & set(second)
    assert len(second) == 12
    page = client.post(
        "/review/grid/rest/label", data=form | {"shown": second, "chosen": second[:1], "label": "ordinary"}
    )
    assert shown(page) == second[:1]
    assert len(stored_labels(database_url)) == 13
    page = client.post("/review/grid/undo", data=form)
    assert shown(page)[:11] == second[1:]  # the batch is shown again, first
    assert [row[0] for row in stored_labels(database_url)] == first[1:3]
    page = client.post("/review/grid/skip", data=form | {"shown": second, "chosen": second[:4]})
    assert shown(page) == [id_ for id_ in second if id_ not in second[:4]]
    assert "4 skipped: show them again" in page.text
    assert set(shown(client.post("/review/grid/undo", data=form))) == set(second)


def test_two_reviewers_get_different_grids(client: TestClient, ids: list[int]) -> None:
    other = TestClient(client.app)  # another browser, with its own cookies
    mine = shown(client.get("/review/grid?by=novelty&count=12"))
    assert client.post("/review/grid/turn", data={"shown": mine}).json() == []
    theirs = shown(other.get("/review/grid?by=novelty&count=12"))
    assert (len(theirs), set(mine) & set(theirs)) == (2, set())
    assert set(other.post("/review/grid/turn", data={"shown": [*mine[:2], *theirs]}).json()) == set(mine[:2])
    assert shown(client.get("/review/grid?by=novelty&count=12")) == mine
    third = TestClient(client.app)
    assert "Other reviewers have the remaining images" in third.get("/review/grid?by=novelty&count=12").text
    assert "Other reviewers have the remaining images" in third.get("/review?by=novelty").text


def test_every_image_of_a_grid_is_leased_where_another_reviewer_takes_one_meanwhile(
    client: TestClient, ids: list[int], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = TestClient(client.app)
    for reviewer in (other, client):
        reviewer.post("/review/name", data={"who": "ada", "count": "12"})
        reviewer.get("/review/grid?by=novelty&count=12")
    query(database_url, "DELETE FROM leases WHERE name LIKE 'review %'")
    assert other.post("/review/grid/turn", data={"shown": ids[:1]}).json() == []
    monkeypatch.setattr(ReviewLeases, "free", lambda _, __, images: {*images})  # as just before that
    grid = shown(client.get("/review/grid?by=novelty&count=12"))
    assert ids[0] not in grid
    assert query(database_url, "SELECT count(*) FROM leases WHERE name LIKE 'review %'") == [(len(grid) + 1,)]


def test_images_whose_labels_are_undone_come_to_no_other_reviewer_before_they_are_shown(
    client: TestClient, ids: list[int]
) -> None:
    other = TestClient(client.app)
    url = "/review/grid?by=novelty&count=12"
    client.get(url)
    first = shown(client.get(url))
    client.post("/review/grid/rest/label", data={"shown": first, "label": "ordinary"}, headers=SCRIPT)
    client.get(url)  # the next page
    assert set(client.post("/review/grid/undo", headers=SCRIPT).json()["ids"]) == {*first}
    assert not set(shown(other.get(url))) & {*first}
    assert set(shown(client.get(url + "".join(f"&again={id_}" for id_ in first)))) == {*first}


def test_a_batch_with_an_unknown_prediction_stores_nothing(log: Database, client: TestClient, ids: list[int]) -> None:
    form = {"chosen": [ids[0], 999], "label": "ordinary"}
    assert client.post("/review/grid/label", data=form, headers=SCRIPT).status_code == 404
    for wrong in ([], [0], [ids[0], 2**63]):
        with pytest.raises(NotFound):
            log.label_batches.add(wrong, "ordinary", who=None, note=None)
    assert log.current_labels() == {}
    for wrong_form in (
        {"chosen": [0], "label": "ordinary"},
        {"chosen": ids[:1], "label": "<b>"},
        {"chosen": [1] * 61, "label": "a"},
    ):
        assert client.post("/review/grid/label", data=wrong_form, headers=SCRIPT).status_code == 422
    for query_string in ("count=61", "count=1", "by=luck", "again=x"):
        assert client.get(f"/review/grid?{query_string}").status_code == 422
    answer = client.post("/review/grid/label", data={"label": "ordinary"}, headers=SCRIPT)
    assert answer.json() == {"message": "No image was chosen", "ids": []}


def test_undoing_a_batch_leaves_labels_that_others_gave_meanwhile(
    log: Database, client: TestClient, ids: list[int]
) -> None:
    batch = log.label_batches.add(ids[:2], "ordinary", who="ada", note=None)
    [other] = log.label_batches.add([ids[2]], "artefact", who="eve", note=None)
    assert log.label_batches.delete(batch[0].id, other.id) == [other]  # of the newest time alone
    assert log.label_batches.delete(batch[0].id, batch[1].id) == batch
    assert log.label_batches.delete(1, 0) == []


def test_the_name_is_asked_for_once_and_an_empty_answer_is_one(client: TestClient, ids: list[int]) -> None:
    for path in ("/review", "/review/grid"):
        assert "Who labels?" in client.get(path).text
    response = client.post("/review/name", data={"who": " ", "count": "12"}, follow_redirects=False)
    assert response.headers["location"] == "/review/grid?by=interest&count=12"
    for path in ("/review", "/review/grid"):
        assert "Who labels?" not in client.get(path).text


def test_an_empty_grid_says_how_to_fill_the_queue(client: TestClient) -> None:
    assert "No image has been scored yet" in client.get("/review/grid").text


def test_skips_are_undone_together_and_spans_survive_the_cookie() -> None:
    session = ReviewSession("0123456789abcdef").add(ReviewStep("l", 7, 59)).add_each("s", [3, 4, 5])
    session = session.add_each("u", [6, 7], "äö.")
    assert [str(step) for step in session.steps] == ["l7-59", "s3", "k4", "k5", "u6~w6TDti4", "k7"]
    assert tuple(map(ReviewStep.parse, map(str, session.steps))) == session.steps
    assert session.skipped == [3, 4, 5]
    assert session.undo().undo().last_step == (ReviewStep("l", 7, 59),)
    assert session.undo().undo().undo().last_step == ()
    assert session.restore_skipped().steps == (*session.steps[:1], *session.steps[4:])


def test_long_steps_fit_the_cookie_and_older_ones_leave_it_whole() -> None:
    session = ReviewSession("0123456789abcdef").add_each("s", range(1, 61))
    for _ in range(20):
        session = session.add_each("t", [BIGINT_MAX, 1], "\U00020000" * 40)
    assert SESSION_PATTERN.fullmatch(session.cookie)
    assert len(session.cookie) < 4000
    assert (session.skipped, [step.kind for step in session.steps[:2]]) == ([], ["t", "k"])
