"""Batches of training images: their order, the views cut from them, and the cache of decoded ones."""

from pathlib import Path

import numpy as np
import pytest

from astrodetect import images
from astrodetect.datasets.dataset import Dataset
from astrodetect.learning.batches import Batches, Epoch, ImageCache, LearningTask, augment, augmentation_contract
from astrodetect.records import Floats, ImageContract, Pixels

SIZE = 32
CONTRACT = ImageContract(size=SIZE)
TASK = LearningTask(1, (1.0, 1.0))


def test_an_epoch_has_every_image_once_and_can_start_at_any_batch(noise_images: Dataset) -> None:
    def epoch(start: int = 0, number: int = 3, *, augment: bool = True) -> list[tuple[Floats, Floats]]:
        frames = ImageCache(noise_images, CONTRACT)
        batches = Epoch(frames, 4, TASK, seed=1, epoch=number, start=start, size=SIZE if augment else None)
        return [batches[i][:2] for i in range(len(batches))]  # type: ignore[misc]

    whole, rest = epoch(), epoch(start=2)
    assert [len(pixels) for pixels, _ in whole] == [4, 4, 4, 4, 4, 2]
    assert sum(float(answers.sum()) for _, answers in whole) == 11
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(whole[2:], rest, strict=True))
    assert not np.array_equal(epoch(augment=False)[0][0], epoch(number=4, augment=False)[0][0])
    assert not np.array_equal(whole[0][0], epoch(augment=False)[0][0])


def test_batches_keep_the_order_of_the_dataset(noise_images: Dataset) -> None:
    batches = Batches(ImageCache(noise_images, CONTRACT), 8, TASK)
    labels = np.concatenate([batches[i][1] for i in range(len(batches))])[:, 0]
    assert np.array_equal(labels, noise_images.labels)


def test_augmentation_rotates_shifts_and_zooms_within_its_limits() -> None:
    """A bright dot off the middle goes round on a ring, and more or less keeps its light and its colour."""
    frame = np.zeros((60, 60, 3), dtype=np.uint8)
    frame[36:40, 28:32] = (200, 100, 50)
    angles = []
    for seed in range(60):
        view = augment(frame, 40, np.random.default_rng(seed))
        assert view.shape == (40, 40, 3)
        red, green, blue = view.sum(axis=(0, 1))
        assert (green / red, blue / red) == pytest.approx((0.5, 0.25), rel=0.5)
        assert red == pytest.approx(16 * 200, rel=0.8)
        assert view.max() <= 255
        y, x = np.average(np.indices((40, 40)).reshape(2, -1), axis=1, weights=view[..., 0].ravel()) - 19.5
        assert 8 / 1.17 - 2.9 < np.hypot(y, x) < 8 * 1.17 + 2.9
        angles.append(np.arctan2(y, x))
    assert np.histogram(angles, bins=8, range=(-np.pi, np.pi))[0].min() > 0


def test_augmentation_continues_the_frame_by_its_mirror_image() -> None:
    for frame_px in (40, 60):
        frame = np.full((frame_px, frame_px, 3), 100, dtype=np.uint8)
        for seed in range(30):
            view = augment(frame, 40, np.random.default_rng(seed))
            assert np.ptp(view, axis=(0, 1)).max() == 0


def test_images_for_augmentation_are_larger_at_the_same_scale_if_the_frame_allows() -> None:
    assert augmentation_contract(ImageContract(size=64, crop=0.5)) == ImageContract(size=96, crop=0.75)
    assert augmentation_contract(ImageContract(size=64, crop=1.0)) == ImageContract(size=64, crop=1.0)


def test_the_image_cache_decodes_once_what_fits_in_memory(
    noise_images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from astrodetect.learning import batches

    read: list[Path] = []
    true = images.decode_file
    monkeypatch.setattr(batches, "IMAGE_CACHE_BYTES", 10 * SIZE * SIZE * 3)

    def counted(path: Path, contract: ImageContract) -> Pixels:
        read.append(path)
        return true(path, contract)

    monkeypatch.setattr(images, "decode_file", counted)
    frames = ImageCache(noise_images, CONTRACT)
    first, second = ([frames[i] for i in range(len(frames))] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert len(read) == 2 * len(noise_images) - 10


def test_targets_of_several_classes_are_one_hot_and_weighted_by_class() -> None:
    task = LearningTask(3, (1.0, 2.0, 4.0))
    assert task.targets(np.array([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert task.sample_weights(np.array([2, 0, 1])).tolist() == [4, 1, 2]
