"""What a reviewer's browser remembers in cookies: the steps of the session, and the reviewer's name."""

import re
import secrets
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple
from urllib.parse import quote, unquote, urlencode

from fastapi import Form, Query
from starlette.requests import Request
from starlette.responses import Response

from astrodetect.anomalies.active_learning import ReviewOrder
from astrodetect.labels import LabelValue
from astrodetect.records import BIGINT_MAX
from astrodetect.service.query_params import LabelName

SESSION_COOKIE = "astrodetect_review"
REVIEWER_COOKIE = "astrodetect_who"
REVIEW_PATH = "/review"
MAX_STEPS = 150  # fit in a cookie of 4 KB; older ones are dropped
SESSION_ID_BYTES = 8
SESSION_PATTERN = re.compile(rf"[0-9a-f]{{{2 * SESSION_ID_BYTES}}}(\.[ls][0-9]{{1,19}}){{0,{MAX_STEPS}}}", re.ASCII)
MAX_REVIEWER_LENGTH = 60  # characters: each may take twelve in a cookie
REVIEWER_MAX_AGE_S = 365 * 86_400


@dataclass(frozen=True, slots=True)
class ReviewChoice:
    """The order in which a reviewer sees the images, and the label of whose kind more are wanted."""

    by: ReviewOrder
    like: LabelValue | None = None

    @property
    def url(self) -> str:
        """The page's address."""
        return f"{REVIEW_PATH}?{urlencode({'by': self.by} | ({'like': self.like} if self.like else {}))}"


def queried_choice(by: ReviewOrder = "interest", like: Annotated[LabelName | None, Query()] = None) -> ReviewChoice:
    """From the query string."""
    return ReviewChoice(by, like)


def posted_choice(
    by: Annotated[ReviewOrder, Form()] = "interest", like: Annotated[LabelName | None, Form()] = None
) -> ReviewChoice:
    """From a form."""
    return ReviewChoice(by, like)


class ReviewStep(NamedTuple):
    """One action: `l`, the label with this id was added, or `s`, the prediction with this id was skipped."""

    kind: Literal["l", "s"]
    id: int


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
            steps = tuple(ReviewStep("l" if part[0] == "l" else "s", int(part[1:])) for part in parts)
            if all(step.id <= BIGINT_MAX for step in steps):
                return cls(id_, steps)
        return cls(secrets.token_hex(SESSION_ID_BYTES), has_cookie=False)

    @property
    def skipped(self) -> list[int]:
        """The ids of the skipped predictions."""
        return [step.id for step in self.steps if step.kind == "s"]

    def add(self, step: ReviewStep) -> "ReviewSession":
        """With one more step."""
        return replace(self, steps=(*self.steps, step)[-MAX_STEPS:], has_cookie=True)

    def undo(self) -> "ReviewSession":
        """Without the last step."""
        return replace(self, steps=self.steps[:-1])

    def restore_skipped(self) -> "ReviewSession":
        """Without the skips."""
        return replace(self, steps=tuple(step for step in self.steps if step.kind != "s"))

    def save(self, response: Response) -> Response:
        """Sets the session cookie, which ends with the browser's session."""
        value = ".".join([self.id, *(f"{kind}{id_}" for kind, id_ in self.steps)])
        response.set_cookie(SESSION_COOKIE, value, path=REVIEW_PATH, httponly=True, samesite="strict")
        return response


def reviewer_name(request: Request) -> str | None:
    """The name stored with this browser's labels, if it gave one."""
    return unquote(request.cookies.get(REVIEWER_COOKIE, ""))[:MAX_REVIEWER_LENGTH].strip() or None


def remember_reviewer(response: Response, name: str) -> None:
    """Sets the cookie of the reviewer's name; an empty name removes it from later labels."""
    value = quote(name.strip(), safe="")
    response.set_cookie(REVIEWER_COOKIE, value, max_age=REVIEWER_MAX_AGE_S, httponly=True, samesite="strict")
