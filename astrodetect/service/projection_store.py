"""A projection of the recorded images, and the form in which the database stores it."""

import datetime as dt
import io
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from astrodetect.anomalies import projection, serialisation
from astrodetect.anomalies.serialisation import Arrays, StoredArrays
from astrodetect.errors import ModelError
from astrodetect.records import EmbeddedImages, Floats


@dataclass(frozen=True, slots=True, eq=False)
class StoredProjection:
    """The positions of the images of an embedding space, in descending order of novelty."""

    ids: list[int]  # of the images' first predictions
    images: list[str]  # SHA-256
    classes: list[str]
    novelty: Floats
    xy: Floats  # (n, 2), each axis from 0 to 1
    method: str  # for people
    drawn: dt.datetime

    @classmethod
    def from_pca(cls, images: EmbeddedImages) -> "StoredProjection":
        """The first two principal components, in the order of the images."""
        xy = projection.pca_projection(images.vectors)
        drawn = dt.datetime.now(dt.UTC)
        return cls(images.ids, images.images, images.classes, images.novelty, xy, projection.PCA_METHOD, drawn)

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
        return max(self.ids)


def sort_by_novelty(images: EmbeddedImages) -> EmbeddedImages:
    """The same images in descending order of novelty."""
    order = np.argsort(-images.novelty, kind="stable")
    ids, sha256s, classes = (
        [values[i] for i in order.tolist()] for values in (images.ids, images.images, images.classes)
    )
    return EmbeddedImages(ids, sha256s, classes, images.scores[order], images.novelty[order], images.vectors[order])


def projection_to_bytes(stored: StoredProjection) -> bytes:
    """A projection as the database stores it."""
    metadata = {
        "images": stored.images,
        "classes": stored.classes,
        "method": stored.method,
        "drawn": stored.drawn.isoformat(),
    }
    arrays: Arrays = {"ids": np.array(stored.ids, np.float64), "novelty": stored.novelty, "xy": stored.xy}
    file = io.BytesIO()
    serialisation.write_arrays(file, metadata, arrays)
    return file.getvalue()


def projection_from_bytes(content: bytes) -> StoredProjection | None:
    """The stored projection; None where it is damaged, and it is computed again."""
    with suppress(ModelError, KeyError, TypeError, ValueError):
        stored = StoredArrays.read(content)
        ids = stored.doubles("ids", None).astype(np.int64).tolist()
        images, classes, method, drawn = (stored.metadata[name] for name in ("images", "classes", "method", "drawn"))
        if len(images) == len(classes) == len(ids):
            xy, novelty = stored.floats("xy", len(ids), 2), stored.floats("novelty", len(ids))
            return StoredProjection(ids, images, classes, novelty, xy, str(method), dt.datetime.fromisoformat(drawn))
    return None
