"""Which predictions the history is asked for: what stands in its address, where people type and anything may stand."""

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from pydantic import ValidationError, validate_call
from starlette.datastructures import QueryParams

from astrodetect.records import PredictionFilters
from astrodetect.service.query_params import LONGEST_NAME, asked_filters
from astrodetect.service.web.rendering import short

DATES = "since", "until"
DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
ONE_DAY = dt.timedelta(days=1)
LONGEST_SHOWN = 40  # characters of what was typed, where it is shown beside the form
IN_WORDS = {  # what each is called, in the order of the form
    "result": "{}",
    "label": "taken for {}",
    "name": "name has “{}”",
    "min_score": "score from {}",
    "max_score": "score to {}",
    "min_novelty": "novelty from {}",
    "since": "from {}",
    "until": "to {}",
    "model": "model {}",
    "request_id": "request {}",
}
RIGHT = {  # what should stand where something else does
    "min_score": "is no score: it is a number from 0 to 1, such as 0.9",
    "max_score": "is no score: it is a number from 0 to 1, such as 0.9",
    "min_novelty": "is no novelty: it is a number from 0 to 1, such as 0.99",
    "since": "is no date: 2026-11-21 is one",
    "until": "is no date: 2026-11-21 is one",
    "request_id": "is no id of a request",
}
TOO_LONG = f"is too long: {LONGEST_NAME} characters at most"
_read: Callable[..., PredictionFilters] = validate_call(asked_filters)  # by the very rules of the API


@dataclass(frozen=True, slots=True)
class HistoryFilters:
    """What was typed, and what it means: nothing at all where `wrong` says that some of it cannot be understood."""

    typed: Mapping[str, str]
    filters: PredictionFilters
    wrong: Mapping[str, str] = field(default_factory=dict)  # by the field, a sentence each

    @classmethod
    def of(cls, query: QueryParams) -> "HistoryFilters":
        """What the address asks for; a field that is empty asks for nothing."""
        typed = {name: text for name in IN_WORDS if (text := query.get(name, "").strip())}
        wrong = [name for name in DATES if name in typed and not DAY.match(typed[name])]  # a bare number is none
        try:
            filters = _read(**_as_api(typed))
        except ValidationError as error:
            wrong += [str(found["loc"][0]) for found in error.errors()]
        if not wrong:
            return cls(typed, filters)
        said = {
            name: f"“{short(text, LONGEST_SHOWN)}” {RIGHT.get(name, TOO_LONG)}."
            for name, text in typed.items()
            if name in wrong
        }
        return cls(typed, PredictionFilters(), said)

    @property
    def chips(self) -> list[tuple[str, str]]:
        """Each filter in words, and the address without it."""
        return [
            (IN_WORDS[name].format(short(text, LONGEST_SHOWN)), self.address(without=name))
            for name, text in self.typed.items()
        ]

    def address(self, path: str = "/history", *, without: str = "", **edge: int | None) -> str:
        """Of a page with these filters but this one, from this edge on."""
        query = {name: value for name, value in {**self.typed, **edge}.items() if name != without and value is not None}
        return f"{path}?{urlencode(query)}" if query else path

    def export(self, kind: str) -> str:
        """The address of the file with these predictions."""
        return f"/predictions.{kind}?{urlencode(_as_api(self.typed))}".rstrip("?")


def _as_api(typed: Mapping[str, str]) -> dict[str, str]:
    """To a person the last day is part of the time; to programs `until` is the moment before which it ends."""
    asked = dict(typed)
    try:
        if DAY.fullmatch(asked.get("until", "")):
            asked["until"] = (dt.date.fromisoformat(asked["until"]) + ONE_DAY).isoformat()
    except (ValueError, OverflowError):
        pass  # no day, or the last one that there is
    return asked
