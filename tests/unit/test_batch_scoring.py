"""Folder trees to a table of scores: which files, in which order, in how much memory, and what a cut leaves."""

import os
import shutil
import sys
import threading
import uuid
from pathlib import Path

import colour_models
import numpy as np
import pytest

from astrodetect import images
from astrodetect.datasets import image_files
from astrodetect.errors import DatabaseUnavailable, DataError, ImageError
from astrodetect.inference import pipeline
from astrodetect.inference.engine import Engine, load_model
from astrodetect.records import ImageContract, Pixels, ScoredImage
from astrodetect.scoring import batch_scoring, resumable_table

ODD_NAMES = ["comma,.jpg", 'quote".jpg', "line\nend.jpg", "return\r.jpg", "é.jpg", "\udcff.jpg", "\n.jpg", '",".jpg']
ABOUT = {"model": "m", "threshold": 0.5}


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Engine:
    return Engine(load_model(model_folder, "resnet50_model", "auto"))


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders in folders, with every kind of file; two are bad."""
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


def task(places: list[Path], place: Path, *, restart: bool = False) -> batch_scoring.ScoringTask:
    return batch_scoring.ScoringTask([str(path) for path in places], place, restart=restart, max_pixels=10**6)


def score(task: batch_scoring.ScoringTask, engine: Engine, record: batch_scoring.RecordBatch | None = None) -> str:
    return batch_scoring.score_task(task, engine, total=task.check(), record=record)


def rows_in(place: Path, columns: list[str] = resumable_table.COLUMNS) -> list[list[str]]:
    """The rows without the names of the columns."""
    with place.open("rb") as file:
        head, *rows = [row for row, _ in resumable_table._read_rows(file, len(columns))]
    assert head == columns
    return rows


def test_the_rows_are_those_of_each_image_alone_in_the_order_of_the_paths(
    sky: Path, engine: Engine, tmp_path: Path
) -> None:
    said = score(task([sky], tmp_path / "t.csv"), engine)
    rows = rows_in(tmp_path / "t.csv")
    found = [
        path for path in sky.rglob("*") if path.suffix.lower() in image_files.IMAGE_SUFFIXES and "/." not in str(path)
    ]
    assert [row[0] for row in rows] == sorted(map(str, found))
    bad = {str(sky / "a" / "torn.jpg"), str(sky / "c" / "text.png")}
    for path, score_, result, error, *model in rows:
        assert model == [engine.manifest.name, engine.manifest.version]
        if path in bad:
            with pytest.raises(ImageError) as alone:
                images.read_file(Path(path), engine.manifest.image)
            assert (score_, result, error) == ("", "", str(alone.value))
        else:
            pixels = images.read_file(Path(path), engine.manifest.image)
            assert float(score_) == pytest.approx(float(engine.run(pixels[np.newaxis]).scores[0]), abs=1e-4)
            assert result == ("Anomaly Detected" if float(score_) > engine.manifest.threshold else "No Anomaly")
            assert error == ""
    anomalies = sum(row[2] == "Anomaly Detected" for row in rows)
    assert f"{len(rows)} files scored, {anomalies} anomalies, 2 bad files" in said
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("cut", [False, True])
def test_of_several_classes_the_table_has_the_most_probable_and_the_probability_of_each(
    tmp_path: Path, cut: bool
) -> None:
    from pyarrow.parquet import read_table

    colour_models.publish(tmp_path, "colours")
    engine = Engine(load_model(tmp_path, "colours"))
    sky = tmp_path / "sky"
    sky.mkdir()
    for seed in range(30):
        name = colour_models.CLASSES[seed % 3]
        images.write_jpeg(sky / f"{seed:02}-{name}.jpg", colour_models.image(name, seed))
    (sky / "bad.jpg").write_text("no image")
    places = (tmp_path / "t.csv", tmp_path / "t.parquet")
    logged: dict[str, ScoredImage] = {}

    def log(scored: list[ScoredImage], *_: object) -> None:
        if cut and logged:
            raise DatabaseUnavailable("gone")
        keep(scored)

    def keep(scored: list[ScoredImage], *_: object) -> None:
        logged.update({one.image_name: one for one in scored})

    for place in places:
        if cut:
            logged.clear()
            with pytest.raises(DatabaseUnavailable):
                score(task([sky], place), engine, log)
        said = score(task([sky], place), engine, keep)
        assert "31 files scored, 10 nebula, 10 lawn, 10 ocean, 1 bad files" in said
    columns = [*resumable_table.COLUMNS, *(f"p_{name}" for name in colour_models.CLASSES)]
    *rows, bad = rows_in(places[0], columns)
    assert bad[1:3] == ["", ""]
    assert bad[3]
    assert bad[6:] == ["", "", ""]
    for path, score_, result, error, _, _, *probabilities in rows:
        assert (Path(path).stem[3:], error) == (result, "")
        assert float(score_) == max(map(float, probabilities)) == logged[path].score
        assert (logged[path].result, logged[path].threshold) == (result, None)
        assert logged[path].probabilities == dict(zip(colour_models.CLASSES, map(float, probabilities), strict=True))
    table = read_table(places[1])
    assert table.column_names == columns
    assert table.column("p_lawn").to_pylist() == [float(row[7]) if row[7] else None for row in [*rows, bad]]


def test_a_file_named_itself_is_scored_whatever_its_name(sky: Path, engine: Engine, tmp_path: Path) -> None:
    strange = tmp_path / ".no-suffix"
    shutil.copy(sky / "a.jpg", strange)
    score(task([strange, sky / "b"], tmp_path / "t.csv"), engine)
    names = [".no-suffix", "1.jpeg", "2.JPG", "4.jpg"]
    assert [Path(row[0]).name for row in rows_in(tmp_path / "t.csv")] == names


def test_links_to_images_are_followed_links_to_folders_are_not(sky: Path, tmp_path: Path) -> None:
    (tmp_path / "image.jpg").symlink_to(sky / "a.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone")
    assert list(image_files.walk_images([str(tmp_path)])) == [str(tmp_path / "image.jpg")]
    (tmp_path / "outside").symlink_to(sky / "b")
    assert len(list(image_files.walk_images([str(tmp_path / "outside")]))) == 3


def test_a_folder_is_read_when_the_walk_comes_to_it(sky: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, names = [], image_files._names

    def counted(prefix: str) -> list[str]:
        read.append(prefix)
        return names(prefix)

    monkeypatch.setattr(image_files, "_names", counted)
    next(image_files.walk_images([str(sky)]))
    assert read == [f"{sky}{os.sep}"]


@pytest.mark.parametrize("here", [".", "./"])
def test_paths_are_written_as_a_person_would(
    sky: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    monkeypatch.chdir(sky)
    assert list(image_files.walk_images(["./b/"])) == ["b/1.jpeg", "b/2.JPG", "b/deep/er/4.jpg"]
    assert next(image_files.walk_images([here])) == "a.jpg"


def test_no_more_images_are_in_memory_than_the_window_holds(sky: Path, engine: Engine) -> None:
    counting, read, taken, most = threading.Lock(), 0, 0, 0

    def reader(path: str, contract: ImageContract) -> tuple[str, Pixels, None]:
        nonlocal read, most
        with counting:
            read += 1
            most = max(most, read - taken)
        return path, np.zeros((contract.size, contract.size, 3), dtype=np.uint8), None

    window = pipeline.BATCHES_PER_STREAM * engine.streams * engine.batch_size
    paths = [str(number) for number in range(3 * window + 1)]
    seen = []
    for batch in pipeline.score_files(iter(paths), engine, reader):
        seen += [file.path for file in batch]
        with counting:
            taken += len(batch)
    assert seen == paths
    # the batch that was just handed over counts until it is back
    assert engine.batch_size < most <= window + engine.batch_size


def test_who_leaves_early_leaves_no_thread_behind(engine: Engine) -> None:
    def reader(path: str, contract: ImageContract) -> tuple[str, Pixels, None]:
        return path, np.zeros((contract.size, contract.size, 3), dtype=np.uint8), None

    before = threading.active_count()
    batches = pipeline.score_files(map(str, range(10**9)), engine, reader)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_a_file_too_large_for_an_image_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 2**20)
    (tmp_path / "large.jpg").write_bytes(bytes(2**20 + 1))
    with pytest.raises(ImageError, match="more than 1 MiB"):
        pipeline.image_reader(10**6)(str(tmp_path / "large.jpg"), ImageContract())


def rows_of(paths: list[str]) -> list[list[str]]:
    return [[path, "0.25", "No Anomaly", "odd,\n" if "," in path else "", "m", "1"] for path in paths]


def test_wherever_the_rows_are_cut_the_table_comes_out_the_same(tmp_path: Path) -> None:
    place, part = tmp_path / "t.csv", tmp_path / "t.csv.part"
    rows = rows_of(ODD_NAMES)
    with resumable_table.open_table(place, resumable_table.COLUMNS, ABOUT, restart=False) as whole:
        whole.resume(iter(ODD_NAMES), 1)
        whole.add(rows)
        run, content, counts = whole.run, part.read_bytes(), (whole.rows, whole.results, whole.unreadable)
    assert b"\xff.jpg" in content
    for cut in range(len(content) + 1):
        part.write_bytes(content[:cut])
        paths = iter(ODD_NAMES)
        with resumable_table.open_table(place, resumable_table.COLUMNS, ABOUT, restart=False) as again:
            again.resume(paths, 1)
            again.add(rows_of(list(paths)))
            assert (again.rows, again.results, again.unreadable) == counts
        assert again.run == run
        assert part.read_bytes() == content
    assert rows_in(part) == rows


def test_a_run_goes_on_after_whole_batches_so_that_no_batch_is_cut_otherwise(tmp_path: Path) -> None:
    place, paths = tmp_path / "t.csv", [f"{number}.jpg" for number in range(10)]
    with resumable_table.open_table(place, resumable_table.COLUMNS, ABOUT, restart=False) as first:
        first.resume(iter(paths), 4)
        first.add(rows_of(paths[:7]))
    left = iter(paths)
    with resumable_table.open_table(place, resumable_table.COLUMNS, ABOUT, restart=False) as second:
        second.resume(left, 4)
        assert second.rows == 4
    assert list(left) == paths[4:]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_cut_run_that_goes_on_gives_what_an_uncut_one_gives(
    sky: Path, engine: Engine, tmp_path: Path, suffix: str
) -> None:
    uncut, place = tmp_path / f"uncut{suffix}", tmp_path / f"cut{suffix}"
    logged: dict[uuid.UUID, str] = {}
    calls = 0

    def goes_away(scored: list[ScoredImage], *_: object) -> None:
        nonlocal calls
        calls += 1
        logged.update({one.request_id: one.image_name for one in scored})
        if calls in {2, 3}:
            raise DatabaseUnavailable("gone")

    score(task([sky], uncut), engine)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            score(task([sky], place), engine, goes_away)
        assert not place.exists()
    score(task([sky], place), engine, goes_away)
    assert place.read_bytes() == uncut.read_bytes()
    assert len(logged) == len(set(logged.values())) == sum(1 for _ in image_files.walk_images([str(sky)])) - 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([uncut.name, place.name])


def test_a_finished_table_stays_until_the_new_one_is_whole(sky: Path, engine: Engine, tmp_path: Path) -> None:
    def gone(*_: object) -> None:
        raise DatabaseUnavailable("gone")

    place = tmp_path / "t.csv"
    score(task([sky / "b"], place), engine)
    old = place.read_bytes()
    with pytest.raises(DataError, match="exists already: --restart"):
        task([sky], place).check()
    with pytest.raises(DatabaseUnavailable):
        score(task([sky], place, restart=True), engine, gone)
    assert place.read_bytes() == old
    score(task([sky], place), engine, lambda *_: None)  # the new run goes on without being asked to begin again
    assert len(rows_in(place)) == task([sky], tmp_path / "other.csv").check()


def test_parquet_holds_what_csv_holds(sky: Path, engine: Engine, tmp_path: Path) -> None:
    from pyarrow.parquet import read_table

    for place in (tmp_path / "t.csv", tmp_path / "t.parquet"):
        score(task([sky], place), engine)
    columns = read_table(tmp_path / "t.parquet").to_pydict()
    assert list(columns) == resumable_table.COLUMNS
    rows = [
        ["" if value is None else repr(value) if isinstance(value, float) else value for value in row]
        for row in zip(*columns.values(), strict=True)
    ]
    assert rows == rows_in(tmp_path / "t.csv")


@pytest.mark.skipif(sys.platform != "linux", reason="such names exist only there")
def test_odd_names_come_through(sky: Path, engine: Engine, tmp_path: Path) -> None:
    from pyarrow.parquet import read_table

    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ODD_NAMES:
        shutil.copy(sky / "a.jpg", folder / name)
    logged: list[ScoredImage] = []
    for place in (tmp_path / "t.csv", tmp_path / "t.parquet"):
        score(task([folder], place), engine, lambda scored, *_: logged.extend(scored))
    paths = [row[0] for row in rows_in(tmp_path / "t.csv")]
    assert paths == sorted(f"{folder}/{name}" for name in ODD_NAMES)
    assert all(Path(path).exists() for path in paths)
    plain = [path.replace("\udcff", "\\xff") for path in paths]
    assert read_table(tmp_path / "t.parquet").column("path").to_pylist() == plain
    assert len({one.request_id for one in logged}) == len(logged) == 2 * len(ODD_NAMES)


def test_the_ids_that_rows_are_logged_by_are_those_of_rfc_9562() -> None:
    run = uuid.uuid4()
    assert batch_scoring._request_id(run, "sky/é.jpg") == uuid.uuid5(run, "sky/é.jpg")


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """The place of a table whose run was cut short."""
    place = tmp_path / "t.csv"
    with resumable_table.open_table(place, resumable_table.COLUMNS, ABOUT, restart=False) as table:
        table.resume(iter(ODD_NAMES), 1)
        table.add(rows_of(ODD_NAMES[:3]))
    return place


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({**ABOUT, "model": "n"}, "of a run with another model (m, now n): --restart"),
        ({**ABOUT, "threshold": 0.6}, "another threshold (0.5, now 0.6)"),
    ],
)
def test_another_run_goes_not_on_where_this_one_was(cut: Path, about: dict[str, object], said: str) -> None:
    before = resumable_table._part(cut).read_bytes()
    with (
        pytest.raises(DataError) as refused,
        resumable_table.open_table(cut, resumable_table.COLUMNS, about, restart=False),
    ):
        pass
    assert said in str(refused.value)
    assert resumable_table._part(cut).read_bytes() == before
    with resumable_table.open_table(cut, resumable_table.COLUMNS, about, restart=True) as table:
        table.resume(iter(ODD_NAMES), 1)
        assert table.rows == 0


def test_images_that_came_or_went_meanwhile_are_told(cut: Path) -> None:
    for paths in (ODD_NAMES[1:], [*ODD_NAMES[:1], "new.jpg", *ODD_NAMES[1:]], ODD_NAMES[:2]):
        with (
            resumable_table.open_table(cut, resumable_table.COLUMNS, ABOUT, restart=False) as table,
            pytest.raises(DataError, match=r"were added or removed .* --restart"),
        ):
            table.resume(iter(paths), 1)


def test_rows_without_the_notes_on_their_run_are_left_alone(cut: Path) -> None:
    cut.with_name("t.csv.run").write_text("torn")
    with (
        pytest.raises(DataError, match="--restart"),
        resumable_table.open_table(cut, resumable_table.COLUMNS, ABOUT, restart=False),
    ):
        pass
    assert resumable_table._part(cut).stat().st_size > 0


def test_a_disk_that_takes_no_more_is_one_clear_line_and_costs_no_row_before(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    place, part = tmp_path / "t.csv", tmp_path / "t.csv.part"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused = pytest.raises(DataError, match=r"cannot write .*t\.csv: File too large")
    with refused, resumable_table.open_table(place, resumable_table.COLUMNS, ABOUT, restart=False) as table:
        table.resume(iter(ODD_NAMES), 1)
        table.add(rows_of(ODD_NAMES[:3]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (part.stat().st_size + 10, limits[1]))
        try:
            table.add(rows_of(ODD_NAMES[3:]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with resumable_table.open_table(place, resumable_table.COLUMNS, ABOUT, restart=False) as table:
        table.resume(iter(ODD_NAMES), 1)
        assert table.rows >= 3
        table.add(rows_of(ODD_NAMES[table.rows :]))
        table.finish()
    assert [row[0] for row in rows_in(place)] == ODD_NAMES
