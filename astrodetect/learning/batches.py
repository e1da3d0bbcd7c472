"""A catalogue as batches: decoded as they are needed, shuffled and varied by the seed alone."""

import math
from dataclasses import dataclass, replace

import keras
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrodetect import images
from astrodetect.datasets.dataset import Dataset
from astrodetect.learning.devices import filled
from astrodetect.records import Floats, ImageContract, Pixels

READERS = 2  # threads that decode while the network computes
WIDER = 1.5  # the frame that is turned is wider than what is cut from it, where the picture has that much
FRAMES_BYTES = 2**30  # of a catalogue, in memory
LARGEST_SHIFT = 0.05  # of the frame, each way
LARGEST_ZOOM = 0.15  # in or out, as the logarithm of the factor
LIGHT_SPREAD, COLOUR_SPREAD = 0.15, 0.08  # of all bands and of each, as the logarithm of a factor
WHITE = 255


@dataclass(frozen=True, slots=True)
class LearningTask:
    """What is learnt from a catalogue: its answers as the head gives them, and what each class weighs."""

    outputs: int  # 1: the probability of class 1
    weights: tuple[float, ...]  # of each class

    def answers(self, labels: NDArray[np.int64]) -> Floats:
        """Of a batch: (n, outputs)."""
        if self.outputs == 1:
            return labels[:, np.newaxis].astype(np.float32)
        return np.eye(self.outputs, dtype=np.float32)[labels]

    def weigh(self, labels: NDArray[np.int64]) -> Floats:
        """Of each image of a batch."""
        return np.array(self.weights, dtype=np.float32)[labels]


class Frames:
    """The decoded images of a catalogue, kept in memory as far as they fit: most are wanted again in the next epoch."""

    def __init__(self, catalogue: Dataset, contract: ImageContract) -> None:
        self.catalogue, self.contract = catalogue, contract
        self._kept: list[Pixels | None] = [None] * len(catalogue)
        self._room = FRAMES_BYTES

    def __len__(self) -> int:
        return len(self.catalogue)

    def __getitem__(self, image: int) -> Pixels:
        if (kept := self._kept[image]) is not None:
            return kept
        pixels = images.read_file(self.catalogue.paths[image], self.contract)
        if self._room >= pixels.nbytes:
            self._room -= pixels.nbytes
            self._kept[image] = pixels
        return pixels


class Batches(keras.utils.PyDataset):
    """One pass over frames, in their own order; with a task their answers and weights besides."""

    def __init__(self, frames: Frames, batch_size: int, task: LearningTask | None = None) -> None:
        super().__init__(workers=READERS, use_multiprocessing=False, max_queue_size=8)
        self._frames, self._batch_size, self._task = frames, batch_size, task
        self._order = np.arange(len(frames))

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[Floats, ...]:
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        pixels = np.stack([self._pixels(int(image)) for image in chosen]).astype(np.float32)
        if self._task is None:
            return (filled(pixels),)
        labels = self._frames.catalogue.labels[chosen]
        weights = filled(self._task.weigh(labels))
        weights[len(chosen) :] = 0
        return filled(pixels), filled(self._task.answers(labels)), weights

    def _pixels(self, image: int) -> Pixels | Floats:
        return self._frames[image]


class Epoch(Batches):
    """A training epoch, shuffled, from its batch `start` on: a run cut short goes on from there.

    With a `size` its images are varied views of that size, cut from the frames.
    """

    def __init__(
        self,
        frames: Frames,
        batch_size: int,
        task: LearningTask,
        *,
        seed: int,
        epoch: int,
        start: int,
        size: int | None,
    ) -> None:
        super().__init__(frames, batch_size, task)
        self._order = np.random.default_rng([seed, epoch]).permutation(len(frames))[start * batch_size :]
        self._seed, self._epoch, self._size = seed, epoch, size

    def _pixels(self, image: int) -> Pixels | Floats:
        frame = self._frames[image]
        if self._size is None:
            return frame
        return vary(frame, self._size, np.random.default_rng([self._seed, self._epoch, image]))


def wider(contract: ImageContract) -> ImageContract:
    """Of frames to turn and to cut views from: wider, where the picture has that much, at the same scale."""
    factor = min(WIDER, 1 / contract.crop)
    return replace(contract, size=round(contract.size * factor), crop=min(1.0, contract.crop * factor))


def vary(frame: Pixels, size: int, random: np.random.Generator) -> Floats:
    """Another view of the same sky, (size, size, 3) of the frame: turned, mirrored, a little moved, scaled and lit.

    The sky has no up. What lies outside of the frame is its mirror image.
    """
    angle, zoom = random.uniform(0, 2 * math.pi), math.exp(random.uniform(-LARGEST_ZOOM, LARGEST_ZOOM))
    turn = zoom * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if random.random() < 0.5:
        turn[:, 1] *= -1
    centre = (len(frame) - 1) / 2 + size * random.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, 2)
    offset = centre - turn @ np.full(2, (size - 1) / 2)
    view = np.empty((size, size, 3), dtype=np.float32)
    for band in range(3):
        ndimage.affine_transform(
            frame[..., band], turn, offset, (size, size), output=view[..., band], order=1, mode="reflect"
        )
    light = np.exp(random.normal(0, LIGHT_SPREAD) + random.normal(0, COLOUR_SPREAD, 3))
    return np.minimum(view * light.astype(np.float32), np.float32(WHITE))
