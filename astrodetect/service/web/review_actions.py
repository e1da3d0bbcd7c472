"""What the pages of Review share: the images that a reviewer gets, tags, undoing, and what the labels found so far."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from markupsafe import Markup
from starlette.requests import Request

from astrodetect.anomalies.active_learning import ReviewOrder
from astrodetect.labels import LABELS, MAX_LABEL_LENGTH, LabelValue, assign_keys, is_wanted, own_names
from astrodetect.records import Prediction
from astrodetect.reports.svg_charts import ChartAxes, ChartLine, line_chart
from astrodetect.service.review_queue import ORDER_LENGTH, ReviewBatch, ReviewCandidate, space_blocks
from astrodetect.service.services import ServiceDatabase, Services
from astrodetect.service.web.review_session import (
    GRID_COUNTS,
    MAX_REVIEWER_LENGTH,
    ReviewChoice,
    ReviewSession,
    knows_reviewer,
    reviewer_name,
)

LOOKAHEAD = 19  # more candidates than needed, of which those with a thumbnail come first
RECENT_LABELS = 100
CHART_HEIGHT = 220.0
CHART_AXES = "labelled", "interesting"

ORDER_DESCRIPTIONS: dict[ReviewOrder, tuple[str, str]] = {
    "interest": (
        "Interest",
        "Probably interesting, by your labels so far and by novelty.",
    ),
    "novelty": ("Novelty", "By novelty, the highest first, whatever the labels."),
    "uncertainty": (
        "Uncertainty",
        "Between what you labelled interesting and the rest: the least certain.",
    ),
    "random": ("Random", "A random sample: it estimates how common interesting images are."),
}


@dataclass(frozen=True, slots=True)
class FreeCandidates:
    """The images that no other reviewer has and this one did not skip, those with a thumbnail first."""

    batch: ReviewBatch
    candidates: list[ReviewCandidate]
    with_thumbnail: set[str]  # hashes
    skipped: int  # images
    any_unskipped: bool  # whether there are images left, others' included

    @property
    def compared(self) -> bool:
        """Whether any was compared with catalogues."""
        return any(entry.prediction.known is not None for entry in self.candidates)

    @classmethod
    def find(
        cls, services: Services, session: ReviewSession, choice: ReviewChoice, *, wanted: int = 1
    ) -> "FreeCandidates":
        """At least `wanted` of them, if there are as many in the order."""
        database, queue = services.database, services.review_queue
        skipped = {row.image_key for row in database.by_ids(session.skipped).values()} if session.skipped else set()
        for lookahead in (wanted + LOOKAHEAD, ORDER_LENGTH):  # more if others have the first ones
            batch = queue.next(
                choice.by,
                limit=lookahead + len(skipped),
                space=services.models.space,
                blocks=space_blocks(services.models.detectors.values(), services.models.space),
                like=choice.like,
                taught=services.models.taught,
                unknown=choice.unknown,
                at_once=True,
            )
            unskipped = [entry for entry in batch.candidates if entry.prediction.image_key not in skipped]
            free = queue.leases.free(session.id, [entry.prediction.image_key for entry in unskipped])
            if len(free) >= wanted or len(batch.candidates) < lookahead + len(skipped):
                break
        candidates = [entry for entry in unskipped if entry.prediction.image_key in free]
        with_thumbnail = database.images_with_thumbnails(
            [sha for entry in candidates if (sha := entry.prediction.image_sha256)]
        )
        candidates.sort(key=lambda entry: entry.prediction.image_sha256 not in with_thumbnail)
        return cls(batch, candidates, with_thumbnail, len(skipped), bool(unskipped))


@dataclass(frozen=True, slots=True)
class ReviewView:
    """What both pages show; where no image is left, `has_predictions` says whether any was ever logged."""

    note: str | None  # why the order is not the requested one
    candidates: list[ReviewCandidate]
    next_thumbnail: str | None  # the hash of an image after these, for preloading
    with_thumbnail: AbstractSet[str]  # hashes
    labels: Mapping[str, LabelValue]  # the current label by image
    skipped: int  # images
    leased_by_others: bool  # whether others are reviewing all images that are left
    has_predictions: bool
    compared: bool  # whether images were compared with catalogues, so that known objects can be hidden

    @classmethod
    def load(
        cls, services: Services, session: ReviewSession, choice: ReviewChoice, requested: Sequence[Prediction]
    ) -> "ReviewView":
        """The next images for this reviewer, after those of the `requested` predictions."""
        database, count = services.database, choice.count or 1
        first = {row.image_key: ReviewCandidate(row, []) for row in requested}
        free = FreeCandidates.find(services, session, choice, wanted=count)
        waiting = [*first.values(), *(entry for entry in free.candidates if entry.prediction.image_key not in first)]
        candidates: list[ReviewCandidate] = []
        while waiting and len(candidates) < count:  # meanwhile others may have some, or have labelled them
            batch = waiting[: count - len(candidates)]
            del waiting[: len(batch)]
            images = [entry.prediction.image_key for entry in (*candidates, *batch)]  # a lease replaces earlier ones
            leased = services.review_queue.leases.lease(session.id, images) if session.has_cookie else images
            usable = {*leased} - database.labels_by_image([entry.prediction for entry in batch]).keys()
            candidates += [entry for entry in batch if entry.prediction.image_key in usable | first.keys()]
        hashes = [sha for row in requested if (sha := row.image_sha256)]
        following = (entry.prediction.image_sha256 for entry in waiting)
        return cls(
            note=free.batch.note,
            candidates=candidates,
            next_thumbnail=next((sha for sha in following if sha in free.with_thumbnail), None),
            with_thumbnail=free.with_thumbnail | database.images_with_thumbnails(hashes),
            labels=free.batch.labels,
            skipped=free.skipped,
            leased_by_others=free.any_unskipped and not candidates,
            has_predictions=free.any_unskipped or database.newest_id() > 0,
            compared=free.compared or choice.unknown,
        )


@dataclass(frozen=True, slots=True)
class UndoneStep:
    """What undoing the last step of a session did."""

    session: ReviewSession
    message: str
    ids: list[int]  # of the predictions to show again
    note: str = ""
    of_tags: bool = False


def change_tags(
    request: Request, database: ServiceDatabase, ids: Sequence[int], tag: str
) -> tuple[ReviewSession, list[int]]:
    """Tags the images of these predictions, or removes the tag where the path says `untag`.

    The session with this step, and the predictions of the images that changed.
    """
    removes = request.url.path.endswith("/untag")
    if removes:
        changed = database.tags.remove(ids, tag)
    else:
        changed = database.tags.add(ids, tag, who=reviewer_name(request)) if ids else []
    session = ReviewSession.read(request)
    return session.add_each("u" if removes else "t", changed, tag) if changed else session, changed


def undo_last_step(services: Services, session: ReviewSession, *, who: str | None) -> UndoneStep:
    """Removes the labels of the last step, returns what it skipped to the queue, or takes back a change of tags."""
    database = services.database
    if not session.steps:
        return UndoneStep(session, "nothing to undo", [])
    steps, session = session.last_step, session.undo()
    if steps[0].kind == "l":
        removed = database.label_batches.delete(steps[0].id, steps[0].id + steps[0].span)
        what = f"label {removed[0].label}" if len(removed) == 1 else f"{len(removed)} labels"
        if not removed:
            return UndoneStep(session, "that step was already undone", [])
        ids = [label.prediction_id for label in removed]  # shown again in a moment: to nobody else until then
        services.review_queue.leases.extend(session.id, [row.image_key for row in database.by_ids(ids).values()])
        return UndoneStep(session, f"{what} removed", ids, removed[0].note or "")
    known = database.by_ids([step.id for step in steps])
    ids = [step.id for step in steps if step.id in known]
    if tag := steps[0].tag:
        if steps[0].kind == "t":
            database.tags.remove(ids, tag)
        elif ids:
            database.tags.add(ids, tag, who=who)
        message = f"tag {tag} {'removed' if steps[0].kind == 't' else 'added again'}"
        return UndoneStep(session, message if ids else "its predictions were deleted", ids, of_tags=True)
    return UndoneStep(session, "no longer skipped" if ids else "that step was already undone", ids)


def name_replaced(database: ServiceDatabase, ids: Sequence[int], label: LabelValue) -> str:
    """The other labels that the images of these predictions have, as another reviewer may have labelled them since."""
    rows = database.by_ids(ids).values()
    counts = Counter(old for old in database.labels_by_image([*rows]).values() if old != label)
    names = ", ".join(old if len(ids) == 1 else f"{count} {old}" for old, count in counts.items())
    return f", instead of {names}" if names else ""


def describe_labels(database: ServiceDatabase) -> dict[str, Any]:
    """What the templates show of the labels given so far."""
    labels, names = database.labels_in_order(), database.label_names.list()
    roles = {name.name: name.role for name in names}
    counted = [roles.get(label, label) for label in labels]
    summary = summarise_discoveries(counted) if labels else None
    return {
        "labelled": len(labels),
        "names": (given := own_names(labels)),
        "own_names": assign_keys(names),
        "roles": roles,
        "known_tags": database.tags.suggested(),
        "max_label_length": MAX_LABEL_LENGTH,
        "counts": {label: labels.count(label) for label in [*LABELS, *given]},
        "chart": plot_discoveries(counted, summary) if summary else None,
        "summary": summary,
    }


def page_values(request: Request, session: ReviewSession) -> dict[str, Any]:
    """What the templates of whole pages need besides."""
    return {
        "orders": ORDER_DESCRIPTIONS,
        "counts_of_grid": GRID_COUNTS,
        "reviewer": reviewer_name(request) or "",
        "knows_reviewer": knows_reviewer(request),
        "max_reviewer_length": MAX_REVIEWER_LENGTH,
        "has_lease": session.has_cookie,
    }


def announce(message: str) -> dict[str, str]:
    """The header with which the page shows a message and screen readers read it."""
    return {"HX-Trigger": json.dumps({"announce": message[0].upper() + message[1:]})}


def plot_discoveries(labels: Sequence[LabelValue], description: str) -> Markup:
    """The number of interesting images against the number labelled, in the order of labelling."""
    interesting = list(accumulate(map(is_wanted, labels), initial=0))
    ends = (0, max(len(labels), 1)), (0, max(interesting[-1], 1))
    axes = ChartAxes(*ends, CHART_HEIGHT, whole_x=True, whole_y=True)
    constant_rate = ChartLine("", (0, len(labels)), (0, interesting[-1]), "chance")
    return line_chart(
        description, [constant_rate, ChartLine("", range(len(interesting)), interesting)], axes, CHART_AXES
    )


def summarise_discoveries(labels: Sequence[LabelValue]) -> str:
    """The same as a sentence."""
    count = sum(map(is_wanted, labels))
    text = f"{count:,} interesting of {len(labels):,} labelled: {100 * count / len(labels):.0f} per hundred."
    if len(labels) > RECENT_LABELS:
        text += f" Of the last hundred: {sum(map(is_wanted, labels[-RECENT_LABELS:]))}."
    return text
