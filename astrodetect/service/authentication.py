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
from dataclasses import dataclass
from typing import Protocol, get_args

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from astrodetect.db.access import KEY_PREFIX, digest
from astrodetect.errors import DatabaseError, DatabaseUnavailable
from astrodetect.records import KeyScope
from astrodetect.service.key_guesses import KeyGuesses

SESSION_COOKIE = "astrodetect_session"  # HTTP-only
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}  # need no key, unless the service is private
SIGN_IN_PATH = "/key"  # starts and ends sessions: the one POST that needs no key
PUBLIC_PREFIXES = ("/static/", "/health/")  # of paths that need no key even where the service is private
AUDIT_PREFIX = "/audit"
PREDICTING = {"/detect", "/detect/batch", "/detect-anomalies", "/classify", "/similar", "/try"}
REVIEWING = ("/review/", "/labels/", "/map")
NAME_OF_SETTING = "ASTRODETECT_API_KEY"
IDENTITY = "astrodetect.identity"  # key in the ASGI scope

CACHE_S = 5.0
CACHED = 10_000  # keys and cookies, unknown ones included
LOOKUP_S = 1.0  # a request waits at most so long for the database to say whose it is
LOOKUPS = 4  # at a time, so that unknown keys take no more connections


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
        if not self or path == SIGN_IN_PATH:
            return False
        if method not in SAFE_METHODS or path.startswith(AUDIT_PREFIX):
            return True
        return self.private and not path.startswith(PUBLIC_PREFIXES)


def needed_scope(method: str, path: str) -> KeyScope:
    """What a key has to allow for this request; what is not listed above takes the most."""
    if method in SAFE_METHODS:
        return "operate" if path.startswith(AUDIT_PREFIX) else "read"
    if path in PREDICTING:
        return "predict"
    return "review" if path.startswith(REVIEWING) or path.endswith("/label") else "operate"


class Authenticator:
    """Finds the identity of requests; for use on the event loop."""

    def __init__(self, keys: ApiKeys, database: AccessDatabase) -> None:
        self._keys, self._database = keys, database
        self._cache: OrderedDict[bytes, tuple[float, Identity | None]] = OrderedDict()
        self._turns = asyncio.Semaphore(LOOKUPS)
        self._guesses = KeyGuesses()

    async def identify(self, headers: Headers, client: tuple[str, int] | None) -> Identity | None:
        """Whose request this is; DatabaseUnavailable where that cannot be found out, or TooManyGuesses."""
        key, cookie = _bearer_key(headers), cookie_parser(headers.get("cookie", "")).get(SESSION_COOKIE, "")
        if key is not None:
            sha256, host = digest(key), client[0] if client else ""
            self._guesses.check(host, sha256)
            identity = self._keys.identity(sha256)
            if identity is None and key.startswith(KEY_PREFIX.encode()):
                identity = await self._look_up(sha256, self._of_key)
            if key:
                self._guesses.note(host, sha256, accepted=identity is not None)
            return identity
        return await self._look_up(digest(cookie), self._of_session) if cookie else None

    def forget(self, cookie: str) -> None:
        """The session with this cookie has ended."""
        self._cache.pop(digest(cookie), None)

    async def _look_up(self, sha256: bytes, find: Callable[[bytes], Identity | None]) -> Identity | None:
        checked, identity = self._cache.get(sha256, (float("-inf"), None))
        if time.monotonic() - checked < CACHE_S:
            return identity
        try:
            async with asyncio.timeout(LOOKUP_S), self._turns:
                identity = await asyncio.to_thread(find, sha256)
        except (DatabaseError, TimeoutError) as error:
            if identity is None:
                raise DatabaseUnavailable("PostgreSQL does not answer, which knows the keys") from error
        self._cache[sha256] = time.monotonic(), identity
        self._cache.move_to_end(sha256)
        while len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return identity

    def _of_key(self, sha256: bytes) -> Identity | None:
        found = self._database.use_key(sha256)
        return Identity(*found, sha256) if found else None

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
