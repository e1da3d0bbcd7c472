"""Signing in, where the service has keys: a cookie that no script can read stands for the header that programs send."""

import re
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from astrodetect.service.middleware.auth import COOKIE, SIGN_IN
from astrodetect.service.web.rendering import render

DAY_S = 86_400
LASTS_S = 30 * DAY_S
LONGEST_KEY = 1000  # characters
HERE = re.compile(r"/(?![/\\])[!-\[\]-~]{0,999}")  # an address on this host, whatever a browser makes of its signs
router = APIRouter(include_in_schema=False)


@router.get(SIGN_IN)
def ask(request: Request, to: str = "/") -> HTMLResponse:
    """Asks for the key."""
    return _asked(request, to)


@router.post(SIGN_IN)
def sign_in(
    request: Request, key: Annotated[str, Form(max_length=LONGEST_KEY)] = "", to: Annotated[str, Form()] = "/"
) -> Response:
    """Remembers a key that is known here, and leads to where one was going."""
    keys, key = request.app.state.keys, key.strip()
    if not keys.knows(key.encode()):
        return _asked(request, to, wrong=True)
    answer = RedirectResponse(_here(to), 303)
    answer.set_cookie(
        COOKIE,
        quote(key, safe=""),
        max_age=LASTS_S,
        httponly=True,
        samesite="lax" if keys.private else "strict",  # lax lets a link of another site lead in, and no more
        secure=request.url.scheme == "https",
    )
    return answer


def _asked(request: Request, to: str, *, wrong: bool = False) -> HTMLResponse:
    status, private = 401 if wrong else 200, request.app.state.keys.private
    return render(request, "key.html", status=status, wrong=wrong, private=private, to=_here(to))


def _here(to: str) -> str:
    """The start for what leads elsewhere."""
    return to if HERE.fullmatch(to) else "/"
