"""Confident learning finds wrong labels."""

import numpy as np

from astrodetect.datasets import mislabels
from astrodetect.datasets.simulation import generator
from astrodetect.features import cutout

Rows = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def gaussian_clusters(count: int, width: int) -> tuple[Rows, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Three well-separated classes."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    return (random.normal(0, 1, (count, width)) + 4 * np.eye(3, width)[labels]).astype(np.float32), labels


def test_mislabels_are_found_with_the_true_class_sorted_by_margin() -> None:
    features, true_labels = gaussian_clusters(300, 20)
    labels = true_labels.copy()
    wrong_indices = np.arange(0, 300, 23)
    labels[wrong_indices] = (labels[wrong_indices] + 1) % 3
    suspects = mislabels.find_mislabels(features, labels, np.arange(300))
    suspected = {suspect.index for suspect in suspects}
    assert len(suspected & set(wrong_indices.tolist())) >= 0.8 * len(wrong_indices)
    assert len(suspected - set(wrong_indices.tolist())) <= 0.2 * len(wrong_indices)
    assert all(
        suspect.suggested == true_labels[suspect.index] for suspect in suspects if suspect.index in wrong_indices
    )
    margins = [suspect.probability - suspect.label_probability for suspect in suspects]
    assert margins == sorted(margins, reverse=True)


def test_mislabelled_duplicates_do_not_support_each_other() -> None:
    features, true_labels = gaussian_clusters(300, 20)
    labels, groups = true_labels.copy(), np.arange(300)
    features[1:40] = features[0]  # copies of one image, and all of them mislabelled
    labels[:40], groups[:40] = 1, 0
    suspects = {suspect.index for suspect in mislabels.find_mislabels(features, labels, groups)}
    assert set(range(40)) <= suspects


def test_mislabels_are_found_among_many_uninformative_features() -> None:
    features, true_labels = gaussian_clusters(300, mislabels.MAX_FEATURES + 10)
    features[:, :3] *= 5
    labels = true_labels.copy()
    labels[:10] = (labels[:10] + 1) % 3
    suspects = {suspect.index for suspect in mislabels.find_mislabels(features, labels, np.arange(300))}
    assert len(suspects & set(range(10))) >= 5  # ten of 300 by chance: none; processors round apart
    assert len(suspects) <= 12


def test_few_images_or_a_single_class_give_no_mislabels() -> None:
    features, labels = gaussian_clusters(24, 5)
    assert mislabels.find_mislabels(features, labels, np.arange(24)) == []
    assert mislabels.find_mislabels(features, np.zeros(24, np.int64), np.arange(24)) == []


def test_cutout_features_are_nearly_rotation_invariant_and_finite_for_blank_images() -> None:
    pixels = np.stack([generator.render_image(kind, 5, 128) for kind in ("E", "SB", "edge", "merger", "S")])
    original = cutout.measure_images(pixels, 0.6)
    rotated = cutout.measure_images(np.rot90(pixels, 1, (1, 2)), 0.6)
    mirrored = cutout.measure_images(pixels[:, :, ::-1], 0.6)
    spread = original.std(axis=0) + 1e-3
    assert np.median(np.abs(rotated - original) / spread) < 0.1
    assert np.median(np.abs(mirrored - original) / spread) < 0.1
    assert np.isfinite(cutout.measure_images(np.zeros((1, 128, 128, 3), np.uint8), 0.6)).all()
