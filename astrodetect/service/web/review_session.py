"""What one reviewer did, step by step, in a cookie of theirs: what can be undone, and what was skipped."""

import re
import secrets
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from astrodetect.db.values import BIGINT_MAX

COOKIE = "astrodetect_review"
WHERE = "/review"
MOST_STEPS = 150  # that a cookie of 4 KB has room for; from then on the first ones are forgotten
NEW_BYTES = 8  # of a sitting's name
SHAPE = re.compile(rf"[0-9a-f]{{{2 * NEW_BYTES}}}(\.[ls][0-9]{{1,19}}){{0,{MOST_STEPS}}}", re.ASCII)


class ReviewStep(NamedTuple):
    """One thing that was done: `l`, a labelling with this id was given, or `s`, a prediction was skipped."""

    kind: Literal["l", "s"]
    id: int


@dataclass(frozen=True, slots=True)
class ReviewSession:
    """A reviewer's steps, the last one at the end; `name` tells sittings apart."""

    name: str
    steps: tuple[ReviewStep, ...] = ()
    begun: bool = True  # False of a new one: whoever asks may be a program, to which nothing must be given

    @classmethod
    def of(cls, request: Request) -> "ReviewSession":
        """This browser's, or a new one."""
        said = request.cookies.get(COOKIE, "")
        if SHAPE.fullmatch(said):
            name, *parts = said.split(".")
            steps = tuple(ReviewStep("l" if part[0] == "l" else "s", int(part[1:])) for part in parts)
            if all(step.id <= BIGINT_MAX for step in steps):
                return cls(name, steps)
        return cls(secrets.token_hex(NEW_BYTES), begun=False)

    @property
    def skipped(self) -> list[int]:
        """The predictions that were passed over."""
        return [step.id for step in self.steps if step.kind == "s"]

    def after(self, step: ReviewStep) -> "ReviewSession":
        """With one more step."""
        return replace(self, steps=(*self.steps, step)[-MOST_STEPS:], begun=True)

    def undone(self) -> "ReviewSession":
        """Without the last one."""
        return replace(self, steps=self.steps[:-1])

    def again(self) -> "ReviewSession":
        """As if nothing had been skipped."""
        return replace(self, steps=tuple(step for step in self.steps if step.kind != "s"))

    def keep(self, answer: Response) -> Response:
        """Has the browser remember it until it is closed."""
        said = ".".join([self.name, *(f"{kind}{id_}" for kind, id_ in self.steps)])
        answer.set_cookie(COOKIE, said, path=WHERE, httponly=True, samesite="strict")
        return answer
