"""A database in memory for the projection jobs: images of every space, leases and maps."""

import datetime as dt
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.db.shared_state import Lease
from astrodetect.labels import LabelValue
from astrodetect.records import EmbeddedImages

COUNT = 30


class FakeLeases:
    """The leases of one database, for services of one process."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str | None, float, Mapping[str, Any]]] = {}

    def take(self, name: str, holder: str, *, seconds: float, state: Mapping[str, Any] | None = None) -> bool:
        other, until, _ = self.held.get(name, (None, 0.0, {}))
        if other not in {None, holder} and until > time.monotonic():
            return False
        self.held[name] = holder, time.monotonic() + seconds, json.loads(json.dumps(state or {}))
        return True

    def end(self, name: str, holder: str, *, seconds: float = 0.0, state: Mapping[str, Any] | None = None) -> None:
        if self.held[name][0] == holder:
            self.held[name] = None, time.monotonic() + seconds, state or {}

    def read(self, name: str) -> Lease | None:
        holder, until, state = self.held.get(name, (None, 0.0, {}))
        return Lease(holder is not None, state) if until > time.monotonic() else None


class FakeMaps:
    """The maps of one database."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, bool], tuple[bytes, dt.datetime]] = {}
        self.reads = 0

    def drawn(self, space: str, *, preliminary: bool) -> dt.datetime | None:
        return self.stored[space, preliminary][1] if (space, preliminary) in self.stored else None

    def read(self, space: str, *, preliminary: bool) -> bytes | None:
        self.reads += 1
        return self.stored[space, preliminary][0]

    def save(self, space: str, content: bytes, drawn: dt.datetime, *, preliminary: bool) -> None:
        self.stored[space, preliminary] = content, drawn

    def delete_preliminary(self, space: str) -> None:
        self.stored.pop((space, True), None)


class FakeEmbeddings:
    """The same number of images in every space; the ids are those of the newest."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.failure: Exception | None = None

    def ids(self, space: str, *, most: int) -> NDArray[np.int64]:  # noqa: ARG002
        if self.failure:
            raise self.failure
        return np.arange(self.count, 0, -1)[:most]

    def labels(self, space: str) -> Mapping[int, LabelValue]:  # noqa: ARG002
        return {4: "artefact", 10**6: "ordinary"}

    def images(self, space: str, ids: Sequence[int]) -> EmbeddedImages:  # noqa: ARG002
        present = np.array(sorted(id_ for id_ in ids if id_ <= self.count), np.int64)
        vectors = np.random.default_rng(0).normal(size=(self.count, 4)).astype(np.float32)[present - 1]
        novelty = (present / self.count).astype(np.float32)
        n = len(present)
        names = [f"sum {id_}" for id_ in present]
        return EmbeddedImages(present.tolist(), names, ["E"] * n, np.zeros(n, np.float32), novelty, vectors)

    def count_newer(self, space: str, *, after: int, most: int) -> int:  # noqa: ARG002
        return min(self.count - after, most)


class FakeDatabase:
    """A database of images, leases and maps."""

    def __init__(self, count: int = COUNT) -> None:
        self.embeddings = FakeEmbeddings(count)
        self.leases, self.maps = FakeLeases(), FakeMaps()
