"""Whose request this is: by an API key of the setting or of the database, or by the session of a browser.

The keys of the setting may do everything, and make the service ask for keys at all. Those of the database have scopes.
What is read there is kept for CACHE_S, and while PostgreSQL does not answer for longer, so that an outage refuses
nobody who was known before it; a revoked key is refused within CACHE_S.
"""

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, get_args

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from astrodetect.db.access import KEY_PREFIX, digest, link_digest
from astrodetect.errors import AstrodetectError, DatabaseError, DatabaseUnavailable
from astrodetect.records import KeyScope
from astrodetect.service.key_guesses import KeyGuesses

SESSION_COOKIE = "astrodetect_session"  # HTTP-only
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}  # need no key, unless the service is private
SIGN_IN_PATH, SIGN_OUT_PATH = "/key", "/key/out"  # start and end sessions: the POSTs that need no key
PUBLIC_PREFIXES = ("/static/", "/health/")  # of paths that need no key even where the service is private
AUDIT_PREFIX = "/audit"
PREDICTING = {"/detect", "/detect/batch", "/detect-anomalies", "/classify", "/similar", "/try"}
REVIEWING = ("/review/", "/labels/", "/map")
TEACHING_PATH = "/review/teach"  # a training
LABEL_NAMES_PATH, LABEL_NAMES_ROUTE = "/review/names", "/labels/names"  # the page, and the same as JSON
LABELLING = ("/label", "/tag", "/untag")  # how the paths end
LINK_PATH = "/history/link"  # makes a link to an export, which needs no key itself
LINK_PARAMETER = "access"  # the last one of such a link's query
LINKED_PREFIX = "/predictions."  # of the paths that links lead to
NAME_OF_SETTING = "ASTRODETECT_API_KEY"
IDENTITY = "astrodetect.identity"  # key in the ASGI scope

CACHE_S = 5.0
CACHED = 10_000  # keys and cookies, unknown ones included
LOOKUP_S = 1.0  # a request waits at most so long for the database to say whose it is
LOOKUPS = 4  # at a time, so that unknown keys take no more connections
MAX_UNKNOWN_COOKIES = 200  # of an address in a minute; each costs a look-up


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller with a valid key."""

    name: str  # of the key
    scopes: frozenset[KeyScope]
    key_sha256: bytes


class AccessDatabase(Protocol):
    """Keys and sessions: `database.Database.access`."""

    def use_key(self, sha256: bytes) -> tuple[str, frozenset[KeyScope]] | None: ...
    def session_key(self, sha256: bytes) -> bytes | None: ...
    def add_guess(self, network: str, guess: bytes) -> list[tuple[bytes, float]]: ...


class ApiKeys:
    """The API keys of the setting, as hashes; false if none is set. If `private`, reading needs a key too."""

    def __init__(self, keys: SecretStr | None, *, private: bool = False) -> None:
        values = keys.get_secret_value().split(",") if keys else []
        self._hashes = [digest(value.strip()) for value in values if value.strip()]
        self.private = private

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def identity(self, sha256: bytes) -> Identity | None:
        """Whose key has this hash, in a time that does not depend on it."""
        known = any([hmac.compare_digest(sha256, accepted) for accepted in self._hashes])  # noqa: C419 - no early exit
        return Identity(NAME_OF_SETTING, frozenset(get_args(KeyScope)), sha256) if known else None

    def required(self, method: str, path: str) -> bool:
        """Whether this request needs a key."""
        if not self or path in {SIGN_IN_PATH, SIGN_OUT_PATH}:
            return False
        if method not in SAFE_METHODS or path.startswith(AUDIT_PREFIX):
            return True
        return self.private and not path.startswith(PUBLIC_PREFIXES)


def needed_scope(method: str, path: str) -> KeyScope:
    """What a key has to allow for this request; what is not listed above takes the most."""
    if method in SAFE_METHODS:
        return "operate" if path.startswith(AUDIT_PREFIX) else "read"
    if path == LINK_PATH:
        return "read"
    if path in PREDICTING:
        return "predict"
    reviewing = path.endswith(LABELLING) or (path.startswith(REVIEWING) and path != TEACHING_PATH)
    return "review" if reviewing else "operate"


class Authenticator:
    """Finds the identity of requests; for use on the event loop."""

    def __init__(self, keys: ApiKeys, database: AccessDatabase) -> None:
        self._keys, self._database = keys, database
        self._cache: OrderedDict[tuple[bool, bytes], tuple[float, Identity | None]] = OrderedDict()  # True: of cookies
        self._turns = asyncio.Semaphore(LOOKUPS)
        self._guesses = KeyGuesses(database.add_guess)
        self._unknown_cookies = KeyGuesses(most=MAX_UNKNOWN_COOKIES)

    async def identify(self, headers: Headers, client: tuple[str, int] | None) -> Identity | None:
        """Whose request this is; DatabaseUnavailable where that cannot be found out, or TooManyGuesses."""
        key, host = _bearer_key(headers), client[0] if client else ""
        if key:
            return await self._of_unproven_key(key, host)
        cookie = cookie_parser(headers.get("cookie", "")).get(SESSION_COOKIE, "") if key is None else ""
        return await self._of_cookie(digest(cookie), host) if cookie else None

    async def identify_link(self, scope: Scope) -> Identity | None:
        """Who made the link that the request follows, with the scope read alone; None if it is none, or has ended."""
        query, separator, token = scope["query_string"].decode("latin-1").rpartition(f"{LINK_PARAMETER}=")
        if not separator or not scope["path"].startswith(LINKED_PREFIX):
            return None
        host = scope["client"][0] if scope["client"] else ""
        identity = await self._of_cookie(link_digest(f"{scope['path']}?{query}", token), host)
        return replace(identity, scopes=identity.scopes & {"read"}) if identity else None

    async def may_still_read(self, scope: Scope) -> bool:
        """Whether a request that goes on for long, and was allowed when it began, would be allowed now."""
        if not self._keys.required("GET", scope["path"]):
            return True
        try:
            identity = await self.identify(Headers(scope=scope), scope["client"])
        except AstrodetectError:
            return False
        return identity is not None and "read" in identity.scopes

    async def _of_unproven_key(self, key: bytes, host: str) -> Identity | None:
        sha256 = digest(key)
        counted = self._guesses.begin(host, sha256)
        identity = self._keys.identity(sha256)
        if identity is None and key.startswith(KEY_PREFIX.encode()):
            try:
                identity = await self._look_up(sha256, self._of_key)
            except DatabaseUnavailable:
                self._guesses.withdraw(host, sha256)
                raise
        if identity:
            self._guesses.accept(host, sha256)
        elif counted:
            await self._guesses.share(host, sha256)
        return identity

    async def _of_cookie(self, sha256: bytes, host: str) -> Identity | None:
        self._unknown_cookies.begin(host, sha256)
        identity = await self._look_up(sha256, self._of_session, of_cookie=True)
        if identity:
            self._unknown_cookies.accept(host, sha256)
        return identity

    def forget(self, cookie: str) -> None:
        """The session with this cookie has ended."""
        self._cache.pop((True, digest(cookie)), None)

    async def _look_up(
        self, sha256: bytes, find: Callable[[bytes], Identity | None], *, of_cookie: bool = False
    ) -> Identity | None:
        checked, identity = self._cache.get((of_cookie, sha256), (float("-inf"), None))
        if time.monotonic() - checked < CACHE_S:
            return identity
        try:
            async with asyncio.timeout(LOOKUP_S), self._turns:
                identity = await asyncio.to_thread(find, sha256)
        except (DatabaseError, TimeoutError) as error:
            if identity is None:
                raise DatabaseUnavailable("PostgreSQL does not answer, which knows the keys") from error
        self._cache[of_cookie, sha256] = time.monotonic(), identity
        self._cache.move_to_end((of_cookie, sha256))
        while len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return identity

    def _of_key(self, sha256: bytes) -> Identity | None:
        key = self._database.use_key(sha256)
        return Identity(*key, sha256) if key else None

    def _of_session(self, sha256: bytes) -> Identity | None:
        key_sha256 = self._database.session_key(sha256)
        return None if key_sha256 is None else self._keys.identity(key_sha256) or self._of_key(key_sha256)


def identity_of(scope: Scope) -> Identity | None:
    """Whose request this is, as AuthMiddleware has found."""
    identity: Identity | None = scope.get(IDENTITY)
    return identity


def _bearer_key(headers: Headers) -> bytes | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip().encode("latin-1") if scheme.lower() == "bearer" else None
