"""Chunks: a run's references in numbered pieces of fixed boundaries, each scored by one worker, and what comes back."""

import hashlib
import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from astrodetect.storage.references import is_shard

MAX_CHUNK_IMAGES = 4096  # minutes of work for two cores, so that little is lost with a worker
CHUNKS_PER_RUN = 64  # at least, where there are so many batches: small runs are resumed and shared out as well
CHUNK_ID_DIGITS = 12
QUARANTINED = "its decoder process ended: quarantined"  # error of an image that is not read


@dataclass(frozen=True, slots=True)
class Chunk:
    """References whose rows are one part of the table; the id identifies them and what scores them."""

    number: int
    id: str
    references: tuple[str, ...]
    run: str = ""  # the UUID of the run, which the ids of logged rows derive from


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of images by their result."""

    images: int = 0
    bad: int = 0  # unreadable
    results: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.images + other.images, self.bad + other.bad, self.results + other.results)

    def as_message(self) -> dict[str, Any]:
        """As JSON."""
        return {"images": self.images, "bad": self.bad, "results": dict(self.results)}

    @classmethod
    def of_message(cls, message: dict[str, Any]) -> Self:
        """From JSON."""
        return cls(message["images"], message["bad"], Counter(message["results"]))


@dataclass(frozen=True, slots=True)
class ChunkProgress:
    """How many images of an unfinished chunk are scored."""

    number: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """A chunk's part of the table as the bytes of a Parquet file."""

    number: int
    part: bytes = field(repr=False)
    counts: Counts
    quarantined: tuple[str, ...] = ()  # images that are not read, since reading them ended the process


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """What a worker process does: loads a model, and scores chunks with it."""

    model: str
    log: bool = False  # record rows in the predictions table
    cores: int | None = None  # to use; None: all
    prior: Mapping[str, float] | None = None  # share of classes among the images; None: the settings'
    careful: bool = False  # one image at a time, each announced before it is read
    cutouts: Mapping[str, Any] | None = None  # a CutoutSource, where references are cutouts of mosaics
    catalogue: Sequence[str] = ()  # tables of positions for the rows that are recorded
    catalogue_columns: Sequence[str | None] = ()  # the names of their columns: see CatalogueColumns


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """What a worker says when it has loaded the model: that of all workers of a run is the same."""

    model_version: str
    precision: str
    batch_size: int
    columns: tuple[str, ...]
    prior: str = ""  # the factors of the probabilities, where another class balance is assumed
    threshold: float = 0.5


ChunkEvent = ChunkProgress | ScoredChunk


class WorkerPool(Protocol):
    """Scores chunks on one or many workers."""

    @property
    def note(self) -> str:
        """Shown with the progress."""
        ...

    def wait_ready(self, reference: str) -> WorkerReady:
        """Waits for a worker; `reference` is the first of the run, which every worker must see."""
        ...

    def score(self, chunks: Iterator[Chunk]) -> Generator[ChunkEvent]:
        """Scores every chunk, with progress, in any order."""
        ...


def chunk_images(total: int, batch_size: int) -> int:
    """How many images a chunk has in a run of `total`: whole batches, and at most MAX_CHUNK_IMAGES."""
    return max(1, min(MAX_CHUNK_IMAGES, total // CHUNKS_PER_RUN) // batch_size) * batch_size


def cut_chunks(references: Iterable[str], images: int, key: str) -> Iterator[Chunk]:
    """Numbered chunks of so many images each; a shard is a chunk of its own."""
    number, pending = 0, list[str]()

    def chunk(names: Sequence[str]) -> Chunk:
        nonlocal number
        number += 1
        digest = hashlib.sha256(json.dumps([key, *names]).encode()).hexdigest()
        return Chunk(number - 1, digest[:CHUNK_ID_DIGITS], tuple(names))

    for reference in references:
        if is_shard(reference):
            if pending:
                yield chunk(pending)
            yield chunk([reference])
            pending = []
        else:
            pending.append(reference)
            if len(pending) == images:
                yield chunk(pending)
                pending = []
    if pending:
        yield chunk(pending)


def write_plan(path: Path, chunks: Iterable[Chunk]) -> None:
    """Writes the chunks, a line of JSON each."""
    with path.open("w", encoding="ascii") as file:
        for chunk in chunks:
            file.write(json.dumps([chunk.number, chunk.id, *chunk.references]) + "\n")


def read_plan(path: Path, run: str, done: Mapping[int, object]) -> Iterator[Chunk]:
    """The chunks that are not done, read as they are needed."""
    with path.open(encoding="ascii") as file:
        for line in file:
            number, chunk_id, *references = json.loads(line)
            if number not in done:
                yield Chunk(number, chunk_id, tuple(references), run)
