"""Where a Kubo node listens, as people write it.

Knows: the multiaddresses that `ipfs id` and `ipfs config Addresses.API` print, as far as they lead to HTTP over TCP, and
plain URLs. Must not know: sockets or HTTP.

Grammar (https://multiformats.io/multiaddr):
``/<ip4|ip6|dns|dns4|dns6>/<host>/tcp/<port>[/http|/https|/tls/http][/p2p/<id>]``.
``/ipfs/<id>`` is the older spelling of ``/p2p/<id>``.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from protocol.errors import Invalid

EXAMPLE: Final = "/ip4/127.0.0.1/tcp/5001"
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_DNS: Final = frozenset({"dns", "dns4", "dns6"})
_SCHEMES: Final = {"http": "http", "https": "https", "tls/http": "https"}
_PEER: Final = frozenset({"p2p", "ipfs"})
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?"
)
_PEER_ID: Final = re.compile(r"[A-Za-z0-9]{40,120}")


class Endpoint(Struct, frozen=True):
    """An HTTP endpoint: `given` is what the person wrote, `host` without brackets, `peer` empty when none was named."""

    given: str
    scheme: str
    host: str
    port: int
    path: str = ""
    peer: str = ""

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
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
    parts = iter(given.removesuffix("/").split("/")[1:])
    host = _host(given, parts)
    transport = next(parts, "")
    if transport != "tcp":
        found = f"/{transport}" if transport else "nothing"
        raise _fault(given, f"after the host comes {found} where /tcp/<port> is expected")
    port = _port(given, next(parts, ""))
    scheme, peer = _rest(given, list(parts))
    return Endpoint(given, scheme, host, port, peer=peer)


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
    raise _fault(given, f"it begins with /{kind}; taken are /ip4, /ip6, /dns, /dns4 and /dns6")


def _port(given: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:6]) < 65_536:
        raise _fault(given, f"{text!r} is not a TCP port (1 to 65535)")
    return int(text)


def _rest(given: str, parts: list[str]) -> tuple[str, str]:
    peer = ""
    if len(parts) >= 2 and parts[-2] in _PEER:
        peer = parts[-1]
        parts = parts[:-2]
        if not _PEER_ID.fullmatch(peer):
            raise _fault(given, f"{peer!r} is not a peer id")
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
