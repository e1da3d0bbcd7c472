"""Keras datasets over labelled images: decoded when needed, shuffled and augmented from the seed alone."""

import math
import os
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from astrodetect import images
from astrodetect.datasets.dataset import Dataset
from astrodetect.learning.keras_runtime import keras, pad_to_devices
from astrodetect.records import Floats, ImageContract, Pixels

MIN_DECODERS = 2  # threads that decode and augment while the network computes
AUGMENTATION_MARGIN = 1.5  # how much larger than a view the image is that it is cut from, if the frame allows
IMAGE_CACHE_BYTES = 2**30
MAX_SHIFT = 0.05  # of the frame, each way
MAX_LOG_ZOOM = 0.15  # in or out
BRIGHTNESS_LOG_STD, COLOUR_LOG_STD = 0.15, 0.08  # of a factor on all bands and of one on each band
WHITE = 255


@dataclass(frozen=True, slots=True)
class LearningTask:
    """The targets and the class weights of a training."""

    outputs: int  # 1: the probability of class 1
    class_weights: tuple[float, ...]

    def targets(self, labels: NDArray[np.int64]) -> Floats:
        """(n, outputs): 0 or 1, or one-hot."""
        if self.outputs == 1:
            return labels[:, np.newaxis].astype(np.float32)
        return np.eye(self.outputs, dtype=np.float32)[labels]

    def sample_weights(self, labels: NDArray[np.int64]) -> Floats:
        """The class weight of each image."""
        return np.array(self.class_weights, dtype=np.float32)[labels]


class ImageCache:
    """The decoded images of a dataset; as many stay in memory as fit, for the next epoch."""

    def __init__(self, dataset: Dataset, contract: ImageContract) -> None:
        self.dataset, self.contract = dataset, contract
        self._decoded: list[Pixels | None] = [None] * len(dataset)
        self._free_bytes = IMAGE_CACHE_BYTES

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Pixels:
        if (cached := self._decoded[index]) is not None:
            return cached
        pixels = images.decode_file(self.dataset.paths[index], self.contract)
        if self._free_bytes >= pixels.nbytes:
            self._free_bytes -= pixels.nbytes
            self._decoded[index] = pixels
        return pixels


class Batches(keras.utils.PyDataset):
    """The images in order, in batches; given a task, with targets and sample weights."""

    def __init__(self, cache: ImageCache, batch_size: int, task: LearningTask | None = None) -> None:
        threads = max(MIN_DECODERS, os.cpu_count() or 1)
        super().__init__(workers=threads, use_multiprocessing=False, max_queue_size=max(8, threads))
        self._cache, self._batch_size, self._task = cache, batch_size, task
        self._order = np.arange(len(cache))

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch_size)

    def __getitem__(self, number: int) -> tuple[Floats, ...]:
        indices = self._order[number * self._batch_size : (number + 1) * self._batch_size]
        pixels = np.stack([self._pixels(int(index)) for index in indices]).astype(np.float32)
        if self._task is None:
            return (pad_to_devices(pixels),)
        labels = self._cache.dataset.labels[indices]
        weights = pad_to_devices(self._task.sample_weights(labels))
        weights[len(indices) :] = 0
        return pad_to_devices(pixels), pad_to_devices(self._task.targets(labels)), weights

    def _pixels(self, index: int) -> Pixels | Floats:
        return self._cache[index]


class Epoch(Batches):
    """A training epoch, shuffled, from its batch `start` on, where an interrupted run resumes.

    Given a `size` the images are augmented views of that size.
    """

    def __init__(
        self,
        cache: ImageCache,
        batch_size: int,
        task: LearningTask,
        *,
        seed: int,
        epoch: int,
        start: int,
        size: int | None,
    ) -> None:
        super().__init__(cache, batch_size, task)
        self._order = np.random.default_rng([seed, epoch]).permutation(len(cache))[start * batch_size :]
        self._seed, self._epoch, self._size = seed, epoch, size

    def _pixels(self, index: int) -> Pixels | Floats:
        frame = self._cache[index]
        if self._size is None:
            return frame
        return augment(frame, self._size, np.random.default_rng([self._seed, self._epoch, index]))


def augmentation_contract(contract: ImageContract) -> ImageContract:
    """The contract of images to cut augmented views from: larger at the same scale, as far as the frame allows."""
    factor = min(AUGMENTATION_MARGIN, 1 / contract.crop)
    return replace(contract, size=round(contract.size * factor), crop=min(1.0, contract.crop * factor))


def augment(frame: Pixels, size: int, random: np.random.Generator) -> Floats:
    """A random view (size, size, 3) of the frame: rotated, mirrored, shifted, zoomed, and changed in brightness.

    Any rotation, because the sky has no upright. Outside of the frame its mirror image continues.
    """
    angle, zoom = random.uniform(0, 2 * math.pi), math.exp(random.uniform(-MAX_LOG_ZOOM, MAX_LOG_ZOOM))
    matrix = zoom * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if random.random() < 0.5:
        matrix[:, 1] *= -1
    centre = len(frame) / 2 + size * random.uniform(-MAX_SHIFT, MAX_SHIFT, 2)
    reach = np.abs(matrix).sum(axis=1) * size / 2  # of the view, up and down, left and right of its centre
    margin = max(0, math.ceil(max(*(reach - centre), *(centre + reach - len(frame)))) + 1)
    mirrored = np.pad(frame, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    (yy, yx), (xy, xx) = matrix
    y, x = centre + margin - matrix @ np.full(2, size / 2)
    view = Image.fromarray(mirrored).transform(
        (size, size), Image.Transform.AFFINE, (xx, xy, x, yx, yy, y), Image.Resampling.BILINEAR
    )
    gains = np.exp(random.normal(0, BRIGHTNESS_LOG_STD) + random.normal(0, COLOUR_LOG_STD, 3))
    return np.minimum(np.asarray(view, np.float32) * gains.astype(np.float32), np.float32(WHITE))
