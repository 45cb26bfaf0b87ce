"""Where a job's words may lead a node: the addresses it connects to for URLs, S3 endpoints and gateways that a job names.

Knows: addresses in all their spellings, the networks that are not the Internet, and what a node's owner says of them. Must
not know: sockets, or what is asked there. A name is judged by what it resolves to (`storage.resolver`), and the connection
goes to the address that was judged.

What counts, for each address that may be meant (`meanings`: ``::ffff:10.0.0.1`` means ``10.0.0.1``, and what NAT64, SIIT or
6to4 would be led to counts too):

1. A host that the owner denies by name is denied.
2. Else the narrowest network that holds the address decides, as with routes: one that the owner allows or denies, or one of
   `SPECIAL`. Equally narrow: the owner's denial counts before the owner's leave, and both before `SPECIAL`. So ``private``
   opens 10.0.0.0/8, and not the metadata service that lies within fd00::/8.
3. A host that the owner allows by name may lead anywhere but to `METADATA` and to networks that the owner denies.
4. What no network holds is the Internet, and allowed.
"""

import ipaddress
import re
import socket
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final

from msgspec import Struct, structs

from protocol.errors import Denied, Invalid
from storage.multiaddr import parse_endpoint

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ALLOW_KEY: Final = "Compute.Addresses.Allow"
"""The setting that opens what is closed, for hints."""

WORDS: Final = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
    "shared": ("100.64.0.0/10",),
}
"""What an owner may write for several networks at once; `shared` is what carriers and overlay networks use (RFC 6598)."""

OWN_NETWORKS: Final = tuple(WORDS)
"""What a person's own client may reach besides the Internet: where the nodes of the cluster are."""

_HOST: Final = re.compile(r"[\w*?.-]{1,253}")
_PLAIN_V4: Final = re.compile(r"[0-9A-Fa-fxX.]+")


class Special(Struct, frozen=True):
    """Networks that are not the Internet, and how people call them."""

    what: str
    networks: tuple[Network, ...]


def _special(what: str, *texts: str) -> Special:
    return Special(what, tuple(ipaddress.ip_network(text) for text in texts))


METADATA: Final = _special(
    "where clouds tell a machine its own credentials",
    *("169.254.0.0/16", "fe80::/10"),  # link-local: most clouds
    *("fd00:ec2::/32", "fd20:ce::/32", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
)
# The registries of RFC 6890: https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry.
SPECIAL: Final = (
    METADATA,
    _special("this machine itself", *WORDS["loopback"], "0.0.0.0/8", "::/128"),
    _special("a private address", *WORDS["private"], "fec0::/10"),
    _special("a carrier's or overlay network's own address", *WORDS["shared"]),
    _special("a group of machines, not one", "224.0.0.0/4", "ff00::/8", "255.255.255.255/32"),
    _special(
        "not an address of the Internet",
        *(
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
        ),
        *(
            "240.0.0.0/4",
            "::/96",
            "64:ff9b:1::/48",
            "100::/64",
            "2001::/23",
            "2001:db8::/32",
            "3fff::/20",
            "5f00::/16",
        ),
    ),
)
_BUILT_IN: Final = tuple((network, each) for each in SPECIAL for network in each.networks)

_TRANSLATED: Final = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::ffff:0:0:0/96")))
"""Where a network may have a translator that takes the last 32 bits for an IPv4 address: NAT64 and SIIT (RFC 6052, 2765)."""
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_ISATAP: Final = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")


class Rule(Struct, frozen=True):
    """What an owner writes in one line: a network or a host's name (with ``*`` and ``?``), maybe one port of it only."""

    text: str
    network: Network | None = None
    host: str = ""
    port: int | None = None

    def narrowness(self, address: Address, port: int) -> int:
        """How narrow a network this is around `address` and `port`; -1 if it is not around it."""
        if self.network is None or address not in self.network or self.port not in (None, port):
            return -1
        # A port is narrower than any network without one of the same size.
        return self.network.prefixlen * 2 + (self.port is not None)

    def names(self, host: str, port: int) -> bool:
        """Whether the host is meant by its name."""
        return bool(self.host) and fnmatchcase(host, self.host) and self.port in (None, port)


class AddressPolicy(Struct, frozen=True):
    """What an owner allows and denies; see the module for what counts. Made by `read_policy`."""

    allowed: tuple[Rule, ...] = ()
    denied: tuple[Rule, ...] = ()

    def trusting(self, endpoints: Iterable[str]) -> "AddressPolicy":
        """The same, with leave for each of these URLs' and multiaddresses' host and port: they are the owner's own."""
        rules = []
        for text in filter(None, endpoints):
            found = parse_endpoint(text)
            host = f"[{found.host}]" if ":" in found.host else found.host
            rules += _read(f"{host}:{found.port}")
        return structs.replace(self, allowed=(*self.allowed, *rules))

    def check(self, host: str, address: str, port: int) -> None:
        """Raise `Denied` unless `address`, found for `host`, may be connected to. Text that is no address is denied."""
        found = read_address(address)
        if found is None:
            raise Denied(f"{host} leads to {address!r}, which is not an address", kind="Address")
        name = plain_host(host)
        self._check_name(name, port)
        by_name = any(rule.names(name, port) for rule in self.allowed)
        for meant in meanings(found):
            what = self._against(meant, port, by_name=by_name)
            if what:
                where = f"{meant} is" if name == str(meant) else f"{host} leads to {meant},"
                message = f"{where} {what}, which this node does not let jobs reach"
                line = f"{meant}:{port}" if meant.version == 4 else f"[{meant}]:{port}"
                hint = f"Use another address, or let the node's owner allow it: {ALLOW_KEY}: [{line!r}]."
                raise Denied(message, hint=hint, kind="Address")

    def check_host(self, host: str, port: int) -> None:
        """Raise `Denied` for a host that is an address (in any spelling) or a name and is denied as such.

        Any other name passes: it is judged by what it resolves to.
        """
        found = read_address(host)
        if found is not None:
            self.check(str(found), str(found), port)
        else:
            self._check_name(plain_host(host), port)

    def _check_name(self, name: str, port: int) -> None:
        if any(rule.names(name, port) for rule in self.denied):
            raise Denied(f"{name} is a host that this node does not let jobs reach", kind="Address")

    def _against(self, address: Address, port: int, *, by_name: bool) -> str:
        """What is against an address, for people; empty for nothing."""
        allowed = _narrowest(self.allowed, address, port)
        denied = _narrowest(self.denied, address, port)
        special, what = max(
            ((network.prefixlen * 2, kind) for network, kind in _BUILT_IN if address in network),
            key=lambda found: found[0],
            default=(-1, None),
        )
        if denied >= 0 and denied >= allowed and denied >= special:
            return "an address that its owner denies"
        if what is None or allowed >= special or (by_name and what is not METADATA and denied < 0):
            return ""
        return what.what


def read_policy(allowed: Sequence[str] = (), denied: Sequence[str] = ()) -> AddressPolicy:
    """Read what an owner writes: ``10.0.0.0/8``, ``10.0.0.5:9000``, ``[fd00::1]:9000``, ``*.corp``, or a word of `WORDS`.

    Raises `Invalid`, which quotes the line.
    """
    return AddressPolicy(_rules(allowed), _rules(denied))


def read_rules(lines: Sequence[str]) -> None:
    """Raise `Invalid` unless all lines can be read."""
    _rules(lines)


def read_address(text: str) -> Address | None:
    """The address that text spells in any way a system's resolver takes, None for a name.

    Decimal, octal, hexadecimal and short forms, full-width digits, a zone id, brackets, a dot at the end.
    """
    text = plain_host(text)
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    if ":" in text or not _PLAIN_V4.fullmatch(text):
        return None
    try:
        # What C's `inet_aton` reads, which resolvers ask first.
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except OSError:
        return None


def plain_host(host: str) -> str:
    """A host in small letters, without brackets, zone id or dots at its end."""
    text = unicodedata.normalize("NFKC", host).strip().strip("[]").partition("%")[0]
    return text.replace("\u3002", ".").rstrip(".").lower()


def meanings(address: Address) -> Iterator[Address]:
    """All addresses that packets to this one may reach: itself, and the IPv4 address that a translator takes out of it."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        # The system itself connects by IPv4 here; the longer form leads nowhere else.
        yield address.ipv4_mapped
        return
    yield address
    packed = address.packed
    if any(address in each for each in _TRANSLATED) or (address in _COMPATIBLE and int(address) > 1):
        yield ipaddress.IPv4Address(packed[12:])
    if address.sixtofour is not None:
        yield address.sixtofour
    if packed[8:12] in _ISATAP:
        yield ipaddress.IPv4Address(packed[12:])


def _narrowest(rules: Iterable[Rule], address: Address, port: int) -> int:
    return max((rule.narrowness(address, port) for rule in rules), default=-1)


def _rules(lines: Sequence[str]) -> tuple[Rule, ...]:
    return tuple(rule for line in lines for rule in _read(line))


def _read(line: str) -> list[Rule]:
    text = line.strip()
    if words := WORDS.get(text.lower()):
        return [Rule(text, network=ipaddress.ip_network(each)) for each in words]
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(\d{1,5}))?", text)
    single = re.fullmatch(r"([^:/]+):(\d{1,5})", text)
    parts = bracketed or single
    host, port = (parts[1], parts[2]) if parts else (text, None)
    number = int(port) if port else None
    if number is not None and not 0 < number < 65_536:
        raise _unread(line, f"{number} is no port")
    try:
        return [Rule(text, network=ipaddress.ip_network(host), port=number)]
    except ValueError as error:
        if "/" in host or ":" in host or not _HOST.fullmatch(host) or host.replace(".", "").isdigit():
            raise _unread(line, str(error)) from error
    return [Rule(text, host=plain_host(host), port=number)]


def _unread(line: str, reason: str) -> Invalid:
    hint = f"Write it like 10.0.0.0/8, 10.0.0.5:9000, [fd00::5]:9000, *.example.com, or {', '.join(WORDS)}."
    return Invalid(f"the address {line!r} cannot be read: {reason}", hint=hint)
