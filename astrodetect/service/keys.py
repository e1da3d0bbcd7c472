"""Who may send: whoever has a key, where keys are set, and no page of another site."""

import hashlib
import hmac
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from astrodetect.errors import AstrodetectError, CrossSite, KeyRefused
from astrodetect.service.answers import error_response

READING = {"GET", "HEAD", "OPTIONS"}  # open to all
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
            await error_response(refusal, close=not small)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> AstrodetectError | None:
        headers = Headers(scope=scope)
        if headers.get("sec-fetch-site") == "cross-site":
            return CrossSite("a page of another site may not send to this service")
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if self._keys and not (scheme.lower() == "bearer" and self._keys.knows(key.strip().encode("latin-1"))):
            return KeyRefused("a key is needed that is known here: curl -H 'Authorization: Bearer KEY' …")
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


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
