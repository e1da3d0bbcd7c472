"""Batch scoring: folders of images to a table of scores, without the service; resumable and in bounded memory."""

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from astrodetect.anomalies.domain import LatestImages
from astrodetect.anomalies.novelty import Novelty
from astrodetect.datasets import listing
from astrodetect.inference import pipeline
from astrodetect.inference.decision import decide
from astrodetect.inference.heat_maps import heat_map
from astrodetect.inference.pipeline import ScoredFile
from astrodetect.model_store.manifest import Manifest
from astrodetect.progress import ProgressBar
from astrodetect.records import ANOMALY, BatchRunner, HeatMap, ScoredImage, Thumbnail
from astrodetect.scoring import resumable_table

if TYPE_CHECKING:
    from astrodetect.inference.engine import Engine

# Writes predictions that are not in the log yet, with their thumbnails and heat maps.
RecordBatch = Callable[[list[ScoredImage], list[Thumbnail], list[HeatMap]], object]


@dataclass(frozen=True, slots=True)
class ScoringSummary:
    """How a run ended."""

    files: int
    bad_files: int
    text: str  # a line, and one more where most images are out of domain


@dataclass(frozen=True, slots=True)
class ScoringTask:
    """What to score and where the table goes; `check` reports problems before a model is loaded."""

    paths: Sequence[str]  # folders and files
    output: Path
    restart: bool
    max_pixels: int
    thumbnail_px: int = 0  # size of the thumbnails logged with the scores; 0 makes none

    def check(self) -> int:
        """The number of files to score."""
        resumable_table.check_table_path(self.output, restart=self.restart)
        listing.check_paths(self.paths)
        count = sum(1 for _ in listing.walk_images(self.paths))
        if not count:
            raise listing.no_images(self.paths)
        return count


def score_task(
    task: ScoringTask,
    engine: "Engine",
    *,
    total: int,
    record: RecordBatch | None,
    novelty: Novelty | None = None,
    run_batches: BatchRunner = pipeline.read_ahead,
) -> ScoringSummary:
    """Scores all files, or those that an interrupted run left."""
    settings = _run_settings(task, engine, logged=record is not None)
    columns, latest = _columns(engine.manifest, novelty), LatestImages(0, 0)
    read = pipeline.image_reader(task.max_pixels, task.thumbnail_px if record else 0)
    with resumable_table.open_table(task.output, columns, settings, restart=task.restart) as table:
        paths = listing.walk_images(task.paths)
        table.resume(paths, engine.batch_size)
        rows_before, started = table.rows, time.monotonic()
        with (
            ProgressBar("scoring", total) as bar,
            closing(pipeline.score_files(paths, engine, read, novelty, run_batches=run_batches)) as batches,
        ):
            bar.step(rows_before)
            for batch in batches:
                predictions = [_predict(file, engine, table.run) for file in batch]
                if record and (scored := [prediction for prediction in predictions if prediction]):
                    thumbnails = [file.thumbnail for file in batch if file.thumbnail]
                    record(
                        scored, thumbnails, _heat_maps(batch, engine.manifest)
                    )  # before the rows, which mark it done
                table.add([_row(file, scored, table, engine) for file, scored in zip(batch, predictions, strict=True)])
                latest += LatestImages.of(row.novelty or 0 for row in predictions if row and row.in_domain is not None)
                rate = (table.rows - rows_before) / (time.monotonic() - started)
                bar.step(len(batch), f"{rate:.0f} images/s, {_counts(table, engine.manifest)}")
        table.finish()
    speed = f", {rate:.0f} images/s" if table.rows > rows_before else ""
    text = f"{table.path}: {table.rows} files scored, {_counts(table, engine.manifest)}{speed}"
    if latest.mostly_out_of_domain:
        text += f"\n{latest.warning(engine.manifest.name)}"
    return ScoringSummary(table.rows, table.unreadable, text)


def _run_settings(task: ScoringTask, engine: "Engine", *, logged: bool) -> dict[str, object]:
    """What must be unchanged for a run to be resumed."""
    manifest = engine.manifest
    return {
        "folders": {path: str(Path(path).absolute()) for path in task.paths},
        "model": manifest.name,
        "model_version": manifest.version,
        "precision": engine.precision,
        "detectors": manifest.space,
        "threshold": manifest.threshold,
        "log": logged,
    }


def _predict(file: ScoredFile, engine: "Engine", run: uuid.UUID) -> ScoredImage | None:
    if file.error:
        return None
    return decide(
        engine.manifest,
        file.probabilities,
        image_name=file.path,
        image_sha256=file.sha256,
        request_id=_request_id(run, file.path),
        novelty=file.novelty,
    )


def _heat_maps(batch: list[ScoredFile], manifest: Manifest) -> list[HeatMap]:
    """The heat maps of files that have a thumbnail."""
    return [
        heat_map(manifest, np.array(file.probabilities), file.activation_map, file.sha256)
        for file in batch
        if file.thumbnail and file.activation_map is not None
    ]


def _request_id(run: uuid.UUID, path: str) -> uuid.UUID:
    """uuid5(run, path), also for paths that are not UTF-8."""
    digest = hashlib.sha1(run.bytes + os.fsencode(path), usedforsecurity=False).digest()
    return uuid.UUID(bytes=digest[:16], version=5)


def _row(
    file: ScoredFile, scored: ScoredImage | None, table: resumable_table.ResumableTable, engine: "Engine"
) -> list[str]:
    manifest = engine.manifest
    score, result = (repr(scored.score), scored.result) if scored else ("", "")
    row = [file.path, score, result, file.error, manifest.name, manifest.version]
    if resumable_table.NOVELTY in table.columns:
        row.append(repr(scored.novelty) if scored else "")
    if resumable_table.IN_DOMAIN in table.columns:
        row.append(str(scored.in_domain).lower() if scored else "")
    if manifest.task == "binary":  # the score determines both probabilities
        return row
    return row + ([repr(probability) for probability in file.probabilities] or [""] * len(manifest.classes))


def _columns(manifest: Manifest, detectors: Novelty | None) -> list[str]:
    novelty = [resumable_table.NOVELTY] if detectors else []
    if detectors and detectors.limit is not None:
        novelty.append(resumable_table.IN_DOMAIN)
    classes = () if manifest.task == "binary" else manifest.classes
    return [*resumable_table.COLUMNS, *novelty, *(f"{resumable_table.PROBABILITY}{name}" for name in classes)]


def _counts(table: resumable_table.ResumableTable, manifest: Manifest) -> str:
    if manifest.task == "binary":
        counts = f"{table.results[ANOMALY]} anomalies"
    else:
        counts = ", ".join(f"{table.results[name]} {name}" for name in manifest.classes)
    return f"{counts}, {table.unreadable} bad files"
