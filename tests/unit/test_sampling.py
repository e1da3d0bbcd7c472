"""Samples of images, and images scored without their features in memory."""

from pathlib import Path

import numpy as np

from astrodetect.anomalies import sampling
from astrodetect.anomalies.novelty import Novelty
from astrodetect.datasets.tables import ListedImage
from astrodetect.features import extraction
from astrodetect.features.extraction import FeatureExtractor
from astrodetect.images import write_jpeg
from astrodetect.inference.pipeline import read_ahead
from astrodetect.records import Floats, ImageContract, Pixels

ITEMS = [ListedImage(Path(f"{number}.jpg"), "") for number in range(200)]


def test_a_sample_depends_on_paths_and_seed_only() -> None:
    sample = sampling.draw_sample(ITEMS, 50, 0)
    assert sample == [item for item in ITEMS if item in sample]
    assert len(sample) == 50
    assert {item.path for item in sampling.draw_sample(ITEMS[::-1], 50, 0)} == {item.path for item in sample}
    more = sampling.draw_sample([*ITEMS, ListedImage(Path("new.jpg"), "")], 50, 0)
    assert len({item.path for item in sample} - {item.path for item in more}) <= 1
    assert len({item.path for item in sampling.draw_sample(ITEMS, 50, 1)} - {item.path for item in sample}) > 20
    assert sampling.draw_sample(ITEMS, 500, 0) == ITEMS


def test_images_are_scored_as_if_their_features_were_all_in_memory(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    items = [ListedImage(tmp_path / f"{number}.jpg", "") for number in range(40)]
    for item in items:
        write_jpeg(Path(item.path), random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    Path(items[7].path).write_text("no image")

    def describe(pixels: Pixels) -> Floats:
        return pixels.reshape(len(pixels), -1)[:, :5].astype(np.float32)

    extractor = FeatureExtractor("network", ImageContract(size=16), describe, "numbers", 3, 2)
    novelty = Novelty.fit(random.normal(100, 50, (60, 5)).astype(np.float32))
    cache = tmp_path / "cache"
    images, result = sampling.score_images(
        items, novelty, extractor, cache, run_batches=read_ahead, title="", max_pixels=10**6
    )
    extracted = extraction.extract_features(items, extractor, cache, run_batches=read_ahead, title="", max_pixels=10**6)
    expected = novelty.score(extracted.features)
    assert (images.items, images.sha256, images.skipped) == (extracted.items, extracted.sha256, extracted.skipped)
    assert (images.computed, extracted.computed) == (39, 0)
    np.testing.assert_array_equal(result.vectors, expected.vectors)
    np.testing.assert_array_equal(result.strength, expected.strength)
    for name in expected.scores:
        np.testing.assert_array_equal(result.scores[name], expected.scores[name])
        np.testing.assert_array_equal(result.flagged[name], expected.flagged[name])
    without = sampling.replace_by_left_out(result, images, extracted.subset([]), expected)  # the sample was deleted
    np.testing.assert_array_equal(without.novelty, expected.novelty)
