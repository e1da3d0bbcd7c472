"""Guessing API keys is slowed: wrong keys are counted by address, by all processes of one database together."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache, partial
from ipaddress import IPv6Address, ip_network

from astrodetect.db.access import GUESS_WINDOW_S
from astrodetect.errors import DatabaseError, TooManyGuesses
from astrodetect.service.served_hosts import parse_address

MAX_GUESSES = 20  # different ones of an address, within GUESS_WINDOW_S
MAX_ADDRESSES = 10_000  # that are remembered
GUESS_BYTES = 8  # of a key's SHA-256, which tell guesses apart and are worth nothing else
SHARE_WITHIN_S = 1.0  # else a guess is counted by this process alone

ShareGuess = Callable[[str, bytes], list[tuple[bytes, float]]]  # stores one; the network's others with their ages


class KeyGuesses:
    """The latest wrong keys of each address, and the accepted ones; for use on the event loop."""

    def __init__(self, share: ShareGuess | None = None, *, most: int = MAX_GUESSES) -> None:
        self._share, self._most = share, most
        self._turn = asyncio.Semaphore(1)  # of the threads and connections, guesses take one
        self._wrong: OrderedDict[str, OrderedDict[bytes, float]] = OrderedDict()
        self._accepted: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def begin(self, host: str, sha256: bytes) -> bool:
        """Counts a key as wrong until `accept`, once each; False where it was counted or accepted before.

        Raises TooManyGuesses after `most` within GUESS_WINDOW_S, unless the key was accepted from there.
        """
        network, guess = _network(host), sha256[:GUESS_BYTES]
        if (network, sha256) in self._accepted:
            return False
        wrong = self._wrong.setdefault(network, OrderedDict())
        now = time.monotonic()
        while wrong and now - next(iter(wrong.values())) >= GUESS_WINDOW_S:
            wrong.popitem(last=False)
        if guess in wrong:
            return False
        if len(wrong) >= self._most:
            raise TooManyGuesses(f"too many wrong keys from this address: try again in {GUESS_WINDOW_S:g} seconds")
        wrong[guess] = now
        _bound(self._wrong)
        return True

    def accept(self, host: str, sha256: bytes) -> None:
        """The key is none of the wrong ones."""
        network = _network(host)
        self.withdraw(host, sha256)
        self._accepted[network, sha256] = None
        _bound(self._accepted)

    def withdraw(self, host: str, sha256: bytes) -> None:
        """Whether the key is wrong could not be found out."""
        if wrong := self._wrong.get(_network(host)):
            wrong.pop(sha256[:GUESS_BYTES], None)

    async def share(self, host: str, sha256: bytes) -> None:
        """Has other processes count a wrong key, and counts theirs; does nothing while PostgreSQL does not answer."""
        if self._share is None:
            return
        network, guess = _network(host), sha256[:GUESS_BYTES]
        try:
            async with asyncio.timeout(SHARE_WITHIN_S), self._turn:
                others = await asyncio.to_thread(partial(self._share, network, guess))
        except (DatabaseError, TimeoutError):
            return
        now, wrong = time.monotonic(), self._wrong.setdefault(network, OrderedDict())
        times = dict(wrong) | {other: now - age_s for other, age_s in others if other not in wrong}
        self._wrong[network] = OrderedDict(sorted(times.items(), key=lambda item: item[1]))


def _bound(known: "OrderedDict[str, OrderedDict[bytes, float]] | OrderedDict[tuple[str, bytes], None]") -> None:
    if len(known) > MAX_ADDRESSES:
        known.popitem(last=False)


@lru_cache(MAX_ADDRESSES)
def _network(host: str) -> str:
    """The address, or of an IPv6 address the network of 64 bits, all of which one client may have; else nothing."""
    address = parse_address(host)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return "" if address is None else str(address)
