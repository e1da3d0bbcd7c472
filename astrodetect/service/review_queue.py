"""The queue of images for people to label, reordered with every label, and the leases of images under review."""

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from astrodetect.anomalies import active_learning
from astrodetect.anomalies.active_learning import ReviewOrder
from astrodetect.anomalies.novelty import Novelty
from astrodetect.db.label_names import LabelNames
from astrodetect.db.shared_state import LeaseTable
from astrodetect.labels import ARTEFACT, INTERESTING, ORDINARY, LabelValue, is_wanted, own_names
from astrodetect.model_store.manifest import Manifest
from astrodetect.records import EmbeddedImages, Prediction
from astrodetect.settings import SETUP_DB_COMMAND

MAX_RANKED = 200_000  # the newest images, in addition to all labelled ones
MAX_GROWTH = 0.01  # share of them by which the space may grow before they are read again
MAX_REVIEW_BATCH = 100  # images of one request
ORDER_LENGTH = 500  # images of each order kept: some of them are labelled or skipped before the next ranking
RANKING_WAIT_S = 0.05  # for the newest ranking, where a page wants an image at once
NEIGHBOURS_NAMED = 5  # labelled ones, in the reasons
LEASE_S = 120.0
NO_DETECTORS = "the default model has no anomaly detectors: sorted by the novelty that other models recorded"
NOT_YET = "this order is being computed: sorted by novelty until it is ready"
NO_VECTORS = f"the database stores no vectors, so labels do not change the order: {SETUP_DB_COMMAND} says more"

log = logging.getLogger("uvicorn.error")


class ReviewDatabase(Protocol):
    """The database of predictions and labels: `database.Database`."""

    @property
    def stores_vectors(self) -> bool: ...
    @property
    def leases(self) -> LeaseTable: ...
    @property
    def label_names(self) -> LabelNames: ...
    def embedded_images(self, space: str, *, newest: int, model: str | None = None) -> EmbeddedImages: ...
    def current_labels(self) -> dict[str, LabelValue]: ...
    def most_novel(self, space: str | None, *, limit: int, unknown: bool = False) -> list[Prediction]: ...
    def by_ids(self, ids: Sequence[int]) -> Mapping[int, Prediction]: ...
    def space_growth(self, space: str) -> int: ...


@dataclass(frozen=True, slots=True)
class ReviewCandidate:
    """An image to label, and why it was chosen."""

    prediction: Prediction
    why: list[str]


@dataclass(frozen=True, slots=True)
class LabelProgress:
    """Numbers of labelled images, by label."""

    labelled: int
    interesting: int
    ordinary: int
    artefact: int
    names: Mapping[str, int] = field(default_factory=dict)  # of one's own
    found: int = field(default=0, compare=False)  # that count as interesting

    @classmethod
    def of(cls, labels: Mapping[str, LabelValue], roles: Mapping[LabelValue, LabelValue]) -> "LabelProgress":
        """From the label of each image, and the roles of names."""
        counts = Counter(labels.values())
        names = {name: counts[name] for name in own_names(counts)}
        found = sum(count for label, count in counts.items() if is_wanted(roles.get(label, label)))
        return cls(len(labels), counts[INTERESTING], counts[ORDINARY], counts[ARTEFACT], names, found)

    @property
    def found_per_100(self) -> float | None:
        """Interesting images per hundred labelled ones, by the roles of their labels."""
        return 100 * self.found / self.labelled if self.labelled else None


@dataclass(frozen=True, slots=True)
class ReviewBatch:
    """The images to label next, in order."""

    by: ReviewOrder
    note: str | None  # why the order is not the requested one
    candidates: list[ReviewCandidate]
    labels: Mapping[str, LabelValue]  # by image
    roles: Mapping[LabelValue, LabelValue]  # of names that do not count as interesting

    @property
    def progress(self) -> LabelProgress:
        """The numbers of labelled images."""
        return LabelProgress.of(self.labels, self.roles)


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """What a ranking is made of, besides the labels."""

    space: str  # the embedding space of the default model
    blocks: Sequence[int] = ()  # the numbers of dimensions of the blocks of the space
    like: LabelValue | None = None  # images like those with this label first
    taught: str | None = None  # the name of the model, if it learnt from labels and ranks by its scores too
    unknown: bool = False  # whether images of objects that catalogues know are left out
    roles: Mapping[LabelValue, LabelValue] = field(default_factory=dict)  # of names that do not count as interesting

    @property
    def choice(self) -> tuple[LabelValue | None, bool, Mapping[LabelValue, LabelValue]]:
        """What reviewers choose."""
        return self.like, self.unknown, self.roles


class ReviewLeases:
    """The images under review, so that two reviewers do not get the same one, whichever process answers them."""

    def __init__(self, leases: LeaseTable) -> None:
        self._leases = leases

    def free(self, session: str, images: Sequence[str]) -> AbstractSet[str]:
        """Those of these images that no other session has."""
        taken = self._leases.held_by_others([_lease_name(image) for image in images], session)
        return {image for image in images if _lease_name(image) not in taken}

    def extend(self, session: str, images: Sequence[str]) -> None:
        """Leases images besides the session's previous ones, unless another session has them."""
        self._leases.take_many([_lease_name(image) for image in images], session, seconds=LEASE_S)

    def lease(self, session: str, images: Sequence[str]) -> AbstractSet[str]:
        """Leases images for LEASE_S in place of the session's previous ones; those that no other session has."""
        names = {_lease_name(image): image for image in images}
        taken = self._leases.take_many(names, session, seconds=LEASE_S)
        self._leases.release_others(session, taken)
        return {names[name] for name in taken}


class _Ranking:
    """Images of an embedding space, their labels, and the review orders that follow from these."""

    def __init__(
        self, request: RankingRequest, growth: int, images: EmbeddedImages, labels: Mapping[str, LabelValue]
    ) -> None:
        self.request, self.images, self.labels, self._growth = request, images, labels, growth
        norms = np.linalg.norm(images.vectors, axis=1)  # break ties: novelty is 1 beyond all training images
        self._strength = np.empty(len(norms), np.float32)
        self._strength[np.lexsort((norms, images.novelty))] = np.arange(len(norms))
        index_of = {image: index for index, image in enumerate(images.images)}
        self._labelled = {index_of[image]: label for image, label in labels.items() if image in index_of}
        self._orders = self._compute_orders()

    def is_current(self, space: str, growth: int) -> bool:
        """Whether the space has grown by at most MAX_GROWTH since."""
        return self.request.space == space and growth - self._growth <= MAX_GROWTH * len(self.images.ids)

    def with_labels(self, labels: Mapping[str, LabelValue], request: RankingRequest) -> "_Ranking | None":
        """The same images with new labels; None where one of these belongs to an image that is not among them."""
        if labels == self.labels and request.choice == self.request.choice:
            return self
        if labels.keys() - self.labels.keys() - set(self.images.images):
            return None
        chosen = replace(self.request, like=request.like, unknown=request.unknown, roles=request.roles)
        return _Ranking(chosen, self._growth, self.images, labels)

    def order(self, by: ReviewOrder, labels: Mapping[str, LabelValue]) -> list[int]:
        """The indices of the images to label next, without those labelled since."""
        return [index for index in self._orders[by] if self.images.images[index] not in labels]

    def nearest_labels(self, index: int) -> list[str]:
        """The labels of the nearest labelled images, in words."""
        if not self._labelled:
            return []
        labelled = np.array(list(self._labelled))
        distances = np.linalg.norm(self.images.vectors[labelled] - self.images.vectors[index], axis=1)
        nearest = labelled[np.argsort(distances)[:NEIGHBOURS_NAMED]].tolist()
        counts = Counter(self._labelled[neighbour] for neighbour in nearest).most_common()
        return ["most like it: " + ", ".join(f"{count} {_isolated(label)}" for label, count in counts)]

    def _compute_orders(self) -> Mapping[ReviewOrder, list[int]]:
        if not self.images.ids:
            return {by: [] for by in active_learning.REVIEW_ORDERS}
        roles, like = self.request.roles, self.request.like
        counted = {
            image: label if label == like else roles.get(label, label) for image, label in self._labelled.items()
        }
        return active_learning.review_orders(
            self.images.vectors,
            self._strength,
            counted,
            ORDER_LENGTH,
            blocks=self.request.blocks,
            like=like,
            network=self.images.scores if self.request.taught else None,
            hidden=self.images.known if self.request.unknown else (),
        )


def _isolated(label: LabelValue) -> str:
    """Isolates a label for display: numbers beside Arabic or Hebrew are shown in another order."""
    return label if label.isascii() else f"\u2068{label}\u2069"


class ReviewQueue:
    """Chooses the images to label next, for many threads; rankings are reused until labels or new images come."""

    def __init__(self, database: ReviewDatabase) -> None:
        self._database, self._lock = database, threading.Lock()
        self.leases = ReviewLeases(database.leases)
        self._ranking: _Ranking | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="review")
        self._next_ranking: Future[_Ranking] | None = None

    def next(
        self,
        by: ReviewOrder,
        *,
        limit: int,
        space: str | None,
        blocks: Sequence[int] = (),
        like: LabelValue | None = None,
        taught: str | None = None,
        unknown: bool = False,
        at_once: bool = False,
    ) -> ReviewBatch:
        """Unlabelled images of the default model's embedding space, in this order; `like` those with this label.

        `blocks`: the numbers of dimensions of the blocks of the space.

        `taught`: the name of the model, if it learnt from labels and ranks by its scores too.

        `unknown`: without images of objects that catalogues know.

        `at_once`: in an earlier ranking, where the one with the newest labels takes more than RANKING_WAIT_S.
        """
        labels, roles = self._database.current_labels(), self._database.label_names.roles()
        note = NO_DETECTORS if space is None else None if self._database.stores_vectors else NO_VECTORS
        if by == "novelty" or space is None or note:
            return self._by_novelty(space, note, limit, labels, roles, unknown=unknown)
        request = RankingRequest(space, blocks, like, taught, unknown, roles)
        ranking = (self._available_ranking if at_once else self._newest_ranking)(request, labels)
        if ranking is None:
            return self._by_novelty(space, NOT_YET, limit, labels, roles, unknown=unknown)
        order = ranking.order(by, labels)[:limit]
        ids = [ranking.images.ids[index] for index in order]
        rows = self._database.by_ids(ids)
        candidates = [
            ReviewCandidate(rows[id_], [_novelty(rows[id_]), *ranking.nearest_labels(index)])
            for id_, index in zip(ids, order, strict=True)
            if id_ in rows and not (unknown and rows[id_].known)
        ]
        return ReviewBatch(by, None, candidates, labels, roles)

    def close(self) -> None:
        """Waits for the ranking that is being computed."""
        self._executor.shutdown(cancel_futures=True)

    def _by_novelty(
        self,
        space: str | None,
        note: str | None,
        limit: int,
        labels: Mapping[str, LabelValue],
        roles: Mapping[LabelValue, LabelValue],
        *,
        unknown: bool,
    ) -> ReviewBatch:
        rows = self._database.most_novel(space, limit=limit, unknown=unknown)
        return ReviewBatch("novelty", note, [ReviewCandidate(row, [_novelty(row)]) for row in rows], labels, roles)

    def _available_ranking(self, request: RankingRequest, labels: Mapping[str, LabelValue]) -> _Ranking | None:
        if self._next_ranking is None or self._next_ranking.done():
            self._next_ranking = self._executor.submit(self._newest_ranking, request, labels)
            self._next_ranking.add_done_callback(_log_failure)
        wait([self._next_ranking], RANKING_WAIT_S)
        ranking = self._ranking
        same = ranking and (ranking.request.space, ranking.request.choice) == (request.space, request.choice)
        return ranking if same else None

    def _newest_ranking(self, request: RankingRequest, labels: Mapping[str, LabelValue]) -> _Ranking:
        with self._lock:  # computed once for all requests that wait
            growth = self._database.space_growth(request.space)
            ranking = self._ranking if self._ranking and self._ranking.is_current(request.space, growth) else None
            ranking = ranking.with_labels(labels, request) if ranking else None
            if ranking is None:
                images = self._database.embedded_images(request.space, newest=MAX_RANKED, model=request.taught)
                ranking = _Ranking(request, growth, images, labels)
            self._ranking = ranking
            return ranking


def _log_failure(ranking: Future[_Ranking]) -> None:
    if not ranking.cancelled() and (error := ranking.exception()):
        log.error("the review queue was not reordered: %s", error)


def space_blocks(detectors: Iterable[tuple[Manifest, Novelty]], space: str | None) -> tuple[int, ...]:
    """The number of dimensions of each block of an embedding space; none where its detectors are not loaded."""
    return next((novelty.block_dimensions for manifest, novelty in detectors if manifest.space == space), ())


def _lease_name(image: str) -> str:
    return f"review {image}"


def _novelty(row: Prediction) -> str:
    return f"novelty {row.novelty:.3f}"
