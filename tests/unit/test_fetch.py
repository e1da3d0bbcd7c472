"""Which URLs and hosts images may be fetched from, decided before anything is sent."""

from ipaddress import ip_address

import pytest

from astrodetect.errors import FetchRefused
from astrodetect.fetch_policy import AllowedHosts, is_public, parse_literal
from astrodetect.service.fetch import Target
from astrodetect.settings import settings

PRIVATE = [
    "0.0.0.0",  # noqa: S104 - nothing is bound to it
    "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.9", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::", "3fff::1", "5f00::1",
    "fc00::1", "fd12::1", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_outside_the_internet_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))
    assert not AllowedHosts().permits("example.org", ip_address(address), 443)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1", "64:ff9b::808:808"]
)
def test_public_addresses_are_permitted_at_ports_80_and_443_alone(address: str) -> None:
    assert is_public(ip_address(address))
    assert AllowedHosts().permits("example.org", ip_address(address), 443)
    assert AllowedHosts().permits("example.org", ip_address(address), 80)
    assert not AllowedHosts().permits("example.org", ip_address(address), 8080)
    assert not AllowedHosts().permits("example.org", ip_address(address), 22)


@pytest.mark.parametrize(
    ("listed", "name", "address", "port", "permitted"),
    [
        ("images.local", "images.local", "10.0.0.5", 443, True),
        ("images.local", "images.local", "10.0.0.5", 9000, False),
        ("images.local:9000", "images.local", "10.0.0.5", 9000, True),
        ("images.local:9000", "images.local", "10.0.0.5", 80, False),
        ("Images.Local", "images.local", "10.0.0.5", 80, True),
        ("images.local", "other.local", "10.0.0.5", 443, False),
        ("images.local", "evil-images.local", "10.0.0.5", 443, False),
        ("*.local", "images.local", "10.0.0.5", 443, True),
        ("*.local", "local", "10.0.0.5", 443, False),
        ("*.local", "evillocal", "10.0.0.5", 443, False),
        ("10.1.0.0/16", "anything.local", "10.1.2.3", 80, True),
        ("10.1.0.0/16", "anything.local", "10.2.2.3", 80, False),
        ("10.1.0.0/16:9000", "anything.local", "10.1.2.3", 9000, True),
        ("10.1.2.3", "10.1.2.3", "10.1.2.3", 80, True),
        ("fd00::/8", "images.local", "fd12::1", 443, True),
        ("[fd00::/8]:9000", "images.local", "fd12::1", 9000, True),
        ("[fd00::/8]:9000", "images.local", "fd12::1", 443, False),
        ("a.local, ,b.local:81,", "b.local", "10.0.0.5", 81, True),
        ("example.org:8080", "example.org", "8.8.8.8", 8080, True),
    ],
)
def test_listed_hosts_and_blocks_are_permitted(
    listed: str, name: str, address: str, port: int, permitted: bool
) -> None:
    assert AllowedHosts.parse(listed).permits(name, ip_address(address), port) is permitted


@pytest.mark.parametrize("wrong", ["10.0.0.0/99", "http://images.local", "images.local/path", "a b", "[::1", "host:x"])
def test_an_invalid_list_of_hosts_ends_the_start_with_a_message(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTRODETECT_FETCH_ALLOW", f"good.local, {wrong}")
    with pytest.raises(SystemExit, match=r"ASTRODETECT_FETCH_ALLOW: .* is neither a host nor a block of addresses"):
        settings()


@pytest.mark.parametrize("odd", ["2130706433", "0x7f.1", "0x7f000001", "127.1", "0177.0.0.1", "1.2.3.4.5", "256.0.0.1"])
def test_addresses_in_unusual_notations_are_refused(odd: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_literal(odd)


def test_a_host_name_is_not_an_address() -> None:
    assert parse_literal("example.org") is None
    assert parse_literal("1e100.net") is None
    assert str(parse_literal("8.8.8.8")) == "8.8.8.8"
    assert str(parse_literal("2606:4700::1111")) == "2606:4700::1111"


@pytest.mark.parametrize(
    "url",
    [
        "", "sky.jpg", "/etc/passwd", "//example.org/x", "file:///etc/passwd", "ftp://example.org/x", "gopher://x/1",
        "data:image/png;base64,AAAA", "http://", "http:///x", "https://:443/x", "http://user@example.org/x",
        "http://user:secret@example.org/x", "http://@example.org/", "http://example.org:99999/", "http://example.org:x/",
        "http://[::1", "http://[nonsense]/", "http://a..b/", f"http://{'a' * 64}.org/", "http://example.org\\@evil/",
        "http://example.org/a b", "http://example.org/\r\nHost: evil", "\thttp://example.org/", "http://exa\tmple.org/",
        "http://example.org/" + "x" * 2_000,
    ],
)  # fmt: skip
def test_an_unacceptable_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(FetchRefused) as refused:
        Target.parse(url)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_url_is_parsed_and_encoded() -> None:
    cutout = Target.parse("https://www.legacysurvey.org/viewer/cutout.jpg?ra=1.5&dec=-2&layer=ls-dr10#here")
    assert (cutout.host, cutout.port, cutout.secure) == ("www.legacysurvey.org", 443, True)
    assert cutout.path == "/viewer/cutout.jpg?ra=1.5&dec=-2&layer=ls-dr10"
    odd = Target.parse("HTTP://Bücher.Example.:8080/Größe/a%20b.png?q=ä")
    assert (odd.host, odd.port, odd.secure) == ("xn--bcher-kva.example", 8080, False)
    assert odd.path == "/Gr%C3%B6%C3%9Fe/a%20b.png?q=%C3%A4"
    assert Target.parse("http://[2606:4700::1111]").path == "/"
    assert dict(Target.parse("http://[2606:4700::1111]:81").request().headers)[b"host"] == b"[2606:4700::1111]:81"


def test_digits_of_other_scripts_are_normalised() -> None:
    assert Target.parse("http://①②⑦.⓪.⓪.①/").host == "127.0.0.1"


def test_a_redirect_is_checked_like_a_url() -> None:
    start = Target.parse("https://example.org/a/b?c")
    assert start.redirected("../d").url == "https://example.org/d"
    assert start.redirected("//other.org/x").host == "other.org"
    for wrong in ("http://example.org/", "file:///etc/passwd", "https://a:b@example.org/", "http://[", "a b"):
        with pytest.raises(FetchRefused):
            start.redirected(wrong)
