"""Tags of images: given in pages, over HTTP and by imports, shown, filtered by, exported; they do not rank."""

import csv
import io
import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from programs import query
from starlette.testclient import TestClient

import setup_db
from astrodetect import labels
from astrodetect.errors import DataError, NotFound
from astrodetect.labels import ImportCounts
from astrodetect.records import Cone, Prediction, PredictionFilters, ScoredImage
from database import SQL, Database

SCORED = ScoredImage("m51.jpg", "ab" * 32, score=0.9, threshold=0.5, model="resnet50_model", model_version="1")
SCRIPT = {"HX-Request": "true"}


def recorded(log: Database, number: int, **values: Any) -> Prediction:
    sha256 = f"{number:064x}"
    [row] = log.record_many([replace(SCORED, image_sha256=sha256, request_id=uuid.uuid4(), **values)])
    return row


def ids(log: Database, **filters: Any) -> list[int]:
    return [row.id for row in log.predictions(PredictionFilters(**filters), limit=10).predictions]


def test_a_tag_belongs_to_the_image_and_selects_all_its_predictions(log: Database, database_url: str) -> None:
    first, other, again = recorded(log, 1), recorded(log, 2, score=0.2, ra=10.0, dec=5.0), recorded(log, 1)
    [(unhashed,)] = query(
        database_url, "INSERT INTO predictions (image_name, score, result) VALUES ('a', 0, 'No Anomaly') RETURNING id"
    )
    log.tags.add([first.id, other.id], "blue core", who="ada")
    log.tags.add([again.id, unhashed], "tail", who=None)
    assert log.tags.add([first.id, other.id], "tail", who="bob") == [other.id]  # the first has it
    log.tags.remove([other.id], "tail")
    assert [log.prediction(id_).tags for id_ in (first.id, again.id, other.id, unhashed)] == [
        ("blue core", "tail"), ("blue core", "tail"), ("blue core",), ("tail",)
    ]  # fmt: skip
    assert ids(log, tag="blue core") == [again.id, other.id, first.id]
    assert ids(log, tag="tail") == [unhashed, again.id, first.id]
    assert ids(log, tag="blue core", min_score=0.5) == [again.id, first.id]
    assert ids(log, tag="blue core", cone=Cone(10, 5, 1)) == [other.id]
    assert ids(log, tag="none") == []
    by_score = log.ranked.read(PredictionFilters(tag="blue core"), "score", limit=2)
    assert [row.id for row in by_score.predictions] == [again.id, first.id]
    page = log.predictions(PredictionFilters(tag="blue core"), limit=1, after=first.id)
    assert [row.id for row in page.predictions] == [other.id]
    assert log.tags.suggested() == ["blue core", "tail"]
    assert log.tags.remove([again.id, other.id, 10**40], "blue core") == [other.id, again.id]
    assert ids(log, tag="blue core") == []
    assert log.current_labels() == {}  # what ranks
    for wrong in ([], [0], [first.id, 999], [2**63]):
        with pytest.raises(NotFound):
            log.tags.add(wrong, "x", who=None)
    assert log.tags.suggested() == ["tail"]


def test_the_index_of_tags_finds_their_predictions(log: Database) -> None:
    from astrodetect.db import statements

    parameters = statements.filter_parameters(PredictionFilters(tag="tail"), 50, None)
    rows = log._execute(f"SET enable_seqscan = off; EXPLAIN {SQL['newest_of_tag']}", parameters)
    plan = "\n".join(row["QUERY PLAN"] for row in rows)
    assert "Seq Scan" not in plan
    for index in ("predictions_image_id", "predictions_pkey"):
        assert index in plan


def test_tags_and_roles_are_exported_with_labels_and_imported_into_another_database(
    log: Database, tmp_path: Path, postgres_url: str
) -> None:
    labelled, tagged = recorded(log, 1), recorded(log, 2)
    log.add_label(labelled.id, "trail", who="ada", note=None)
    log.label_names.save("trail", "t" if "t" in labels.LABEL_KEYS else "x", "artefact", instead_of="trail")
    log.tags.add([labelled.id, tagged.id], "blue core", who=None)
    log.tags.add([tagged.id], "tail", who="bob")
    file = tmp_path / "labels.csv"
    file.write_text("".join(labels.to_csv(log.label_pages())), encoding="utf-8", newline="")
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    assert [(row["id"] != "", row["label"], row["role"], row["tags"]) for row in rows] == [
        (True, "trail", "artefact", "blue core"),
        (False, "", "", "blue core;tail"),
    ]
    read = labels.read_table_labels(file)
    assert log.import_labels(read) == ImportCounts(new=0, known=1, unmatched=0)
    assert [label.label for label in labels.read_image_labels(file)] == ["artefact"]  # as rankings count it

    setup_db.migrate(postgres_url)
    other = Database(postgres_url, connections=1, timeout_s=5)
    theirs = [recorded(other, number) for number in (1, 2)]
    assert other.import_labels(read) == ImportCounts(new=1, known=0, unmatched=0, tags=3)
    assert [other.prediction(row.id).tags for row in theirs] == [("blue core",), ("blue core", "tail")]
    assert (other.label_names.roles(), len(other.current_labels())) == ({"trail": "artefact"}, 1)
    other.close()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,,<b>,", "a tag has letters, digits"),
        ("1,ring,,luck", "a role is interesting, ordinary, artefact, not luck"),
        ("1,,,", "a label is interesting"),
    ],
)
def test_an_invalid_tag_or_role_is_an_error_of_one_line(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(f"prediction_id,label,tags,role\n{line}\n")
    with pytest.raises(DataError, match=message):
        labels.read_table_labels(file)


@pytest.fixture
def rows(page_client: TestClient, log_url: str) -> list[int]:
    log = Database(log_url, connections=1, timeout_s=5)
    found = [recorded(log, number, image_name=f"{number}.png").id for number in (1, 2)]
    log.close()
    return found


def test_tags_are_given_and_removed_on_pages_and_over_http(page_client: TestClient, rows: list[int]) -> None:
    id_ = rows[0]
    page_client.post("/review/name", data={"who": "ada"})
    fragment = page_client.post(f"/history/{id_}/tag", data={"tag": " Blue  Core"}, headers=SCRIPT)
    assert 'aria-label="Remove tag blue core"' in fragment.text
    assert json.loads(fragment.headers["HX-Trigger"]) == {"announce": "Tagged blue core"}
    back = page_client.post(f"/history/{id_}/tag", data={"tag": "tail", "back": "/history?tag=blue+core&sort=score"})
    assert str(back.url).endswith("/history?tag=blue+core&sort=score")
    for url in ("//example.org", "https://example.org", "/review\\@example.org"):
        assert page_client.post(f"/history/{id_}/tag", data={"tag": "x", "back": url}).status_code == 422
    assert page_client.post(f"/history/{id_}/tag", data={"tag": "<b>"}).status_code == 422
    assert page_client.post("/history/999/tag", data={"tag": "x"}).status_code == 404
    page = page_client.get(f"/history/{id_}").text
    assert page.count("Remove tag ") == 2
    assert 'class="chip tag">tail<' in page_client.get("/history?tag=Tail").text

    url = f"/predictions/{rows[1]}"
    assert page_client.post(f"{url}/tag", json={"tag": "Tail", "who": "bob"}).json()["tags"] == ["tail"]
    assert [row["id"] for row in page_client.get("/predictions?tag=tail").json()["predictions"]] == rows[::-1]
    exported = csv.DictReader(io.StringIO(page_client.get("/predictions.csv?tag=blue core").text))
    assert [(row["id"], row["tags"]) for row in exported] == [(str(id_), "blue core;tail")]
    assert page_client.get("/predictions.json?tag=tail").json()[1]["tags"] == ["blue core", "tail"]
    for kind in ("parquet", "vot", "fits"):
        assert page_client.get(f"/predictions.{kind}?tag=tail").status_code == 200
    assert page_client.post(f"{url}/untag", json={"tag": "tail"}).json()["tags"] == []
    removed = page_client.post(f"/history/{id_}/untag", data={"tag": "tail"}, headers=SCRIPT)
    assert 'name="tag" value="tail">Undo: tag tail again<' in removed.text
    again = page_client.post(f"/history/{id_}/untag", data={"tag": "tail"}, headers=SCRIPT)
    assert "Undo" not in again.text  # it had no such tag
    assert page_client.get(f"/predictions/{id_}").json()["tags"] == ["blue core"]
    assert page_client.get("/predictions?tag=<b>").status_code == 422
    assert "is not a tag" in page_client.get("/history?tag=<b>").text
    audited = [entry["request"] for entry in csv.DictReader(io.StringIO(page_client.get("/audit.csv").text))]
    assert {f"POST {url}/tag", f"POST {url}/untag", f"POST /history/{id_}/tag"} <= {*audited}


def test_the_images_of_the_grid_are_tagged_together(page_client: TestClient, rows: list[int]) -> None:
    form = {"chosen": rows, "tag": "Tail", "count": "12"}
    answer = page_client.post("/review/grid/tag", data=form, headers=SCRIPT).json()
    assert answer == {"message": "2 images tagged tail", "ids": rows, "tags": {str(id_): ["tail"] for id_ in rows}}
    page = page_client.post("/review/grid/untag", data=form | {"chosen": rows[:1]})  # without scripts: shown again
    assert f'data-id="{rows[0]}"' in page.text
    assert page_client.get(f"/predictions/{rows[0]}").json()["tags"] == []
    assert (
        page_client.post("/review/grid/tag", data={"tag": "x"}, headers=SCRIPT).json()["message"] == "0 images tagged x"
    )


def test_undo_of_review_takes_back_what_changed_of_tags(page_client: TestClient, rows: list[int]) -> None:
    def tags() -> list[Any]:
        return [page_client.get(f"/predictions/{id_}").json()["tags"] for id_ in rows]

    first, second = rows
    page_client.post("/review/name", data={"who": "ada"})
    fragment = page_client.post(f"/review/{first}/tag", data={"tag": "Tail"}, headers=SCRIPT)
    assert f'hx-post="/review/{first}/untag"' in fragment.text
    assert 'id="undo" class="secondary" data-key="u" hx-swap-oob="true">' in fragment.text
    form = {"chosen": rows, "tag": "tail", "count": "12"}
    page_client.post("/review/grid/tag", data=form, headers=SCRIPT)
    page_client.post("/review/grid/tag", data=form, headers=SCRIPT)  # changes nothing: no step
    page_client.post("/review/grid/label", data={"chosen": rows, "label": "ordinary"}, headers=SCRIPT)
    page_client.post("/review/grid/untag", data=form, headers=SCRIPT)
    assert tags() == [[], []]
    undone = [page_client.post("/review/grid/undo", headers=SCRIPT).json() for _ in range(3)]
    assert undone == [
        {"message": "Tag tail added again", "ids": rows, "tags": {str(id_): ["tail"] for id_ in rows}},
        {"message": "2 labels removed", "ids": rows},
        {"message": "Tag tail removed", "ids": [second], "tags": {str(second): []}},
    ]
    assert tags() == [["tail"], []]
    page = page_client.post("/review/undo", headers=SCRIPT)
    assert (tags(), f'name="id" value="{first}"' in page.text) == ([[], []], True)
    assert page.headers["HX-Trigger"] == '{"announce": "Tag tail removed; 0 labelled"}'
    assert page_client.post("/review/999/untag", data={"tag": "x"}).status_code == 404
