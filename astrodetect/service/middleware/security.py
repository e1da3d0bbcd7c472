"""API keys, from a header or a cookie, protection against cross-site requests, and security headers."""

import hashlib
import hmac
from http import HTTPStatus
from urllib.parse import quote, unquote_to_bytes, urlencode

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astrodetect.errors import AstrodetectError, CrossSiteRequest, InvalidApiKey
from astrodetect.service.schemas import error_response

SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}  # need no key, unless the service is private
KEY_COOKIE = "astrodetect_key"  # the key of a browser, URL-quoted, HTTP-only
SIGN_IN_PATH = "/key"  # sets the cookie: the one POST that needs no key
PUBLIC_PREFIXES = ("/static/", "/health/")  # of paths that need no key even where the service is private
SIGN_IN_BYTES = 4096  # of its body at most
DISCARDED_BYTES = 65_536  # of a refused body: uvicorn discards it; for a larger one the connection is closed

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",  # heat maps are data URIs, images chosen for upload are blobs
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
RAW_SECURITY_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


class ApiKeys:
    """The accepted API keys, as hashes; false if none is set. If `private`, reading needs a key too."""

    def __init__(self, keys: SecretStr | None, *, private: bool = False) -> None:
        values = keys.get_secret_value().split(",") if keys else []
        self._hashes = [_hash(value.strip().encode()) for value in values if value.strip()]
        self.private = private

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def accept(self, key: bytes) -> bool:
        """Whether the key is one of them, in a time that does not depend on the key."""
        digest = _hash(key)
        return any([hmac.compare_digest(digest, accepted) for accepted in self._hashes])  # noqa: C419 - no early exit

    def required(self, method: str, path: str) -> bool:
        """Whether this request needs a key."""
        if method not in SAFE_METHODS:
            return bool(self) and path != SIGN_IN_PATH
        return self.private and path != SIGN_IN_PATH and not path.startswith(PUBLIC_PREFIXES)

    def check(self, scope: Scope) -> AstrodetectError | None:
        """The error of a request without a key that it needs, or of a cross-site one."""
        headers, method = Headers(scope=scope), scope["method"]
        if method not in SAFE_METHODS and _is_cross_site(headers):
            return CrossSiteRequest("cross-site requests are refused")
        if self.required(method, scope["path"]) and not self.accept(request_key(headers)):
            return InvalidApiKey("an API key is needed: curl -H 'Authorization: Bearer KEY' …, or /key in a browser")
        return None


class AuthMiddleware:
    """Refuses requests without a key, and cross-site ones, before their bodies are read."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._keys.check(scope)):
            headers = Headers(scope=scope)
            declared = headers.get("content-length", "" if "transfer-encoding" in headers else "0")
            small = declared.isdecimal() and int(declared) <= DISCARDED_BYTES
            await _refuse(scope, error, close=not small)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class SecurityHeadersMiddleware:
    """Adds SECURITY_HEADERS to responses that lack them, but for those to unexpected errors, which are sent outside."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_security_headers(MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def add_security_headers(headers: MutableHeaders) -> None:
    """Adds those of SECURITY_HEADERS that are not there."""
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)


def _refuse(scope: Scope, error: AstrodetectError, *, close: bool) -> Response:
    """The error as JSON; a browser without a key is redirected to the sign-in page."""
    if isinstance(error, InvalidApiKey) and "text/html" in Headers(scope=scope).get("accept", ""):
        return RedirectResponse(_sign_in_url(scope), HTTPStatus.SEE_OTHER, {"Connection": "close"} if close else None)
    return error_response(error, close=close)


def _sign_in_url(scope: Scope) -> str:
    """The sign-in page, which leads back to the requested one."""
    if scope["method"] not in SAFE_METHODS:
        return SIGN_IN_PATH
    path, query = quote(scope["path"]), scope["query_string"].decode("latin-1")
    return f"{SIGN_IN_PATH}?{urlencode({'to': f'{path}?{query}' if query else path})}"


def _is_cross_site(headers: Headers) -> bool:
    """By the headers that browsers send; other clients send none of them."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site in {"same-origin", "cross-site"} or origin is None:
        return site == "cross-site"
    return origin.partition("://")[2] != headers.get("host")  # over plain HTTP browsers send Origin alone


def request_key(headers: Headers) -> bytes:
    """From the Authorization header, or from the cookie of a browser that signed in."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip().encode("latin-1")
    return unquote_to_bytes(cookie_parser(headers.get("cookie", "")).get(KEY_COOKIE, ""))


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
