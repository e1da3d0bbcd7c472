"""Guessing API keys is slowed: wrong keys are counted by address, in each process."""

import time
from collections import OrderedDict, deque
from functools import lru_cache
from ipaddress import IPv6Address, ip_network

from astrodetect.errors import TooManyGuesses
from astrodetect.service.served_hosts import parse_address

MAX_GUESSES, GUESS_WINDOW_S = 20, 60.0
MAX_ADDRESSES = 10_000  # that are remembered


class KeyGuesses:
    """The latest wrong keys of each address, and the accepted ones; for use on the event loop."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, deque[tuple[float, bytes]]] = OrderedDict()
        self._accepted: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def check(self, host: str, sha256: bytes) -> None:
        """Raises TooManyGuesses after MAX_GUESSES within GUESS_WINDOW_S, unless the key was accepted from there."""
        network = _network(host)
        if network not in self._wrong or (network, sha256) in self._accepted:
            return
        recent = [key for since, key in self._wrong[network] if time.monotonic() - since < GUESS_WINDOW_S]
        if len(recent) >= MAX_GUESSES and sha256 not in recent:
            raise TooManyGuesses(f"too many wrong keys from this address: try again in {GUESS_WINDOW_S:g} seconds")

    def note(self, host: str, sha256: bytes, *, accepted: bool) -> None:
        """Counts a wrong key, once each, or remembers one that was accepted."""
        network = _network(host)
        if accepted:
            self._accepted[network, sha256] = None
        elif all(sha256 != key for _, key in self._wrong.setdefault(network, deque(maxlen=MAX_GUESSES))):
            self._wrong[network].append((time.monotonic(), sha256))
        for known in (self._wrong, self._accepted):
            if len(known) > MAX_ADDRESSES:
                known.popitem(last=False)


@lru_cache(MAX_ADDRESSES)
def _network(host: str) -> str:
    """The address, or of an IPv6 address the network of 64 bits, all of which one client may have."""
    address = parse_address(host)
    return str(ip_network((address, 64), strict=False)) if isinstance(address, IPv6Address) else host
