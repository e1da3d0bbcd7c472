"""Anomaly results: ranking, map, tables, nearest ordinary images and the output folder."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from astrodetect import images
from astrodetect.anomalies import active_learning, analysis, projection, results
from astrodetect.anomalies.conformal import FALSE_DISCOVERY_RATE, Discoveries
from astrodetect.anomalies.detectors.registry import default_detectors
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.results import AnomalyResults
from astrodetect.datasets.tables import ListedImage
from astrodetect.errors import DataError
from astrodetect.features.extraction import ExtractedFeatures, FeatureExtractor
from astrodetect.labels import Label, match_images
from astrodetect.records import Floats, ImageContract, Pixels
from astrodetect.reports.svg_charts import MAX_MARKED_CLASSES, OTHER_CLASSES, class_markers

COUNT = 40
ODD_NAMES = ("comma,.jpg", 'quote".jpg', "line\nend.jpg", "=1+1.jpg", "é.jpg", "\udcff.jpg")


@pytest.fixture
def run_results() -> AnomalyResults:
    rows = np.random.default_rng(0).normal(size=(COUNT, 5)).astype(np.float32)
    novelty = Novelty.fit(rows, feature_kind="network").score_training_images()
    names = [*ODD_NAMES, *(f"{number}.jpg" for number in range(len(ODD_NAMES), COUNT))]
    return AnomalyResults(
        paths=[Path("sky") / name for name in names],
        labels=["E"] * COUNT,
        sha256=["0" * 64] * COUNT,
        novelty=novelty,
        discoveries=Discoveries.find(novelty.strength, FALSE_DISCOVERY_RATE, COUNT),
        projection=projection.project(novelty.vectors, []),
        review_labels={},
        interest=None,
        skipped=[(Path("sky/bad.jpg"), "the file is empty")],
    )


def test_results_table_has_a_row_per_image_with_any_file_name(run_results: AnomalyResults, tmp_path: Path) -> None:
    results.write_tables(tmp_path, run_results, "csv")
    with (tmp_path / "anomalies.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == {str(path) for path in run_results.paths} | {"sky/bad.jpg"}
    assert all(0 <= float(row["x"]) <= 1 and 0 <= float(row["y"]) <= 1 for row in rows[:-1])
    assert [float(row["strength"]) for row in rows[:-1]] == pytest.approx(np.sort(run_results.novelty.strength)[::-1])


def test_a_table_has_no_formulas(run_results: AnomalyResults, tmp_path: Path) -> None:
    named = replace(run_results, paths=["=1+1.png", *run_results.paths[1:]], labels=["@SUM(1)"] * COUNT)
    results.write_tables(tmp_path, named, "csv")
    with (tmp_path / "anomalies.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert "'=1+1.png" in {row["path"] for row in rows}
    assert {row["label"] for row in rows[:-1]} == {"'@SUM(1)"}


def test_csv_and_parquet_have_the_same_values(run_results: AnomalyResults, tmp_path: Path) -> None:
    from pyarrow import parquet

    for kind in ("csv", "parquet"):
        (tmp_path / kind).mkdir()
        results.write_tables(tmp_path / kind, run_results, kind)
    with (tmp_path / "csv" / "anomalies.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    columns = parquet.read_table(tmp_path / "parquet" / "anomalies.parquet").to_pydict()
    assert list(columns) == list(rows[0])
    for name in ("rank", "lof_rank", "knn", "novelty"):
        csv_values = [float(row[name]) if row[name] else None for row in rows]
        assert csv_values[:-1] == pytest.approx(columns[name][:-1], rel=1e-6)
        assert columns[name][-1] is csv_values[-1] is None
    assert [row["consensus"] for row in rows[:-1]] == [str(value).lower() for value in columns["consensus"][:-1]]


def test_labelled_images_rank_first_or_last_and_ties_by_strength(run_results: AnomalyResults) -> None:
    labels = {3: "interesting", 4: "interesting", 5: "artefact"}
    interest = active_learning.rank_by_labels(
        run_results.novelty.vectors, run_results.novelty.strength, labels
    ).interest
    order = replace(run_results, interest=interest).order.tolist()
    assert order[:2] == sorted((3, 4), key=lambda image: -run_results.novelty.strength[image])
    assert order[-1] == 5


def test_projection_of_a_large_set_is_sampled_and_includes_required_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "MAX_IMAGES", 30)
    vectors = np.random.default_rng(1).normal(size=(100, 4)).astype(np.float32)
    first, second = (projection.project(vectors, [99, 50, 7]) for _ in range(2))
    assert len(first.indices) == 30
    assert {99, 50, 7} <= set(first.indices.tolist())
    assert "of 30 images" in first.method
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_allclose(first.xy, second.xy)


@pytest.mark.parametrize("shape", [(1, 4), (5, 4), (30, 1)])
def test_projection_of_few_images_or_dimensions(shape: tuple[int, int]) -> None:
    projected = projection.project(np.random.default_rng(2).normal(size=shape).astype(np.float32), [0])
    assert projected.xy.shape == (shape[0], 2)
    assert np.isfinite(projected.xy).all()


def test_classes_beyond_the_marker_limit_share_one_marker() -> None:
    labels = [f"class {number // 2}" for number in range(4 * MAX_MARKED_CLASSES)]
    marks = class_markers(labels, np.zeros((len(labels), 2), np.float32))
    assert len(marks) == MAX_MARKED_CLASSES
    assert marks[-1].name == OTHER_CLASSES
    assert sum(mark.count for mark in marks) == len(labels)
    assert len({(mark.colour, mark.shape) for mark in marks}) == MAX_MARKED_CLASSES


def test_labels_match_moved_files_by_sha256() -> None:
    rows = [
        Label(label="ordinary", image_sha256="a", path="gone.jpg"),
        Label(label="interesting", path="here.jpg"),
        Label(label="artefact", image_sha256="z"),
    ]
    matched, unmatched = match_images(rows, [Path("moved.jpg"), Path("./here.jpg")], ["a", "b"])
    assert (matched, unmatched) == ({0: "ordinary", 1: "interesting"}, 1)
    with pytest.raises(DataError, match="no label is of an image here: paths count from the working folder"):
        match_images(rows[2:], [Path("moved.jpg")], ["a"])


def test_explanations_exclude_copies_and_survive_deleted_files(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(COUNT, 5)).astype(np.float32)
    rows[1] = rows[0]
    digests = ["same", "same", *map(str, range(2, COUNT))]
    paths = [tmp_path / f"{number}.jpg" for number in range(COUNT)]
    for path in paths:
        images.write_jpeg(path, random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    items = [ListedImage(path, "") for path in paths]
    seen = ExtractedFeatures("network", ImageContract(), items, digests, features=rows)

    def says(pixels: Pixels) -> Floats:
        return pixels.reshape(len(pixels), -1)[:, :5].astype(np.float32)

    describer = FeatureExtractor("network", ImageContract(size=16), says, "numbers", 8, 1)
    fitted = analysis.fit_detectors(seen, default_detectors("network"), [], all_ordinary=False)
    paths[7].unlink()
    own, gone = analysis.explain(fitted.ordinary, seen, fitted.result.vectors, [0, 7], describer, max_pixels=10**6)
    assert own.heat is not None
    assert not {paths[0], paths[1]} & set(own.neighbours)
    assert len(own.neighbours) == analysis.NEIGHBOURS
    assert gone.heat is None


def test_output_folder_is_replaced_atomically(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for text in ("first", "second"):
        with results.replace_output_folder(folder) as staged:
            (staged / "anomalies.csv").write_text(text)
    with pytest.raises(KeyboardInterrupt), results.replace_output_folder(folder) as staged:  # noqa: PT012 - Ctrl-C in the midst
        (staged / "anomalies.csv").write_text("third")
        raise KeyboardInterrupt
    assert (folder / "anomalies.csv").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_output_folder_is_restored_after_a_kill_between_renames(tmp_path: Path) -> None:
    before = tmp_path / ".out.before"
    before.mkdir()
    (before / "anomalies.csv").write_text("first")
    results.check_output_folder(tmp_path / "out")
    assert (tmp_path / "out" / "anomalies.csv").read_text() == "first"


def test_output_folder_with_foreign_files_is_refused(tmp_path: Path) -> None:
    with results.replace_output_folder(tmp_path / "out") as staged:
        (staged / "anomalies.csv").write_text("first")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with (
        pytest.raises(DataError, match=r"holds notes\.txt, which is no result of a run"),
        results.replace_output_folder(tmp_path / "out"),
    ):
        pass
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"anomalies.csv", "notes.txt"}


def test_results_go_to_where_a_link_leads_and_what_cannot_be_replaced_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (link := tmp_path / "link").symlink_to(tmp_path / "disk")
    for text in ("1", "2"):
        with results.replace_output_folder(link) as folder:
            (folder / "anomalies.csv").write_text(text)
        assert link.is_symlink()
        assert (tmp_path / "disk" / "anomalies.csv").read_text() == text
    for refused in (Path(), Path("/"), Path("..")):
        with pytest.raises(DataError, match="cannot be replaced as a whole, as results are: name a folder in it"):
            results.check_output_folder(refused)
