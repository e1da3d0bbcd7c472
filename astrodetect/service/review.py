"""What to look at next: the queue of images for people to label, ordered anew by every label."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from astrodetect.anomalies import review
from astrodetect.anomalies.review import By, Label
from astrodetect.records import Crowd, Filters, Page, Prediction

NEWEST = 20_000  # images of the log that are ordered, beside all that are labelled
GROWN = 0.01  # the share of them by which the log may grow before they are read again
MOST = 100  # that may be asked for at a time
LIKE = 5  # labelled images that are named as like one
NO_DETECTORS = "the model that serves carries no detectors, so this is the order of what others said"
NO_VECTORS = "the database keeps no vectors, so labels move nothing: python setup_db.py says more"


class Log(Protocol):
    """What keeps predictions and labels: `database.Database`."""

    @property
    def keeps_vectors(self) -> bool: ...
    def crowd(self, space: str, *, newest: int) -> Crowd: ...
    def current_labels(self) -> dict[str, Label]: ...
    def most_novel(self, space: str | None, *, limit: int) -> list[Prediction]: ...
    def of_ids(self, ids: Sequence[int]) -> Mapping[int, Prediction]: ...
    def predictions(self, filters: Filters, *, limit: int) -> Page: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image to look at, and why."""

    prediction: Prediction
    why: list[str]


@dataclass(frozen=True, slots=True)
class Progress:
    """How many images are labelled, and as what."""

    labelled: int
    interesting: int
    ordinary: int
    artefact: int

    @classmethod
    def of(cls, labels: Mapping[str, Label]) -> "Progress":
        """Of what each labelled image is."""
        counts = Counter(labels.values())
        return cls(len(labels), *(counts[label] for label in review.LABELS))

    @property
    def found_per_100(self) -> float | None:
        """Interesting ones of a hundred looked at."""
        return 100 * self.interesting / self.labelled if self.labelled else None


@dataclass(frozen=True, slots=True)
class Next:
    """The images to look at next, the first one first."""

    by: By
    note: str | None  # why the order is not the one that was asked for
    candidates: list[Candidate]
    progress: Progress


class _Seen:
    """Images as they stand in the log, what they were labelled, and the orders that follow from that."""

    def __init__(self, space: str, newest: int, crowd: Crowd, labels: Mapping[str, Label]) -> None:
        self.space, self.crowd, self.labels = space, crowd, labels
        self._newest = newest  # prediction
        lengths = np.linalg.norm(crowd.vectors, axis=1)  # tell apart what is beyond all training images
        self._strength = np.empty(len(lengths), np.float32)
        self._strength[np.lexsort((lengths, crowd.novelty))] = np.arange(len(lengths))
        place_of = {image: place for place, image in enumerate(crowd.images)}
        self._labelled = {place_of[image]: label for image, label in labels.items() if image in place_of}
        self._orders: dict[By, list[int]] = {}

    def still(self, space: str, newest: int) -> bool:
        """Whether the log has not grown by much."""
        return self.space == space and newest - self._newest <= GROWN * len(self.crowd.ids)

    def under(self, labels: Mapping[str, Label]) -> "_Seen | None":
        """The same images with these labels; None where one is of an image from before them."""
        if labels == self.labels:
            return self
        if labels.keys() - self.labels.keys() - set(self.crowd.images):
            return None
        return _Seen(self.space, self._newest, self.crowd, labels)

    def order(self, by: By) -> list[int]:
        """The places of those to look at next."""
        if by not in self._orders:
            crowd = self.crowd
            found = review.next_up(crowd.vectors, self._strength, self._labelled, MOST, by=by) if crowd.ids else []
            self._orders[by] = found
        return self._orders[by]

    def likeness(self, place: int) -> list[str]:
        """What the labelled images are that are most like this one."""
        if not self._labelled:
            return []
        places = np.array(list(self._labelled))
        apart = np.linalg.norm(self.crowd.vectors[places] - self.crowd.vectors[place], axis=1)
        nearest = Counter(self._labelled[near] for near in places[np.argsort(apart)[:LIKE]].tolist())
        return ["most like it: " + ", ".join(f"{count} {label}" for label, count in nearest.most_common())]


class Review:
    """The queue, for many threads; what it read from the log is kept until labels or enough new images come."""

    def __init__(self, log: Log) -> None:
        self._log, self._guard = log, threading.Lock()
        self._seen: _Seen | None = None

    def next(self, by: By, *, limit: int, space: str | None) -> Next:
        """What to look at, of the space that the model serving now sees; nothing that is labelled comes again."""
        labels = self._log.current_labels()
        note = NO_DETECTORS if space is None else None if self._log.keeps_vectors else NO_VECTORS
        if by == "novelty" or space is None or note:
            rows = self._log.most_novel(space, limit=limit)
            return Next("novelty", note, [Candidate(row, [_novelty(row)]) for row in rows], Progress.of(labels))
        with self._guard:  # one reads and computes, for all
            seen = self._seen = self._look(space, labels)
            order = seen.order(by)[:limit]
        ids = [seen.crowd.ids[place] for place in order]
        rows_of = self._log.of_ids(ids)
        candidates = [
            Candidate(rows_of[id_], [_novelty(rows_of[id_]), *seen.likeness(place)])
            for id_, place in zip(ids, order, strict=True)
            if id_ in rows_of
        ]
        return Next(by, None, candidates, Progress.of(labels))

    def _look(self, space: str, labels: Mapping[str, Label]) -> _Seen:
        page = self._log.predictions(Filters(), limit=1).predictions
        newest = page[0].id if page else 0
        if self._seen and self._seen.still(space, newest) and (seen := self._seen.under(labels)):
            return seen
        return _Seen(space, newest, self._log.crowd(space, newest=NEWEST), labels)


def _novelty(row: Prediction) -> str:
    return f"novelty {row.novelty:.3f}"
