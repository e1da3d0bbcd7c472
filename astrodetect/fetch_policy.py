"""Hosts that images may be fetched from: public ones, and those that a setting allows."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

IpAddress = IPv4Address | IPv6Address

PORTS = frozenset({80, 443})  # other ports are allowed by number only
UNICAST = IPv6Network("2000::/3")  # all assigned global IPv6 addresses
NAT64 = IPv6Network("64:ff9b::/96")  # IPv4 addresses in IPv6-only networks
NOT_PUBLIC = tuple(  # is_global of some versions of Python says otherwise
    ip_network(block)
    for block in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
ENTRY = re.compile(r"\[(?P<six>[^]]*)\](?::(?P<six_port>\d+))?|(?P<other>[^:]+):(?P<port>\d+)|(?P<bare>[^\[\]]+)")
NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class HostRule:
    """A host name, a suffix of names or a block of addresses, with the allowed ports."""

    host: str | IPv4Network | IPv6Network
    ports: frozenset[int] = PORTS

    @classmethod
    def parse(cls, text: str) -> Self:
        """One entry of the setting; ValueError if it is invalid."""
        match = ENTRY.fullmatch(text)
        if match is None:
            raise ValueError(f'"{text}" is neither a host nor a block of addresses')
        host = match["six"] or match["other"] or match["bare"]
        port = match["six_port"] or match["port"]
        ports = frozenset({int(port)}) if port else PORTS
        try:
            return cls(ip_network(host, strict=False), ports)
        except ValueError:
            if not NAME.fullmatch(host.lower()):
                raise ValueError(f'"{text}" is neither a host nor a block of addresses') from None
        return cls(host.lower(), ports)

    def permits(self, name: str, address: IpAddress, port: int) -> bool:
        """Whether the rule allows this host, by name or by address."""
        if port not in self.ports:
            return False
        if not isinstance(self.host, str):
            return address in self.host
        return name.endswith(self.host[1:]) if self.host.startswith("*.") else name == self.host


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Public hosts at the ports of HTTP, and the hosts of a list."""

    rules: tuple[HostRule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """From a comma-separated list such as `images.local:8080, *.example.org, 10.1.0.0/16, [fd00::/8]:8443`."""
        return cls(tuple(HostRule.parse(entry.strip()) for entry in text.split(",") if entry.strip()))

    def permits(self, name: str, address: IpAddress, port: int) -> bool:
        """Whether the host of this name and address may be fetched from."""
        return (port in PORTS and is_public(address)) or any(rule.permits(name, address, port) for rule in self.rules)


def is_public(address: IpAddress) -> bool:
    """Whether the address is on the public internet; for NAT64, whether the embedded IPv4 address is."""
    if isinstance(address, IPv6Address):
        if address in NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in UNICAST:
            return False
    special = address.is_multicast or address.is_reserved or any(address in block for block in NOT_PUBLIC)
    return address.is_global and not special


def parse_literal(host: str) -> IpAddress | None:
    """The IP address that a host name is, if any; ValueError for notations that programs read differently."""
    if ":" in host:
        return ip_address(host)
    last = host.rpartition(".")[2]
    return IPv4Address(host) if last.isdigit() or last.startswith("0x") else None
