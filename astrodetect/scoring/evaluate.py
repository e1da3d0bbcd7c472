"""Labelled images to what a model says of them, and to the report on how well it does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.datasets.dataset import Dataset
from astrodetect.errors import DataError, ImageError
from astrodetect.evaluation.inputs import EvaluatedModel, EvaluatedPart, EvaluationInputs, TrainingFeatures
from astrodetect.evaluation.summary import summarise
from astrodetect.features.orientations import VIEWS, turned
from astrodetect.inference.pipeline import read_ahead
from astrodetect.model_store import store
from astrodetect.progress import Bar
from astrodetect.records import Outputs
from astrodetect.reports import evaluation_report as page

if TYPE_CHECKING:  # OpenVINO takes its time: what stands in the way is told without it
    from astrodetect.inference.engine import Engine

LEARNT_IMAGES = 5000  # of the training images, at most: those that a report's unusual images are compared with


def report(
    models: Path,
    name: str,
    parts: Mapping[str, Dataset],
    *,
    train: Dataset | None = None,
    remarks: Sequence[str] = (),
    known: Mapping[str, Outputs] = {},
) -> Path:
    """Evaluates a published model on parts of the data, the last one in detail; returns the page beside the model.

    What the model says of a part is looked at again only where it is not `known`.
    """
    from astrodetect.inference.engine import Engine  # noqa: PLC0415

    evidence = evaluate(Engine(store.load(models, name)), parts, train=train, remarks=remarks, known=known)
    return page.write_evaluation_report(evidence, summarise(evidence), models / f"{name}.html")


def evaluate(
    engine: "Engine",
    parts: Mapping[str, Dataset],
    *,
    train: Dataset | None = None,
    views: int = 1,
    remarks: Sequence[str] = (),
    known: Mapping[str, Outputs] = {},
) -> EvaluationInputs:
    """What the model says of each part, and, with several views, what it says of the last one without them."""
    found = [
        EvaluatedPart(
            title=title,
            paths=catalogue.paths,
            truth=catalogue.labels,
            fingerprint=catalogue.fingerprint,
            outputs=known.get(title) or outputs(catalogue, engine, title, views),
            skipped=len(catalogue.skipped),
        )
        for title, catalogue in parts.items()
    ]
    alone = outputs(list(parts.values())[-1], engine, "one view").probabilities if views > 1 else None
    learnt = None
    if train is not None:
        some = np.sort(np.random.default_rng(0).permutation(len(train))[:LEARNT_IMAGES])
        seen = train.subset(some)
        learnt = TrainingFeatures(seen.labels, outputs(seen, engine, "training images").features)
    return EvaluationInputs(_described(engine), found, learnt, views, alone, remarks)


def outputs(catalogue: Dataset, engine: "Engine", title: str, views: int = 1) -> Outputs:
    """What the network says of each image; of several views of it, their mean."""
    batches = (catalogue.paths[start : start + engine.batch] for start in range(0, len(catalogue), engine.batch))
    found = []
    with Bar(f"looking at {title}", len(catalogue)) as bar:
        for part in read_ahead(
            batches, lambda paths: _read(paths, engine), lambda some: _seen(engine, some, views), engine.streams
        ):
            found.append(part)
            bar.step(len(part.probabilities))
    return Outputs.joined(found)


def _read(paths: Sequence[Path], engine: "Engine") -> NDArray[np.uint8]:
    return np.stack([_read_one(path, engine) for path in paths])


def _read_one(path: Path, engine: "Engine") -> NDArray[np.uint8]:
    try:
        return images.read_file(path, engine.manifest.image)
    except ImageError as error:
        raise DataError(f"{path}: {error}") from error


def _seen(engine: "Engine", pixels: NDArray[np.uint8], views: int) -> Outputs:
    """The mean over the views, with each map turned back to where the image stands upright."""
    found = []
    for view in range(views):
        said = engine.run(turned(pixels, view))
        maps = np.rot90(said.maps, -view, axes=(1, 2))
        found.append(Outputs(said.probabilities, said.features, maps[:, :, ::-1] if view >= VIEWS // 2 else maps))
    return Outputs(
        np.mean([said.probabilities for said in found], axis=0),
        np.mean([said.features for said in found], axis=0),
        np.mean([said.maps for said in found], axis=0),
    )


def _described(engine: "Engine") -> EvaluatedModel:
    manifest = engine.manifest
    return EvaluatedModel(
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        recipe=manifest.recipe,
        classes=manifest.classes,
        threshold=manifest.threshold,
        temperature=manifest.temperature,
        precision=engine.precision,
        image=manifest.image,
        created=manifest.created,
        data=manifest.data,
        settings=manifest.settings,
        versions=manifest.versions,
    )
