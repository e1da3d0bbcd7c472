"""Which labels are doubted."""

import numpy as np

from astrodetect.datasets import mislabels
from astrodetect.datasets.simulation import generator
from astrodetect.features import cutout

Rows = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def clouds(count: int, wide: int) -> tuple[Rows, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Three classes, well apart."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    return (random.normal(0, 1, (count, wide)) + 4 * np.eye(3, wide)[labels]).astype(np.float32), labels


def test_wrong_labels_are_found_with_the_right_one_and_the_surest_come_first() -> None:
    features, right = clouds(300, 20)
    given = right.copy()
    wrong = np.arange(0, 300, 23)
    given[wrong] = (given[wrong] + 1) % 3
    found = mislabels.find_mislabels(features, given, np.arange(300))
    named = {suspect.index for suspect in found}
    assert len(named & set(wrong.tolist())) >= 0.8 * len(wrong)
    assert len(named - set(wrong.tolist())) <= 0.2 * len(wrong)
    assert all(suspect.suggested == right[suspect.index] for suspect in found if suspect.index in wrong)
    margins = [suspect.probability - suspect.label_probability for suspect in found]
    assert margins == sorted(margins, reverse=True)


def test_a_copy_with_the_same_wrong_label_does_not_vouch_for_it() -> None:
    features, right = clouds(300, 20)
    given, groups = right.copy(), np.arange(300)
    features[1:40] = features[0]  # copies of one image, and all of them mislabelled
    given[:40], groups[:40] = 1, 0
    found = {suspect.index for suspect in mislabels.find_mislabels(features, given, groups)}
    assert set(range(40)) <= found


def test_more_columns_than_are_needed_do_no_harm() -> None:
    features, right = clouds(300, mislabels.MAX_FEATURES + 10)
    features[:, :3] *= 5
    given = right.copy()
    given[:10] = (given[:10] + 1) % 3
    found = {suspect.index for suspect in mislabels.find_mislabels(features, given, np.arange(300))}
    assert len(found & set(range(10))) >= 5  # ten of 300 by chance: none; processors round apart
    assert len(found) <= 12


def test_of_few_images_or_one_class_nothing_is_said() -> None:
    features, labels = clouds(24, 5)
    assert mislabels.find_mislabels(features, labels, np.arange(24)) == []
    assert mislabels.find_mislabels(features, np.zeros(24, np.int64), np.arange(24)) == []


def test_shapes_hardly_change_when_an_image_is_turned_and_are_numbers_even_of_a_blank_one() -> None:
    pixels = np.stack([generator.render_image(kind, 5, 128) for kind in ("E", "SB", "edge", "merger", "S")])
    straight = cutout.measure_images(pixels, 0.6)
    turned = cutout.measure_images(np.rot90(pixels, 1, (1, 2)), 0.6)
    mirrored = cutout.measure_images(pixels[:, :, ::-1], 0.6)
    spread = straight.std(axis=0) + 1e-3
    assert np.median(np.abs(turned - straight) / spread) < 0.1
    assert np.median(np.abs(mirrored - straight) / spread) < 0.1
    assert np.isfinite(cutout.measure_images(np.zeros((1, 128, 128, 3), np.uint8), 0.6)).all()
