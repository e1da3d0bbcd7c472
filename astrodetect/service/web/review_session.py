"""What a reviewer's browser remembers in cookies: the steps of the session, and the reviewer's name."""

import base64
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple, TypeAlias, cast
from urllib.parse import quote, unquote, urlencode

from fastapi import Depends, Form, Query
from starlette.requests import Request
from starlette.responses import Response

from astrodetect.anomalies.active_learning import ReviewOrder
from astrodetect.labels import LabelValue, StoredLabel, parse_tag
from astrodetect.records import BIGINT_MAX
from astrodetect.service.query_params import LabelName

SESSION_COOKIE = "astrodetect_review"
REVIEWER_COOKIE = "astrodetect_who"
REVIEW_PATH, GRID_PATH = "/review", "/review/grid"
GRID_COUNTS = MIN_GRID, *_, MAX_GRID = 12, 24, 40, 60  # images at once
MAX_STEPS, MAX_COOKIE_CHARS = 150, 3_950  # browsers keep 4 KB, name included; older steps are dropped
SESSION_ID_BYTES = 8
MAX_SPAN = 9_999  # ids that lie between the first and the last label of a batch, with those of other reviewers
STEP_PATTERN = r"([lsk][0-9]{1,19}(-[0-9]{1,4})?|[tu][0-9]{1,19}~[\w-]{1,214})"
SESSION_PATTERN = re.compile(rf"[0-9a-f]{{{2 * SESSION_ID_BYTES}}}(\.{STEP_PATTERN}){{0,{MAX_STEPS}}}", re.ASCII)
MAX_REVIEWER_LENGTH = 60  # characters: each may take twelve in a cookie
REVIEWER_MAX_AGE_S = 365 * 86_400


@dataclass(frozen=True, slots=True)
class ReviewChoice:
    """The order in which a reviewer sees the images, the label of whose kind more are wanted, and how many at once."""

    by: ReviewOrder
    like: LabelValue | None = None
    count: int = 0  # of the grid; 0: one at a time
    unknown: bool = False  # whether objects that catalogues know are hidden

    @property
    def fields(self) -> dict[str, str | int]:
        """As fields of a query string or a form."""
        fields = {"like": self.like, "count": self.count, "unknown": "true" if self.unknown else None}
        return {"by": self.by, **{name: value for name, value in fields.items() if value}}

    @property
    def url(self) -> str:
        """The page's address."""
        return f"{GRID_PATH if self.count else REVIEW_PATH}?{urlencode(self.fields)}"


def queried_choice(
    by: ReviewOrder = "interest", like: Annotated[LabelName | None, Query()] = None, *, unknown: bool = False
) -> ReviewChoice:
    """From the query string, one image at a time."""
    return ReviewChoice(by, like, unknown=unknown)


def queried_grid(
    by: ReviewOrder = "interest",
    like: Annotated[LabelName | None, Query()] = None,
    count: Annotated[int, Query(ge=MIN_GRID, le=MAX_GRID)] = GRID_COUNTS[1],
    *,
    unknown: bool = False,
) -> ReviewChoice:
    """From the query string, as a grid."""
    return ReviewChoice(by, like, count, unknown)


def posted_choice(
    by: Annotated[ReviewOrder, Form()] = "interest",
    like: Annotated[LabelName | None, Form()] = None,
    count: Annotated[int, Form(ge=0, le=MAX_GRID)] = 0,
    *,
    unknown: Annotated[bool, Form()] = False,
) -> ReviewChoice:
    """From a form."""
    return ReviewChoice(by, like, count, unknown)


PostedChoice: TypeAlias = Annotated[ReviewChoice, Depends(posted_choice)]
PredictionIdField: TypeAlias = Annotated[int, Form(ge=1, le=BIGINT_MAX)]


StepKind: TypeAlias = Literal["l", "s", "t", "u", "k"]


class ReviewStep(NamedTuple):
    """`l`, the labels with ids from `id` to `id + span` were added; of the prediction with this id, `s`, it was
    skipped, or its image was tagged (`t`), or a tag was removed from it (`u`).

    `k` is another prediction of the step before it.
    """

    kind: StepKind
    id: int
    span: int = 0
    tag: str = ""

    @classmethod
    def of_labels(cls, labels: Sequence[StoredLabel]) -> "ReviewStep":
        """Labels that were given together."""
        return cls("l", labels[0].id, min(labels[-1].id - labels[0].id, MAX_SPAN))

    @classmethod
    def parse(cls, text: str) -> "ReviewStep":
        """A step of the cookie."""
        numbers, _, tag = text[1:].partition("~")
        id_, _, span = numbers.partition("-")
        name = base64.urlsafe_b64decode(tag + "=" * (-len(tag) % 4)).decode()
        return cls(cast("StepKind", text[0]), int(id_), int(span or 0), parse_tag(name) if name else "")

    def __str__(self) -> str:
        tag = base64.urlsafe_b64encode(self.tag.encode()).decode().rstrip("=")
        return f"{self.kind}{self.id}" + (f"-{self.span}" if self.span else "") + (f"~{tag}" if tag else "")


@dataclass(frozen=True, slots=True)
class ReviewSession:
    """The steps of a reviewer, the newest last, in a session cookie."""

    id: str
    steps: tuple[ReviewStep, ...] = ()
    has_cookie: bool = True  # False of a new session: the client may be a program, which gets no lease

    @classmethod
    def read(cls, request: Request) -> "ReviewSession":
        """The session of this browser, or a new one."""
        cookie = request.cookies.get(SESSION_COOKIE, "")
        if SESSION_PATTERN.fullmatch(cookie):
            id_, *parts = cookie.split(".")
            try:
                steps = tuple(map(ReviewStep.parse, parts))
            except ValueError:  # no base64 of UTF-8, or no tag
                steps = ()
            if all(step.id <= BIGINT_MAX for step in steps):
                return cls(id_, steps)
        return cls(secrets.token_hex(SESSION_ID_BYTES), has_cookie=False)

    @property
    def skipped(self) -> list[int]:
        """The ids of the skipped predictions."""
        return [step.id for kind, step in self._with_kinds() if kind == "s"]

    @property
    def last_step(self) -> tuple[ReviewStep, ...]:
        """The newest label or batch of labels, or what was skipped or tagged last, in order; none of a new session."""
        start = len(self.steps) - 1
        while start > 0 and self.steps[start].kind == "k":
            start -= 1
        return self.steps[max(start, 0) :]

    def add(self, *added: ReviewStep) -> "ReviewSession":
        """With one more step, of one or more parts."""
        steps = [*self.steps, *added]
        while len(steps) > MAX_STEPS or len(replace(self, steps=tuple(steps)).cookie) > MAX_COOKIE_CHARS:
            del steps[0]
        while steps and steps[0].kind == "k":  # the rest of a step
            del steps[0]
        return replace(self, steps=tuple(steps), has_cookie=True)

    def add_each(self, kind: Literal["s", "t", "u"], ids: Sequence[int], tag: str = "") -> "ReviewSession":
        """With these predictions skipped, tagged or untagged, as one step."""
        first = [ReviewStep(kind, id_, tag=tag) for id_ in ids[:1]]
        return self.add(*first, *(ReviewStep("k", id_) for id_ in ids[1:]))

    def undo(self) -> "ReviewSession":
        """Without the last step."""
        return replace(self, steps=self.steps[: len(self.steps) - len(self.last_step)])

    def restore_skipped(self) -> "ReviewSession":
        """Without the skips."""
        return replace(self, steps=tuple(step for kind, step in self._with_kinds() if kind != "s"))

    @property
    def cookie(self) -> str:
        """As the value of the cookie."""
        return ".".join([self.id, *map(str, self.steps)])

    def save(self, response: Response) -> Response:
        """Sets the session cookie, which ends with the browser's session."""
        response.set_cookie(SESSION_COOKIE, self.cookie, path=REVIEW_PATH, httponly=True, samesite="strict")
        return response

    def _with_kinds(self) -> Iterator[tuple[StepKind, ReviewStep]]:
        """The steps, each with the kind of the step to which it belongs."""
        kind: StepKind = "l"
        for step in self.steps:
            kind = step.kind if step.kind != "k" else kind
            yield kind, step


def reviewer_name(request: Request) -> str | None:
    """The name stored with this browser's labels, if it gave one."""
    return unquote(request.cookies.get(REVIEWER_COOKIE, ""))[:MAX_REVIEWER_LENGTH].strip() or None


def knows_reviewer(request: Request) -> bool:
    """Whether this browser was asked for the reviewer's name; an empty answer is one too."""
    return REVIEWER_COOKIE in request.cookies


def remember_reviewer(response: Response, name: str) -> None:
    """Sets the cookie of the reviewer's name; an empty name removes it from later labels."""
    value = quote(name.strip(), safe="")
    response.set_cookie(REVIEWER_COOKIE, value, max_age=REVIEWER_MAX_AGE_S, httponly=True, samesite="strict")
