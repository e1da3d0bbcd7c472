"""What lies before a reviewer: one image with all that is known of it, and what has been done so far."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from astrodetect.anomalies.active_learning import LabelValue, ReviewOrder
from astrodetect.records import Neighbour, Prediction
from astrodetect.service.review_queue import ReviewCandidate
from astrodetect.service.web.image_view import ImageView
from astrodetect.service.web.neighbours import neighbours
from astrodetect.service.web.review_session import ReviewSession

LOOKED_AHEAD = 20  # images, of which those come first that have a picture and that nobody else has before them


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """One image, and why it is shown."""

    row: Prediction
    why: list[str]
    sight: ImageView
    similar: list[Neighbour]
    pictured: AbstractSet[str]  # the sums of those that have a picture


@dataclass(frozen=True, slots=True)
class ReviewView:
    """What to look at; where nothing is left, `logged` says whether there was ever anything."""

    note: str | None  # why the order is not the one that was asked for
    shown: ReviewItem | None
    ahead: str | None  # the sum of the image that comes next, so that its picture is there at once
    labels: Mapping[str, LabelValue]  # what each labelled image is, by its sum
    in_order: list[LabelValue]  # of each labelled image, as they came
    skipped: int  # images
    logged: bool

    @classmethod
    def laid(cls, state: Any, sitting: ReviewSession, by: ReviewOrder, id: int | None) -> "ReviewView":  # noqa: A002
        """The next image for this reviewer, or that of this prediction; NotFound where there is no such one."""
        database = state.database
        skipped = {row.image for row in database.of_ids(sitting.skipped).values()} if sitting.skipped else set()
        limit = LOOKED_AHEAD + len(skipped)
        queue = state.review.next(by, limit=limit, space=state.models.space, at_once=True)
        waiting = [one for one in queue.candidates if one.prediction.image not in skipped][:LOOKED_AHEAD]
        pictured = database.pictured([sha for one in waiting if (sha := one.prediction.image_sha256)])
        taken = state.review.turns.taken(sitting.name)
        waiting.sort(key=lambda one: (one.prediction.image_sha256 not in pictured, one.prediction.image in taken))
        if id:
            asked = ReviewCandidate(database.prediction(id), [])
            waiting = [asked, *(one for one in waiting if one.prediction.image != asked.prediction.image)]
        if waiting and sitting.begun:
            state.review.turns.take(sitting.name, waiting[0].prediction.image)
        return cls(
            note=queue.note,
            shown=_shown(state, waiting[0]) if waiting else None,
            ahead=next((sha for one in waiting[1:2] if (sha := one.prediction.image_sha256) in pictured), None),
            labels=queue.labels,
            in_order=database.labels_in_order(),
            skipped=len(skipped),
            logged=bool(waiting) or database.newest_id() > 0,
        )


def _shown(state: Any, candidate: ReviewCandidate) -> ReviewItem:
    row = candidate.prediction
    similar, pictured, _ = neighbours(state.database, row)
    return ReviewItem(row, candidate.why, ImageView.of(state, row), similar, pictured)
