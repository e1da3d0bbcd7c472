"""Who may send, and look: whoever has a key, where keys are set, and no page of another site."""

import hashlib
import hmac
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlencode

from fastapi import FastAPI
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from astrodetect.errors import AstrodetectError, CrossSite, KeyRefused
from astrodetect.service.schemas import error_response

READING = {"GET", "HEAD", "OPTIONS"}  # open to all, unless the service is private
COOKIE = "astrodetect_key"  # a browser's way to send a key, quoted; no script can read it
SIGN_IN = "/key"  # where it is set: the one thing that is sent without a key
OPEN = ("/static/", "/health/")  # begin the paths that are read without one even where the service is private
SIGN_IN_BYTES = 4096  # of what is sent there
THROWN_AWAY_BYTES = 65_536  # of a refused body, by the server; a larger one costs its sender the connection


class ApiKeys:
    """The keys of a service, of which only hashes are kept; none at all where none is set."""

    def __init__(self, said: SecretStr | None, *, private: bool = False) -> None:
        keys = said.get_secret_value().split(",") if said else []
        self._hashes = [_hash(key.strip().encode()) for key in keys if key.strip()]
        self.private = private

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def knows(self, key: bytes) -> bool:
        """Takes as long whatever the key is."""
        asked = _hash(key)
        return any([hmac.compare_digest(asked, known) for known in self._hashes])  # noqa: C419 - none is left out

    def wanted(self, method: str, path: str) -> bool:
        """Whether this request needs one of them."""
        if method not in READING:
            return bool(self) and path != SIGN_IN
        return self.private and path != SIGN_IN and not path.startswith(OPEN)


class AuthMiddleware:
    """Stands before anything reads a body: sending and changing needs a key, reading only where that is private."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)):
            headers = Headers(scope=scope)
            declared = headers.get("content-length", "" if "transfer-encoding" in headers else "0")
            small = declared.isdecimal() and int(declared) <= THROWN_AWAY_BYTES
            await _answer(scope, refusal, close=not small)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> AstrodetectError | None:
        headers, method = Headers(scope=scope), scope["method"]
        if method not in READING and _of_another_site(headers):
            return CrossSite("a page of another site may not send to this service")
        if self._keys.wanted(method, scope["path"]) and not self._keys.knows(_key_in(headers)):
            return KeyRefused(
                "a key is needed that is known here: curl -H 'Authorization: Bearer KEY' …, or /key in a browser"
            )
        return None


def document(app: FastAPI, keys: ApiKeys) -> None:
    """Has the OpenAPI document say so, of every route that may be refused."""
    plain = app.openapi
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}

    def refused(status: HTTPStatus) -> dict[str, Any]:
        return {str(status.value): {"description": status.phrase, "content": error}}

    def documented() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        whole = plain()
        for path, at in whole["paths"].items():
            for method, operation in at.items():
                if method.upper() not in READING:
                    operation["responses"] |= refused(HTTPStatus.FORBIDDEN)
                if keys.wanted(method.upper(), path):
                    operation["responses"] |= refused(HTTPStatus.UNAUTHORIZED)
                    operation["security"] = [{"key": []}]
        if keys:
            whole["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return whole

    app.openapi = documented  # type: ignore[method-assign]


def _answer(scope: Scope, refusal: AstrodetectError, *, close: bool) -> Response:
    """A person in a browser is asked for the key."""
    if isinstance(refusal, KeyRefused) and "text/html" in Headers(scope=scope).get("accept", ""):
        return RedirectResponse(_asking(scope), HTTPStatus.SEE_OTHER, {"Connection": "close"} if close else None)
    return error_response(refusal, close=close)


def _asking(scope: Scope) -> str:
    """Where the key is asked for; it leads back to what was to be read."""
    if scope["method"] not in READING:
        return SIGN_IN
    asked, query = quote(scope["path"]), scope["query_string"].decode("latin-1")
    return f"{SIGN_IN}?{urlencode({'to': f'{asked}?{query}' if query else asked})}"


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
    return unquote_to_bytes(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
