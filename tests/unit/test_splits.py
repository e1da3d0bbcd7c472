"""Stratified splits into train, validation and test."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from astrodetect import atomic_files
from astrodetect.datasets import class_folders, listing, splits
from astrodetect.datasets.labelled import write_labelled_folders
from astrodetect.datasets.splits import SplitPlan
from astrodetect.datasets.tables import PARTS, ListedImage
from astrodetect.errors import DataError


def listed(**counts: int) -> list[ListedImage]:
    return [
        ListedImage(Path(f"{name}/{number}.jpg"), name) for name, count in counts.items() for number in range(count)
    ]


def no_duplicates(items: list[ListedImage]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(len(items))


def test_split_is_stratified_and_complete() -> None:
    items = listed(E=200, SB=40)
    assigned = splits.split_images(items, no_duplicates(items), SplitPlan(validation=0.2, test=0.1))
    assert Counter((item.label, item.part) for item in assigned) == {
        ("E", "train"): 140, ("E", "validation"): 40, ("E", "test"): 20,
        ("SB", "train"): 28, ("SB", "validation"): 8, ("SB", "test"): 4,
    }  # fmt: skip
    assert {item.path for item in assigned} == {item.path for item in items}


def test_seed_determines_the_split() -> None:
    items = listed(E=100, SB=100)
    assert splits.split_images(items, no_duplicates(items), SplitPlan(seed=4)) == splits.split_images(
        items, no_duplicates(items), SplitPlan(seed=4)
    )
    assert splits.split_images(items, no_duplicates(items), SplitPlan(seed=4)) != splits.split_images(
        items, no_duplicates(items), SplitPlan(seed=5)
    )


def test_duplicates_and_groups_stay_in_one_part_transitively() -> None:
    items = listed(E=60, SB=60)
    duplicate_groups = no_duplicates(items)
    duplicate_groups[[0, 1, 70]] = 0
    for index in (70, 71, 72):
        items[index] = ListedImage(items[index].path, "SB", group="night 1")
    assigned = splits.split_images(items, duplicate_groups, SplitPlan(validation=0.3, test=0.3))
    connected = {items[index].path for index in (0, 1, 70, 71, 72)}
    assert len({item.part for item in assigned if item.path in connected}) == 1
    assert len({item.group for item in assigned if item.path in connected}) == 1
    assert {item.group for item in assigned if item.path not in connected} == {""}


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_several_classes_are_divided_in_the_proportions_of_all_of_them(seed: int) -> None:
    """Such as tiles of the sky, each with many galaxies and perhaps a merger."""
    items = [
        ListedImage(Path(f"{tile}-{n}.jpg"), ("merger" if tile % 2 else "ring") if n == 9 else "E", group=str(tile))
        for tile in range(40)
        for n in range(10)
    ]
    assigned = splits.split_images(items, no_duplicates(items), SplitPlan(seed=seed))
    counts = Counter((item.label, item.part) for item in assigned)
    for rare in ("merger", "ring"):
        assert [counts[rare, part] for part in PARTS] == [14, 3, 3]


def test_split_limits_apply_per_class_or_to_all_other_classes() -> None:
    items = listed(E=100, SB=50, S=10)
    assigned = splits.split_images(items, no_duplicates(items), SplitPlan(limit=30, limits={"E": 20}))
    assert Counter(item.label for item in assigned) == {"E": 20, "SB": 30, "S": 10}
    with pytest.raises(DataError, match="no class is called galaxy: the classes are E, S, SB"):
        splits.split_images(items, no_duplicates(items), SplitPlan(limits={"galaxy": 3}))


def test_a_limit_holds_where_copies_have_several_labels() -> None:
    items = listed(E=20, SB=20)
    copies = np.tile(np.arange(20), 2)
    copies[30:] = np.arange(30, 40)
    counts = Counter(item.label for item in splits.split_images(items, copies, SplitPlan(limits={"SB": 5})))
    assert counts["SB"] == 5
    assert 10 <= counts["E"] <= 15  # ten have no copy, and no more than five of the others are left


@pytest.fixture
def assigned(tmp_path: Path) -> list[ListedImage]:
    """Three images, two of them with the same file name."""
    items = []
    for number, name in enumerate(("a/1.jpg", "b/1.jpg", "a/2.jpg")):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]))
        items.append(ListedImage(path, "E", "train", "g" if number else ""))
    return items


def test_split_folders_hold_every_image_under_a_unique_name(assigned: list[ListedImage], tmp_path: Path) -> None:
    splits.write_split(assigned, tmp_path / "out")
    files = sorted((tmp_path / "out" / "train" / "E").iterdir())
    assert {path.read_bytes() for path in files} == {b"\0", b"\1", b"\2"}
    assert all(path.stat().st_nlink == 2 for path in files)
    splits.write_split(assigned, tmp_path / "copies", copy=True)
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "copies" / "train" / "E").iterdir())


def test_a_split_of_simulated_images_is_marked_as_simulated(assigned: list[ListedImage], tmp_path: Path) -> None:
    splits.write_split(assigned, tmp_path / "unmarked")
    for folder in {Path(item.path).parent for item in assigned}:
        (folder / listing.SIMULATION_FILE).touch()
    splits.write_split(assigned, tmp_path / "marked")
    marked, unmarked = ([*(tmp_path / name).rglob("*.jpg")] for name in ("marked", "unmarked"))
    assert listing.count_simulated(marked) == len(marked) > 0
    assert listing.count_simulated(unmarked) == 0


def test_split_table_is_read_back_unchanged(assigned: list[ListedImage], tmp_path: Path) -> None:
    splits.write_split(assigned, tmp_path / "out.csv")
    with pytest.raises(DataError, match=r"out\.csv: File exists"):  # another process wrote it meanwhile
        splits.write_split(assigned[:1], tmp_path / "out.csv")
    splits.write_split(assigned, tmp_path / "out.csv", replace=True)
    listed_again = class_folders.list_dataset(tmp_path / "out.csv")
    assert [(Path(item.path).resolve(), item.label, item.part, item.group) for item in listed_again] == [
        (item.path, item.label, item.part, item.group) for item in assigned
    ]


def test_failed_write_of_a_split_leaves_no_files(assigned: list[ListedImage], tmp_path: Path) -> None:
    Path(assigned[1].path).unlink()
    existing = set(tmp_path.iterdir())
    with pytest.raises(DataError, match="cannot write"):
        splits.write_split(assigned, tmp_path / "out")
    assert set(tmp_path.iterdir()) == existing


@pytest.mark.parametrize("name", ["full", "there.csv", "none/there"])
def test_split_never_overwrites_existing_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "full" / "E").mkdir(parents=True)
    (tmp_path / "there.csv").touch()
    (tmp_path / "empty").mkdir()
    splits.check_output(tmp_path / "empty")
    with pytest.raises(DataError, match=r"is not empty|exists already|no folder"):
        splits.check_output(tmp_path / name)


def test_the_next_run_knows_the_pictures_of_a_killed_one(tmp_path: Path) -> None:
    parts: set[str] = set()

    def picture(_: str) -> None:
        parts.update(path.name for path in tmp_path.iterdir())

    with pytest.raises(DataError, match="needs images of two labels"):
        write_labelled_folders({"0" * 64: "ring"}, picture, tmp_path / "out", folder=None, plan=SplitPlan())
    [name] = parts
    (tmp_path / name.replace(f".{os.getpid()}.", ".999999999.")).mkdir()  # as of a process that was killed
    atomic_files.remove_abandoned(tmp_path / "out")
    assert not list(tmp_path.iterdir())
