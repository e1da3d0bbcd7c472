"""What to look at next: the queue of images for people to label, ordered anew by every label."""

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from astrodetect.anomalies import active_learning
from astrodetect.anomalies.active_learning import ReviewOrder
from astrodetect.labels import LABELS, LabelValue
from astrodetect.records import EmbeddedImages, Prediction
from astrodetect.service.review_leases import ReviewLeases

NEWEST = 20_000  # images of the log that are ordered, beside all that are labelled
GROWN = 0.01  # the share of them by which the log may grow before they are read again
MAX_REVIEW_BATCH = 100  # images of one request
DEEP = 500  # images of each order that are remembered: those that were labelled since, or skipped, are passed over
PATIENCE_S = 0.05  # that who wants an order at once waits for the newest one
LIKE = 5  # labelled images that are named as like one
NO_DETECTORS = "the model that serves carries no detectors, so this is the order of what others said"
NOT_YET = "this order is still being worked out, so the most unusual come first until it is there"
NO_VECTORS = "the database keeps no vectors, so labels move nothing: python setup_db.py says more"

log = logging.getLogger("uvicorn.error")


class ReviewDatabase(Protocol):
    """What keeps predictions and labels: `database.Database`."""

    @property
    def stores_vectors(self) -> bool: ...
    def embedded_images(self, space: str, *, newest: int) -> EmbeddedImages: ...
    def current_labels(self) -> dict[str, LabelValue]: ...
    def most_novel(self, space: str | None, *, limit: int) -> list[Prediction]: ...
    def by_ids(self, ids: Sequence[int]) -> Mapping[int, Prediction]: ...
    def newest_id(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ReviewCandidate:
    """An image to look at, and why."""

    prediction: Prediction
    why: list[str]


@dataclass(frozen=True, slots=True)
class LabelProgress:
    """How many images are labelled, and as what."""

    labelled: int
    interesting: int
    ordinary: int
    artefact: int

    @classmethod
    def of(cls, labels: Mapping[str, LabelValue]) -> "LabelProgress":
        """Of what each labelled image is."""
        counts = Counter(labels.values())
        return cls(len(labels), *(counts[label] for label in LABELS))

    @property
    def found_per_100(self) -> float | None:
        """Interesting ones of a hundred looked at."""
        return 100 * self.interesting / self.labelled if self.labelled else None


@dataclass(frozen=True, slots=True)
class ReviewBatch:
    """The images to look at next, the first one first."""

    by: ReviewOrder
    note: str | None  # why the order is not the one that was asked for
    candidates: list[ReviewCandidate]
    labels: Mapping[str, LabelValue]  # what each labelled image is, by its sum

    @property
    def progress(self) -> LabelProgress:
        """How far people have come."""
        return LabelProgress.of(self.labels)


class _Seen:
    """Images as they stand in the log, what they were labelled, and the orders that follow from that."""

    def __init__(self, space: str, newest: int, crowd: EmbeddedImages, labels: Mapping[str, LabelValue]) -> None:
        self.space, self.crowd, self.labels = space, crowd, labels
        self._newest = newest  # prediction
        lengths = np.linalg.norm(crowd.vectors, axis=1)  # tell apart what is beyond all training images
        self._strength = np.empty(len(lengths), np.float32)
        self._strength[np.lexsort((lengths, crowd.novelty))] = np.arange(len(lengths))
        place_of = {image: place for place, image in enumerate(crowd.images)}
        self._labelled = {place_of[image]: label for image, label in labels.items() if image in place_of}
        self._orders = self._ordered()

    def still(self, space: str, newest: int) -> bool:
        """Whether the log has not grown by much."""
        return self.space == space and newest - self._newest <= GROWN * len(self.crowd.ids)

    def under(self, labels: Mapping[str, LabelValue]) -> "_Seen | None":
        """The same images with these labels; None where one is of an image from before them."""
        if labels == self.labels:
            return self
        if labels.keys() - self.labels.keys() - set(self.crowd.images):
            return None
        return _Seen(self.space, self._newest, self.crowd, labels)

    def order(self, by: ReviewOrder, labels: Mapping[str, LabelValue]) -> list[int]:
        """The places of those to look at next, less what is labelled by now."""
        return [place for place in self._orders[by] if self.crowd.images[place] not in labels]

    def _ordered(self) -> Mapping[ReviewOrder, list[int]]:
        if not self.crowd.ids:
            return {by: [] for by in active_learning.REVIEW_ORDERS}
        return active_learning.review_orders(self.crowd.vectors, self._strength, self._labelled, DEEP)

    def likeness(self, place: int) -> list[str]:
        """What the labelled images are that are most like this one."""
        if not self._labelled:
            return []
        places = np.array(list(self._labelled))
        apart = np.linalg.norm(self.crowd.vectors[places] - self.crowd.vectors[place], axis=1)
        nearest = Counter(self._labelled[near] for near in places[np.argsort(apart)[:LIKE]].tolist())
        return ["most like it: " + ", ".join(f"{count} {label}" for label, count in nearest.most_common())]


class ReviewQueue:
    """The queue, for many threads; what it read from the log is kept until labels or enough new images come."""

    def __init__(self, log: ReviewDatabase) -> None:
        self._log, self._guard = log, threading.Lock()
        self.turns = ReviewLeases()
        self._seen: _Seen | None = None
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="review")
        self._coming: Future[_Seen] | None = None

    def next(self, by: ReviewOrder, *, limit: int, space: str | None, at_once: bool = False) -> ReviewBatch:
        """What to look at, of the space that the model serving now sees; nothing that is labelled comes again.

        `at_once`: if learning from the newest labels takes its time, in the order that is at hand.
        """
        labels = self._log.current_labels()
        note = NO_DETECTORS if space is None else None if self._log.stores_vectors else NO_VECTORS
        if by == "novelty" or space is None or note:
            return self._by_novelty(space, note, limit, labels)
        seen = self._at_hand(space, labels) if at_once else self._newest(space, labels)
        if seen is None:
            return self._by_novelty(space, NOT_YET, limit, labels)
        order = seen.order(by, labels)[:limit]
        ids = [seen.crowd.ids[place] for place in order]
        rows_of = self._log.by_ids(ids)
        candidates = [
            ReviewCandidate(rows_of[id_], [_novelty(rows_of[id_]), *seen.likeness(place)])
            for id_, place in zip(ids, order, strict=True)
            if id_ in rows_of
        ]
        return ReviewBatch(by, None, candidates, labels)

    def close(self) -> None:
        """Nothing is at work any more."""
        self._behind.shutdown(cancel_futures=True)

    def _by_novelty(
        self, space: str | None, note: str | None, limit: int, labels: Mapping[str, LabelValue]
    ) -> ReviewBatch:
        rows = self._log.most_novel(space, limit=limit)
        return ReviewBatch("novelty", note, [ReviewCandidate(row, [_novelty(row)]) for row in rows], labels)

    def _at_hand(self, space: str, labels: Mapping[str, LabelValue]) -> _Seen | None:
        if self._coming is None or self._coming.done():
            self._coming = self._behind.submit(self._newest, space, labels)
            self._coming.add_done_callback(_told)
        wait([self._coming], PATIENCE_S)
        seen = self._seen
        return seen if seen and seen.space == space else None

    def _newest(self, space: str, labels: Mapping[str, LabelValue]) -> _Seen:
        with self._guard:  # one reads and computes, for all
            newest = self._log.newest_id()
            seen = self._seen if self._seen and self._seen.still(space, newest) else None
            seen = seen.under(labels) if seen else None
            self._seen = seen = seen or _Seen(space, newest, self._log.embedded_images(space, newest=NEWEST), labels)
            return seen


def _told(made: Future[_Seen]) -> None:
    if not made.cancelled() and (error := made.exception()):
        log.error("the order of the queue stays as it was: %s", error)


def _novelty(row: Prediction) -> str:
    return f"novelty {row.novelty:.3f}"
