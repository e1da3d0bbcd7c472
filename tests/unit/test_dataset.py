"""Reading class folders into a Dataset."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from astrodetect import images
from astrodetect.datasets import class_folders, dataset, framing, listing, tables
from astrodetect.errors import DataError
from astrodetect.records import ImageContract
from astrodetect.sky.catalogue_columns import PATH_COLUMNS


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    for name, count in (("E", 10), ("S", 3), ("SB", 20)):
        (tmp_path / name).mkdir()
        for number in range(count):
            images.write_jpeg(tmp_path / name / f"{number}.jpg", random.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    return tmp_path


def test_class_indices_follow_the_given_order_of_classes(data: Path) -> None:
    labelled = dataset.read_dataset(data, ("SB", "E"), title="images")
    assert labelled.counts() == {"SB": 20, "E": 10}
    assert {
        Path(path).parent.name: int(label) for path, label in zip(labelled.paths, labelled.labels, strict=True)
    } == {
        "SB": 0,
        "E": 1,
    }


def test_unreadable_files_are_listed_with_the_reason(data: Path) -> None:
    contents = (data / "E" / "0.jpg").read_bytes()
    (data / "E" / "cut.jpg").write_bytes(contents[: len(contents) // 2])
    (data / "SB" / "empty.jpg").touch()
    (data / "SB" / "notes.txt").write_text("seen by eye")
    (data / "SB" / ".DS_Store").write_text("not looked at")
    labelled = dataset.read_dataset(data, ("SB", "E"), title="images")
    reasons = {Path(skipped.path).name: skipped.reason for skipped in labelled.skipped}
    assert reasons.keys() == {"cut.jpg", "empty.jpg", "notes.txt"}
    assert reasons["empty.jpg"] == "the file is empty"
    assert reasons["cut.jpg"].startswith("damaged JPEG")
    assert len(labelled) == 30


def test_hidden_folders_in_a_class_are_skipped_and_unreadable_ones_are_an_error(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("night", ".thumbnails"):
        (data / "E" / name).mkdir()
        shutil.copy(data / "E" / "0.jpg", data / "E" / name)
    assert [item.path for item in class_folders.list_items(data, ["E"]) if "0.jpg" in str(item.path)] == [
        data / "E" / "0.jpg",
        data / "E" / "night" / "0.jpg",
    ]
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "night":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)  # root reads everything
        with pytest.raises(DataError, match=r"cannot read the folder .*night: Permission denied$"):
            class_folders.list_items(data, ["E"])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("train", "test", ""), r"1 of 2 images of .*\.csv have no part"),
        (("train", "train", "train"), "no part test: it has train$"),
        (("", "", ""), "no part test: it has no parts$"),
    ],
)
def test_a_part_is_read_only_where_every_image_has_one(data: Path, parts: tuple[str, ...], message: str) -> None:
    names = ("S/0.jpg,S", "E/0.jpg,E", "SB/0.jpg,SB")
    rows = [f"{name},{part}" for name, part in zip(names, parts, strict=True)]
    (data / "table.csv").write_text("\n".join(["path,label,part", *rows]))
    with pytest.raises(DataError, match=message):
        dataset.read_dataset(data / "table.csv", ("SB", "E"), title="test", part="test")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("SB", "E2"), "no folder .*E2"),
        (("SB", "none"), "contains no image$"),
        (("SB", "text"), r"2 files cannot be read; the first, 0\.txt: "),
    ],
)
def test_missing_or_empty_class_is_a_one_line_error(data: Path, classes: tuple[str, str], message: str) -> None:
    (data / "none").mkdir()
    (data / "text").mkdir()
    for number in range(2):
        (data / "text" / f"{number}.txt").write_text("no image")
    with pytest.raises(DataError, match=message) as error:
        dataset.read_dataset(data, classes, title="images")
    assert "\n" not in str(error.value)


def test_dataset_fingerprint_depends_on_paths_and_contents(data: Path) -> None:
    def fingerprint() -> str:
        return dataset.read_dataset(data, ("SB", "E"), title="images").fingerprint

    original = fingerprint()
    assert fingerprint() == original
    (data / "E" / "0.jpg").rename(data / "E" / "renamed.jpg")
    renamed = fingerprint()
    assert renamed != original
    (data / "E" / "renamed.jpg").write_bytes((data / "E" / "1.jpg").read_bytes())
    assert fingerprint() not in {original, renamed}


def test_stratified_split_is_disjoint_and_reproducible_and_keeps_every_class(data: Path) -> None:
    labelled = dataset.read_dataset(data, ("SB", "E"), title="images")
    rest, held_out = labelled.split(0.2, seed=5)
    assert held_out.counts() == {"SB": 4, "E": 2}
    assert set(rest.paths) | set(held_out.paths) == set(labelled.paths)
    assert not set(rest.paths) & set(held_out.paths)
    assert labelled.split(0.2, seed=5)[1].paths == held_out.paths
    assert labelled.split(0.2, seed=6)[1].paths != held_out.paths


@pytest.mark.parametrize("seed", range(5))
def test_a_split_keeps_images_of_one_group_together(data: Path, seed: int) -> None:
    table = data / "labels.csv"
    rows = [f"SB/{n}.jpg,SB,{n // 2 if n < 16 else ''}" for n in range(20)] + [
        f"E/{n}.jpg,E,{n // 4}" for n in range(10)
    ]
    table.write_text("\n".join(["path,label,group", *rows]) + "\n")
    parts = dataset.read_dataset(table, ("SB", "E"), title="images").split(0.2, seed)
    rest, held_out = ({*part.groups} - {""} for part in parts)
    assert not rest & held_out
    assert parts[1].counts()["SB"] in {4, 5, 6}  # groups 0 to 2 have images of both classes
    assert min(*parts[0].counts().values(), *parts[1].counts().values()) > 0


def test_groups_that_are_whole_classes_cannot_be_split(data: Path) -> None:
    table = data / "labels.csv"
    table.write_text(
        "\n".join(["path,label,group", *(f"{name}/{n}.jpg,{name},{name}" for n in range(9) for name in ("E", "SB"))])
    )
    with pytest.raises(DataError, match="no image of the class SB is left to train on"):
        dataset.read_dataset(table, ("SB", "E"), title="images").split(0.2, seed=1)


def test_classes_of_the_data_are_renamed_to_those_of_the_model(data: Path) -> None:
    labelled = dataset.read_dataset(data, ("no", "yes"), title="images", renamed={"E": "yes", "S": "no", "SB": "no"})
    assert labelled.counts() == {"no": 23, "yes": 10}


@pytest.mark.parametrize("column", PATH_COLUMNS)
def test_a_table_names_its_column_of_paths_as_catalogues_do(data: Path, column: str) -> None:
    table = data / "list.csv"
    table.write_text(f"{column},label\nE/1.jpg,E\nSB/2.jpg,SB\n")
    assert [(item.path, item.label) for item in class_folders.list_dataset(table)] == [
        (data / "E" / "1.jpg", "E"),
        (data / "SB" / "2.jpg", "SB"),
    ]
    table.write_text(f"{column}\nE/1.jpg\n")
    assert listing.list_images([table]) == [tables.ListedImage(data / "E" / "1.jpg", "")]
    with pytest.raises(DataError, match="has no column label in"):
        class_folders.list_dataset(table)


def test_the_error_for_a_class_without_images_names_the_part(data: Path) -> None:
    table = data / "list.csv"
    table.write_text("path,label,part\nE/1.jpg,E,train\nSB/1.jpg,SB,train\nE/2.jpg,E,validation\n")
    with pytest.raises(DataError, match=r"the class SB of .* contains no image of the part validation$"):
        dataset.read_dataset(table, ("E", "SB"), title="images", part="validation")


def test_nan_in_a_table_is_no_label_and_no_group(tmp_path: Path) -> None:
    table = tmp_path / "list.parquet"
    values = [3.0, float("nan")]
    parquet.write_table(pa.table({"path": ["1.jpg", "2.jpg"], "label": ["E", "E"], "group": values}), table)
    assert [item.group for item in class_folders.list_dataset(table)] == ["3.0", ""]
    parquet.write_table(pa.table({"path": ["1.jpg", "2.jpg"], "label": values}), table)
    with pytest.raises(DataError, match=r"row 2 of .* has no label"):
        class_folders.list_dataset(table)


def test_images_in_marked_folders_count_as_simulated(data: Path, tmp_path: Path) -> None:
    paths = [data / "E" / "1.jpg", data / "SB" / "2.jpg", tmp_path / "test" / "E" / "3.jpg"]
    assert listing.count_simulated(paths) == 0
    (data / "E" / listing.SIMULATION_FILE).touch()
    assert listing.count_simulated(paths) == 1
    (tmp_path / listing.SIMULATION_FILE).touch()
    assert listing.count_simulated(paths) == 3
    assert listing.count_simulated([tmp_path / "mine" / "test" / "E" / "1.jpg"]) == 0  # three levels below the mark


@pytest.mark.parametrize(("radius", "low", "high"), [(10, 0.2, 0.35), (25, 0.45, 0.75)])
def test_the_crop_is_where_the_light_of_the_images_is(tmp_path: Path, radius: int, low: float, high: float) -> None:
    random, side = np.random.default_rng(0), 96
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    for index in range(30):
        neighbour = 150 * np.exp(-((x - random.uniform(-48, 48)) ** 2 + (y - random.uniform(-48, 48)) ** 2) / 8)
        light = 20 + 180 * (np.hypot(x, y) < radius) + neighbour + random.normal(0, 3, (side, side))
        pixels = np.repeat(light.clip(0, 255).astype(np.uint8)[..., np.newaxis], 3, axis=2)
        images.write_jpeg(tmp_path / f"{index % 2}" / f"{index}.jpg", pixels)
    read = dataset.read_dataset(tmp_path, ["0", "1"], title="images")
    assert low < framing.choose_crop(read, ImageContract(64), 0) < high


def test_the_crop_of_dark_images_is_the_whole_frame(tmp_path: Path) -> None:
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        images.write_jpeg(tmp_path / name / "dark.jpg", np.zeros((40, 40, 3), np.uint8))
    assert framing.choose_crop(dataset.read_dataset(tmp_path, ["0", "1"], title="images"), ImageContract(64), 0) == 1
