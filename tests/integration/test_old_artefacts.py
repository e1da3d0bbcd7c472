"""Files and databases that version 0.1 wrote are read by this version: see tests/artefacts/v0.1/README.md."""

import csv
import datetime as dt
import shutil
from collections.abc import Iterator
from pathlib import Path

import colour_models
import numpy as np
import pytest
from programs import query
from worker_in_process import InProcessPool

import setup_db
from astrodetect.anomalies.novelty import Novelty
from astrodetect.datasets import class_folders
from astrodetect.datasets.sources.manifest import ManifestEntry, open_manifest
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.labels import match_images, read_image_labels, read_table_labels
from astrodetect.records import ScoredImage
from astrodetect.scoring import batch_scoring
from astrodetect.service.outbox import Outbox
from database import Database

LAST_MIGRATION = "0007_images"  # of the dumped database
ARTEFACTS = Path(__file__).parent.parent / "artefacts" / "v0.1"
VERSION, SPACE = "fe25209a3f2d", "c90b9a704b91"
SCORED_AT = dt.datetime(2026, 11, 1, 12, 30, 15, 123456, tzinfo=dt.UTC)


@pytest.fixture
def old_artefacts(tmp_path: Path) -> Path:
    """A copy of the artefacts."""
    return Path(shutil.copytree(ARTEFACTS, tmp_path / "v0.1"))


@pytest.fixture
def old_database(postgres_url: str) -> Iterator[Database]:
    """The dumped database, after this version's `setup_db`."""
    query(postgres_url, (ARTEFACTS / "database.sql").read_text(encoding="utf-8"))
    assert all(name > LAST_MIGRATION for name in setup_db.migrate(postgres_url).applied)
    database = Database(postgres_url, connections=1, timeout_s=10)
    yield database
    database.close()


def read_table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_published_model_and_its_detectors_are_loaded(old_artefacts: Path) -> None:
    loaded = load_verified(old_artefacts / "models", "colour")
    assert (loaded.manifest.version, loaded.manifest.space) == (VERSION, SPACE)
    assert Engine(loaded).run(np.stack([colour_models.image("lawn")])).scores[0] > 0.5
    assert loaded.novelty is not None
    images = np.stack([colour_models.image("lawn", 0), colour_models.image("nebula", 0)])
    usual, unusual = Novelty.load(loaded.novelty).score_images(images, 1.0, np.empty((2, 0), np.float32)).novelty
    assert usual < unusual


def test_an_interrupted_table_is_resumed_after_its_last_whole_batch(
    old_artefacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old_artefacts)
    for name in ("scores.csv.part", "scores.csv.run"):
        shutil.move(old_artefacts / "table" / name, old_artefacts / name)
    notes = old_artefacts / "scores.csv.run"
    notes.write_text(notes.read_text().replace("FOLDER", str(old_artefacts)))
    expected = read_table(old_artefacts / "table" / "complete.csv")
    for name, *_ in expected[1:17]:
        Path(name).write_bytes(b"not read again")

    loaded = load_verified(old_artefacts / "models", "colour")
    assert loaded.novelty is not None
    task = batch_scoring.ScoringTask(["sky"], Path("scores.csv"), restart=False)
    with InProcessPool(Engine(loaded), novelty=Novelty.load(loaded.novelty), max_pixels=10**7) as pool:
        batch_scoring.score_task(task, loaded.manifest, pool)
    rows = read_table(Path("scores.csv"))
    assert rows[:17] == expected[:17]
    path, score, result, error, novelty = 0, 1, 2, 3, 6
    for row, old in zip(rows[17:], expected[17:], strict=True):
        assert (row[path], row[result], bool(row[error])) == (old[path], old[result], bool(old[error]))
        for number in (score, novelty):  # of an invalid file empty
            assert float(row[number] or -1) == pytest.approx(float(old[number] or -1), abs=0.01)
    assert sorted(path.name for path in old_artefacts.glob("scores*")) == ["scores.csv"]


def test_rows_of_an_outbox_are_handed_over(old_artefacts: Path) -> None:
    outbox = Outbox(old_artefacts / "outbox", max_bytes=10**6)
    rows: list[ScoredImage] = []
    assert len(outbox) == 3
    while outbox.drain(10, rows.extend):
        pass
    outbox.close()
    oldest, keyed, newest = rows
    assert (oldest.label, oldest.probabilities, oldest.vector) == (None, None, None)
    assert (newest.ra, newest.dec, newest.object_id) == (None, None, None)
    assert (keyed.has_client_key, newest.has_client_key) == (True, False)
    assert (newest.image_name, newest.timestamp, newest.space) == ("2.jpg", SCORED_AT, SPACE)
    assert (newest.probabilities, newest.vector) == ({"nebula": 0.75, "lawn": 0.25}, (0.5, -1.25, 3.0))


def test_a_collected_folder_is_continued_and_read_as_a_dataset(old_artefacts: Path) -> None:
    table = (old_artefacts / "collected" / "catalogue.csv").read_bytes()
    with open_manifest(old_artefacts / "collected") as manifest:
        assert manifest.counts == {"nebula": 1, "galaxy": 1}
        assert manifest.already_tried(ManifestEntry(label="galaxy", source="nasa", source_id="PIA1", url=""))
        assert not manifest.already_tried(ManifestEntry(label="galaxy", source="nasa", source_id="PIA2", url=""))
    assert (old_artefacts / "collected" / "catalogue.csv").read_bytes() == table
    items = class_folders.list_dataset(old_artefacts / "collected" / "catalogue.csv")
    assert {(Path(item.path).name, item.label) for item in items} == {("PIA0.jpg", "nebula"), ("PIA1.jpg", "galaxy")}


def test_a_database_keeps_its_predictions_labels_and_thumbnails(old_database: Database) -> None:
    oldest, labelled, newest = (old_database.prediction(id_) for id_ in (1, 2, 3))
    assert (oldest.label, oldest.novelty, oldest.result) == (None, None, "No Anomaly")
    assert (newest.ra, newest.dec, newest.object_id) == (None, None, None)
    assert (newest.score, newest.timestamp, newest.model_version) == (0.45, SCORED_AT, VERSION)
    assert newest.probabilities == {"nebula": 0.75, "lawn": 0.25}
    [[first, second]] = old_database.label_pages()
    assert (first.label, first.who, first.note) == ("interesting", "ada", 'a ring, "bright"?')
    assert old_database.current_labels() == {labelled.image_key: "interesting", newest.image_key: second.label}
    thumbnail = old_database.thumbnail(labelled.image_key)
    assert thumbnail is not None
    assert (thumbnail.width, thumbnail.height) == (24, 24)
    heat_map = old_database.heat_map(labelled.image_key, VERSION)
    assert heat_map is not None
    assert heat_map.places.tolist() == [[0, 1], [2, 3]]
    if old_database.stores_vectors:
        [neighbour] = old_database.similar(labelled, limit=5)
        assert (neighbour.prediction, neighbour.distance) == (newest, 0.0)


def test_exported_labels_are_known_to_the_database_and_identify_images(
    old_database: Database, old_artefacts: Path
) -> None:
    labels = read_table_labels(old_artefacts / "labels.csv")
    assert old_database.import_labels(labels).known == len(labels) == 2
    sha256 = [str(label.image_sha256) for label in labels]
    paths = [Path("a.jpg"), Path("b.jpg")]
    assert match_images(read_image_labels(old_artefacts / "labels.csv"), paths, sha256) == (
        {0: "interesting", 1: "artefact"},
        0,
    )
