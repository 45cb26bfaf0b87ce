"""The `local` publisher: the node keeps the result, and serves it itself.

Knows: where archives lie and which address others are told. Must not know: who fetches them.

The answer is a `urlDownload` of ``http://ADDRESS:PORT/<token>/<execution>.tar.gz``, a link that ends after a while: what is
kept of a job opens nothing for ever. `link` makes a new one whenever a requester asks for the results. The key behind
links lies in the results folder: publishing again replaces the archive, and on the same port links outlive a restart.
"""

import contextlib
import ipaddress
import os
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import psutil
from msgspec import Struct

from protocol.errors import Invalid, NotFound, Unavailable
from protocol.ids import ExecutionId
from protocol.jobs import Spec
from protocol.nodes import Offer
from storage.archive import SUFFIX, pack
from storage.arrival import disk_faults, remove_tree
from storage.contract import Drivers, Form, Label, Progress
from storage.result_links import token
from storage.results_server import serving
from storage.settings import StorageSettings
from storage.threads import in_thread
from storage.tree import open_inside

if TYPE_CHECKING:
    from storage.contract import Publisher

LOOPBACK: Final = "127.0.0.1"


class LocalPublisherParams(Struct, frozen=True):
    """It takes none."""


class Piece(Struct, frozen=True):
    """Some bytes of an archive of `size_bytes`; `version` changes when it is replaced."""

    size_bytes: int
    version: str
    data: bytes


class LocalPublisher:
    """Keeps archives in `folder`; `root_url` is where the server answers, empty if it could not start (`trouble`)."""

    type: ClassVar[str] = "local"
    params: ClassVar[Form] = LocalPublisherParams

    def __init__(
        self, folder: Path, key: bytes, root_url: str, trouble: str = "", *, link_s: float = 3600.0
    ) -> None:
        self._folder = folder
        self._key = key
        self._root_url = root_url
        self._trouble = trouble
        self._link_s = link_s

    async def probe(self) -> Offer:
        if self._trouble:
            hint = "Give the local publisher another address or port."
            return Offer(self.type, available=False, reason=self._trouble, hint=hint)
        return Offer(self.type)

    async def publish(
        self, folder: Path, params: LocalPublisherParams, label: Label, progress: Progress
    ) -> Spec:
        if self._trouble:
            raise Unavailable(f"the local publisher does not serve: {self._trouble}")
        packed = self._folder / f".packing-{secrets.token_hex(8)}"
        try:
            await pack(folder, packed, progress)
            with disk_faults(self._folder):
                os.replace(packed, self._folder / f"{label.execution}{SUFFIX}")
        except BaseException:
            await in_thread(lambda _: remove_tree(packed))
            raise
        return Spec("urlDownload", {"URL": self.link(label.execution)})

    def link(self, execution: ExecutionId) -> str:
        """A link to an execution's archive, good from now on for a while; empty if no server of ours runs."""
        if self._trouble:
            return ""
        name = f"{execution}{SUFFIX}"
        return f"{self._root_url}/{token(self._key, name, time.time() + self._link_s)}/{name}"

    def read(self, execution: ExecutionId, offset: int, limit_bytes: int) -> Piece:
        """A piece of an execution's archive; blocking. Raises `NotFound`, `Unavailable`."""
        try:
            with open(open_inside(self._folder, f"{execution}{SUFFIX}"), "rb", buffering=0) as file:
                seen = os.fstat(file.fileno())
                version = f"{seen.st_mtime_ns:x}-{seen.st_size:x}"
                return Piece(seen.st_size, version, os.pread(file.fileno(), limit_bytes, offset))
        except FileNotFoundError as error:
            raise NotFound(f"the result of execution {execution} is not kept on this node") from error
        except OSError as error:
            raise Unavailable(
                f"the result of execution {execution} cannot be read: {error.strerror}"
            ) from error


@contextlib.asynccontextmanager
async def open_local_publisher(settings: StorageSettings) -> AsyncIterator[Drivers]:
    """The publisher with its server; nothing if the process does not publish locally. Raises `Invalid` for the address.

    A port that is taken does not keep a node from starting: the publisher's probe says so.
    """
    local = settings.local_publishing
    if local is None:
        yield Drivers()
        return
    address = choose_address(local.address, own_addresses())
    key = _key(local.folder)
    async with contextlib.AsyncExitStack() as stack:
        root_url = trouble = ""
        try:
            port = await stack.enter_async_context(
                serving(local.folder, key, _listens_on(address), local.port)
            )
            root_url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        except OSError as error:
            trouble = f"no server on {address}:{local.port}: {error.strerror or error}"
        yield Drivers(
            publishers={"local": LocalPublisher(local.folder, key, root_url, trouble, link_s=local.link_s)}
        )


def choose_address(wanted: str, own: Sequence[str]) -> str:
    """The address to tell others, for a setting and the machine's own addresses. Raises `Invalid` if there is none.

    ``local`` is 127.0.0.1; ``private`` and ``public`` are the machine's first such address, IPv4 before IPv6; all else is
    taken as written.
    """
    symbol = wanted.lower()
    if symbol in ("", "local", "localhost"):
        return LOOPBACK
    if symbol not in ("private", "public"):
        return wanted
    addresses = sorted((ipaddress.ip_address(each) for each in own), key=lambda address: address.version)
    for address in addresses:
        outside = not (address.is_loopback or address.is_link_local or address.is_unspecified)
        if outside and address.is_global == (symbol == "public"):
            return str(address)
    raise Invalid(
        f"this machine has no {symbol} address", hint="Give the local publisher an address or a host name."
    )


def own_addresses() -> list[str]:
    """The addresses of this machine's network interfaces."""
    found = []
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            with contextlib.suppress(ValueError):
                found.append(str(ipaddress.ip_address(each.address.partition("%")[0])))
    return found


def _listens_on(address: str) -> str:
    """Loopback addresses alone; for others every address, because what others are told may be a name or a router's."""
    with contextlib.suppress(ValueError):
        known = ipaddress.ip_address(address)
        if known.is_loopback:
            return address
        if known.version == 6:
            return "::"
    return "0.0.0.0"


def _key(folder: Path) -> bytes:
    """The folder's key, made when it is first needed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".key"
    made = folder / f".key-{secrets.token_hex(8)}"
    made.touch(0o600)
    made.write_bytes(secrets.token_bytes(32))
    # Whole from the first moment, and never replaced by a second process.
    with contextlib.suppress(FileExistsError):
        os.link(made, path)
    made.unlink()
    return path.read_bytes()


if TYPE_CHECKING:

    def _fits(driver: LocalPublisher) -> Publisher[LocalPublisherParams]:
        return driver
