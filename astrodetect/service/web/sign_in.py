"""Sign-in: browsers send the API key in an HTTP-only cookie instead of the Authorization header."""

import re
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.middleware.security import KEY_COOKIE, SIGN_IN_PATH, ApiKeys
from astrodetect.service.services import ApiKeysDep
from astrodetect.service.web.rendering import render

COOKIE_MAX_AGE_S = 30 * 86_400
MAX_API_KEY_LENGTH = 1000  # characters
LOCAL_URL = re.compile(r"/(?![/\\])[!-\[\]-~]{0,999}")  # browsers read // and /\ as the start of another host
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@router.get(SIGN_IN_PATH)
def show_sign_in(request: Request, keys: ApiKeysDep, to: str = "/") -> HTMLResponse:
    """The form for the key."""
    return _sign_in_page(request, keys, to)


@router.post(SIGN_IN_PATH)
def sign_in(
    request: Request,
    keys: ApiKeysDep,
    key: Annotated[str, Form(max_length=MAX_API_KEY_LENGTH)] = "",
    to: Annotated[str, Form()] = "/",
) -> Response:
    """Sets the cookie if the key is valid, and redirects to the requested page."""
    key = key.strip()
    if not keys.accept(key.encode()):
        return _sign_in_page(request, keys, to, invalid=True)
    response = RedirectResponse(_local_url(to), 303)
    response.set_cookie(
        KEY_COOKIE,
        quote(key, safe=""),
        max_age=COOKIE_MAX_AGE_S,
        httponly=True,
        samesite="lax" if keys.private else "strict",  # lax: links from other sites may open a private page
        secure=request.url.scheme == "https",
    )
    return response


def _sign_in_page(request: Request, keys: ApiKeys, to: str, *, invalid: bool = False) -> HTMLResponse:
    values = {"invalid": invalid, "private": keys.private, "to": _local_url(to)}
    return render(request, "sign_in.html", status=401 if invalid else 200, **values)


def _local_url(to: str) -> str:
    """The URL, or the start page for one of another host."""
    return to if LOCAL_URL.fullmatch(to) else "/"
