"""The images of an embedding space: their ids, labels and vectors. Only databases with pgvector have them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from astrodetect.db.connections import Parameters, Row
from astrodetect.labels import LabelValue
from astrodetect.records import BIGINT_MAX, DIMENSIONS, EmbeddedImages

HALFVEC_HEADER_BYTES = 4  # of pgvector's binary format: the number of dimensions
IDS_READ = 50_000  # at once: a tenth of a second

Execute = Callable[[str, Parameters], list[Row]]


class EmbeddingTable:
    """The table `features`, part of `database.Database`."""

    def __init__(self, execute: Execute, statements: Mapping[str, str]) -> None:
        self._execute, self._sql = execute, statements

    def ids(self, space: str, *, most: int) -> NDArray[np.int64]:
        """The ids of the newest images of a space, up to `most`, newest first."""
        parts, before, left = [], BIGINT_MAX, most
        while left > 0:
            values = {"space": space, "before": before, "limit": min(left, IDS_READ)}
            rows = self._execute(self._sql["embedded_ids"], values)
            parts.append(np.array([row["prediction_id"] for row in rows], np.int64))
            if len(rows) < IDS_READ:
                break
            before, left = rows[-1]["prediction_id"], left - len(rows)
        return np.concatenate(parts)

    def labels(self, space: str) -> dict[int, LabelValue]:
        """The current label of each labelled image of a space, by its id."""
        rows = self._execute(self._sql["embedded_labels"], {"space": space})
        return {row["prediction_id"]: row["label"] for row in rows}

    def images(self, space: str, ids: Sequence[int]) -> EmbeddedImages:
        """The images of a space with these ids, as far as they exist, in ascending order."""
        return read_images(self._execute(self._sql["embedded_by_ids"], {"space": space, "ids": list(ids)}))

    def count_newer(self, space: str, *, after: int, most: int) -> int:
        """How many images of a space were first predicted after this prediction, counted up to `most`."""
        [row] = self._execute(self._sql["count_newer_images"], {"space": space, "after": after, "most": most})
        return int(row["count"])


def read_images(rows: Sequence[Row]) -> EmbeddedImages:
    """The images of these rows; vectors without the zeros that pad them."""
    halves = b"".join(bytes(row["vector"][HALFVEC_HEADER_BYTES:]) for row in rows)
    vectors = np.frombuffer(halves, ">f2").astype(np.float32).reshape(-1, DIMENSIONS)
    width = np.flatnonzero(vectors.any(axis=0)).max(initial=0) + 1
    return EmbeddedImages(
        ids=[row["prediction_id"] for row in rows],
        images=[row["image_sha256"] for row in rows],
        classes=[row["class"] for row in rows],
        scores=np.array([row["score"] for row in rows], np.float32),
        novelty=np.array([row["novelty"] for row in rows], np.float32),
        vectors=vectors[:, :width],
        known=frozenset(index for index, row in enumerate(rows) if row["known"]),
    )
