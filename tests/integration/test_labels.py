"""Labels of images: stored, exported as CSV and imported."""

import datetime as dt
import hashlib
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from malicious_server import png
from programs import ROOT, query, run_here, wait_for_lock_or_end

import setup_db
from astrodetect import images, labels
from astrodetect.__main__ import main
from astrodetect.db import statements
from astrodetect.db.connections import connect
from astrodetect.errors import DataError, NotFound
from astrodetect.labels import ImportCounts, Label, StoredLabel
from astrodetect.records import ImageContract, Prediction, ScoredImage
from database import SQL, Database

SCORED = ScoredImage("m51.jpg", "ab" * 32, score=0.9, threshold=0.5, model="resnet50_model", model_version="1")
HEADER = "id,prediction_id,image_name,image_sha256,label,who,note,timestamp,role,tags"
HOSTILE = ("=cmd|' /C calc'!A0", 'quo"te, comma', "a\r\nb", "+1", "-1", "@x", "'; DROP TABLE labels; --", "ümläut ✨")


def recorded(log: Database, number: int = 1, name: str = "m51.jpg") -> Prediction:
    [row] = log.record_many([replace(SCORED, image_name=name, image_sha256=f"{number:064x}", request_id=uuid.uuid4())])
    return row


def all_labels(log: Database) -> list[StoredLabel]:
    return [label for page in log.label_pages() for label in page if isinstance(label, StoredLabel)]


def exported(log: Database, path: Path) -> Path:
    path.write_text("".join(labels.to_csv(log.label_pages())), encoding="utf-8", newline="")
    return path


def astrodetect(url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "astrodetect", *arguments],
        cwd=ROOT, env={"DATABASE_URL": url, "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_every_label_is_stored_and_the_newest_is_current_for_all_predictions_of_its_image(
    log: Database, database_url: str
) -> None:
    first, other, again = recorded(log), recorded(log, 2), recorded(log)
    before = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
    first_label = log.add_label(first.id, "interesting", who="ada", note="a ring?")
    assert (first_label.prediction_id, first_label.image_name, first_label.image_sha256) == (
        first.id,
        "m51.jpg",
        first.image_sha256,
    )
    assert (first_label.label, first_label.who, first_label.note) == ("interesting", "ada", "a ring?")
    assert before < first_label.timestamp < dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
    second_label = log.add_label(again.id, "artefact", who=None, note="")
    assert (second_label.who, second_label.note) == (None, None)
    third_label = log.add_label(other.id, "ordinary", who="eve", note=None)
    assert all_labels(log) == [first_label, second_label, third_label]
    assert list(log.current_labels().items()) == [(first.image_sha256, "artefact"), (other.image_sha256, "ordinary")]
    assert query(database_url, "SELECT label, count(*) FROM current_labels GROUP BY label ORDER BY label") == [
        ("artefact", 1),
        ("ordinary", 1),
    ]


@pytest.mark.parametrize("id_", [12345, 0, -1, 2**63, 10**40])
def test_an_unknown_prediction_cannot_be_labelled(log: Database, id_: int) -> None:
    with pytest.raises(NotFound, match=f"there is no prediction {id_}"):
        log.add_label(id_, "ordinary", who=None, note=None)


def test_deleting_a_label_restores_the_previous_one(log: Database) -> None:
    first, again = recorded(log), recorded(log)
    first_label = log.add_label(first.id, "interesting", who="ada", note="a ring?")
    second_label = log.add_label(again.id, "artefact", who=None, note=None)
    assert log.labels_of_image(first) == log.labels_of_image(again) == [second_label, first_label]
    assert log.delete_label(second_label.id) == second_label
    assert log.labels_of_image(again) == [first_label]
    assert log.current_labels() == {first.image_sha256: "interesting"}
    for id_ in (second_label.id, 0, -1, 2**63):
        with pytest.raises(NotFound, match=f"there is no label {id_}"):
            log.delete_label(id_)


def test_an_image_without_sha256_has_the_labels_of_its_prediction_alone(log: Database, database_url: str) -> None:
    insert = "INSERT INTO predictions (image_name, score, result) VALUES (%s, 0, 'No Anomaly') RETURNING id"
    [(unhashed,)], [(other,)] = query(database_url, insert, "old.jpg"), query(database_url, insert, "other.jpg")
    first_label = log.add_label(unhashed, "ordinary", who=None, note=None)
    assert log.labels_of_image(log.prediction(unhashed)) == [first_label]
    assert log.labels_of_image(log.prediction(other)) == []
    hashed = recorded(log)
    log.add_label(hashed.id, "artefact", who=None, note=None)
    current = log.labels_by_image([log.prediction(unhashed), log.prediction(other), hashed])
    assert current == {str(unhashed): "ordinary", hashed.image_sha256: "artefact"}
    assert log.current_labels() == current


def test_labels_in_order_follow_the_first_label_of_each_image(log: Database) -> None:
    first, second, third = recorded(log, 1), recorded(log, 2), recorded(log, 3)
    for row, label in (
        (second, "interesting"),
        (first, "ordinary"),
        (third, "artefact"),
        (second, "artefact"),  # a change of mind
        (recorded(log, 1), "interesting"),
    ):
        log.add_label(row.id, label, who=None, note=None)
    assert log.labels_in_order() == ["artefact", "interesting", "artefact"]


def test_labels_are_deleted_with_their_prediction(log: Database, database_url: str) -> None:
    log.add_label(recorded(log).id, "ordinary", who=None, note=None)
    query(database_url, "DELETE FROM predictions")
    assert all_labels(log) == []


def test_exported_labels_are_known_here_and_new_in_another_database(
    log: Database, tmp_path: Path, postgres_url: str
) -> None:
    for number, name in enumerate(HOSTILE):
        log.add_label(recorded(log, number, name).id, "interesting", who=name, note=name)
    file = exported(log, tmp_path / "labels.csv")
    assert file.read_bytes().decode().startswith(f"{HEADER}\r\n")
    found = labels.read_table_labels(file)
    assert [(label.image_name, label.who, label.note) for label in found] == [(name, name, name) for name in HOSTILE]
    assert log.import_labels(found) == ImportCounts(new=0, known=len(HOSTILE), unmatched=0)

    setup_db.migrate(postgres_url)
    other = Database(postgres_url, connections=1, timeout_s=5)
    recorded(other, 99, "theirs")
    for number in reversed(range(len(HOSTILE) - 1)):
        recorded(other, number, "renamed")
    newest = recorded(other, 0, "again")
    assert other.import_labels(found) == ImportCounts(new=len(HOSTILE) - 1, known=0, unmatched=1)
    assert other.import_labels(found) == ImportCounts(new=0, known=len(HOSTILE) - 1, unmatched=1)
    imported = all_labels(other)
    assert sorted(label.timestamp for label in imported) == [label.timestamp for label in found[:-1]]
    assert newest.id in {label.prediction_id for label in imported}
    other.close()


def test_two_imports_at_once_add_a_label_once(log: Database, database_url: str) -> None:
    label = Label(label="interesting", image_sha256=recorded(log).image_sha256)
    imported = SQL["import_labels"].format(rows=statements.placeholders(statements.IMPORTED_LABELS, 1))
    session = closing(connect(database_url, timeout_s=10))
    with session as other, other.cursor() as cursor, ThreadPoolExecutor(1) as thread:
        cursor.execute("BEGIN")
        cursor.execute(imported, statements.row_values(statements.IMPORTED_LABELS, [(0, label)]))
        second = thread.submit(log.import_labels, [label])
        wait_for_lock_or_end(second, database_url)
        cursor.execute("COMMIT")
    assert second.result() == ImportCounts(new=0, known=1, unmatched=0)
    assert len(all_labels(log)) == 1


def test_an_import_needs_only_an_image_and_a_label(log: Database, tmp_path: Path) -> None:
    one, two = recorded(log, 1), recorded(log, 2)
    by_sum, by_id = tmp_path / "sum.csv", tmp_path / "id.csv"
    by_sum.write_text(f"\ufefflabel,image_sha256\nartefact,{one.image_sha256}\n\nartefact,{one.image_sha256}\n")
    by_id.write_text(
        f"prediction_id,label,image_name\n{two.id},ordinary,\n{one.id},ordinary,other.jpg\n777,ordinary,\n"
    )
    assert log.import_labels(labels.read_table_labels(by_sum)) == ImportCounts(new=1, known=0, unmatched=0)
    assert log.import_labels(labels.read_table_labels(by_sum)) == ImportCounts(new=0, known=1, unmatched=0)
    assert log.import_labels(labels.read_table_labels(by_id)) == ImportCounts(new=1, known=0, unmatched=2)
    assert log.import_labels(labels.read_table_labels(by_id)) == ImportCounts(new=0, known=1, unmatched=2)
    assert log.current_labels() == {one.image_sha256: "artefact", two.image_sha256: "ordinary"}


def test_the_later_of_two_imported_labels_of_an_image_is_current(log: Database, tmp_path: Path) -> None:
    row, file = recorded(log), tmp_path / "labels.csv"
    file.write_text(f"image_sha256,label\n{row.image_sha256},interesting\n{row.image_sha256},artefact\n")
    assert log.import_labels(labels.read_table_labels(file)) == ImportCounts(new=2, known=0, unmatched=0)
    assert log.current_labels() == {row.image_sha256: "artefact"}


def test_an_imported_older_label_does_not_replace_a_newer_one(log: Database) -> None:
    row = recorded(log)
    log.add_label(row.id, "interesting", who=None, note=None)
    late = Label(label="artefact", timestamp=dt.datetime(2020, 1, 1, tzinfo=dt.UTC), prediction_id=row.id)
    assert log.import_labels([late]).new == 1
    assert log.current_labels() == {row.image_sha256: "interesting"}


def test_thousands_of_labels_are_imported_and_exported_in_batches(log: Database, tmp_path: Path) -> None:
    rows = log.record_many(
        [replace(SCORED, image_sha256=f"{number:064x}", request_id=uuid.uuid4()) for number in range(2000)]
    )
    given = [Label(label="ordinary", image_sha256=row.image_sha256) for row in rows]
    assert log.import_labels(given) == ImportCounts(2000, 0, 0)
    assert labels.read_table_labels(exported(log, tmp_path / "x.csv")) == [
        replace(one, prediction_id=row.id, image_name=row.image_name, timestamp=kept.timestamp)
        for one, row, kept in zip(given, rows, all_labels(log), strict=True)
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,weird?,ab", "line 3: a label is interesting, ordinary, artefact, or a name of letters"),
        ("1,,", "characters, not nothing"),
        ("0,ordinary,", "line 3: a prediction_id is a number, not 0"),
        (f"{2**63},ordinary,", "line 3: a prediction_id is a number"),
        (",ordinary,", "line 3: neither an image_sha256 nor a prediction_id"),
        ("1,ordinary,,,", "line 3: more or fewer fields"),
        ("1,ordinary", "line 3: more or fewer fields"),
        ("1,ordinary,yesterday", "line 3: a timestamp is such as 2026-"),
        ('1,ordinary,"', "line 3: unexpected end of data"),
        (f"1,ordinary,{'1' * 200_000}", "line 3: field larger than field limit"),
        ("1,ordinary,\udcff", "line 3: not a CSV file in UTF-8"),
    ],
)
def test_a_file_with_an_invalid_line_is_not_imported(
    log: Database, database_url: str, tmp_path: Path, line: str, message: str
) -> None:
    row = recorded(log)
    file = tmp_path / "labels.csv"
    text = f"prediction_id,label,timestamp\n{row.id},artefact,\n{line}\n"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=message):
        labels.read_table_labels(file)
    done = astrodetect(database_url, "labels", "import", str(file))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert message in done.stderr
    assert all_labels(log) == []


def test_a_file_without_the_columns_or_a_missing_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    for text in ("", "label\n", "image_sha256,labels\n", "image_sha256;label\n"):
        file.write_text(text)
        with pytest.raises(
            DataError, match="its first line must name label, and image_sha256 or prediction_id, with commas"
        ):
            labels.read_table_labels(file)
    with pytest.raises(DataError, match=r"cannot be read: No such file"):
        labels.read_table_labels(tmp_path / "missing.csv")


def test_export_and_import_print_one_line_of_counts(log: Database, database_url: str, tmp_path: Path) -> None:
    log.add_label(recorded(log).id, "interesting", who="ada", note=None)
    file = tmp_path / "labels.csv"
    done = astrodetect(database_url, "labels", "export", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: 1 labels\n", "")
    assert file.read_bytes().splitlines()[0].decode() == HEADER
    query(database_url, "DELETE FROM labels")
    for message in ("1 new, 0 known, 0 of images without a prediction", "0 new, 1 known, 0 of images"):
        done = astrodetect(database_url, "labels", "import", str(file))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{file}: {message}")
    done = astrodetect(database_url, "labels", "export", str(tmp_path / "no" / "labels.csv"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert list(tmp_path.iterdir()) == [file]


def test_labelled_images_become_train_and_test_folders(log: Database, database_url: str, tmp_path: Path) -> None:
    folder, output = tmp_path / "images", tmp_path / "set"
    folder.mkdir()
    environment = {"DATABASE_URL": database_url}
    for number, data in enumerate(map(png, range(12))):
        sha256 = hashlib.sha256(data).hexdigest()
        [row] = log.record_many([replace(SCORED, image_sha256=sha256, request_id=uuid.uuid4())])
        if number == 0:
            (folder / "original.png").write_bytes(data)
        elif number < 11:
            pixels = images.decode(data, ImageContract(size=32))
            log.save_thumbnails([images.make_thumbnail(sha256, pixels)], [])
        log.add_label(row.id, "merger" if number % 2 else "ordinary", who=None, note=None)
    done = run_here(main, "labels", "folders", output, "--images", folder, environment=environment)
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        [
            "train: 4 merger, 5 ordinary",
            "test: 1 merger, 1 ordinary",
            "1 files, 10 stored pictures, 1 images have neither",
            str(output),
        ],
    )
    assert sorted(place.name for place in output.iterdir()) == ["test", "train"]
    [original] = output.rglob("original.png")
    assert original.read_bytes() == png(0)
    assert len(list(output.rglob("*.jpg"))) == 10
    assert sorted(place.name for place in tmp_path.iterdir()) == ["images", "set"]  # nothing temporary is left
    again = run_here(main, "labels", "folders", output, environment=environment)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    query(database_url, "UPDATE labels SET label = 'ordinary'")
    again = run_here(main, "labels", "folders", tmp_path / "one", environment=environment)
    assert "needs images of two labels" in again.stderr
