"""Where a Kubo node listens, as people write it.

Knows: the multiaddresses that `ipfs id` and `ipfs config Addresses.API` print, as far as they lead to HTTP over TCP or
over a socket of this machine, and plain URLs. Must not know: sockets, DNS or HTTP.

Grammar (https://multiformats.io/multiaddr), each with or without ``/p2p/<id>`` behind it:
``/<ip4|ip6|dns|dns4|dns6>/<host>/tcp/<port>[/http|/https|/tls/http]``,
``/dnsaddr/<host>`` (addresses of any kind stand in DNS, see `dnsaddr_endpoints`), ``/unix/<path>`` (its slashes as they
are, or as ``%2F``). ``/ipfs/<id>`` is the older spelling of ``/p2p/<id>``.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct, structs

from protocol.errors import Invalid

EXAMPLE: Final = "/ip4/127.0.0.1/tcp/5001"
SOCKET_MAX: Final = 107
"""Longest path of a Unix socket that Linux takes."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_DNS: Final = frozenset({"dns", "dns4", "dns6"})
_FAMILIES: Final = {"ip4": 4, "dns4": 4, "ip6": 6, "dns6": 6}
_SCHEMES: Final = {"http": "http", "https": "https", "tls/http": "https"}
_PEER: Final = frozenset({"p2p", "ipfs"})
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?"
)
_PEER_ID: Final = re.compile(r"[A-Za-z0-9]{40,120}")


class Endpoint(Struct, frozen=True):
    """An HTTP endpoint: `given` is what the person wrote, `host` without brackets, `peer` empty when none was named.

    `family` is 4 or 6 where only addresses of that version will do. `socket` is the path of a Unix socket, whose `host` and
    `port` only fill the URL. With `in_dns` the host is a name whose records tell where to go; the URL leads nowhere.
    """

    given: str
    scheme: str
    host: str
    port: int
    path: str = ""
    peer: str = ""
    family: int = 0
    socket: str = ""
    in_dns: bool = False

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end; of a socket, for requests over it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_endpoint(text: str) -> Endpoint:
    """Read a multiaddress or an ``http://`` or ``https://`` URL. Raises `Invalid`, which names the part at fault."""
    given = text.strip()
    if given.startswith("/"):
        return _multiaddress(given)
    if given.startswith(("http://", "https://")):
        return _url(given)
    hint = f"Write it like {EXAMPLE} or http://127.0.0.1:5001."
    raise Invalid(f"{given!r} is neither a multiaddress nor an http URL", hint=hint)


def is_loopback(host: str) -> bool:
    """Whether a host, as an `Endpoint` has it, is this machine by its own name."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _multiaddress(given: str) -> Endpoint:
    if given.startswith("/unix/"):
        return _unix(given)
    parts = iter(given.removesuffix("/").split("/")[1:])
    if given.startswith("/dnsaddr/"):
        return _dnsaddr(given, [*parts][1:])
    host = _host(given, parts)
    transport = next(parts, "")
    if transport != "tcp":
        found = f"/{transport}" if transport else "nothing"
        raise _fault(given, f"after the host comes {found} where /tcp/<port> is expected")
    port = _port(given, next(parts, ""))
    scheme, peer = _rest(given, list(parts))
    return Endpoint(given, scheme, host, port, peer=peer, family=_FAMILIES.get(given.split("/")[1], 0))


def _unix(given: str) -> Endpoint:
    """The path is all that is behind ``/unix``, but for a peer id."""
    parts, peer = _without_peer(given, given.removesuffix("/").split("/")[2:])
    path = "/" + unquote("/".join(parts)).lstrip("/")
    if len(parts) > 1 and parts[-1] == "http":
        path = path.removesuffix("/http")
    if path == "/" or "\0" in path or len(path) > SOCKET_MAX:
        raise _fault(given, f"{path!r} is not the path of a socket")
    return Endpoint(given, "http", "localhost", 80, peer=peer, socket=path)


def _dnsaddr(given: str, parts: list[str]) -> Endpoint:
    (host, *rest), peer = _without_peer(given, parts)
    if rest:
        raise _fault(given, f"/{'/'.join(rest)} behind a dnsaddr is not understood")
    if not _HOST_NAME.fullmatch(host):
        raise _fault(given, f"{host!r} is not a host name")
    return Endpoint(given, "http", host, 80, peer=peer, in_dns=True)


def dnsaddr_name(endpoint: Endpoint) -> str:
    """The name whose TXT records tell where an endpoint that stands in DNS is."""
    return f"_dnsaddr.{endpoint.host}"


def dnsaddr_endpoints(endpoint: Endpoint, records: Iterable[str]) -> list[Endpoint]:
    """The endpoints that TXT records name for one that stands in DNS; those of other peers or other protocols are left out.

    They may stand in DNS themselves. A peer id that was written counts for what is found.
    """
    found = []
    for record in records:
        key, equals, address = record.partition("=")
        if key != "dnsaddr" or not equals:
            continue
        try:
            each = parse_endpoint(address)
        except Invalid:
            continue
        if not endpoint.peer or each.peer in ("", endpoint.peer):
            peer = endpoint.peer or each.peer
            found.append(structs.replace(each, given=endpoint.given, peer=peer))
    return found


def _host(given: str, parts: Iterator[str]) -> str:
    kind, host = next(parts, ""), next(parts, "")
    if kind in ("ip4", "ip6"):
        try:
            address = ipaddress.ip_address(host)
        except ValueError as error:
            raise _fault(given, f"{host!r} is not an address of kind {kind}") from error
        if address.version != int(kind[-1]):
            raise _fault(given, f"{host!r} is not an address of kind {kind}")
        return str(address)
    if kind in _DNS:
        if not _HOST_NAME.fullmatch(host):
            raise _fault(given, f"{host!r} is not a host name")
        return host
    known = "/ip4, /ip6, /dns, /dns4, /dns6, /dnsaddr and /unix"
    raise _fault(given, f"it begins with /{kind}; taken are {known}")


def _port(given: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:6]) < 65_536:
        raise _fault(given, f"{text!r} is not a TCP port (1 to 65535)")
    return int(text)


def _without_peer(given: str, parts: list[str]) -> tuple[list[str], str]:
    if len(parts) < 3 or parts[-2] not in _PEER:
        return parts, ""
    if not _PEER_ID.fullmatch(parts[-1]):
        raise _fault(given, f"{parts[-1]!r} is not a peer id")
    return parts[:-2], parts[-1]


def _rest(given: str, parts: list[str]) -> tuple[str, str]:
    (_, *parts), peer = _without_peer(given, ["", *parts])
    scheme = _SCHEMES.get("/".join(parts)) if parts else "http"
    if scheme is None:
        raise _fault(given, f"/{'/'.join(parts)} after the port is not understood")
    return scheme, peer


def _url(given: str) -> Endpoint:
    try:
        parts = urlsplit(given)
        port = parts.port or DEFAULT_PORTS[parts.scheme]
    except ValueError as error:
        raise _fault(given, str(error)) from error
    _check_url(given, parts)
    return Endpoint(given, parts.scheme, parts.hostname or "", port, path=parts.path.rstrip("/"))


def _check_url(given: str, parts: SplitResult) -> None:
    if not parts.hostname:
        raise _fault(given, "it names no host")
    if parts.username is not None or parts.password is not None:
        raise Invalid(
            "an endpoint must not hold a user or password", hint="Leave out what comes before the @."
        )
    if parts.query or parts.fragment:
        raise _fault(given, "a query or fragment has no meaning here")


def _fault(given: str, reason: str) -> Invalid:
    return Invalid(f"the endpoint {given!r} is not understood: {reason}", hint=f"Write it like {EXAMPLE}.")
