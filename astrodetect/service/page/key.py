"""Signing in, where the service has keys: a cookie that no script can read stands for the header that programs send."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from astrodetect.service.keys import COOKIE, SIGN_IN
from astrodetect.service.page.shown import shown

DAY_S = 86_400
LASTS_S = 30 * DAY_S
LONGEST_KEY = 1000  # characters
router = APIRouter(include_in_schema=False)


@router.get(SIGN_IN)
def ask(request: Request) -> HTMLResponse:
    """Asks for the key."""
    return shown(request, "key.html", wrong=False)


@router.post(SIGN_IN)
def sign_in(request: Request, key: Annotated[str, Form(max_length=LONGEST_KEY)] = "") -> Response:
    """Remembers a key that is known here."""
    if not request.app.state.keys.knows(key.strip().encode()):
        return shown(request, "key.html", status=401, wrong=True)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        COOKIE,
        key.strip(),
        max_age=LASTS_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer
