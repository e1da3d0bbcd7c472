"""Keys are checked and cross-site requests refused before a body is read; security headers."""

from http import HTTPStatus
from typing import Protocol
from urllib.parse import quote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astrodetect.errors import (
    AstrodetectError,
    CrossSiteRequest,
    DatabaseUnavailable,
    HostNotServed,
    InvalidApiKey,
    KeyScopeMissing,
    TooManyGuesses,
)
from astrodetect.service.authentication import (
    IDENTITY,
    PUBLIC_PREFIXES,
    SAFE_METHODS,
    SIGN_IN_PATH,
    ApiKeys,
    needed_scope,
)
from astrodetect.service.served_hosts import ServedHosts
from astrodetect.service.services import services_of

SIGN_IN_BYTES = 4096  # of its body at most
DISCARDED_BYTES = 65_536  # of a refused body: uvicorn discards it; for a larger one the connection is closed

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",  # heat maps are data URIs, images chosen for upload are blobs
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}


def content_security_policy(**widened: str) -> str:
    """The policy of all pages, with further sources: `connect_src="http://…"`."""
    added = {name.replace("_", "-"): sources for name, sources in widened.items()}
    return "; ".join(
        f"{name} {POLICY.get(name, '')} {added.get(name, '')}".replace("  ", " ").strip() for name in POLICY | added
    )


CONTENT_SECURITY_POLICY = content_security_policy()
SAMP_HUB = "http://localhost:21012/"  # of every user, by the Web Profile
SAMP_POLICY = content_security_policy(connect_src=SAMP_HUB)
SKY_VIEW_POLICY = content_security_policy(connect_src=SAMP_HUB, frame_src="'self'")  # with a frame of its own policy
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
RAW_SECURITY_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


class Respond(Protocol):
    """The response to an error: JSON, or a page for a browser."""

    def __call__(self, request: Request, error: AstrodetectError, *, close: bool) -> Response: ...


async def check_access(scope: Scope, keys: ApiKeys, hosts: ServedHosts) -> AstrodetectError | None:
    """The error of a request to another host, across sites, or without a key; the identity goes into the scope."""
    headers, method, path = Headers(scope=scope), scope["method"], scope["path"]
    if error := _check_site(scope, headers, hosts):
        return error
    if not keys or path.startswith(PUBLIC_PREFIXES):
        return None
    required = keys.required(method, path)
    try:  # also where it is not required, for the page and the logs
        authenticator = services_of(HTTPConnection(scope)).authenticator
        identity = await authenticator.identify(headers, scope["client"])
        if identity is None and required and method in SAFE_METHODS:
            identity = await authenticator.identify_link(scope)
        scope[IDENTITY] = identity
    except (DatabaseUnavailable, TooManyGuesses) as error:
        return error if required else None
    if required and identity is None:
        return InvalidApiKey("an API key is needed: curl -H 'Authorization: Bearer KEY' …, or /key in a browser")
    if required and identity and (needed := needed_scope(method, path)) not in identity.scopes:
        return KeyScopeMissing(f"the key {identity.name} may {', '.join(sorted(identity.scopes))}, not {needed}")
    return None


def _check_site(scope: Scope, headers: Headers, hosts: ServedHosts) -> AstrodetectError | None:
    host, server = ",".join(headers.getlist("host")), scope.get("server")
    if host and server and not hosts.served(host, server[0]):
        return HostNotServed("this host name is not the service's: set ASTRODETECT_ALLOWED_HOSTS")
    if scope["method"] not in SAFE_METHODS and _is_cross_site(headers):
        return CrossSiteRequest("cross-site requests are refused")
    return None


class AuthMiddleware:
    """Refuses requests to other hosts, without a key, and cross-site ones, before their bodies are read."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, hosts: ServedHosts, respond: Respond) -> None:
        self._app, self._keys, self._hosts, self._respond = app, keys, hosts, respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := await check_access(scope, self._keys, self._hosts)):
            headers = Headers(scope=scope)
            declared = headers.get("content-length", "" if "transfer-encoding" in headers else "0")
            small = declared.isdecimal() and int(declared) <= DISCARDED_BYTES
            await self._refuse(scope, error, close=not small)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refuse(self, scope: Scope, error: AstrodetectError, *, close: bool) -> Response:
        """The error; a browser without a key is redirected to the sign-in page."""
        if isinstance(error, InvalidApiKey) and "text/html" in Headers(scope=scope).get("accept", ""):
            headers = {"Connection": "close"} if close else None
            return RedirectResponse(_sign_in_url(scope), HTTPStatus.SEE_OTHER, headers)
        return self._respond(Request(scope), error, close=close)


class RootPathMiddleware:
    """Removes uvicorn's --root-path from the path, by which other middleware decides what a request needs.

    Absolute URLs of redirects, as the router makes for a path with one slash too many at its end, get the prefix again.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root_path: str = scope.get("root_path", "")
        if root_path:
            while scope["path"].startswith(f"{root_path}/"):  # routing would remove a second one, after the check
                scope["path"] = scope["path"].removeprefix(root_path)

        async def send_redirected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                to = urlsplit(headers.get("location", ""))
                if to.netloc and not to.path.startswith(f"{root_path}/"):
                    headers["location"] = to._replace(path=root_path + to.path).geturl()
            await send(message)

        await self._app(scope, receive, send_redirected if root_path else send)


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
