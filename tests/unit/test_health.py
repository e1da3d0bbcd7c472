"""What is said of labelled images: copies, leaks, conflicts, damage, and the page."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astrodetect.datasets import dataset, health, near_duplicates
from astrodetect.datasets.simulation import generator
from astrodetect.errors import DataError
from astrodetect.records import Pixels
from astrodetect.reports import health_report

SIZE = 96


def sky(number: int) -> Pixels:
    return generator.render_image("SB" if number % 2 else "E", number, SIZE)


def save(pixels: Pixels, path: Path, quality: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=quality)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes in two parts, none of them twice."""
    for number in range(16):
        part, label = ("train", "test")[number % 4 == 0], ("E", "SB")[number % 2]
        save(sky(number), tmp_path / "data" / part / label / f"{number}.jpg")
    for number in (17, 19):  # as every fourth is an E
        save(sky(number), tmp_path / "data" / "test" / "SB" / f"{number}.jpg")
    return tmp_path / "data"


def names(found: health.DatasetHealth, groups: list[health.DuplicateGroup]) -> set[frozenset[str]]:
    return {frozenset(look.item.path.name for look in found.members(group)) for group in groups}


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": lambda image: image,
    "smaller": lambda image: image.resize((64, 64)),
    "larger": lambda image: image.resize((150, 150)),
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned over": lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped": lambda image: image.crop((3, 3, 93, 93)),
    "brighter": lambda image: Image.eval(image, lambda value: min(255, int(1.15 * value + 5))),
    "darker": lambda image: Image.eval(image, lambda value: int(0.8 * value)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_in_the_other_part_is_a_leak(data: Path, change: str) -> None:
    changed = CHANGES[change](Image.fromarray(sky(0)))
    save(np.asarray(changed), data / "train" / "E" / "copy.jpg", quality=75)
    found = health.examine(data)
    assert names(found, found.leaks) == {frozenset({"0.jpg", "copy.jpg"})}
    assert [copies.kind for copies in found.leaks] == [health.NEARLY]
    assert found.conflicts == found.duplicates == []


def test_different_galaxies_of_one_kind_are_no_copies() -> None:
    sketches = near_duplicates.compute_signatures(
        np.stack([generator.render_image("E", number, 128) for number in range(80)])
    )
    assert near_duplicates.find_pairs(sketches) == []


def test_two_images_alone_are_compared_too(tmp_path: Path) -> None:
    save(sky(0), tmp_path / "E" / "0.jpg")
    save(np.rot90(sky(0)).copy(), tmp_path / "E" / "1.jpg")
    assert len(health.examine(tmp_path).duplicates) == 1


def test_the_same_file_the_same_pixels_and_other_labels_are_told_apart(data: Path) -> None:
    train = data / "train"
    (train / "E" / "again.jpg").write_bytes((train / "E" / "2.jpg").read_bytes())
    (train / "SB" / "other.jpg").write_bytes((train / "E" / "6.jpg").read_bytes())
    with Image.open(train / "SB" / "3.jpg") as image:
        save(np.asarray(image), train / "SB" / "3.png")
    found = health.examine(data)
    assert names(found, found.conflicts) == {frozenset({"other.jpg", "6.jpg"})}
    assert names(found, found.duplicates) == {frozenset({"again.jpg", "2.jpg"}), frozenset({"3.jpg", "3.png"})}
    assert {copies.kind for copies in found.duplicates} == {health.SAME_FILE, health.SAME_PIXELS}
    assert found.leaks == []


def test_training_learns_which_test_images_it_has_seen(data: Path) -> None:
    save(sky(2), data / "test" / "E" / "seen.jpg", quality=70)
    (data / "test" / "E" / "same.jpg").write_bytes((data / "train" / "E" / "6.jpg").read_bytes())
    train, test = (dataset.read_dataset(data, ("SB", "E"), part=part, title=part) for part in ("train", "test"))
    found = {(leak.train.name, leak.test.name, leak.kind) for leak in health.find_leaks(train, test)}
    assert found == {("2.jpg", "seen.jpg", health.NEARLY), ("6.jpg", "same.jpg", health.SAME_FILE)}


def test_the_verdict_begins_with_leaks_and_names_what_cannot_be_read(data: Path) -> None:
    save(sky(0), data / "train" / "SB" / "leak.jpg", quality=70)
    (data / "train" / "SB" / "cut.jpg").write_bytes((data / "train" / "E" / "2.jpg").read_bytes()[:500])
    found = health.examine(data)
    lines = health_report.recommendations(found)
    assert [line.anchor for line in lines[:3]] == ["leaks", "conflicts", "unreadable"]
    assert lines[0].finding == "1 image is in more than one of test and train"
    assert [file.item.path.name for file in found.unreadable] == ["cut.jpg"]


def test_the_page_stands_alone_and_the_json_has_every_file(data: Path, tmp_path: Path) -> None:
    save(sky(0), data / "train" / "E" / "<b>copy & all.jpg", quality=75)
    place = health_report.write_health_report(health.examine(data), tmp_path / "out", by="shapes")
    said = place.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", said)
    assert "<b>copy" not in said
    assert "&lt;b&gt;copy &amp; all.jpg" in said
    anchors = set(re.findall(r'href="#(\w+)"', said))
    assert anchors <= set(re.findall(r'id="(\w+)"', said))
    figures = json.loads((tmp_path / "out" / "explore.json").read_text())
    assert len(figures["files"]) == figures["images"] == 19
    assert {image["path"] for image in figures["leaks"][0]["images"]} == {"test/E/0.jpg", "train/E/<b>copy & all.jpg"}


def test_images_that_are_the_same_everywhere_are_no_copies_unless_they_are_equal(tmp_path: Path) -> None:
    for number, level in enumerate((0, 40, 40, 200)):
        save(np.full((32, 32, 3), level, np.uint8), tmp_path / "flat" / f"{number}.png")
    found = health.examine(tmp_path)
    assert names(found, found.duplicates) == {frozenset({"1.png", "2.png"})}


def test_data_without_one_good_image_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "E").mkdir()
    (tmp_path / "E" / "0.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"none of the files .*0\.jpg: not an image"):
        health.examine(tmp_path)
