"""Feature extraction and its cache: features are computed once, and survive interrupts."""

import shutil
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from astrodetect import images
from astrodetect.datasets import listing
from astrodetect.datasets.tables import ListedImage
from astrodetect.errors import DataError
from astrodetect.features import extraction
from astrodetect.features.extraction import FeatureCache, FeatureExtractor
from astrodetect.inference.pipeline import read_ahead
from astrodetect.records import Floats, ImageContract, Pixels

CONTRACT = ImageContract(size=32, stretch="asinh")
MAX_PIXELS = 10**6
COUNT = 40

Batch = TypeVar("Batch")
Material = TypeVar("Material")
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with two unreadable files."""
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
    """The extractor with batches of 4, and the sizes of computed batches, interrupted after `cut_after` images."""
    batches: list[int] = []

    def compute(pixels: Pixels) -> Floats:
        if sum(batches) >= cut_after:
            raise KeyboardInterrupt
        batches.append(len(pixels))
        return extractor.compute(pixels)

    return replace(extractor, contract=CONTRACT, compute=compute, batch_size=4, streams=1), batches


def extract(path: Path, extractor: FeatureExtractor, cache: Path) -> extraction.ExtractedFeatures:
    return extraction.extract_features(
        listing.list_images([path]), extractor, cache, run_batches=read_ahead, title="sky", max_pixels=MAX_PIXELS
    )


def test_features_of_the_same_files_are_computed_once_even_in_another_folder(
    class_folders: Path, tmp_path: Path
) -> None:
    first = extract(class_folders, extraction.measured_extractor(CONTRACT), tmp_path / "cache")
    shutil.copytree(class_folders, tmp_path / "moved")
    again, computed = counting(extraction.measured_extractor(CONTRACT))
    second = extract(tmp_path / "moved", again, tmp_path / "cache")
    assert computed == []
    assert (first.computed, second.computed) == (COUNT, 0)
    np.testing.assert_array_equal(first.features, second.features)
    assert first.sha256 == second.sha256
    assert [Path(item.path).name for item in first.items] == [Path(item.path).name for item in second.items]


def test_unreadable_files_are_skipped_with_their_reason(class_folders: Path, tmp_path: Path) -> None:
    extracted = extract(class_folders, extraction.measured_extractor(CONTRACT), tmp_path)
    assert {(Path(file.path).name, file.reason.split(":")[0]) for file in extracted.skipped} == {
        ("bad.jpg", "not a supported image"),
        ("empty.png", "the file is empty"),
    }
    assert len(extracted.items) == len(extracted.features) == COUNT
    with pytest.raises(
        DataError, match=r"no usable image in sky: the first of 1 files, .*bad.jpg, not a supported image"
    ):
        extraction.extract_features(
            [ListedImage(class_folders / "E" / "bad.jpg", "")],
            extraction.measured_extractor(CONTRACT),
            tmp_path,
            run_batches=read_ahead,
            title="sky",
            max_pixels=MAX_PIXELS,
        )


def test_a_batch_of_unreadable_files_is_skipped(class_folders: Path, tmp_path: Path) -> None:
    files = [class_folders / "E" / "00.jpg"] * 4 + [class_folders / "E" / "bad.jpg"]
    extractor, _ = counting(extraction.measured_extractor(CONTRACT))
    items = [ListedImage(path, "") for path in files]
    extracted = extraction.extract_features(
        items, extractor, tmp_path, run_batches=read_ahead, title="sky", max_pixels=MAX_PIXELS
    )
    assert len(extracted.features) == 4
    assert [file.path for file in extracted.skipped] == files[4:]


def test_features_computed_before_an_interrupt_are_cached(class_folders: Path, tmp_path: Path) -> None:
    interrupted, before = counting(extraction.measured_extractor(CONTRACT), cut_after=12)
    with pytest.raises(KeyboardInterrupt):
        extract(class_folders, interrupted, tmp_path)
    resumed, after = counting(extraction.measured_extractor(CONTRACT))
    extracted = extract(class_folders, resumed, tmp_path)
    assert sum(before) > 0
    assert extracted.computed == sum(after) < COUNT
    whole = extract(class_folders, extraction.measured_extractor(CONTRACT), tmp_path / "elsewhere")
    np.testing.assert_allclose(extracted.features, whole.features, rtol=1e-3, atol=1e-5)  # results depend on the batch


def test_features_are_computed_by_the_given_batch_runner(class_folders: Path, tmp_path: Path) -> None:
    sizes: list[int] = []

    def sequentially(
        batches: Iterable[Batch], read: Callable[[Batch], Material], compute: Callable[[Material], Result], streams: int
    ) -> Generator[Result]:
        for batch in batches:
            sizes.append(streams)
            yield compute(read(batch))

    items = listing.list_images([class_folders])
    extractor, computed = counting(extraction.measured_extractor(CONTRACT))
    extracted = extraction.extract_features(
        items, extractor, tmp_path, run_batches=sequentially, title="sky", max_pixels=MAX_PIXELS
    )
    assert len(sizes) == -(-len(items) // extractor.batch_size)
    assert extracted.computed == sum(computed) == COUNT


def test_measured_features_do_not_depend_on_the_other_images_of_the_batch() -> None:
    extractor = extraction.measured_extractor(extraction.measured_contract())
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (7, extractor.contract.size, extractor.contract.size, 3), dtype=np.uint8)
    alone = np.concatenate([extractor.compute(pixels[number : number + 1]) for number in range(len(pixels))])
    np.testing.assert_array_equal(extractor.compute(pixels), alone)


def test_another_image_contract_has_its_own_cache(class_folders: Path, tmp_path: Path) -> None:
    extract(class_folders, extraction.measured_extractor(CONTRACT), tmp_path)
    other = extraction.measured_extractor(ImageContract(size=32, crop=0.5, stretch="asinh"))
    assert extract(class_folders, other, tmp_path).computed == COUNT


def test_features_in_a_truncated_cache_file_are_computed_again(class_folders: Path, tmp_path: Path) -> None:
    extractor = extraction.measured_extractor(CONTRACT)
    extract(class_folders, extractor, tmp_path)
    for path in (tmp_path / extractor.cache_key).glob("*.npy"):
        path.write_bytes(path.read_bytes()[:1000])
    assert extract(class_folders, extractor, tmp_path).computed == COUNT
    assert extract(class_folders, extractor, tmp_path).computed == 0


def test_concurrent_writers_of_a_feature_cache_do_not_lose_features(tmp_path: Path) -> None:
    digests = [bytes([number]) * 32 for number in range(2)]
    with FeatureCache(tmp_path, "shapes") as first, FeatureCache(tmp_path, "shapes") as second:
        first.add(digests[0], np.zeros(3, np.float32))
        second.add(digests[1], np.ones(3, np.float32))
    with FeatureCache(tmp_path, "shapes") as both:
        for value, digest in enumerate(digests):
            row = both.get(digest)
            assert row is not None
            assert row.tolist() == [value] * 3
        assert both.get(bytes(32 * [9])) is None


def test_feature_cache_removes_the_least_recently_used_files_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.zeros(1000, np.float32)
    for number in range(3):
        with FeatureCache(tmp_path, str(number)) as cache:
            cache.add(bytes([number]) * 32, rows)
    with FeatureCache(tmp_path, "0"):
        pass
    monkeypatch.setattr(extraction, "MAX_CACHE_BYTES", 9000)
    with FeatureCache(tmp_path, "other"):
        pass
    assert [len(list((tmp_path / name).glob("*.npy"))) for name in "012"] == [1, 0, 1]


def test_listed_images_are_labelled_only_by_class_folders_and_tables(class_folders: Path, tmp_path: Path) -> None:
    assert {item.label for item in listing.list_images([class_folders])} == {"E", "S"}
    assert {item.label for item in listing.list_images([class_folders / "E"])} == {""}
    assert {item.label for item in listing.list_images([class_folders / "E", class_folders / "S"])} == {""}
    (tmp_path / "some.csv").write_text(f"path,label\n{class_folders / 'E' / '00.jpg'},odd\n")
    assert [(Path(item.path).name, item.label) for item in listing.list_images([tmp_path / "some.csv"])] == [
        ("00.jpg", "odd")
    ]
    with pytest.raises(DataError, match="no such folder or file"):
        listing.list_images([tmp_path / "nowhere"])
