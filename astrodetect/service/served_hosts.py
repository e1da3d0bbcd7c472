"""The names by which the service may be reached: a page whose name was rebound to it is not of this host."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

CACHED_HOSTS = 256
NOT_IN_HOSTS = set("/@?#\\,")  # of a URL, or of several hosts


class ServedHosts:
    """Addresses, localhost, and the names of the setting.

    Without a setting, all names where the connection came over a network, and none where it came from this machine.
    """

    def __init__(self, names: str) -> None:
        self._names = {name.strip().lower() for name in names.split(",") if name.strip()}
        self.served = lru_cache(CACHED_HOSTS)(self._served)

    def _served(self, host: str, server: str) -> bool:
        """Whether a Host header is one of them, of a request that arrived at this address of the server."""
        if set(host) & NOT_IN_HOSTS:
            return False
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if "*" in self._names or name.rpartition(".")[2] == "localhost" or parse_address(name):
            return True
        if self._names:
            return name in self._names or any(name.endswith(each[1:]) for each in self._names if each[:2] == "*.")
        address = parse_address(server)
        return address is None or not address.is_loopback


def parse_address(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address, if it is one; the IPv4 address within an IPv6 one."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
