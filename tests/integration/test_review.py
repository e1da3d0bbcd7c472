"""The review queue over a real database, and the routes of labels, review and similar images."""

import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import colour_models
import numpy as np
import pytest
from malicious_server import png
from programs import query
from starlette.testclient import TestClient

import database
from astrodetect.anomalies import active_learning as ranking
from astrodetect.anomalies.active_learning import REVIEW_ORDERS
from astrodetect.db.connections import connect
from astrodetect.db.descriptions import OutdatedRows, RowNovelty
from astrodetect.db.statements import IMPORTED_LABELS, placeholders, row_values
from astrodetect.labels import Label
from astrodetect.records import ImageContract, Prediction, ScoredImage
from astrodetect.service import review_queue
from astrodetect.service.review_queue import NO_DETECTORS, NO_VECTORS, NOT_YET, LabelProgress, ReviewBatch, ReviewQueue
from astrodetect.settings import Settings
from database import Database
from main import create_app

SPACE, OTHER = "5f0c3a9be214", "9be2145f0c3a"
CONTRACT = ImageContract(size=colour_models.SIZE)
NOVELTY = {"usual": 0.5, "merger": 0.99, "trail": 0.99}
USUAL = [png(seed) for seed in range(100, 130)]


def scored(name: str, vector: tuple[float, ...], novelty: float, space: str = SPACE) -> ScoredImage:
    """A scored image whose SHA-256 follows from its name."""
    sha256 = name.encode().hex().rjust(64, "0")
    return ScoredImage(name, sha256, 0.1, 0.5, "m", "1", novelty=novelty, vector=vector, space=space)


@pytest.fixture
def clustered_rows(log: Database) -> dict[str, Prediction]:
    """Usual images, and two clusters of unusual ones: mergers and trails."""
    random = np.random.default_rng(0)
    around = {"usual": (0.0, 0.0), "merger": (9.0, 0.0), "trail": (0.0, 9.0)}
    found = [
        scored(f"{kind} {n}", (*(np.array(centre) + random.normal(0, 0.3, 2)).tolist(), 0.5), NOVELTY[kind])
        for kind, centre in around.items()
        for n in range(40 if kind == "usual" else 8)
    ]  # fmt: skip
    return {row.image_name: row for row in log.record_many(found)}


def names(batch: ReviewBatch) -> list[str]:
    return [candidate.prediction.image_name for candidate in batch.candidates]


def test_labels_move_similar_images_up_or_down_the_queue(log: Database, clustered_rows: dict[str, Prediction]) -> None:
    queue = ReviewQueue(log)
    before = names(queue.next("interest", limit=16, space=SPACE))
    assert {name.split()[0] for name in before} == {"merger", "trail"}
    for n in range(4):
        log.add_label(clustered_rows[f"merger {n}"].id, "interesting", who=None, note=None)
        log.add_label(clustered_rows[f"trail {n}"].id, "artefact", who=None, note=None)
    after = queue.next("interest", limit=4, space=SPACE)
    assert {name.split()[0] for name in names(after)} == {"merger"}
    assert after.candidates[0].why == ["novelty 0.990", "most like it: 4 interesting, 1 artefact"]
    assert (after.by, after.note) == ("interest", None)
    assert after.progress == LabelProgress(labelled=8, interesting=4, ordinary=0, artefact=4)
    assert after.progress.found_per_100 == pytest.approx(50)


def test_known_objects_are_hidden_in_every_order(
    log: Database, clustered_rows: dict[str, Prediction], database_url: str
) -> None:
    queue, mergers = ReviewQueue(log), [row.id for name, row in clustered_rows.items() if "merger" in name]
    log.add_label(mergers[0], "interesting", who=None, note=None)
    matches = "INSERT INTO catalogue_matches (prediction_id, known) SELECT id, id = ANY (%s) FROM predictions"
    query(database_url, matches, mergers)
    for by in REVIEW_ORDERS:
        unknown = names(queue.next(by, limit=56, space=SPACE, unknown=True))
        assert (len(unknown), {name.split()[0] for name in unknown}) == (48, {"trail", "usual"})
        assert len(names(queue.next(by, limit=56, space=SPACE))) == 55
    query(database_url, "UPDATE catalogue_matches SET known = true")  # since the ranking was made
    assert names(queue.next("interest", limit=56, space=SPACE, unknown=True)) == []


def test_own_labels_are_counted_and_searched_for(log: Database, clustered_rows: dict[str, Prediction]) -> None:
    queue = ReviewQueue(log)
    for name, label in (("merger 0", "merger"), ("trail 0", "trail"), ("usual 0", "ordinary")):
        log.add_label(clustered_rows[name].id, label, who=None, note=None)
    for like in ("merger", "trail", "merger"):
        found = queue.next("interest", limit=7, space=SPACE, like=like)
        assert {name.split()[0] for name in names(found)} == {like}
    assert found.progress == LabelProgress(3, 0, 1, 0, {"merger": 1, "trail": 1})
    assert found.progress.found_per_100 == pytest.approx(200 / 3)
    queue.close()


@pytest.mark.parametrize("by", REVIEW_ORDERS)
def test_every_review_order_has_each_unlabelled_image_once(
    log: Database, clustered_rows: dict[str, Prediction], by: Any
) -> None:
    log.record_many([replace(scored("merger 0", (9.0, 0.0), 0.99), request_id=uuid.uuid4()) for _ in range(3)])
    again = log.record_many([replace(scored("trail 0", (0.0, 9.0), 0.99), request_id=uuid.uuid4())])
    log.add_label(again[0].id, "artefact", who=None, note=None)
    found = names(ReviewQueue(log).next(by, limit=100, space=SPACE))
    assert sorted(found) == sorted(clustered_rows.keys() - {"trail 0"})


def test_the_novelty_order_covers_all_recorded_images(
    log: Database, clustered_rows: dict[str, Prediction], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_queue, "MAX_RANKED", 5)
    log.record_many([scored("odd", (5.0, 5.0), 0.995), scored("other's", (5.0, 5.0), 1.0, OTHER)])
    log.record_many([scored(f"late {n}", (0.0, 0.0), 0.1) for n in range(10)])
    found = ReviewQueue(log).next("novelty", limit=3, space=SPACE)
    assert names(found) == ["odd", "trail 7", "trail 6"]
    assert found.candidates[0].why == ["novelty 0.995"]


def test_an_image_scored_by_several_detectors_is_listed_once(log: Database) -> None:
    log.record_many([scored("odd", (5.0, 5.0), 1.0, OTHER), scored("plain", (0.0, 0.0), 0.3, OTHER)])
    log.record_many([scored("odd", (5.0, 5.0), 0.9), scored("usual", (0.0, 0.0), 0.5)])
    assert [(row.image_name, row.novelty) for row in log.most_novel(None, limit=10)] == [
        ("odd", 0.9),
        ("usual", 0.5),
        ("plain", 0.3),
    ]
    assert [row.novelty for row in log.most_novel(OTHER, limit=10)] == [1.0, 0.3]
    assert [row.novelty for row in log.most_novel(None, limit=1)] == [0.9]


def test_a_row_without_sha256_leaves_the_queue_once_labelled(log: Database, database_url: str) -> None:
    [(old,)] = query(
        database_url,
        "INSERT INTO predictions (image_name, score, result, novelty, space)"
        " VALUES ('old', 0, '', 0.9, %s) RETURNING id",
        SPACE,
    )
    assert [row.id for row in log.most_novel(SPACE, limit=10)] == [old]
    log.add_label(old, "ordinary", who=None, note=None)
    assert log.most_novel(SPACE, limit=10) == []


def test_the_queue_ranks_the_newest_images_with_all_labels(
    log: Database, clustered_rows: dict[str, Prediction], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_queue, "MAX_RANKED", 16)
    queue = ReviewQueue(log)
    assert len(names(queue.next("interest", limit=100, space=SPACE))) == 16
    log.add_label(clustered_rows["usual 0"].id, "ordinary", who=None, note=None)
    found = queue.next("interest", limit=100, space=SPACE)
    assert len(names(found)) == 16
    assert found.candidates[0].why[1] == "most like it: 1 ordinary"
    log.add_label(clustered_rows["usual 1"].id, "مجرة", who=None, note=None)
    [why] = queue.next("interest", limit=1, space=SPACE).candidates[0].why[1:]
    assert "1 \u2068مجرة\u2069" in why  # without isolation the next number would be shown on its other side


def test_new_images_enter_the_queue(log: Database, clustered_rows: dict[str, Prediction]) -> None:
    queue = ReviewQueue(log)
    assert "odd" not in names(queue.next("interest", limit=10, space=SPACE))
    log.record_many([scored("odd", (50.0, 50.0), 1.0)])
    assert names(queue.next("interest", limit=1, space=SPACE)) == ["odd"]
    assert names(queue.next("interest", limit=1, space=OTHER)) == []


def test_images_that_new_detectors_describe_enter_the_queue(
    log: Database, clustered_rows: dict[str, Prediction]
) -> None:
    queue, described, ids = ReviewQueue(log), log.description_log, sorted(row.id for row in clustered_rows.values())
    described.begin_update("m", OTHER)
    edges, sizes = [ids[-1] + 1, ids[20], ids[10], ids[0]], []
    for first, next_ in zip(edges[1:], edges, strict=False):
        sizes.append(len(names(queue.next("random", limit=100, space=OTHER))))
        step = [id_ for id_ in ids if first <= id_ < next_]
        vectors = np.random.default_rng(first).normal(size=(len(step), 3)).astype(np.float32)
        values = RowNovelty(np.ones(len(step), np.float32), None, [None] * len(step), vectors)
        described.finish_step("m", OTHER, OutdatedRows(first, next_, step, vectors, 0), values)
    assert [*sizes, len(names(queue.next("random", limit=100, space=OTHER)))] == [0, 36, 46, 56]


def test_a_model_keeps_the_vectors_of_detectors_that_another_one_replaces(log: Database) -> None:
    vector = (1.0, 2.0)
    images = [scored("both", vector, 0.5), replace(scored("both", vector, 0.5), model="n"), scored("far", vector, 0.5)]
    rows = [log.record_many([image])[0] for image in images]
    ids, new = [row.id for row in rows if row.model == "m"], np.zeros((2, 2), np.float32)
    log.description_log.begin_update("m", OTHER)
    values = RowNovelty(np.ones(2, np.float32), None, [None] * 2, new)
    log.description_log.finish_step("m", OTHER, OutdatedRows(ids[0], ids[1] + 1, ids, new, 0), values)
    kept = log.embedded_images(SPACE, newest=9)
    assert kept.ids == [rows[1].id]
    np.testing.assert_array_equal(kept.vectors, [vector])
    assert log.embedded_images(OTHER, newest=9).ids == ids
    assert log.similar(rows[1], limit=9) == []


def test_at_once_uses_an_earlier_ranking_while_the_next_is_computed(
    log: Database, clustered_rows: dict[str, Prediction], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_learn, orders = threading.Event(), ranking.review_orders

    def slow(*arguments: Any, **options: Any) -> Any:
        may_learn.wait()
        return orders(*arguments, **options)

    monkeypatch.setattr(ranking, "review_orders", slow)
    queue = ReviewQueue(log)

    def next_at_once() -> ReviewBatch:
        return queue.next("interest", limit=6, space=SPACE, at_once=True)

    assert (next_at_once().by, next_at_once().note) == ("novelty", NOT_YET)
    may_learn.set()
    unlabelled = queue.next("interest", limit=6, space=SPACE)
    may_learn.clear()
    first = unlabelled.candidates[0].prediction
    log.add_label(first.id, "artefact", who=None, note=None)
    assert names(next_at_once()) == names(unlabelled)[1:] + names(next_at_once())[-1:]
    assert next_at_once().labels == {first.image_sha256: "artefact"}
    kind = first.image_name.split()[0]
    for n in range(5):
        log.add_label(clustered_rows[f"{kind} {n}"].id, "artefact", who=None, note=None)
    may_learn.set()
    relearnt = queue.next("interest", limit=6, space=SPACE)
    assert names(relearnt)[0].split()[0] != kind
    assert names(next_at_once()) == names(relearnt)
    queue.close()


def test_without_detectors_or_vectors_the_queue_is_sorted_by_novelty(
    log: Database, clustered_rows: dict[str, Prediction], database_url: str
) -> None:
    found = ReviewQueue(log).next("interest", limit=2, space=None)
    assert (found.by, found.note, names(found)) == ("novelty", NO_DETECTORS, ["trail 7", "trail 6"])
    query(database_url, "DROP TABLE features")
    without = Database(database_url, connections=1, timeout_s=5)
    found = ReviewQueue(without).next("uncertainty", limit=2, space=SPACE)
    assert (found.by, found.note, names(found)) == ("novelty", NO_VECTORS, ["trail 7", "trail 6"])
    without.close()


def test_the_queue_and_the_labels_use_their_indexes(log: Database, database_url: str) -> None:
    query(
        database_url,
        "INSERT INTO predictions (image_name, score, result, image_sha256, novelty, space)"
        f" SELECT n::text, 0, '', n::text, random(), '{SPACE}' FROM generate_series(1, 20000) n",
    )
    query(database_url, "INSERT INTO labels (prediction_id, label) SELECT n, 'ordinary' FROM generate_series(1, 99) n")
    query(database_url, "ANALYZE")
    labelling = row_values(IMPORTED_LABELS, [(0, Label(label="ordinary", image_sha256="7"))])
    statements: list[tuple[str, Any]] = [
        (database.SQL["most_novel"], {"space": SPACE, "limit": 10, "unknown": True}),
        (database.SQL["add_labels"], {"ids": [7], "count": 1, "label": "ordinary", "who": None, "note": None}),
        (database.SQL["delete_labels"], {"first": 7, "last": 8}),
        (database.SQL["import_labels"].format(rows=placeholders(IMPORTED_LABELS, 1)), labelling),
        (database.SQL["by_ids"], {"ids": [1, 2, 3]}),
    ]
    connection = connect(database_url, timeout_s=5)
    for statement, values in statements:
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN " + statement.split(";\n")[-1], values)
            plan = "\n".join(line for (line,) in cursor.fetchall())
        assert "Index" in plan
        assert "Seq Scan on predictions" not in plan
    connection.close()


@pytest.fixture(scope="session")
def models_dir(noise_models_dir: Path) -> Path:
    return noise_models_dir


def send(client: TestClient, path: str, data: bytes, name: str = "m51.png") -> Any:
    return client.post(path, files={"file": (name, data)})


def error_message(response: Any, status: int, code: str) -> str:
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text
    return str(response.json()["error"]["message"])


def test_similar_images_are_found_by_id_and_by_upload(client: TestClient) -> None:
    rows = [send(client, "/detect", data, f"{n}.png").json() for n, data in enumerate(USUAL[:12])]
    assert all(0 <= row["novelty"] <= 1 for row in rows)
    found = client.get(f"/predictions/{rows[3]['id']}/similar").json()
    assert found["prediction"] == rows[3]
    distances = [neighbour["distance"] for neighbour in found["similar"]]
    assert (len(distances), distances) == (10, sorted(distances))
    assert all(neighbour["prediction"] in rows and neighbour["prediction"] != rows[3] for neighbour in found["similar"])
    uploaded = send(client, "/similar?limit=3", USUAL[3], "again.png").json()
    assert uploaded["prediction"]["id"] == 13
    assert uploaded["similar"] == found["similar"][:3]
    form: dict[str, Any] = {"files": {"file": ("keyed.png", USUAL[3])}, "data": {"ra": "10", "dec": "-20"}}
    keyed = [client.post("/similar", **form, headers={"Idempotency-Key": "k"}).json()["prediction"] for _ in range(2)]
    assert [(row["id"], row["ra"], row["dec"]) for row in keyed] == [(14, 10.0, -20.0)] * 2
    assert client.get("/predictions", params={"min_novelty": 1.0, "name": "again"}).json()["next"] is None


def test_similar_reports_why_there_is_no_answer(client: TestClient, database_url: str) -> None:
    error_message(client.get("/predictions/77/similar"), 404, "not_found")
    for limit in (0, 101):
        error_message(client.get(f"/predictions/1/similar?limit={limit}"), 422, "bad_arguments")
    error_message(client.get("/predictions/0/similar"), 422, "bad_arguments")
    plain = send(client, "/classify?model=plain", USUAL[0]).json()
    assert plain["novelty"] is None
    assert "no detectors" in error_message(client.get(f"/predictions/{plain['id']}/similar"), 409, "vector_missing")
    error_message(send(client, "/similar?model=plain", USUAL[0]), 409, "vector_missing")
    error_message(send(client, "/similar", b"<html>"), 415, "image_unsupported")
    error_message(client.post("/similar"), 422, "file_missing")


def test_without_pgvector_all_other_routes_work(database_url: str, models_dir: Path) -> None:
    query(database_url, "DROP TABLE features; DROP EXTENSION vector")
    with TestClient(create_app(Settings(DATABASE_URL=database_url, models_dir=models_dir))) as client:
        row = send(client, "/detect", USUAL[0]).json()
        assert row["novelty"] is not None
        response = client.get(f"/predictions/{row['id']}/similar")
        assert "python setup_db.py" in error_message(response, 503, "vectors_off")
        assert int(response.headers["retry-after"]) > 0
        found = client.get("/review/next").json()
        assert (found["by"], found["note"], found["next"][0]["prediction"]) == ("novelty", NO_VECTORS, row)


def test_a_label_changes_the_queue_and_is_exported(client: TestClient) -> None:
    ids = [send(client, "/detect", data, f"={n}.png").json()["id"] for n, data in enumerate(USUAL[:6])]
    first = client.get("/review/next").json()
    assert first["progress"] == {
        "labelled": 0, "interesting": 0, "ordinary": 0, "artefact": 0, "names": {}, "found_per_100": None
    }  # fmt: skip
    [candidate] = first["next"]
    assert candidate["prediction"]["id"] in ids
    body = {"label": "interesting", "who": "ada", "note": "a ring?"}
    response = client.post(f"/predictions/{candidate['prediction']['id']}/label", json=body)
    assert response.status_code == 201
    label = response.json()
    assert {name: label[name] for name in body} == body
    for by in REVIEW_ORDERS:
        found = client.get("/review/next", params={"by": by, "limit": 100}).json()
        assert sorted(candidate["prediction"]["id"] for candidate in found["next"]) == sorted(
            set(ids) - {label["prediction_id"]}
        )
        assert found["progress"] == {
            "labelled": 1,
            "interesting": 1,
            "ordinary": 0,
            "artefact": 0,
            "names": {},
            "found_per_100": 100,
        }
    file = client.get("/labels.csv")
    assert file.headers["content-type"] == "text/csv; charset=utf-8"
    header, line = file.text.splitlines()
    assert header == "id,prediction_id,image_name,image_sha256,label,who,note,timestamp,role,tags"
    assert line.startswith(f"{label['id']},{label['prediction_id']},{label['image_name']},{label['image_sha256']},")


@pytest.mark.parametrize("body", [{"label": "odd?"}, {}, {"label": "ordinary", "whom": "ada"}, {"label": None}, []])
def test_an_invalid_label_is_refused_and_a_label_can_be_deleted(client: TestClient, body: Any) -> None:
    row = send(client, "/detect", USUAL[0]).json()
    error_message(client.post(f"/predictions/{row['id']}/label", json=body), 422, "bad_arguments")
    error_message(client.post("/predictions/77/label", json={"label": "ordinary"}), 404, "not_found")
    assert client.get("/labels.csv").text.count("\n") == 1
    label = client.post(f"/predictions/{row['id']}/label", json={"label": "ordinary"}).json()
    assert client.delete(f"/labels/{label['id']}").json() == label
    error_message(client.delete(f"/labels/{label['id']}"), 404, "not_found")
    assert client.get("/labels.csv").text.count("\n") == 1
    error_message(client.get("/review/next?by=luck"), 422, "bad_arguments")


def test_review_routes_answer_503_while_postgresql_is_down(models_dir: Path) -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/astrodetect"
    with TestClient(create_app(Settings(DATABASE_URL=url, models_dir=models_dir))) as client:
        for response in (
            client.get("/predictions/1/similar"),
            client.post("/predictions/1/label", json={"label": "ordinary"}),
            client.get("/labels.csv"),
            client.get("/review/next"),
            send(client, "/similar", USUAL[0]),
        ):
            error_message(response, 503, "database_unavailable")
        assert client.get("/health/ready").json()["outbox"] == 1
