"""A projection of the recorded images, and the form in which the database stores it."""

import datetime as dt
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import projection, serialisation
from astrodetect.anomalies.serialisation import Arrays, StoredArrays
from astrodetect.errors import ModelError
from astrodetect.labels import LabelValue
from astrodetect.records import EmbeddedImages, Floats


@dataclass(frozen=True, slots=True, eq=False)
class StoredProjection:
    """The positions of the images of an embedding space, in descending order of novelty: 24 bytes for each."""

    ids: NDArray[np.int64]  # of the images' first predictions
    class_names: list[str]
    class_of: NDArray[np.int32]  # the index of each image's class
    novelty: Floats
    xy: Floats  # (n, 2), each axis from 0 to 1
    method: str  # for people
    drawn: dt.datetime

    @classmethod
    def of_images(cls, images: Sequence[EmbeddedImages], xy: Floats, method: str) -> "StoredProjection":
        """Positions in the order of the images."""
        novelty = np.concatenate([part.novelty for part in images])
        order = np.argsort(-novelty, kind="stable")
        index_of: dict[str, int] = {}
        class_of = [index_of.setdefault(name, len(index_of)) for part in images for name in part.classes]
        ids = np.array([id_ for part in images for id_ in part.ids], np.int64)
        codes = np.array(class_of, np.int32)
        return cls(ids[order], list(index_of), codes[order], novelty[order], xy[order], method, dt.datetime.now(dt.UTC))

    @classmethod
    def from_pca(cls, images: EmbeddedImages) -> "StoredProjection":
        """The first two principal components."""
        return cls.of_images([images], projection.pca_projection(images.vectors), projection.PCA_METHOD)

    @property
    def stamp(self) -> str:
        """Identifies this projection among those of its space."""
        return self.drawn.isoformat()

    @property
    def preliminary(self) -> bool:
        """Whether a t-SNE projection can replace it."""
        return self.method == projection.PCA_METHOD

    @property
    def newest(self) -> int:
        """The largest prediction id."""
        return int(self.ids.max())

    def labels(self, labels: Mapping[int, LabelValue]) -> list[tuple[int, LabelValue]]:
        """The index and the label of each image that has one."""
        if not labels:
            return []
        order = _order_by_id(self)
        ids = np.array([*labels], np.int64)
        places = order[np.searchsorted(self.ids, ids, sorter=order).clip(max=len(order) - 1)]
        return [
            (int(place), label)
            for place, id_, label in zip(places, ids, labels.values(), strict=True)
            if self.ids[place] == id_
        ]


@lru_cache(maxsize=1)
def _order_by_id(stored: StoredProjection) -> NDArray[np.int32]:
    return np.argsort(stored.ids).astype(np.int32)


def projection_to_bytes(stored: StoredProjection) -> bytes:
    """A projection as the database stores it."""
    metadata = {"class_names": stored.class_names, "method": stored.method, "drawn": stored.drawn.isoformat()}
    arrays: Arrays = {
        "ids": stored.ids.astype(np.float64),
        "class_of": stored.class_of,
        "novelty": stored.novelty,
        "xy": stored.xy,
    }
    file = io.BytesIO()
    serialisation.write_arrays(file, metadata, arrays)
    return file.getvalue()


def projection_from_bytes(content: bytes) -> StoredProjection | None:
    """The stored projection; None where it is damaged, and it is computed again."""
    with suppress(ModelError, KeyError, TypeError, ValueError):
        stored = StoredArrays.read(content)
        ids = stored.doubles("ids", None).astype(np.int64)
        if "class_of" in stored:
            names = stored.metadata["class_names"]
            class_of = stored.indices("class_of", len(ids), below=len(names))
        else:  # of version 0.1, with the class of each image
            names, codes = np.unique(stored.metadata["classes"], return_inverse=True)
            names, class_of = names.tolist(), codes.astype(np.int32)
        xy, novelty = stored.floats("xy", len(ids), 2), stored.floats("novelty", len(ids))
        drawn = dt.datetime.fromisoformat(stored.metadata["drawn"])
        if len(class_of) == len(ids):
            return StoredProjection(ids, names, class_of, novelty, xy, str(stored.metadata["method"]), drawn)
    return None
