"""A catalogue as batches: decoded as they are needed, shuffled and turned by the seed alone."""

import math

import keras
import numpy as np

from astrodetect import images
from astrodetect.catalogue.folders import Catalogue
from astrodetect.records import Floats, ImageContract, Pixels

READERS = 2  # threads that decode while the network computes
LARGEST_SHIFT = 0.06  # of the frame, each way


class Batches(keras.utils.PyDataset):
    """One pass over a catalogue, in its own order."""

    def __init__(self, catalogue: Catalogue, contract: ImageContract, batch_size: int) -> None:
        super().__init__(workers=READERS, use_multiprocessing=False, max_queue_size=8)
        self._catalogue, self._contract, self._batch_size = catalogue, contract, batch_size
        self._order = np.arange(len(catalogue))

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[Floats, Floats]:
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        pixels = np.stack([self._read(int(image)) for image in chosen])
        return pixels.astype(np.float32), self._catalogue.labels[chosen, np.newaxis].astype(np.float32)

    def _read(self, image: int) -> Pixels:
        return images.read_file(self._catalogue.paths[image], self._contract)


class Epoch(Batches):
    """A training epoch, shuffled, from its batch `start` on: a run cut short goes on from there."""

    def __init__(
        self,
        catalogue: Catalogue,
        contract: ImageContract,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        start: int,
        augment: bool,
    ) -> None:
        super().__init__(catalogue, contract, batch_size)
        self._order = np.random.default_rng([seed, epoch]).permutation(len(catalogue))[start * batch_size :]
        self._seed, self._epoch, self._augment = seed, epoch, augment

    def _read(self, image: int) -> Pixels:
        pixels = super()._read(image)
        if self._augment:
            pixels = vary(pixels, np.random.default_rng([self._seed, self._epoch, image]))
        return pixels


def vary(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """The same sky otherwise: mirrored, turned by quarters, shifted a little. The sky has no up."""
    pixels = np.rot90(pixels, int(random.integers(4)))
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    size = len(pixels)
    reach = round(LARGEST_SHIFT * size)
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    top, left = random.integers(0, 2 * reach + 1, size=2)
    return padded[top : top + size, left : left + size]
