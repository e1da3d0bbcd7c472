"""Sign-in: a browser sends a random cookie instead of a key, until it is signed out or the key ends."""

import re
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse, Response

from astrodetect.db.access import digest
from astrodetect.service.authentication import (
    SESSION_COOKIE,
    SIGN_IN_PATH,
    SIGN_OUT_PATH,
    Identity,
    identity_of,
)
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.services import ApiKeysDep, AuthenticatorDep, DatabaseDep
from astrodetect.service.web.rendering import render

SESSION_S = 30 * 86_400
MAX_API_KEY_LENGTH = 1000  # characters
LOCAL_URL = re.compile(r"/(?![/\\])[!-\[\]-~]{0,999}")  # browsers read // and /\ as the start of another host
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@router.get(SIGN_IN_PATH)
def show_sign_in(request: Request, to: str = "/") -> HTMLResponse:
    """The form for the key, or the name of the key that this browser has signed in with."""
    return _sign_in_page(request, to)


@router.post(SIGN_IN_PATH)
async def sign_in(
    request: Request,
    *,
    keys: ApiKeysDep,
    authenticator: AuthenticatorDep,
    database: DatabaseDep,
    key: Annotated[str, Form(max_length=MAX_API_KEY_LENGTH)] = "",
    to: Annotated[str, Form()] = "/",
) -> Response:
    """Starts a session if the key is valid, and redirects to the requested page."""
    raw = [(b"authorization", b"Bearer " + key.strip().encode())]
    identity = await authenticator.identify(Headers(raw=raw), request.scope["client"]) if keys else None
    if identity is None:
        return await run_in_threadpool(_sign_in_page, request, to, invalid=True)
    await run_in_threadpool(_audit, database, request, identity)
    cookie = await run_in_threadpool(database.access.start_session, identity.key_sha256, seconds=SESSION_S)
    response = RedirectResponse(_local_url(to), 303)
    response.set_cookie(
        SESSION_COOKIE,
        cookie,
        max_age=SESSION_S,
        httponly=True,
        samesite="lax" if keys.private else "strict",  # lax: links from other sites may open a private page
        secure=request.url.scheme == "https",
    )
    return response


@router.post(SIGN_OUT_PATH)
async def sign_out(request: Request, authenticator: AuthenticatorDep, database: DatabaseDep) -> Response:
    """Ends the session of this browser."""
    if cookie := request.cookies.get(SESSION_COOKIE):
        if identity := identity_of(request.scope):
            await run_in_threadpool(_audit, database, request, identity)
        await run_in_threadpool(database.access.end_session, digest(cookie))
        authenticator.forget(cookie)
    response = RedirectResponse(SIGN_IN_PATH, 303, {"Clear-Site-Data": '"cache"'})  # else "back" shows pages and images
    response.delete_cookie(SESSION_COOKIE, httponly=True)
    return response


def _audit(database: DatabaseDep, request: Request, identity: Identity) -> None:
    address, path = request.client and request.client.host, request.url.path
    database.access.add_audit_entry(f"POST {path}", who=identity.name, address=address, status=303)


def _sign_in_page(request: Request, to: str, *, invalid: bool = False) -> HTMLResponse:
    status, identity = 401 if invalid else 200, identity_of(request.scope)
    return render(request, "sign_in.html", status=status, invalid=invalid, to=_local_url(to), identity=identity)


def _local_url(to: str) -> str:
    """The URL, or the start page for one of another host."""
    return to if LOCAL_URL.fullmatch(to) else "/"
