"""Which hosts may be asked for an image: public ones, and those that a setting allows."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

IpAddress = IPv4Address | IPv6Address

PORTS = frozenset({80, 443})  # any other has to be allowed by its number
UNICAST = IPv6Network("2000::/3")  # all of IPv6 that is given out
NAT64 = IPv6Network("64:ff9b::/96")  # IPv4 addresses, as networks without IPv4 see them
NOT_PUBLIC = tuple(  # and yet global to one version of Python or another
    ip_network(block)
    for block in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
ENTRY = re.compile(r"\[(?P<six>[^]]*)\](?::(?P<six_port>\d+))?|(?P<other>[^:]+):(?P<port>\d+)|(?P<bare>[^\[\]]+)")
NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class HostRule:
    """A host of that name, or a suffix of names, or a block of addresses; at some ports."""

    where: str | IPv4Network | IPv6Network
    ports: frozenset[int] = PORTS

    @classmethod
    def of(cls, said: str) -> Self:
        """What a person wrote; ValueError where that means nothing."""
        found = ENTRY.fullmatch(said)
        if found is None:
            raise ValueError(f'"{said}" is neither a host nor a block of addresses')
        where = found["six"] or found["other"] or found["bare"]
        port = found["six_port"] or found["port"]
        ports = frozenset({int(port)}) if port else PORTS
        try:
            return cls(ip_network(where, strict=False), ports)
        except ValueError:
            if not NAME.fullmatch(where.lower()):
                raise ValueError(f'"{said}" is neither a host nor a block of addresses') from None
        return cls(where.lower(), ports)

    def permits(self, name: str, address: IpAddress, port: int) -> bool:
        """Whether this is the host, by the name that it is asked by or by its address."""
        if port not in self.ports:
            return False
        if not isinstance(self.where, str):
            return address in self.where
        return name.endswith(self.where[1:]) if self.where.startswith("*.") else name == self.where


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The public internet at its usual ports, and what is listed besides."""

    listed: tuple[HostRule, ...] = ()

    @classmethod
    def of(cls, said: str) -> Self:
        """From a list with commas, such as `images.local:8080, *.example.org, 10.1.0.0/16, [fd00::/8]:8443`."""
        return cls(tuple(HostRule.of(entry.strip()) for entry in said.split(",") if entry.strip()))

    def permits(self, name: str, address: IpAddress, port: int) -> bool:
        """Whether a host of this name at this address may be asked."""
        return (port in PORTS and is_public(address)) or any(
            entry.permits(name, address, port) for entry in self.listed
        )


def is_public(address: IpAddress) -> bool:
    """Whether it can be a host on the internet; what stands for another address is judged by that one."""
    if isinstance(address, IPv6Address):
        if address in NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in UNICAST:
            return False
    beside = address.is_multicast or address.is_reserved or any(address in block for block in NOT_PUBLIC)
    return address.is_global and not beside


def literal(host: str) -> IpAddress | None:
    """The address that a host is written as; ValueError for notations that only some programs take for one."""
    if ":" in host:
        return ip_address(host)
    last = host.rpartition(".")[2]
    return IPv4Address(host) if last.isdigit() or last.startswith("0x") else None
