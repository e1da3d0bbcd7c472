"""Class folders to a catalogue."""

from pathlib import Path

import numpy as np
import pytest

from astrodetect import images
from astrodetect.datasets import dataset
from astrodetect.errors import DataError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    for name, count in (("E", 10), ("S", 3), ("SB", 20)):
        (tmp_path / name).mkdir()
        for number in range(count):
            images.write_jpeg(tmp_path / name / f"{number}.jpg", random.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    return tmp_path


def test_the_number_of_a_class_is_its_place_and_not_its_letter(data: Path) -> None:
    catalogue = dataset.read_dataset(data, ("SB", "E"), title="images")
    assert catalogue.counts() == {"SB": 20, "E": 10}
    assert {path.parent.name: int(label) for path, label in zip(catalogue.paths, catalogue.labels, strict=True)} == {
        "SB": 0,
        "E": 1,
    }


def test_what_is_no_image_is_named_with_its_reason(data: Path) -> None:
    whole = (data / "E" / "0.jpg").read_bytes()
    (data / "E" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (data / "SB" / "empty.jpg").touch()
    (data / "SB" / "notes.txt").write_text("seen by eye")
    (data / "SB" / ".DS_Store").write_text("not looked at")
    catalogue = dataset.read_dataset(data, ("SB", "E"), title="images")
    found = {skipped.path.name: skipped.reason for skipped in catalogue.skipped}
    assert found.keys() == {"cut.jpg", "empty.jpg", "notes.txt"}
    assert found["empty.jpg"] == "the file is empty"
    assert found["cut.jpg"].startswith("damaged JPEG")
    assert len(catalogue) == 30


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("SB", "E2"), "no folder .*E2"),
        (("SB", "none"), "contains no image$"),
        (("SB", "text"), r"2 files cannot be read; the first, 0\.txt: "),
    ],
)
def test_a_missing_or_empty_class_is_one_clear_line(data: Path, classes: tuple[str, str], said: str) -> None:
    (data / "none").mkdir()
    (data / "text").mkdir()
    for number in range(2):
        (data / "text" / f"{number}.txt").write_text("no image")
    with pytest.raises(DataError, match=said) as refused:
        dataset.read_dataset(data, classes, title="images")
    assert "\n" not in str(refused.value)


def test_the_fingerprint_is_of_places_and_bytes(data: Path) -> None:
    def fingerprint() -> str:
        return dataset.read_dataset(data, ("SB", "E"), title="images").fingerprint

    before = fingerprint()
    assert fingerprint() == before
    (data / "E" / "0.jpg").rename(data / "E" / "renamed.jpg")
    renamed = fingerprint()
    assert renamed != before
    (data / "E" / "renamed.jpg").write_bytes((data / "E" / "1.jpg").read_bytes())
    assert fingerprint() not in {before, renamed}


def test_a_split_shares_nothing_keeps_every_class_and_follows_its_seed(data: Path) -> None:
    catalogue = dataset.read_dataset(data, ("SB", "E"), title="images")
    rest, held = catalogue.split(0.2, seed=5)
    assert held.counts() == {"SB": 4, "E": 2}
    assert set(rest.paths) | set(held.paths) == set(catalogue.paths)
    assert not set(rest.paths) & set(held.paths)
    assert catalogue.split(0.2, seed=5)[1].paths == held.paths
    assert catalogue.split(0.2, seed=6)[1].paths != held.paths
