"""Batch scoring: which files, in which order, in how much memory, and how interrupted runs are continued."""

import os
import shutil
import sys
import threading
import uuid
from dataclasses import replace
from pathlib import Path

import colour_models
import numpy as np
import pytest
from worker_in_process import InProcessPool

from astrodetect import images
from astrodetect.datasets import listing
from astrodetect.errors import DatabaseUnavailable, DataError, ImageError
from astrodetect.inference import pipeline
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.records import ImageContract, ScoredImage
from astrodetect.scoring import batch_scoring, resumable_table, table_rows
from astrodetect.scoring.chunk_worker import RecordBatch
from astrodetect.scoring.chunks import WorkerReady
from astrodetect.scoring.part_files import COLUMNS
from astrodetect.sky.catalogue import read_catalogue
from astrodetect.sky.catalogue_columns import CatalogueColumns

ODD_NAMES = ["comma,.jpg", 'quote".jpg', "line\nend.jpg", "return\r.jpg", "é.jpg", "\udcff.jpg", "\n.jpg", '",".jpg']


@pytest.fixture(scope="module")
def engine(colour_models_dir: Path) -> Engine:
    return Engine(load_verified(colour_models_dir, "resnet50_model", "auto"))


@pytest.fixture(scope="module")
def nested_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nested folders with every kind of file; two images are unreadable."""
    folder = tmp_path_factory.mktemp("sky")
    random = np.random.default_rng(0)
    for name in (
        "b/2.JPG",
        "b/1.jpeg",
        "b/deep/er/4.jpg",
        "a/z.jpg",
        "a.jpg",
        "b.jpg",
        *(f"c/{n}.jpg" for n in range(40)),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        images.write_jpeg(folder / name, random.integers(0, 256, (32, 40, 3), dtype=np.uint8))
    (folder / "a" / "torn.jpg").write_bytes((folder / "a" / "z.jpg").read_bytes()[:300])
    (folder / "c" / "text.png").write_text("no image")
    (folder / "b" / "notes.txt").write_text("no image, and not called one")
    (folder / ".hidden").mkdir()
    for hidden in ("b/.hidden.jpg", ".hidden/5.jpg"):
        shutil.copy(folder / "a.jpg", folder / hidden)
    return folder


def task(paths: list[Path], output: Path, *, restart: bool = False) -> batch_scoring.ScoringTask:
    return batch_scoring.ScoringTask([str(path) for path in paths], output, restart=restart)


def score(task: batch_scoring.ScoringTask, engine: Engine, record: RecordBatch | None = None) -> str:
    task.check()
    with InProcessPool(engine, record) as pool:
        return batch_scoring.score_task(task, engine.manifest, pool).text


def rows_in(output: Path, columns: list[str] = COLUMNS) -> list[list[str]]:
    """The rows without the header."""
    with output.open("rb") as file:
        header, *rows = resumable_table.read_rows(file, len(columns))
    assert header == columns
    return rows


def test_rows_equal_single_image_scores_in_the_order_of_the_paths(
    nested_images: Path, engine: Engine, tmp_path: Path
) -> None:
    summary = score(task([nested_images], tmp_path / "t.csv"), engine)
    rows = rows_in(tmp_path / "t.csv")
    expected = [
        path for path in nested_images.rglob("*") if path.suffix.lower() in images.SUFFIXES and "/." not in str(path)
    ]
    assert [row[0] for row in rows] == sorted(map(str, expected))
    bad = {str(nested_images / "a" / "torn.jpg"), str(nested_images / "c" / "text.png")}
    for path, score_, result, error, *model in rows:
        assert model == [engine.manifest.name, engine.manifest.version]
        if path in bad:
            with pytest.raises(ImageError) as alone:
                images.decode_file(Path(path), engine.manifest.image)
            assert (score_, result, error) == ("", "", str(alone.value))
        else:
            pixels = images.decode_file(Path(path), engine.manifest.image)
            assert float(score_) == pytest.approx(float(engine.run(pixels[np.newaxis]).scores[0]), abs=1e-4)
            assert result == ("Anomaly Detected" if float(score_) > engine.manifest.threshold else "No Anomaly")
            assert error == ""
    anomalies = sum(row[2] == "Anomaly Detected" for row in rows)
    assert f"{len(rows)} files scored, {anomalies} anomalies, 2 bad files" in summary
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("cut", [False, True])
def test_multiclass_table_has_the_most_probable_class_and_every_probability(tmp_path: Path, cut: bool) -> None:
    from pyarrow.parquet import read_table

    colour_models.publish(tmp_path, "colours")
    engine = Engine(load_verified(tmp_path, "colours"))
    sky = tmp_path / "sky"
    sky.mkdir()
    for seed in range(30):
        name = colour_models.CLASSES[seed % 3]
        images.write_jpeg(sky / f"{seed:02}-{name}.jpg", colour_models.image(name, seed))
    (sky / "bad.jpg").write_text("no image")
    outputs = (tmp_path / "t.csv", tmp_path / "t.parquet")
    logged: dict[str, ScoredImage] = {}

    def log(scored: list[ScoredImage], *_: object) -> None:
        if cut and logged:
            raise DatabaseUnavailable("gone")
        keep(scored)

    def keep(scored: list[ScoredImage], *_: object) -> None:
        logged.update({image.image_name: image for image in scored})

    for output in outputs:
        if cut:
            logged.clear()
            with pytest.raises(DatabaseUnavailable):
                score(task([sky], output), engine, log)
        summary = score(task([sky], output), engine, keep)
        assert "31 files scored, 10 nebula, 10 lawn, 10 ocean, 1 bad files" in summary
    columns = [*COLUMNS, *(f"p_{name}" for name in colour_models.CLASSES)]
    *rows, bad = rows_in(outputs[0], columns)
    assert bad[1:3] == ["", ""]
    assert bad[3]
    assert bad[6:] == ["", "", ""]
    for path, score_, result, error, _, _, *probabilities in rows:
        assert (Path(path).stem[3:], error) == (result, "")
        assert float(score_) == max(map(float, probabilities)) == logged[path].score
        assert (logged[path].result, logged[path].threshold) == (result, None)
        assert logged[path].probabilities == dict(zip(colour_models.CLASSES, map(float, probabilities), strict=True))
    table = read_table(outputs[1])
    assert table.column_names == columns
    assert table.column("p_lawn").to_pylist() == [float(row[7]) if row[7] else None for row in [*rows, bad]]


def test_a_file_given_by_name_is_scored_whatever_its_suffix(
    nested_images: Path, engine: Engine, tmp_path: Path
) -> None:
    unnamed = tmp_path / ".no-suffix"
    shutil.copy(nested_images / "a.jpg", unnamed)
    score(task([unnamed, nested_images / "b"], tmp_path / "t.csv"), engine)
    names = [".no-suffix", "1.jpeg", "2.JPG", "4.jpg"]
    assert [Path(row[0]).name for row in rows_in(tmp_path / "t.csv")] == names


def test_walk_follows_links_to_images_but_not_to_folders(nested_images: Path, tmp_path: Path) -> None:
    (tmp_path / "image.jpg").symlink_to(nested_images / "a.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "self.jpg").symlink_to("self.jpg")  # has a row that says so
    names = [str(tmp_path / name) for name in ("image.jpg", "self.jpg")]
    assert list(listing.list_references([str(tmp_path)])) == names
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="it is a pipe or a device"):  # as a table may name it
        images.read_bytes(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="Too many levels of symbolic links"):
        images.read_bytes(tmp_path / "self.jpg")
    (tmp_path / "outside").symlink_to(nested_images / "b")
    assert len(list(listing.list_references([str(tmp_path / "outside")]))) == 3


def test_walk_reads_a_folder_only_when_it_reaches_it(nested_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, names = [], listing._names

    def counted(prefix: str) -> list[str]:
        read.append(prefix)
        return names(prefix)

    monkeypatch.setattr(listing, "_names", counted)
    next(listing.list_references([str(nested_images)]))
    assert read == [f"{nested_images}{os.sep}"]


@pytest.mark.parametrize("here", [".", "./"])
def test_walk_yields_normalised_relative_paths(
    nested_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    monkeypatch.chdir(nested_images)
    assert list(listing.list_references(["./b/"])) == ["b/1.jpeg", "b/2.JPG", "b/deep/er/4.jpg"]
    assert next(listing.list_references([here])) == "a.jpg"


def test_images_in_memory_are_bounded_by_the_read_ahead_window(nested_images: Path, engine: Engine) -> None:
    lock, read, consumed, most = threading.Lock(), 0, 0, 0

    def reader(path: str, contract: ImageContract) -> pipeline.ReadImage:
        nonlocal read, most
        with lock:
            read += 1
            most = max(most, read - consumed)
        return pipeline.ReadImage(path, np.zeros((contract.size, contract.size, 3), dtype=np.uint8))

    window = pipeline.BATCHES_PER_STREAM * engine.streams * engine.batch_size
    paths = [str(number) for number in range(3 * window + 1)]
    scored = []
    for batch in pipeline.score_files(iter(paths), engine, reader):
        scored += [file.path for file in batch]
        with lock:
            consumed += len(batch)
    assert scored == paths
    # the batch that was yielded last counts until it is consumed
    assert engine.batch_size < most <= window + engine.batch_size


def test_closing_score_files_early_stops_its_threads(engine: Engine) -> None:
    def reader(path: str, contract: ImageContract) -> pipeline.ReadImage:
        return pipeline.ReadImage(path, np.zeros((contract.size, contract.size, 3), dtype=np.uint8))

    before = threading.active_count()
    batches = pipeline.score_files(map(str, range(10**9)), engine, reader)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_files_above_the_size_limit_are_not_read_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 2**20)
    (tmp_path / "large.jpg").write_bytes(bytes(2**20 + 1))
    with pytest.raises(ImageError, match="more than 1 MiB"):
        pipeline.image_reader(10**6)(tmp_path / "large.jpg", ImageContract())


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".vot"])
def test_a_resumed_run_gives_the_table_of_an_uninterrupted_one(
    nested_images: Path, engine: Engine, tmp_path: Path, suffix: str
) -> None:
    uninterrupted = tmp_path / f"uninterrupted{suffix}"
    output = tmp_path / f"{'resumed':_<{249 - len(suffix)}}{suffix}"  # with .parts the longest name of a file
    logged: dict[uuid.UUID, str] = {}
    calls = 0

    def fail_twice(scored: list[ScoredImage], *_: object) -> None:
        nonlocal calls
        calls += 1
        logged.update({image.request_id: image.image_name for image in scored})
        if calls in {2, 3}:
            raise DatabaseUnavailable("gone")

    (tmp_path / "objects.csv").write_text("id,ra,dec,mag\n7,10:00:00,-5,17.50\n")
    catalogue = read_catalogue([tmp_path / "objects.csv"])
    (tmp_path / "objects.csv").unlink()
    score(replace(task([nested_images], uninterrupted), catalogue=catalogue), engine)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            score(replace(task([nested_images], output), catalogue=catalogue), engine, fail_twice)
        assert not output.exists()
    score(replace(task([nested_images], output), catalogue=catalogue), engine, fail_twice)
    assert output.read_bytes() == uninterrupted.read_bytes()
    if suffix == ".csv":
        added = ["ra", "dec", "object_id", "id", "catalogue_ra", "mag"]
        rows = {row[0]: row[len(COLUMNS) :] for row in rows_in(output, [*COLUMNS, *added])}
        assert rows[f"{nested_images}/c/7.jpg"] == ["150.0", "-5.0", "7", "7", "10:00:00", "17.50"]
        assert rows[f"{nested_images}/c/8.jpg"] == [""] * len(added)
    assert len(logged) == len(set(logged.values())) == sum(1 for _ in listing.list_references([str(nested_images)])) - 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([uninterrupted.name, output.name])


def test_a_logged_run_is_not_resumed_with_another_catalogue_or_other_columns_of_it(
    nested_images: Path, engine: Engine, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise DatabaseUnavailable("gone")

    (tmp_path / "a.csv").write_text("id,ra,dec,ra2\n7,150,-5,151\n")
    (tmp_path / "b.csv").write_text("id,ra,dec\n7,150,-5\n")
    first, other = read_catalogue([tmp_path / "a.csv"]), read_catalogue([tmp_path / "b.csv"])
    columns = read_catalogue([tmp_path / "a.csv"], CatalogueColumns(ra="ra2"))
    run = replace(task([nested_images], tmp_path / "t.csv"), log=True, catalogue=first)
    with pytest.raises(DatabaseUnavailable):
        score(run, engine, fail)
    for catalogue in (other, columns, None):
        with pytest.raises(DataError, match=r"another catalogue \(.*a.csv, now .*\): --restart"):
            score(replace(run, catalogue=catalogue), engine, fail)
    with pytest.raises(DatabaseUnavailable):
        score(run, engine, fail)


def test_a_run_with_a_prior_is_not_resumed_without_it(nested_images: Path, engine: Engine, tmp_path: Path) -> None:
    class WithPrior(InProcessPool):
        def wait_ready(self, _: str) -> WorkerReady:
            return replace(super().wait_ready(_), prior="0.5 2.0")

    def fail(*_: object) -> None:
        raise DatabaseUnavailable("gone")

    run = task([nested_images], tmp_path / "t.csv")
    with pytest.raises(DatabaseUnavailable), WithPrior(engine, fail) as pool:
        batch_scoring.score_task(run, engine.manifest, pool)
    with pytest.raises(DataError, match=r"another prior \(.*, now None\): --restart"):
        score(run, engine)


def test_a_finished_table_is_replaced_only_by_a_complete_one(
    nested_images: Path, engine: Engine, tmp_path: Path
) -> None:
    def unavailable(*_: object) -> None:
        raise DatabaseUnavailable("gone")

    output = tmp_path / "t.csv"
    score(task([nested_images / "b"], output), engine)
    before = output.read_bytes()
    with pytest.raises(DataError, match="exists already: --restart"):
        task([nested_images], output).check()
    with pytest.raises(DatabaseUnavailable):
        score(task([nested_images], output, restart=True), engine, unavailable)
    assert output.read_bytes() == before
    score(task([nested_images], output), engine, lambda *_: None)  # resumes the new run without --restart
    assert len(rows_in(output)) == task([nested_images], tmp_path / "other.csv").count()


def test_parquet_and_csv_tables_have_the_same_values(nested_images: Path, engine: Engine, tmp_path: Path) -> None:
    from pyarrow.parquet import read_table

    for output in (tmp_path / "t.csv", tmp_path / "t.parquet"):
        score(task([nested_images], output), engine)
    columns = read_table(tmp_path / "t.parquet").to_pydict()
    assert list(columns) == COLUMNS
    rows = [
        ["" if value is None else repr(value) if isinstance(value, float) else value for value in row]
        for row in zip(*columns.values(), strict=True)
    ]
    assert rows == rows_in(tmp_path / "t.csv")


@pytest.mark.skipif(sys.platform != "linux", reason="such names exist only there")
def test_unusual_file_names_are_scored_and_logged(nested_images: Path, engine: Engine, tmp_path: Path) -> None:
    from pyarrow.parquet import read_table

    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ODD_NAMES:
        shutil.copy(nested_images / "a.jpg", folder / name)
    logged: list[ScoredImage] = []
    for output in (tmp_path / "t.csv", tmp_path / "t.parquet"):
        score(task([folder], output), engine, lambda scored, *_: logged.extend(scored))
    paths = [row[0] for row in rows_in(tmp_path / "t.csv")]
    assert paths == sorted(f"{folder}/{name}" for name in ODD_NAMES)
    assert all(Path(path).exists() for path in paths)
    plain = [path.replace("\udcff", "\\xff") for path in paths]
    assert read_table(tmp_path / "t.parquet").column("path").to_pylist() == plain
    assert len({image.request_id for image in logged}) == len(logged) == 2 * len(ODD_NAMES)


def test_an_image_that_is_replaced_in_an_interruption_is_logged_with_its_score(
    nested_images: Path, engine: Engine, tmp_path: Path
) -> None:
    images, output = tmp_path / "images", tmp_path / "t.csv"
    shutil.copytree(nested_images, images)
    logged: dict[uuid.UUID, ScoredImage] = {}

    def record(scored: list[ScoredImage], *_: object) -> None:
        for image in scored:
            logged.setdefault(image.request_id, image)  # as ON CONFLICT DO NOTHING

    def fail(scored: list[ScoredImage], *_: object) -> None:
        record(scored)
        raise DatabaseUnavailable("gone")

    with pytest.raises(DatabaseUnavailable):
        score(task([images], output), engine, fail)
    replaced = next(iter(logged.values())).image_name
    Path(replaced).write_bytes((images / "c" / "8.jpg").read_bytes())
    score(task([images], output), engine, record)
    [in_output] = [float(row[1]) for row in rows_in(output) if row[0] == replaced]
    in_log = [image.score for image in logged.values() if image.image_name == replaced]
    assert len(in_log) == 2
    assert in_output == pytest.approx(in_log[1], rel=1e-6)


def test_request_ids_of_logged_rows_are_version_5_uuids() -> None:
    run = uuid.uuid4()
    assert table_rows.request_id(run, "sky/é.jpg", "0a" * 32) == uuid.uuid5(run, "0a" * 32 + "sky/é.jpg")
