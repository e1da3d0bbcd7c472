"""Rows of the table of scores, from the outputs of the network."""

import hashlib
import os
import uuid

from astrodetect.anomalies.novelty import Novelty
from astrodetect.inference.decision import decide_file
from astrodetect.inference.pipeline import ScoredFile
from astrodetect.model_store.manifest import Manifest
from astrodetect.records import ScoredImage
from astrodetect.scoring.part_files import COLUMNS, IN_DOMAIN, NOVELTY, PROBABILITY, ScoreRow


def score_columns(manifest: Manifest, detectors: Novelty | None) -> list[str]:
    """The columns of the tables of a model."""
    novelty = [NOVELTY] if detectors else []
    if detectors and detectors.limit is not None:
        novelty.append(IN_DOMAIN)
    classes = () if manifest.task == "binary" else manifest.classes
    return [*COLUMNS, *novelty, *(f"{PROBABILITY}{name}" for name in classes)]


def predict_file(file: ScoredFile, manifest: Manifest, run: uuid.UUID) -> ScoredImage | None:
    """The prediction for a file, with a request id that repeats when a run is resumed; None if it is unreadable."""
    return None if file.error else decide_file(manifest, file, request_id(run, file.path, file.sha256))


def table_row(file: ScoredFile, scored: ScoredImage | None, columns: list[str], manifest: Manifest) -> ScoreRow:
    """The row of a file."""
    row: ScoreRow = [file.path, None, None, file.error or None, manifest.name, manifest.version]
    if scored:
        row[1:3] = scored.score, scored.result
    if NOVELTY in columns:
        row.append(scored.novelty if scored else None)
    if IN_DOMAIN in columns:
        row.append(scored.in_domain if scored else None)
    if manifest.task == "binary":  # the score determines both probabilities
        return row
    row.extend(file.probabilities or [None] * len(manifest.classes))
    return row


def request_id(run: uuid.UUID, path: str, sha256: str) -> uuid.UUID:
    """uuid5(run, sha256 + path), also for paths that are not UTF-8; another image at the path has another one."""
    digest = hashlib.sha1(run.bytes + sha256.encode() + os.fsencode(path), usedforsecurity=False).digest()
    return uuid.UUID(bytes=digest[:16], version=5)
