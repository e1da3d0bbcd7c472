"""The name under which a browser's labels are kept, as its owner gave it once."""

from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import Response

COOKIE = "astrodetect_who"
LONGEST = 60  # characters: each may take twelve in a cookie
DAY_S = 86_400
LASTS_S = 365 * DAY_S


def name(request: Request) -> str | None:
    """None where nobody said."""
    return unquote(request.cookies.get(COOKIE, ""))[:LONGEST].strip() or None


def remember(answer: Response, said: str) -> None:
    """Has the browser send it from now on; an empty one is none."""
    answer.set_cookie(COOKIE, quote(said.strip(), safe=""), max_age=LASTS_S, httponly=True, samesite="strict")
