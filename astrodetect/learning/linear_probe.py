"""A frozen backbone: its features of every image computed once, kept on disk, and a head found on them in seconds."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from astrodetect import atomic_files, images
from astrodetect.datasets.dataset import Dataset
from astrodetect.images import ORIENTATIONS, orient
from astrodetect.inference.pipeline import read_ahead
from astrodetect.learning import logistic_head
from astrodetect.learning.batches import LearningTask
from astrodetect.learning.devices import accelerators, filled
from astrodetect.learning.export import features_engine
from astrodetect.learning.network import FEATURES, SCORE
from astrodetect.learning.network_training import WATCHED, measure
from astrodetect.progress import Bar
from astrodetect.records import Floats, ImageContract, Pixels

VIEWS_IN_ALL = 40_000  # more of them teach a linear head little
BATCH = 16
SAVE_EVERY = 64  # batches


def fit_head(
    model: keras.Model,
    train: Dataset,
    validation: Dataset,
    *,
    contract: ImageContract,
    task: LearningTask,
    augment: bool,
    smoothing: float,
    store: Path,
    run: str,
) -> list[dict[str, float]]:
    """Gives the model the best head for its backbone; returns what each strength measured on `validation`."""
    views = min(ORIENTATIONS, max(1, VIEWS_IN_ALL // len(train))) if augment else 1
    features = _Features(model, contract, store, run)
    learnt = features.of(train, views, "features of the training images")
    seen = features.of(validation, 1, "features of the validation images")
    labels = np.tile(train.labels, views)
    answers = task.answers(labels)
    answers = answers * (1 - smoothing) + smoothing / max(2, task.outputs)
    path = logistic_head.RegularisationPath(learnt, answers, task.weigh(labels))
    best, history = None, []
    with Bar("head", len(logistic_head.STRENGTHS)) as bar:
        for strength in logistic_head.STRENGTHS:
            found = path.head(strength)
            measured = {"strength": strength, **measure(validation, found.probabilities(seen), task)}
            history.append(measured)
            if best is None or measured[WATCHED] < best[0]:
                best = (measured[WATCHED], len(history), found)
            bar.step(note=f"validation loss {best[0]:.3f}")
            if len(history) - best[1] >= logistic_head.PATIENCE:
                break
    assert best is not None  # noqa: S101 - there are strengths
    model.get_layer(SCORE).set_weights([best[2].kernel, best[2].bias])
    return history


class _Features:
    """The pooled features of a catalogue's images; what an earlier process computed of them is not computed again."""

    def __init__(self, model: keras.Model, contract: ImageContract, store: Path, run: str) -> None:
        self._contract, self._store, self._run = contract, store, run
        network = keras.Model(model.input, model.get_layer(FEATURES).output)
        self._width = network.output_shape[-1]
        self._pass: Callable[[Pixels], Floats]
        if accelerators():
            self._at_once, self._pass = (
                1,
                lambda pixels: np.asarray(network.predict_on_batch(filled(pixels.astype(np.float32))))[: len(pixels)],
            )
        else:
            engine = features_engine(model, contract)
            self._at_once, self._pass = engine.streams, lambda pixels: engine.run(pixels).features

    def of(self, catalogue: Dataset, views: int, title: str) -> Floats:
        """(views × images, features): all images in the first view, then in the next."""
        self._store.mkdir(parents=True, exist_ok=True)
        place = self._store / f"{title.replace(' ', '-')}.npy"
        total = views * len(catalogue)
        jobs = [range(start, min(total, start + BATCH)) for start in range(0, total, BATCH)]
        found, done = self._opened(place, (total, self._width))
        with Bar(title, total) as bar:
            bar.step(sum(len(rows) for rows in jobs[:done]))
            rest = jobs[done:]
            for number, (rows, features) in enumerate(
                zip(rest, self._computed(catalogue, rest), strict=True), done + 1
            ):
                found[rows.start : rows.stop] = features
                bar.step(len(rows))
                if number % SAVE_EVERY == 0:
                    self._save(place, found, number)
            self._save(place, found, len(jobs))
        return found

    def _computed(self, catalogue: Dataset, jobs: list[range]) -> Iterator[Floats]:
        def read(rows: range) -> Pixels:
            places = (divmod(row, len(catalogue)) for row in rows)
            return np.stack(
                [orient(images.read_file(catalogue.paths[image], self._contract), view) for view, image in places]
            )

        return read_ahead(jobs, read, self._pass, self._at_once)

    def _opened(self, place: Path, shape: tuple[int, int]) -> tuple[Floats, int]:
        state = place.with_suffix(".json")
        try:
            known = json.loads(state.read_text())
            if known["run"] == self._run and known["shape"] == list(shape):
                found: Floats = np.load(place, mmap_mode="r+")
                return found, known["done"]
        except (OSError, ValueError, KeyError):
            pass
        state.unlink(missing_ok=True)
        np.save(place, np.broadcast_to(np.float32(0), shape))
        return np.load(place, mmap_mode="r+"), 0

    def _save(self, place: Path, found: NDArray[np.float32], done: int) -> None:
        if isinstance(found, np.memmap):
            found.flush()
        state = json.dumps({"run": self._run, "shape": list(found.shape), "done": done})
        atomic_files.write_text(place.with_suffix(".json"), state)
