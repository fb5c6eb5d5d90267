"""Which addresses may be reached: origins, and the rule over names and resolved addresses.

Pure. A redirect or a resolver can point anywhere, at this machine and its neighbours too, so the
rule is asked twice: with the origin before anything is resolved, and with each address that is
about to be connected to. No URL is parsed anywhere else, so no two parsers can disagree about
where one leads.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urljoin

from zhcached.errors import AddressRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"http": 80, "https": 443, "file": 0}
_URL = re.compile(r"(?P<scheme>https?)://(?P<place>[^/?#]+)(?P<rest>[^#]*)(?:#.*)?", re.IGNORECASE)
_CLEAN = re.compile(r"[\x21-\x5b\x5d-\x7e]+")
_PLACE = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>\d{1,5}))?"
)
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|\d+)", re.IGNORECASE)

# What ipaddress counts as global in some Python versions and is not, or not in itself.
_ODD_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "64:ff9b:1::/48",
        "2001::/23",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Scheme, host and port: who answers. ``host`` is lower case, an IPv6 one without brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        place = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{place}" + (
            "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        )

    @property
    def authority(self) -> str:
        """The ``Host`` header: the host, with the port where it is not the scheme's own."""
        return str(self).partition("://")[2]

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Returns the origin of ``url``.

        Raises:
            AddressRefused: Not an http(s) URL, or one with user information, a backslash, a
                control or non-ASCII character, which parsers read differently.
        """
        return split_url(url)[0]


def split_url(url: str) -> tuple[Origin, str]:
    """Returns the origin and the request target (path and query) of ``url``.

    Raises:
        AddressRefused: As ``Origin.parse``.
    """
    found = _URL.fullmatch(url) if _CLEAN.fullmatch(url) else None
    place = _PLACE.fullmatch(found["place"]) if found else None
    if found is None or place is None:
        raise AddressRefused(f"{_shown(url)} is not a plain http(s) address")
    scheme = found["scheme"].lower()
    port = int(place["port"]) if place["port"] else _PORTS[scheme]
    if not 0 < port < 65536:
        raise AddressRefused(f"{_shown(url)} names no port that exists")
    host = place["six"] or place["name"].lower().removesuffix(".")
    if place["six"]:
        try:
            host = str(ipaddress.IPv6Address(host))
        except ValueError as error:
            raise AddressRefused(f"{_shown(url)} names no address: {error}") from None
    if not host:
        raise AddressRefused(f"{_shown(url)} names no host")
    rest = found["rest"]
    return Origin(scheme, host, port), rest if rest.startswith("/") else "/" + rest


def joined(url: str, reference: str) -> str:
    """Returns where ``reference``, as a server sent it, leads from ``url``.

    Raw UTF-8 and spaces in it are escaped. What comes back may still be refused by ``split_url``.

    Args:
        url: The address that answered.
        reference: A header's value, its bytes read as Latin-1.

    Raises:
        AddressRefused: It has control characters, or no parser can make an address of it.
    """
    if any(ord(char) < 0x20 or char == "\x7f" for char in reference):
        raise AddressRefused("a redirect has control characters in its address")
    try:
        raw = reference.encode("latin-1")
        return urljoin(url, quote(raw, safe="!#$%&'()*+,/:;=?@[]~\\^`{|}\"<>"))
    except ValueError as error:
        # An unmatched bracket, say; the parser's text is kept, the address may hold a signature.
        raise AddressRefused(f"a redirect leads to no address: {error}") from error


def literal(host: str) -> Address | None:
    """Returns the address ``host`` is when it is written as one in the usual form."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_global(address: Address) -> bool:
    """Tells whether ``address`` lies in the open internet, as a server there would.

    An IPv4 address in IPv6 clothes (mapped, NAT64) is judged by what it stands for: behind a
    DNS64 resolver that is how every IPv4 hub looks.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_global(inner)
    special = address.is_multicast or address.is_reserved or address.is_unspecified
    odd = any(address.version == net.version and address in net for net in _ODD_NETWORKS)
    return address.is_global and not special and not odd


class AddressPolicy:
    """The rule: https to the open internet is free, all else only to an origin that is named.

    Immutable; any thread may ask.

    Args:
        allowed_origins: Origins the configuration names, as an endpoint or a data origin.
    """

    def __init__(self, allowed_origins: frozenset[Origin] = frozenset()) -> None:
        self.allowed_origins = allowed_origins

    @classmethod
    def of(cls, urls: Iterable[str]) -> AddressPolicy:
        """Returns the policy that allows the origins of ``urls``.

        Raises:
            AddressRefused: One of them is not a plain http(s) address.
        """
        return cls(frozenset(Origin.parse(url) for url in urls))

    def check_origin(self, origin: Origin) -> None:
        """Judges ``origin`` before it is resolved.

        Raises:
            AddressRefused: Plain http, or a number instead of a name, and not allowed.
        """
        if origin in self.allowed_origins:
            return
        if origin.scheme != "https":
            raise AddressRefused(
                f"{origin} is plain http and no configured origin; "
                "name it in a source's data_origins to allow it"
            )
        address = literal(origin.host)
        if address is None and _NUMBER.fullmatch(origin.host.rpartition(".")[2]):
            raise AddressRefused(f"{origin} writes an address in an unusual form")
        if address is not None:
            if isinstance(address, ipaddress.IPv6Address) and (
                address.ipv4_mapped or address in _NAT64
            ):
                raise AddressRefused(f"{origin} hides an IPv4 address")
            self.check_address(origin, address)

    def check_address(self, origin: Origin, address: Address) -> None:
        """Judges ``address`` as the one to connect to for ``origin``.

        Raises:
            AddressRefused: Loopback, private, link-local, shared, multicast or reserved, and the
                origin is not allowed.
        """
        if origin not in self.allowed_origins and not is_global(address):
            raise AddressRefused(
                f"{origin} leads to {address}, which is not in the open internet; "
                "name the origin in a source's data_origins to allow it"
            )


def _shown(url: str) -> str:
    """Returns ``url`` for a message: without its query, which may hold a signature."""
    return ascii(url.partition("?")[0].rpartition("@")[2][:200])
