"""Images to descriptions: each described once, whoever asks, and whatever cuts the work short."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from astrodetect import images
from astrodetect.datasets import image_files
from astrodetect.datasets.dataset import ListedImage
from astrodetect.errors import DataError
from astrodetect.features import extraction
from astrodetect.features.extraction import FeatureCache, FeatureExtractor
from astrodetect.inference.pipeline import read_ahead
from astrodetect.records import Floats, ImageContract, Pixels

CONTRACT = ImageContract(size=32, stretch="asinh")
MOST = 10**6
COUNT = 40


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders, with two bad files."""
    folder = tmp_path_factory.mktemp("sky")
    random = np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / "ES"[number % 2] / f"{number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        images.write_jpeg(path, random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    (folder / "E" / "bad.jpg").write_text("no image")
    (folder / "S" / "empty.png").touch()
    return folder


def counting(extractor: FeatureExtractor, *, cut_after: int = COUNT) -> tuple[FeatureExtractor, list[int]]:
    """The same, with a count of what it is asked for; after some images comes Ctrl-C."""
    asked: list[int] = []

    def compute(pixels: Pixels) -> Floats:
        if sum(asked) >= cut_after:
            raise KeyboardInterrupt
        asked.append(len(pixels))
        return extractor.compute(pixels)

    return replace(extractor, contract=CONTRACT, compute=compute, batch_size=4, streams=1), asked


def describe(place: Path, describer: FeatureExtractor, folder: Path) -> extraction.ExtractedFeatures:
    return extraction.extract_features(
        image_files.list_images([place]), describer, folder, run_batches=read_ahead, title="sky", max_pixels=MOST
    )


def test_a_second_run_over_the_same_images_describes_nothing(sky: Path, tmp_path: Path) -> None:
    first = describe(sky, extraction.measured_extractor(CONTRACT), tmp_path / "kept")
    shutil.copytree(sky, tmp_path / "moved")
    again, asked = counting(extraction.measured_extractor(CONTRACT))
    second = describe(tmp_path / "moved", again, tmp_path / "kept")
    assert asked == []
    assert (first.computed, second.computed) == (COUNT, 0)
    np.testing.assert_array_equal(first.features, second.features)
    assert first.sha256 == second.sha256
    assert [item.path.name for item in first.items] == [item.path.name for item in second.items]


def test_bad_files_are_listed_with_their_reason(sky: Path, tmp_path: Path) -> None:
    found = describe(sky, extraction.measured_extractor(CONTRACT), tmp_path)
    assert {(file.path.name, file.reason.split(":")[0]) for file in found.skipped} == {
        ("bad.jpg", "not an image this service reads"),
        ("empty.png", "the file is empty"),
    }
    assert len(found.items) == len(found.features) == COUNT
    with pytest.raises(DataError, match=r"no usable image in sky: the first of 1 files, .*bad.jpg, not an image"):
        extraction.extract_features(
            [ListedImage(sky / "E" / "bad.jpg", "")],
            extraction.measured_extractor(CONTRACT),
            tmp_path,
            run_batches=read_ahead,
            title="sky",
            max_pixels=MOST,
        )


def test_what_was_described_before_ctrl_c_is_kept(sky: Path, tmp_path: Path) -> None:
    cut, before = counting(extraction.measured_extractor(CONTRACT), cut_after=12)
    with pytest.raises(KeyboardInterrupt):
        describe(sky, cut, tmp_path)
    again, after = counting(extraction.measured_extractor(CONTRACT))
    found = describe(sky, again, tmp_path)
    assert sum(before) > 0
    assert found.computed == sum(after) < COUNT
    whole = describe(sky, extraction.measured_extractor(CONTRACT), tmp_path / "elsewhere")
    np.testing.assert_allclose(found.features, whole.features, rtol=1e-3, atol=1e-5)  # batches round apart


def test_what_describes_otherwise_has_its_own_descriptions(sky: Path, tmp_path: Path) -> None:
    describe(sky, extraction.measured_extractor(CONTRACT), tmp_path)
    other = extraction.measured_extractor(ImageContract(size=32, crop=0.5, stretch="asinh"))
    assert describe(sky, other, tmp_path).computed == COUNT


def test_a_damaged_file_of_descriptions_is_made_again(sky: Path, tmp_path: Path) -> None:
    describer = extraction.measured_extractor(CONTRACT)
    describe(sky, describer, tmp_path)
    for path in (tmp_path / describer.cache_key).glob("*.npy"):
        path.write_bytes(path.read_bytes()[:1000])
    assert describe(sky, describer, tmp_path).computed == COUNT
    assert describe(sky, describer, tmp_path).computed == 0


def test_two_that_describe_at_once_both_keep_theirs(tmp_path: Path) -> None:
    digests = [bytes([number]) * 32 for number in range(2)]
    with FeatureCache(tmp_path, "shapes") as one, FeatureCache(tmp_path, "shapes") as other:
        one.add(digests[0], np.zeros(3, np.float32))
        other.add(digests[1], np.ones(3, np.float32))
    with FeatureCache(tmp_path, "shapes") as both:
        for value, digest in enumerate(digests):
            row = both.get(digest)
            assert row is not None
            assert row.tolist() == [value] * 3
        assert both.get(bytes(32 * [9])) is None


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.zeros(1000, np.float32)
    for number in range(3):
        with FeatureCache(tmp_path, str(number)) as some:
            some.add(bytes([number]) * 32, rows)
    with FeatureCache(tmp_path, "0"):
        pass
    monkeypatch.setattr(extraction, "MAX_CACHE_BYTES", 9000)
    with FeatureCache(tmp_path, "other"):
        pass
    assert [len(list((tmp_path / name).glob("*.npy"))) for name in "012"] == [1, 0, 1]


def test_labels_come_from_class_folders_and_tables_alone(sky: Path, tmp_path: Path) -> None:
    assert {item.label for item in image_files.list_images([sky])} == {"E", "S"}
    assert {item.label for item in image_files.list_images([sky / "E"])} == {""}
    assert {item.label for item in image_files.list_images([sky / "E", sky / "S"])} == {""}
    (tmp_path / "some.csv").write_text(f"path,label\n{sky / 'E' / '00.jpg'},odd\n")
    assert [(item.path.name, item.label) for item in image_files.list_images([tmp_path / "some.csv"])] == [
        ("00.jpg", "odd")
    ]
    with pytest.raises(DataError, match="no such folder or file"):
        image_files.list_images([tmp_path / "nowhere"])
