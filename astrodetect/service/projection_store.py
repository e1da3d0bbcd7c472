"""A map of images of the log, and how it is kept on disk."""

import datetime as dt
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astrodetect import atomic_files
from astrodetect.anomalies import projection, serialisation
from astrodetect.anomalies.serialisation import Arrays, StoredArrays
from astrodetect.errors import ModelError
from astrodetect.records import EmbeddedImages, Floats

MOST_KEPT = 8  # maps on disk, of as many spaces


@dataclass(frozen=True, slots=True, eq=False)
class StoredProjection:
    """Where images of a space lie, the most unusual first."""

    ids: list[int]  # of their first predictions
    images: list[str]  # their sums
    classes: list[str]
    novelty: Floats
    xy: Floats  # (n, 2), each axis from 0 to 1
    method: str  # in words, for people
    drawn: dt.datetime

    @classmethod
    def first(cls, crowd: EmbeddedImages) -> "StoredProjection":
        """What there is at once of images that are in this order."""
        xy = projection.pca_projection(crowd.vectors)
        return cls(
            crowd.ids, crowd.images, crowd.classes, crowd.novelty, xy, projection.PCA_METHOD, dt.datetime.now(dt.UTC)
        )

    @property
    def stamp(self) -> str:
        """Tells it from every other one."""
        return self.drawn.isoformat()

    @property
    def rough(self) -> bool:
        """Whether a better one can be had, in time."""
        return self.method == projection.PCA_METHOD

    @property
    def newest(self) -> int:
        """The prediction of the newest image on it."""
        return max(self.ids)


def ranked(crowd: EmbeddedImages) -> EmbeddedImages:
    """The same images, the most unusual first."""
    order = np.argsort(-crowd.novelty, kind="stable")
    ids, images, classes = ([of[place] for place in order.tolist()] for of in (crowd.ids, crowd.images, crowd.classes))
    return EmbeddedImages(ids, images, classes, crowd.novelty[order], crowd.vectors[order])


def path(folder: Path, space: str) -> Path:
    """Where the map of a space is kept."""
    return folder / f"{space}.npz"


def write(folder: Path, space: str, map_: StoredProjection) -> None:
    """Whole or not at all; of too many the oldest go."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"images": map_.images, "classes": map_.classes, "method": map_.method, "drawn": map_.drawn.isoformat()}
    found: Arrays = {"ids": np.array(map_.ids, np.float64), "novelty": map_.novelty, "xy": map_.xy}
    with atomic_files.replacing(path(folder, space)) as part:
        serialisation.write_arrays(part, said, found)
    kept = sorted(folder.glob("[!.]*.npz"), key=lambda one: one.stat().st_mtime)
    for old in kept[:-MOST_KEPT]:
        old.unlink()


def read(folder: Path, space: str) -> StoredProjection | None:
    """None of a file that is not there, or damaged: another one is drawn."""
    with suppress(OSError, ModelError, KeyError, TypeError, ValueError):
        stored = StoredArrays.read(path(folder, space).read_bytes())
        ids = stored.doubles("ids", None).astype(np.int64).tolist()
        images, classes, method, drawn = (stored.metadata[name] for name in ("images", "classes", "method", "drawn"))
        if len(images) == len(classes) == len(ids):
            xy, novelty = stored.floats("xy", len(ids), 2), stored.floats("novelty", len(ids))
            return StoredProjection(ids, images, classes, novelty, xy, str(method), dt.datetime.fromisoformat(drawn))
    return None
