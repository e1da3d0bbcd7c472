"""API keys, wrong ones, sessions of browsers, and the audit log."""

import hashlib
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping

from astrodetect.db.connections import Parameters, Row
from astrodetect.db.statements import storable_text
from astrodetect.errors import KeyExists, NotFound
from astrodetect.records import AuditEntry, KeyScope, StoredKey

KEY_PREFIX = "astrodetect_"  # by which scanners for leaked secrets find one
PAGE = 1000  # audit entries that are read at a time
LAST_ID = 2**63 - 1
GUESS_WINDOW_S, MAX_GUESSES_READ = 60.0, 100
MAX_ADDRESS_CHARS = 100

Execute = Callable[[str, Parameters], list[Row]]


def digest(secret: str | bytes) -> bytes:
    """What is stored of a key or cookie; they are random, so that no slow hash is needed."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest()


def link_digest(url: str, token: str) -> bytes:
    """What is stored of a link; by another function, so that no cookie has it."""
    return hashlib.blake2s(f"{url} {token}".encode()).digest()


class AccessTables:
    """The tables `api_keys`, `key_guesses`, `sessions` and `audit_log`, part of `database.Database`."""

    def __init__(self, execute: Execute, statements: Mapping[str, str]) -> None:
        self._execute, self._sql = execute, statements

    def create_key(self, name: str, scopes: Collection[KeyScope], *, days: int | None) -> str:
        """A new random key, which expires in so many days; KeyExists if there is, or was, one of that name."""
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        values = {"name": name, "sha256": digest(key), "scopes": sorted(scopes), "days": days}
        if not self._execute(self._sql["add_key"], values):
            raise KeyExists(f"there is a key {name} already, or was: choose another name")
        return key

    def list_keys(self) -> list[StoredKey]:
        """All keys, the oldest first."""
        return [StoredKey(**row) for row in self._execute(self._sql["keys"], {})]

    def revoke_key(self, name: str) -> None:
        """Make a key invalid for ever; NotFound where there is no valid one."""
        if not self._execute(self._sql["revoke_key"], {"name": name}):
            raise NotFound(f"there is no key {name} that could be revoked")

    def use_key(self, sha256: bytes) -> tuple[str, frozenset[KeyScope]] | None:
        """Name and scopes of a valid key, which has now been used."""
        rows = self._execute(self._sql["use_key"], {"sha256": sha256})
        return (rows[0]["name"], frozenset(rows[0]["scopes"])) if rows else None

    def start_session(self, key_sha256: bytes, *, seconds: float) -> str:
        """A new random cookie, which stands for this key."""
        cookie = secrets.token_urlsafe(32)
        values = {"sha256": digest(cookie), "key_sha256": key_sha256, "seconds": seconds}
        self._execute(self._sql["add_session"], values)
        return cookie

    def start_link(self, key_sha256: bytes, url: str, *, seconds: float) -> str:
        """A new random token, which stands for this key at this URL alone: a session of its own."""
        token = secrets.token_urlsafe(32)
        values = {"sha256": link_digest(url, token), "key_sha256": key_sha256, "seconds": seconds}
        self._execute(self._sql["add_session"], values)
        return token

    def session_key(self, sha256: bytes) -> bytes | None:
        """The hash of the key that a session, or a link, stands for."""
        rows = self._execute(self._sql["session_key"], {"sha256": sha256})
        return bytes(rows[0]["key_sha256"]) if rows else None

    def end_session(self, sha256: bytes) -> None:
        """Sign a browser out."""
        self._execute(self._sql["end_session"], {"sha256": sha256})

    def add_guess(self, network: str, guess: bytes) -> list[tuple[bytes, float]]:
        """Store a wrong key; returns the others of this network in the last GUESS_WINDOW_S, with their ages in s."""
        values = {"network": network, "guess": guess, "seconds": GUESS_WINDOW_S, "limit": MAX_GUESSES_READ}
        return [(bytes(row["guess"]), row["age_s"]) for row in self._execute(self._sql["add_guess"], values)]

    def add_audit_entry(
        self, request: str, *, who: str | None, address: str | None = None, status: int | None = None
    ) -> int:
        """The id of a new entry."""
        address = address and storable_text(address)[:MAX_ADDRESS_CHARS]
        values = {"who": who, "address": address, "request": storable_text(request), "status": status}
        return int(self._execute(self._sql["add_audit_entry"], values)[0]["id"])

    def end_audit_entry(self, id: int, status: int) -> None:  # noqa: A002 - the name of the column
        """Add the status of the response."""
        self._execute(self._sql["end_audit_entry"], {"id": id, "status": status})

    def audit_pages(self) -> Iterator[list[AuditEntry]]:
        """All entries, newest first; at least one page."""
        before, page = LAST_ID, None
        while page is None or len(page) == PAGE:
            rows = self._execute(self._sql["audit_entries"], {"before": before, "limit": PAGE})
            page = [AuditEntry(**row) for row in rows]
            yield page
            before = page[-1].id if page else before
