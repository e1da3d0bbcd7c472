"""Batch scoring: folders of images to a table of scores, without the service; resumable and in bounded memory."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect.datasets import listing
from astrodetect.errors import ModelError
from astrodetect.progress import ProgressBar, printable
from astrodetect.records import ANOMALY
from astrodetect.scoring import resumable_table
from astrodetect.scoring.chunks import (
    QUARANTINED,
    Chunk,
    ChunkEvent,
    Counts,
    ScoredChunk,
    WorkerPool,
    WorkerReady,
    chunk_images,
)
from astrodetect.scoring.part_files import IN_DOMAIN, NOVELTY, ScoreRow
from astrodetect.sky.catalogue import Catalogue, missing_text
from astrodetect.sky.cutouts import Cutout
from astrodetect.storage.references import is_shard, is_url

if TYPE_CHECKING:  # slow to import: the workers load the model meanwhile
    from astrodetect.model_store.manifest import Manifest

SLOW_IMPORTS = ("pyarrow.parquet", "astrodetect.anomalies.domain")
NAMED_QUARANTINED = 5  # in the summary; the table names all


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
    output: resumable_table.TablePath
    restart: bool
    log: bool = False  # whether workers record rows in the predictions table
    catalogue: Catalogue | None = None  # whose columns the table gets
    cutouts: Sequence[Cutout] = ()  # of mosaics, instead of paths

    def check(self) -> None:
        """Raises DataError if there is nothing to read or nowhere to write."""
        resumable_table.check_table_path(self.output, restart=self.restart)
        listing.check_paths(self.paths)
        if self.paths and next(listing.list_references(self.paths), None) is None:
            raise listing.no_images(self.paths)

    def references(self) -> Iterator[str]:
        """What is scored."""
        if self.cutouts:
            return (cutout.describe() for cutout in self.cutouts)
        return listing.list_references(self.paths)

    def count(self) -> int:
        """The number of references to score: of images, and of shards."""
        return len(self.cutouts) or sum(1 for _ in listing.list_references(self.paths))

    @property
    def first_file(self) -> str:
        """A file that every worker must see."""
        if self.cutouts:
            return self.cutouts[0].source.mosaics.files[0]
        return next(listing.list_references(self.paths))


def score_task(task: ScoringTask, manifest: "Manifest", pool: WorkerPool) -> ScoringSummary:
    """Scores all images, or those that an interrupted run left, on a pool of workers."""
    for module in SLOW_IMPORTS:  # while the workers load the model
        import_module(module)
    total = task.count()
    ready = pool.wait_ready(task.first_file)
    if ready.model_version != manifest.version:
        raise ModelError(
            f"model {manifest.name}: the workers have version {ready.model_version}, not {manifest.version}"
        )
    with resumable_table.open_table(
        task.output,
        ready.columns,
        _run_settings(task, manifest, ready),
        images_per_chunk=chunk_images(total, ready.batch_size),
        restart=task.restart,
    ) as table:
        done = table.plan(task.references(), ready.batch_size, _scorer_key(manifest, ready))
        with ProgressBar("scoring", total) as bar:
            bar.step(done)
            progress = _Progress(bar, pool, manifest)
            for event in pool.score(progress.handed_out(table.missing_chunks())):
                if isinstance(event, ScoredChunk):
                    table.add(progress.chunks[event.number], event.part)
                progress.update(event)
        tally = _Tally(manifest, ready.columns, task.catalogue)
        joined = task.catalogue.join(ready.columns) if task.catalogue else None
        table.finish(tally.add, joined)
    speed = f", {progress.rate:.0f} images/s" if progress.finished.images else ""
    return tally.summary(task.output, speed)


class _Progress:
    """What is done of the chunks that were handed out, shown by the bar."""

    def __init__(self, bar: ProgressBar, pool: WorkerPool, manifest: "Manifest") -> None:
        self._bar, self._pool, self._manifest = bar, pool, manifest
        self._started, self._shown = time.monotonic(), 0
        self._finished_references = 0
        self._unfinished: dict[int, Counts] = {}
        self.chunks: dict[int, Chunk] = {}  # that are not finished
        self.finished = Counts()

    def handed_out(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The chunks, which are known to this object from then on."""
        for chunk in chunks:
            self.chunks[chunk.number] = chunk
            yield chunk

    def update(self, event: ChunkEvent) -> None:
        """Advances the bar."""
        if isinstance(event, ScoredChunk):
            self.finished += event.counts
            self._finished_references += len(self.chunks.pop(event.number).references)
            self._unfinished.pop(event.number, None)
        else:
            self._unfinished[event.number] = event.counts
        done = self._finished_references + sum(
            counts.images
            for number, counts in self._unfinished.items()
            if not is_shard(self.chunks[number].references[0])  # whose number of images is unknown
        )
        counts = sum(self._unfinished.values(), self.finished)
        note = f"{self.rate:.0f} images/s{self._pool.note}, {counts_text(self._manifest, counts)}"
        self._bar.step(max(0, done - self._shown), note)  # a chunk that is scored again does not move it back
        self._shown = max(self._shown, done)

    @property
    def rate(self) -> float:
        """Images per second."""
        images = self.finished.images + sum(counts.images for counts in self._unfinished.values())
        return images / (time.monotonic() - self._started)


class _Tally:
    """Counts the rows of the finished table."""

    def __init__(self, manifest: "Manifest", columns: Sequence[str], catalogue: Catalogue | None) -> None:
        self._manifest, self._catalogue = manifest, catalogue
        self._novelty = columns.index(NOVELTY) if IN_DOMAIN in columns else None
        from astrodetect.anomalies.domain import ATYPICAL_NOVELTY  # noqa: PLC0415

        self._atypical_novelty = ATYPICAL_NOVELTY
        self._rows = self._bad = self._atypical = self._quarantined = self._missing = 0
        self._results: Counter[str] = Counter()
        self._named: list[str] = []

    def add(self, row: ScoreRow) -> None:
        """Counts a row."""
        path, _, result, error, *_ = row
        self._rows += 1
        self._missing += self._catalogue is not None and self._catalogue.find(path) is None
        if error is None:
            self._results[result] += 1
            self._atypical += self._novelty is not None and row[self._novelty] >= self._atypical_novelty
            return
        self._bad += 1
        if error == QUARANTINED:
            self._quarantined += 1
            self._named += [path] if len(self._named) < NAMED_QUARANTINED else []

    def summary(self, table: resumable_table.TablePath, speed: str) -> ScoringSummary:
        """The summary of the run."""
        counts = counts_text(self._manifest, Counts(self._rows, self._bad, self._results))
        lines = [f"{table}: {self._rows} files scored, {counts}{speed}"]
        if self._quarantined:
            more = self._quarantined - len(self._named)
            names = " ".join(map(printable, self._named)) + (f" and {more} more" if more else "")
            lines.append(f"quarantined, since reading them ended the process: {names}")
        if missing := missing_text(self._missing, self._rows):
            lines.append(missing)
        from astrodetect.anomalies.domain import LatestImages  # noqa: PLC0415 - slow to import

        latest = LatestImages(self._rows - self._bad if self._novelty is not None else 0, self._atypical)
        if latest.mostly_out_of_domain:
            lines.append(latest.warning(self._manifest.name))
        return ScoringSummary(self._rows, self._bad, "\n".join(lines))


def counts_text(manifest: "Manifest", counts: Counts) -> str:
    """Numbers of images by their result, in words."""
    if manifest.task == "binary":
        results = f"{counts.results[ANOMALY]} anomalies"
    else:
        results = ", ".join(f"{counts.results[name]} {name}" for name in manifest.classes)
    return f"{results}, {counts.bad} bad files"


def _run_settings(task: ScoringTask, manifest: "Manifest", ready: WorkerReady) -> dict[str, object]:
    """What must be unchanged for a run to be resumed."""
    run: dict[str, object] = {
        "folders": {path: path if is_url(path) else str(Path(path).absolute()) for path in task.paths},
        "model": manifest.name,
        "model_version": manifest.version,
        "precision": ready.precision,
        "detectors": manifest.space,
        "threshold": manifest.threshold,
        "log": task.log,
        "prior": ready.prior or None,
    }
    if task.log:  # whose rows have the positions of the catalogue
        read = [*task.catalogue.files, *astuple(task.catalogue.chosen)] if task.catalogue else []
        run["catalogue"] = " ".join(filter(None, read)) or None
    if task.cutouts:
        source = task.cutouts[0].source
        run |= {"mosaics": source.as_message(), "version of the mosaics": source.mosaics.version()}
    return run


def _scorer_key(manifest: "Manifest", ready: WorkerReady) -> str:
    """Identifies what scores the chunks: the model's version, its image contract, the precision and the prior."""
    key = [manifest.version, manifest.space, asdict(manifest.image), ready.precision]
    return json.dumps([*key, ready.prior] if ready.prior else key)
