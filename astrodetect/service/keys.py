"""Who may send: whoever has a key, where keys are set, and no page of another site."""

import hashlib
import hmac
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from astrodetect.errors import AstrodetectError, CrossSite, KeyRefused
from astrodetect.service.answers import error_response

READING = {"GET", "HEAD", "OPTIONS"}  # open to all
COOKIE = "astrodetect_key"  # a browser's way to send a key: no script can read it, and no other site can have it sent
SIGN_IN = "/key"  # where it is set: the one thing that is sent without a key
SIGN_IN_BYTES = 4096  # of what is sent there
THROWN_AWAY_BYTES = 65_536  # of a refused body, by the server; a larger one costs its sender the connection


class Keys:
    """The keys of a service, of which only hashes are kept; none at all where none is set."""

    def __init__(self, said: SecretStr | None) -> None:
        keys = said.get_secret_value().split(",") if said else []
        self._hashes = [_hash(key.strip().encode()) for key in keys if key.strip()]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def knows(self, key: bytes) -> bool:
        """Takes as long whatever the key is."""
        asked = _hash(key)
        return any([hmac.compare_digest(asked, known) for known in self._hashes])  # noqa: C419 - none is left out


class Gate:
    """Stands before anything reads a body; reading what is here needs no key, sending and changing does."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in READING and (refusal := self._refusal(scope)):
            declared = Headers(scope=scope).get("content-length", "")
            small = declared.isdecimal() and int(declared) <= THROWN_AWAY_BYTES
            await _answer(scope, refusal, close=not small)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> AstrodetectError | None:
        headers = Headers(scope=scope)
        if _of_another_site(headers):
            return CrossSite("a page of another site may not send to this service")
        if self._keys and scope["path"] != SIGN_IN and not self._keys.knows(_key_in(headers)):
            return KeyRefused(
                "a key is needed that is known here: curl -H 'Authorization: Bearer KEY' …, or /key in a browser"
            )
        return None


def document(app: FastAPI, keys: Keys) -> None:
    """Has the OpenAPI document say so, of every route that is not for reading alone."""
    plain = app.openapi
    statuses = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) if keys else (HTTPStatus.FORBIDDEN,)
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    refused = {str(status.value): {"description": status.phrase, "content": error} for status in statuses}

    def documented() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        whole = plain()
        for at in whole["paths"].values():
            for operation in (said for method, said in at.items() if method.upper() not in READING):
                operation["responses"] |= refused
                if keys:
                    operation["security"] = [{"key": []}]
        if keys:
            whole["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return whole

    app.openapi = documented  # type: ignore[method-assign]


def _answer(scope: Scope, refusal: AstrodetectError, *, close: bool) -> Response:
    """A person with a form is asked for the key."""
    if isinstance(refusal, KeyRefused) and "text/html" in Headers(scope=scope).get("accept", ""):
        return RedirectResponse(SIGN_IN, HTTPStatus.SEE_OTHER, {"Connection": "close"} if close else None)
    return error_response(refusal, close=close)


def _of_another_site(headers: Headers) -> bool:
    """What a browser says of the page that it sends from; programs say nothing of the kind."""
    said, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if said in {"same-origin", "cross-site"} or origin is None:
        return said == "cross-site"
    return origin.partition("://")[2] != headers.get("host")  # over plain HTTP browsers say no more


def _key_in(headers: Headers) -> bytes:
    """A program's, or a browser's that was asked for it once."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip().encode("latin-1")
    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "").encode("latin-1", "replace")


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
