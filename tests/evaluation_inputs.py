"""Evaluation inputs for tests of reports: real image files and noisy outputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astrodetect import images
from astrodetect.evaluation.summary import EvaluatedModel, EvaluatedPart, EvaluationInputs, TrainingFeatures
from astrodetect.records import ImageContract, Outputs

SIZE_PX = 32
HISTORY = [
    {"train_loss": 0.7, "log_loss": 0.6, "watched_loss": 0.65, "accuracy": 0.6, "auc": 0.7},
    {"train_loss": 0.4, "log_loss": 0.3, "watched_loss": 0.35, "accuracy": 0.9, "auc": 0.95},
    {"train_loss": 0.2, "log_loss": 0.5, "watched_loss": 0.55, "accuracy": 0.8, "auc": 0.9},
]


def make_evaluation_inputs(
    folder: Path,
    classes: Sequence[str] = ("SB", "E"),
    count: int = 40,
    *,
    task: Any = None,
    side: int = SIZE_PX,
    **more: Any,
) -> EvaluationInputs:
    """`count` images of a part called test, some of them misclassified."""
    random = np.random.default_rng(0)
    truth = np.arange(count) % len(classes)
    paths = []
    for number, label in enumerate(truth.tolist()):
        path = folder / classes[label] / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write_jpeg(path, random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        paths.append(path)
    logits = random.normal(0, 1, (count, len(classes)))
    logits[np.arange(count), truth] += 1.5
    odds = np.exp(logits)
    outputs = Outputs(
        (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32),
        random.random((count, 16), dtype=np.float32),
        random.normal(0, 1, (count, 8, 8)).astype(np.float32),
    )
    model = EvaluatedModel(
        name="galaxies",
        version="0123456789ab",
        task=task or ("binary" if len(classes) == 2 else "classes"),
        recipe="cnn",
        classes=classes,
        threshold=0.5,
        temperature=1.1,
        precision="f32",
        image=ImageContract(size=side),
        created="2026-11-21T00:00:00+00:00",
        data={
            "train": {"images": dict.fromkeys(classes, 100), "fingerprint": "learnt", "skipped": [{"path": "bad.jpg"}]}
        },
        settings={"seed": 7, "history": HISTORY},
        versions={"python": "3.12", "commit": "abc1234"},
    )
    learnt = TrainingFeatures(truth, random.random((count, 16), dtype=np.float32))
    return EvaluationInputs(model, [EvaluatedPart("test", paths, truth, "seen", outputs)], learnt, **more)
