"""Where a connection for bulk data leads: addresses, a proxy, TLS.

Knows: URLs, what the environment says of proxies, and certificates. Must not know: what is said on a connection
(`storage.wire`), or which addresses are allowed (the resolver that is given).
"""

import asyncio
import base64
import socket
import ssl
from functools import cache
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from aiohttp.abc import AbstractResolver
from msgspec import Struct

from protocol.errors import Unavailable
from storage.addresses import read_address
from storage.ranged import Limits
from storage.threads import in_thread

_UNTRUSTED_HINT: Final = (
    "Check the server's certificate, or name its authority: SSL_CERT_FILE, for S3 AWS_CA_BUNDLE."
)

_PLAIN_HINT: Final = "Does it have TLS on another port, or is http:// meant?"
_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
"""What OpenSSL calls it when the first bytes of an answer are no TLS."""

Address = tuple[int, str]
"""Its family, and its text: of a Unix socket its path."""


class Route(Struct, frozen=True):
    """How an origin is reached: where its connections go, and what is said on them.

    `addresses` are tried in order. `proxy` is the ``Proxy-Authorization`` (maybe empty) of a proxy that the addresses are
    of, None if they are the origin's own. `tls` None means none.
    """

    host: str
    port: int
    addresses: tuple[Address, ...]
    address_port: int
    tls: ssl.SSLContext | None = None
    proxy: str | None = None
    connect_s: float = 10.0
    silence_s: float = 30.0

    @property
    def authority(self) -> str:
        """What stands in ``Host``: the port only where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def key(self) -> tuple[str, int, bool]:
        """Connections of an equal key lead to the same place."""
        return self.host, self.port, self.tls is not None


async def find_route(url: str, limits: Limits, resolver: AbstractResolver, ca_bundle: str = "") -> Route:
    """How the origin of an http or https URL is reached just now. Proxies are those of the environment.

    `resolver` says what a name stands for, and refuses what may not be reached. Raises its fault, and `Unavailable` for a
    name that is not known. `ca_bundle` is a file of authorities to trust, where it is not the system's.
    """
    host, port, secure = origin_of(url)
    proxy = proxy_of(url)
    far_host, far_port, _ = origin_of(proxy) if proxy else (host, port, secure)
    try:
        async with asyncio.timeout(limits.connect_s):
            found = await resolver.resolve(far_host, far_port, socket.AF_UNSPEC)
    except TimeoutError as error:
        said = f"the address of {far_host!r} was not told within {limits.connect_s:g} s"
        raise Unavailable(said, hint="Do this machine's name servers answer?") from error
    except OSError as error:
        raise Unavailable(f"the address of {far_host!r} is not known", hint="Is the name right?") from error
    parts = urlsplit(proxy)
    return Route(
        host=host,
        port=port,
        addresses=tuple((each["family"], each["host"]) for each in found),
        address_port=far_port,
        tls=await in_thread(lambda _: trust(ca_bundle)) if secure else None,
        proxy=basic(parts.username, parts.password) if proxy else None,
        connect_s=limits.connect_s,
        silence_s=limits.silence_s,
    )


def proxy_of(url: str) -> str:
    """The URL of the proxy that the environment names for an http or https URL; empty for none.

    Nothing on this machine is asked for through one, as with Bacalhau and all programs in Go.
    """
    host, port, secure = origin_of(url)
    proxy = getproxies().get("https" if secure else "http", "")
    address = read_address(host)
    here = address.is_loopback if address else host == "localhost"
    if not proxy or here or proxy_bypass(f"{host}:{port}"):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def basic(user: str | None, password: str | None) -> str:
    """The header's value for a name and password, both as they stand in a URL; empty for none."""
    if user is None:
        return ""
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def origin_of(url: str) -> tuple[str, int, bool]:
    """Host, port and whether it is TLS, of an http or https URL."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    return parts.hostname or "", parts.port or (443 if secure else 80), secure


def insecure(error: BaseException) -> tuple[str, str]:
    """Why a connection is not secure, to be read behind the server's name, and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has no trustworthy certificate: {error.verify_message}", _UNTRUSTED_HINT
    reason = getattr(error, "reason", None) or type(error).__name__
    if reason in _NOT_TLS:
        return "does not speak TLS", _PLAIN_HINT
    return f"cannot be spoken to in TLS ({reason})", _UNTRUSTED_HINT


@cache
def trust(ca_bundle: str = "") -> ssl.SSLContext:
    """The certificates that are trusted; reads a file or two."""
    return ssl.create_default_context(cafile=ca_bundle or None)
