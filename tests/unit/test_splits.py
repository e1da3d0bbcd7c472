"""Images dealt out to parts."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from astrodetect.datasets import dataset, splits
from astrodetect.datasets.dataset import ListedImage
from astrodetect.datasets.splits import SplitPlan
from astrodetect.errors import DataError


def listed(**counts: int) -> list[ListedImage]:
    return [
        ListedImage(Path(f"{name}/{number}.jpg"), name) for name, count in counts.items() for number in range(count)
    ]


def alone(items: list[ListedImage]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(len(items))


def test_every_class_is_dealt_out_in_the_same_shares_and_nothing_is_lost() -> None:
    items = listed(E=200, SB=40)
    dealt = splits.split_images(items, alone(items), SplitPlan(validation=0.2, test=0.1))
    assert Counter((item.label, item.part) for item in dealt) == {
        ("E", "train"): 140, ("E", "validation"): 40, ("E", "test"): 20,
        ("SB", "train"): 28, ("SB", "validation"): 8, ("SB", "test"): 4,
    }  # fmt: skip
    assert {item.path for item in dealt} == {item.path for item in items}


def test_the_same_seed_gives_the_same_split_and_another_one_another() -> None:
    items = listed(E=100, SB=100)
    assert splits.split_images(items, alone(items), SplitPlan(seed=4)) == splits.split_images(
        items, alone(items), SplitPlan(seed=4)
    )
    assert splits.split_images(items, alone(items), SplitPlan(seed=4)) != splits.split_images(
        items, alone(items), SplitPlan(seed=5)
    )


def test_copies_and_groups_stay_together_also_through_each_other() -> None:
    items = listed(E=60, SB=60)
    alike = alone(items)
    alike[[0, 1, 70]] = 0
    for place in (70, 71, 72):
        items[place] = ListedImage(items[place].path, "SB", group="night 1")
    dealt = splits.split_images(items, alike, SplitPlan(validation=0.3, test=0.3))
    together = {items[place].path for place in (0, 1, 70, 71, 72)}
    assert len({item.part for item in dealt if item.path in together}) == 1
    assert len({item.group for item in dealt if item.path in together}) == 1
    assert {item.group for item in dealt if item.path not in together} == {""}


def test_limits_are_of_a_class_or_of_all_the_others() -> None:
    items = listed(E=100, SB=50, S=10)
    dealt = splits.split_images(items, alone(items), SplitPlan(limit=30, limits={"E": 20}))
    assert Counter(item.label for item in dealt) == {"E": 20, "SB": 30, "S": 10}
    with pytest.raises(DataError, match="no class is called galaxy: the classes are E, S, SB"):
        splits.split_images(items, alone(items), SplitPlan(limits={"galaxy": 3}))


@pytest.fixture
def dealt(tmp_path: Path) -> list[ListedImage]:
    """Two images of one name among them."""
    items = []
    for number, name in enumerate(("a/1.jpg", "b/1.jpg", "a/2.jpg")):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]))
        items.append(ListedImage(path, "E", "train", "g" if number else ""))
    return items


def test_folders_get_every_image_by_a_name_of_its_own(dealt: list[ListedImage], tmp_path: Path) -> None:
    splits.write_split(dealt, tmp_path / "out", copy=False)
    made = sorted((tmp_path / "out" / "train" / "E").iterdir())
    assert {path.read_bytes() for path in made} == {b"\0", b"\1", b"\2"}
    assert all(path.stat().st_nlink == 2 for path in made)
    splits.write_split(dealt, tmp_path / "copies", copy=True)
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "copies" / "train" / "E").iterdir())


def test_a_table_is_read_back_as_it_was_dealt(dealt: list[ListedImage], tmp_path: Path) -> None:
    splits.write_split(dealt, tmp_path / "out.csv", copy=False)
    found = dataset.list_dataset(tmp_path / "out.csv")
    assert [(item.path.resolve(), item.label, item.part, item.group) for item in found] == [
        (item.path, item.label, item.part, item.group) for item in dealt
    ]


def test_what_cannot_be_written_leaves_nothing_behind(dealt: list[ListedImage], tmp_path: Path) -> None:
    dealt[1].path.unlink()
    before = set(tmp_path.iterdir())
    with pytest.raises(DataError, match="cannot write"):
        splits.write_split(dealt, tmp_path / "out", copy=False)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["full", "there.csv", "none/there"])
def test_what_is_there_is_never_written_over(name: str, tmp_path: Path) -> None:
    (tmp_path / "full" / "E").mkdir(parents=True)
    (tmp_path / "there.csv").touch()
    (tmp_path / "empty").mkdir()
    splits.check_output(tmp_path / "empty")
    with pytest.raises(DataError, match=r"is not empty|exists already|no folder"):
        splits.check_output(tmp_path / name)
