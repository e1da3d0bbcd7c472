"""The stored descriptions of logged images, and the update of the log's novelty to a model's present detectors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrodetect.db.connections import Parameters, Row
from astrodetect.db.statements import NEAR, to_halfvec
from astrodetect.records import DIMENSIONS, Floats

STORED_DTYPE = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class NoveltyUpdate:
    """How far a model's part of the log is described by its present detectors."""

    space: str
    newest_id: int
    next_id: int
    last_id: int
    described: int  # rows
    missing: int  # rows whose images have no stored description

    @property
    def running(self) -> bool:
        """Whether rows are left."""
        return self.next_id > self.last_id + 1

    @property
    def progress(self) -> float:
        """The share of the rows that are done, 0 to 1."""
        return (self.newest_id + 1 - self.next_id) / max(1, self.newest_id - self.last_id)


@dataclass(frozen=True, slots=True)
class OutdatedRows:
    """A step of an update: the rows from `first_id` to before `next_id` that other detectors described."""

    first_id: int
    next_id: int
    ids: list[int]  # of those whose images have a description
    features: Floats  # (ids, width)
    missing: int  # the others


@dataclass(frozen=True, slots=True)
class RowNovelty:
    """The new values of the rows of a step."""

    novelty: Floats
    in_domain: NDArray[np.bool_] | None
    views: list[str | None]
    vectors: Floats


class DescriptionLog:
    """The tables `descriptions` and `novelty_updates`; part of `database.Database`."""

    def __init__(
        self,
        execute: Callable[[str, Parameters], list[Row]],
        statements: Mapping[str, str],
        stores_vectors: Callable[[], bool],
    ) -> None:
        self._execute, self._sql, self._stores_vectors = execute, statements, stores_vectors

    def latest_novelty(self, space: str, *, limit: int) -> list[float]:
        """The novelty of a space's newest images of known domain, each once, as far as they are in the newest rows."""
        rows = self._execute(self._sql["latest_novelty"], {"space": space, "limit": limit, "near": NEAR})
        return [row["novelty"] for row in rows]

    def descriptions(self, kind: str, images: Sequence[str]) -> Floats:
        """(n, width) the descriptions of this kind of those images (SHA-256) that have one."""
        rows = self._execute(self._sql["descriptions_of"], {"kind": kind, "images": list(images)}) if images else []
        return _to_matrix(rows)

    def update(self, model: str) -> NoveltyUpdate | None:
        """The last update of a model's part of the log."""
        rows = self._execute(self._sql["novelty_update"], {"model": model})
        return NoveltyUpdate(**rows[0]) if rows else None

    def begin_update(self, model: str, space: str) -> None:
        """Begin an update to these detectors, or continue the one that was interrupted."""
        self._execute(self._sql["begin_novelty_update"] + " RETURNING model", {"model": model, "space": space})

    def outdated(self, model: str, space: str, kind: str, *, rows: int) -> OutdatedRows | None:
        """The next step, over at most so many rows of the log; None where the update is done, or another has begun."""
        key = {"model": model, "space": space}
        steps = self._execute(self._sql["next_novelty_step"], key | {"rows": rows})
        if not steps:
            return None
        outdated = self._execute(self._sql["outdated_rows"], key | {"kind": kind} | steps[0])
        described = [row for row in outdated if row["features"] is not None]
        ids = [row["id"] for row in described]
        return OutdatedRows(**steps[0], ids=ids, features=_to_matrix(described), missing=len(outdated) - len(ids))

    def finish_step(self, model: str, space: str, step: OutdatedRows, values: RowNovelty | None) -> None:
        """Write a step's values, unless another process did; `values` is None where no row has a description."""
        vectors = self._stores_vectors()
        count = len(step.ids)
        parameters = {
            "model": model,
            "space": space,
            "first_id": step.first_id,
            "next_id": step.next_id,
            "described": count,
            "missing": step.missing,
            "ids": step.ids,
            "novelty": values.novelty.tolist() if values else [],
            "in_domain": [None] * count if values is None or values.in_domain is None else values.in_domain.tolist(),
            "views": values.views if values else [],
            "vectors": [to_halfvec(vector, DIMENSIONS) for vector in values.vectors.tolist()] if values else [],
        }
        placed = self._sql["placed_vectors"] if vectors else ""
        self._execute(self._sql["finish_novelty_step"].format(placed=placed), parameters)


def _to_matrix(rows: Sequence[Row]) -> Floats:
    if not rows:
        return np.empty((0, 0), np.float32)
    return np.stack([np.frombuffer(row["features"], STORED_DTYPE) for row in rows]).astype(np.float32)
