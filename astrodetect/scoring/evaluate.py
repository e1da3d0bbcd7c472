"""Evaluation of a model on labelled images: outputs for every part of a data set, and the report."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.datasets.dataset import Dataset
from astrodetect.errors import DataError, ImageError
from astrodetect.evaluation.summary import (
    EvaluatedModel,
    EvaluatedPart,
    EvaluationInputs,
    Summary,
    TrainingFeatures,
    summarise_evaluation,
)
from astrodetect.inference.heat_maps import odds_map
from astrodetect.inference.pipeline import read_ahead
from astrodetect.model_store import mirror
from astrodetect.progress import ProgressBar
from astrodetect.records import ImagePath, Outputs
from astrodetect.reports import evaluation_report

if TYPE_CHECKING:  # OpenVINO is slow to import: usage errors are reported without it
    from astrodetect.inference.engine import Engine

MAX_TRAINING_IMAGES = 5000  # sampled as reference for the report's unusual images


class EvaluationReport(NamedTuple):
    """A report that was written, and what it was made from."""

    page: Path
    inputs: EvaluationInputs
    summary: Summary


def evaluate_and_report(
    models: Path,
    name: str,
    parts: Mapping[str, Dataset],
    *,
    train: Dataset | None = None,
    remarks: Sequence[str] = (),
    known: Mapping[str, Outputs] = {},
) -> EvaluationReport:
    """Evaluates a published model on parts of a data set, the last one in detail; the page is beside the model.

    The outputs of a part are computed only if they are not in `known`.
    """
    from astrodetect.inference.engine import Engine, load_verified  # noqa: PLC0415 - OpenVINO is slow to import

    loaded = load_verified(models, name, prior={})
    inputs = evaluate(Engine(loaded, views=1), parts, train=train, remarks=remarks, known=known)
    summary = summarise_evaluation(inputs)
    page = evaluation_report.write_evaluation_report(inputs, summary, models / f"{name}.html")
    mirror.push_report(models, loaded.manifest)
    return EvaluationReport(page, inputs, summary)


def evaluate(
    engine: "Engine",
    parts: Mapping[str, Dataset],
    *,
    train: Dataset | None = None,
    views: int | None = None,
    remarks: Sequence[str] = (),
    known: Mapping[str, Outputs] = {},
) -> EvaluationInputs:
    """The model's outputs for each part; with several views, the last part's outputs without them as well.

    The engine runs single views, of which `views` are averaged: by default as many as the manifest says.
    """
    views = views or engine.manifest.views
    evaluated = [
        EvaluatedPart(
            title=title,
            paths=part.paths,
            truth=part.labels,
            fingerprint=part.fingerprint,
            outputs=known.get(title) or compute_outputs(part, engine, title, views),
            skipped=len(part.skipped),
        )
        for title, part in parts.items()
    ]
    single_view = compute_outputs(list(parts.values())[-1], engine, "one view").probabilities if views > 1 else None
    training = None
    if train is not None:
        sample = np.sort(np.random.default_rng(0).permutation(len(train))[:MAX_TRAINING_IMAGES])
        subset = train.subset(sample)
        training = TrainingFeatures(subset.labels, compute_outputs(subset, engine, "training images").features)
    explain = partial(odds_map, engine)
    return EvaluationInputs(_evaluated_model(engine), evaluated, training, views, single_view, remarks, explain)


def compute_outputs(dataset: Dataset, engine: "Engine", title: str, views: int = 1) -> Outputs:
    """The network's outputs for each image, averaged over `views` orientations (test-time augmentation)."""
    batches = (dataset.paths[start : start + engine.batch_size] for start in range(0, len(dataset), engine.batch_size))
    from astrodetect.inference.engine import average_views  # noqa: PLC0415 - as above

    outputs = []
    with ProgressBar(f"evaluating {title}", len(dataset)) as bar:
        for batch in read_ahead(
            batches,
            lambda paths: _read_images(paths, engine),
            lambda pixels: average_views(engine.run, pixels, views),
            engine.streams,
        ):
            outputs.append(batch)
            bar.step(len(batch.probabilities))
    return Outputs.concatenate(outputs)


def _read_images(paths: Sequence[ImagePath], engine: "Engine") -> NDArray[np.uint8]:
    return np.stack([_read_image(path, engine) for path in paths])


def _read_image(path: ImagePath, engine: "Engine") -> NDArray[np.uint8]:
    try:
        return images.decode_file(path, engine.manifest.image)
    except ImageError as error:
        raise DataError(f"{path}: {error}") from error


def _evaluated_model(engine: "Engine") -> EvaluatedModel:
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
        warnings=manifest.warnings,
    )
