"""Folder trees to a table of scores, without the service: resumable, in bounded memory, as fast as the engine."""

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

from astrodetect.anomalies.novelty import Novelty
from astrodetect.errors import DataError
from astrodetect.inference import pipeline
from astrodetect.inference.decision import decide, heat_map
from astrodetect.inference.pipeline import ScoredFile
from astrodetect.model_store.store import Manifest
from astrodetect.progress import Bar
from astrodetect.records import ANOMALY, HeatMap, ScoredImage, Thumbnail
from astrodetect.scoring import resumable_table, walk

if TYPE_CHECKING:
    from astrodetect.inference.engine import Engine

# Logs these, or those of them that are not logged yet, with their pictures and what was seen in them.
RecordBatch = Callable[[list[ScoredImage], list[Thumbnail], list[HeatMap]], object]


@dataclass(frozen=True, slots=True)
class ScoringTask:
    """What to score and where to; what stands in its way is told before a model is loaded."""

    places: Sequence[str]  # folders and files
    output: Path
    restart: bool
    max_pixels: int
    picture_px: int = 0  # of pictures that go with logged scores; 0 makes none

    def check(self) -> int:
        """How many files there are."""
        resumable_table.check(self.output, restart=self.restart)
        walk.check(self.places)
        count = sum(1 for _ in walk.walk(self.places))
        if not count:
            raise DataError(f"no images under {' '.join(self.places)}: they end in {', '.join(walk.SUFFIXES)}")
        return count


def score(
    task: ScoringTask, engine: "Engine", *, total: int, record: RecordBatch | None, novelty: Novelty | None = None
) -> str:
    """Scores all of it, or what an earlier process left of it, and says in one line what came out."""
    about = _about(task, engine, logged=record is not None)
    columns = _columns(engine.manifest, tells_novelty=novelty is not None)
    read = pipeline.image_reader(task.max_pixels, task.picture_px if record else 0)
    with resumable_table.opened(task.output, columns, about, restart=task.restart) as table:
        paths = walk.walk(task.places)
        table.resume(paths, engine.batch)
        before, began = table.rows, time.monotonic()
        with (
            Bar("scoring", total) as bar,
            closing(pipeline.score_files(paths, engine, read, novelty)) as batches,
        ):
            bar.step(before)
            for batch in batches:
                verdicts = [_verdict(seen, engine, table.run) for seen in batch]
                if record and (scored := [verdict for verdict in verdicts if verdict]):
                    pictures = [seen.picture for seen in batch if seen.picture]
                    heats = _heats(batch, engine.manifest)
                    record(scored, pictures, heats)  # before the rows below, which say that it is done
                table.add([_row(seen, verdict, table, engine) for seen, verdict in zip(batch, verdicts, strict=True)])
                rate = (table.rows - before) / (time.monotonic() - began)
                bar.step(len(batch), f"{rate:.0f} images/s, {_counted(table, engine.manifest)}")
        table.finish()
    speed = f", {rate:.0f} images/s" if table.rows > before else ""
    return f"{table.place}: {table.rows} files scored, {_counted(table, engine.manifest)}{speed}"


def _about(task: ScoringTask, engine: "Engine", *, logged: bool) -> dict[str, object]:
    """What must be the same for a run to go on."""
    manifest = engine.manifest
    return {
        "folders": {place: str(Path(place).absolute()) for place in task.places},
        "model": manifest.name,
        "model_version": manifest.version,
        "precision": engine.precision,
        "detectors": manifest.space,
        "threshold": manifest.threshold,
        "log": logged,
    }


def _verdict(seen: ScoredFile, engine: "Engine", run: uuid.UUID) -> ScoredImage | None:
    if seen.error:
        return None
    return decide(
        engine.manifest,
        seen.probabilities,
        image_name=seen.path,
        image_sha256=seen.sha256,
        request_id=_request_id(run, seen.path),
        looked=seen.looked,
    )


def _heats(batch: list[ScoredFile], manifest: Manifest) -> list[HeatMap]:
    """Of those that have a picture to lay them over."""
    return [
        heat_map(manifest, np.array(seen.probabilities), seen.places, seen.sha256)
        for seen in batch
        if seen.picture and seen.places is not None
    ]


def _request_id(run: uuid.UUID, path: str) -> uuid.UUID:
    """uuid5(run, path), also of a path that is not UTF-8."""
    digest = hashlib.sha1(run.bytes + os.fsencode(path), usedforsecurity=False).digest()
    return uuid.UUID(bytes=digest[:16], version=5)


def _row(
    seen: ScoredFile, verdict: ScoredImage | None, table: resumable_table.ResumableTable, engine: "Engine"
) -> list[str]:
    manifest = engine.manifest
    score, result = (repr(verdict.score), verdict.result) if verdict else ("", "")
    row = [seen.path, score, result, seen.error, manifest.name, manifest.version]
    if resumable_table.NOVELTY in table.columns:
        row.append(repr(verdict.novelty) if verdict else "")
    if manifest.task == "binary":  # the score says it all
        return row
    return row + ([repr(probability) for probability in seen.probabilities] or [""] * len(manifest.classes))


def _columns(manifest: Manifest, *, tells_novelty: bool) -> list[str]:
    more = [resumable_table.NOVELTY] if tells_novelty else []
    classes = () if manifest.task == "binary" else manifest.classes
    return [*resumable_table.COLUMNS, *more, *(f"{resumable_table.PROBABILITY}{name}" for name in classes)]


def _counted(table: resumable_table.ResumableTable, manifest: Manifest) -> str:
    if manifest.task == "binary":
        said = f"{table.results[ANOMALY]} anomalies"
    else:
        said = ", ".join(f"{table.results[name]} {name}" for name in manifest.classes)
    return f"{said}, {table.bad} bad files"
