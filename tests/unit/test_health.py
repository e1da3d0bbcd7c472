"""Quality control of labelled images: duplicates, leaks, label conflicts, unreadable files, the report."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from astrodetect.cli.training_data import TrainingData, leakage_remarks
from astrodetect.datasets import dataset, health, near_duplicates
from astrodetect.datasets.health import DatasetHealth
from astrodetect.datasets.simulation import generator
from astrodetect.errors import DataError
from astrodetect.records import ImageContract, Pixels
from astrodetect.reports import health_report

SIZE = 96


def galaxy(number: int) -> Pixels:
    return generator.render_image("SB" if number % 2 else "E", number, SIZE)


def save(pixels: Pixels, path: Path, quality: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=quality)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes in two parts, without duplicates."""
    for number in range(16):
        part, label = ("train", "test")[number % 4 == 0], ("E", "SB")[number % 2]
        save(galaxy(number), tmp_path / "data" / part / label / f"{number}.jpg")
    for number in (17, 19):  # above, every image of test is an E
        save(galaxy(number), tmp_path / "data" / "test" / "SB" / f"{number}.jpg")
    return tmp_path / "data"


def names(result: health.DatasetHealth, groups: list[health.DuplicateGroup]) -> set[frozenset[str]]:
    return {frozenset(Path(image.item.path).name for image in result.members(group)) for group in groups}


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": lambda image: image,
    "smaller": lambda image: image.resize((64, 64)),
    "larger": lambda image: image.resize((150, 150)),
    "rotated": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "transposed": lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped": lambda image: image.crop((3, 3, 93, 93)),
    "brighter": lambda image: Image.eval(image, lambda value: min(255, int(1.15 * value + 5))),
    "darker": lambda image: Image.eval(image, lambda value: int(0.8 * value)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_modified_copy_in_another_part_is_reported_as_leak(data: Path, change: str) -> None:
    changed = CHANGES[change](Image.fromarray(galaxy(0)))
    save(np.asarray(changed), data / "train" / "E" / "copy.jpg", quality=75)
    result = health.examine(data)
    assert names(result, result.leaks) == {frozenset({"0.jpg", "copy.jpg"})}
    assert [group.kind for group in result.leaks] == [health.NEARLY]
    assert result.conflicts == result.duplicates == []


def test_different_galaxies_of_one_class_are_not_duplicates() -> None:
    signatures = near_duplicates.compute_signatures(
        np.stack([generator.render_image("E", number, 128) for number in range(80)])
    )
    assert near_duplicates.find_pairs(signatures) == []


def test_copies_among_many_images_are_those_of_an_exhaustive_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.normal(128, 50, (300, 16, 16, 3)).repeat(8, axis=1).repeat(8, axis=2)
    turned = np.rot90(coarse[:20], 1, (1, 2)) + rng.normal(0, 4, (20, 128, 128, 3))
    pixels = np.clip(np.concatenate([coarse, turned]), 0, 255).astype(np.uint8)
    signatures = near_duplicates.compute_signatures(pixels)
    exhaustive = near_duplicates.find_pairs(signatures)
    assert {(number, 300 + number) for number in range(20)} == {(pair.first, pair.second) for pair in exhaustive}
    monkeypatch.setattr(near_duplicates, "EXHAUSTIVE", 10)
    assert near_duplicates.find_pairs(signatures) == exhaustive


def test_duplicates_are_found_in_a_data_set_of_two_images(tmp_path: Path) -> None:
    save(galaxy(0), tmp_path / "E" / "0.jpg")
    save(np.rot90(galaxy(0)).copy(), tmp_path / "E" / "1.jpg")
    assert len(health.examine(tmp_path).duplicates) == 1


def test_duplicate_kinds_and_label_conflicts_are_distinguished(data: Path) -> None:
    train = data / "train"
    (train / "E" / "again.jpg").write_bytes((train / "E" / "2.jpg").read_bytes())
    (train / "SB" / "other.jpg").write_bytes((train / "E" / "6.jpg").read_bytes())
    with Image.open(train / "SB" / "3.jpg") as image:
        save(np.asarray(image), train / "SB" / "3.png")
    result = health.examine(data)
    assert names(result, result.conflicts) == {frozenset({"other.jpg", "6.jpg"})}
    assert names(result, result.duplicates) == {frozenset({"again.jpg", "2.jpg"}), frozenset({"3.jpg", "3.png"})}
    assert {group.kind for group in result.duplicates} == {health.SAME_FILE, health.SAME_PIXELS}
    assert result.leaks == []


def test_find_leaks_pairs_test_images_with_their_training_copies(data: Path) -> None:
    save(galaxy(2), data / "test" / "E" / "seen.jpg", quality=70)
    (data / "test" / "E" / "same.jpg").write_bytes((data / "train" / "E" / "6.jpg").read_bytes())
    train, test = (dataset.read_dataset(data, ("SB", "E"), part=part, title=part) for part in ("train", "test"))
    result = {(Path(leak.train).name, Path(leak.test).name, leak.kind) for leak in health.find_leaks(train, test)}
    assert result == {("2.jpg", "seen.jpg", health.NEARLY), ("6.jpg", "same.jpg", health.SAME_FILE)}


def test_leaks_among_cubes_are_found_by_the_bands_of_the_model(tmp_path: Path) -> None:
    for part, numbers in (("train", (0, 1)), ("test", (2, 1))):
        for number in numbers:
            cube = np.concatenate([galaxy(number).transpose(2, 0, 1)] * 2)[:4].astype(np.int16)
            path = tmp_path / part / ("E", "SB")[number % 2] / f"{number}.fits"
            path.parent.mkdir(parents=True)
            fits.PrimaryHDU(cube).writeto(path)
    contract = ImageContract(96, stretch="asinh", bands="0,1,3")
    train, test = (
        dataset.read_dataset(tmp_path, ("SB", "E"), part=part, title=part, contract=contract)
        for part in ("train", "test")
    )
    rest, validation = train.subset(np.array([0])), train.subset(np.array([1]))
    [remark] = leakage_remarks(TrainingData(train, validation, test, {}), contract)
    assert remark.startswith("1 validation and 1 test images are copies of training images")
    [remark] = leakage_remarks(TrainingData(rest, validation, test, {}), contract)
    assert remark.startswith("1 test images are copies of training images")
    assert health.find_leaks(train, test) == []  # none of them can be read without the bands
    assert len(health.scan_dataset(tmp_path, bands="0,1,3")) == 4


def test_recommendations_list_leaks_first_and_count_unreadable_files(data: Path) -> None:
    save(galaxy(0), data / "train" / "SB" / "leak.jpg", quality=70)
    (data / "train" / "SB" / "cut.jpg").write_bytes((data / "train" / "E" / "2.jpg").read_bytes()[:500])
    result = health.examine(data)
    lines = health_report.recommendations(result)
    assert [line.anchor for line in lines[:3]] == ["leaks", "conflicts", "unreadable"]
    assert lines[0].finding == "1 image is in more than one of test and train"
    assert [Path(file.item.path).name for file in result.unreadable] == ["cut.jpg"]


def test_health_report_is_self_contained_and_its_json_lists_every_file(data: Path, tmp_path: Path) -> None:
    save(galaxy(0), data / "train" / "E" / "<b>copy & all.jpg", quality=75)
    path = health_report.write_health_report(health.examine(data), tmp_path / "out", by="shapes")
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "<b>copy" not in page
    assert "&lt;b&gt;copy &amp; all.jpg" in page
    anchors = set(re.findall(r'href="#(\w+)"', page))
    assert anchors <= set(re.findall(r'id="(\w+)"', page))
    report = json.loads((tmp_path / "out" / "explore.json").read_text())
    assert len(report["files"]) == report["images"] == 19
    assert {image["path"] for image in report["leaks"][0]["images"]} == {"test/E/0.jpg", "train/E/<b>copy & all.jpg"}


def test_uniform_images_are_duplicates_only_if_equal(tmp_path: Path) -> None:
    for number, level in enumerate((0, 40, 40, 200)):
        save(np.full((32, 32, 3), level, np.uint8), tmp_path / "flat" / f"{number}.png")
    result = health.examine(tmp_path)
    assert names(result, result.duplicates) == {frozenset({"1.png", "2.png"})}


def test_data_set_without_readable_image_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "E").mkdir()
    (tmp_path / "E" / "0.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"none of the files .*0\.jpg: not a supported image"):
        health.examine(tmp_path)


def test_a_report_is_written_once_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_report, "_render", lambda *_: str([*tmp_path.iterdir()]))
    monkeypatch.setattr(health_report, "health_as_json", lambda *_, **__: {})
    path = health_report.write_health_report(cast(DatasetHealth, None), tmp_path, by="shapes")
    assert path.read_text() == "[]"
