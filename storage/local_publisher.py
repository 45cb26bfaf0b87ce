"""The `local` publisher: the node keeps the result, and serves it itself.

Knows: where archives lie and which address others are told. Must not know: who fetches them.

The answer is a `urlDownload` of ``http://ADDRESS:PORT/<token>/<execution>.tar.gz``, a link that ends after a while: what is
kept of a job opens nothing for ever. `link` makes a new one whenever a requester asks for the results. The key behind
links lies in the results folder: publishing again replaces the archive, and on the same port links outlive a restart.

Archives do not stay for ever (`storage.kept` says which go): `prune` and `make_room` remove them when a node asks for it.
"""

import contextlib
import ipaddress
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import psutil
from msgspec import Struct

from protocol.clock import Clock, SystemClock
from protocol.errors import Invalid, NotFound, Unavailable
from protocol.ids import ExecutionId
from protocol.jobs import Spec
from protocol.nodes import Offer
from storage.archive import SUFFIX, pack
from storage.arrival import ARRIVING, disk_faults, remove_tree
from storage.contract import Drivers, Form, Label, Progress
from storage.file_sending import version_of
from storage.kept import GONE_HINT, Kept
from storage.result_links import token
from storage.results_server import being_served, serving
from storage.settings import LocalPublishing, StorageSettings
from storage.threads import Stop, in_thread
from storage.tree import open_inside

if TYPE_CHECKING:
    import structlog

    from storage.contract import Publisher

LOOPBACK: Final = "127.0.0.1"
_PACKING: Final = ".packing-"
_LEAVING: Final = ".leaving-"


class LocalPublisherParams(Struct, frozen=True):
    """It takes none."""


class Piece(Struct, frozen=True):
    """Some bytes of an archive of `size_bytes`; `version` changes when it is replaced."""

    size_bytes: int
    version: str
    data: bytes


class LocalPublisher:
    """Keeps archives in `folder`; `root_url` is where the server answers, empty if it could not start (`trouble`).

    `kept` knows of those that are there.
    """

    type: ClassVar[str] = "local"
    params: ClassVar[Form] = LocalPublisherParams

    def __init__(
        self, local: LocalPublishing, key: bytes, kept: Kept, clock: Clock, root_url: str, trouble: str = ""
    ) -> None:
        self._folder = local.folder
        self._link_s = local.link_s
        self._key = key
        self._kept = kept
        self._clock = clock
        self._root_url = root_url
        self._trouble = trouble

    async def probe(self) -> Offer:
        if self._trouble:
            hint = "Give it another address or port: Publishers.Types.Local.Address, Publishers.Types.Local.Port."
            return Offer(self.type, available=False, reason=self._trouble, hint=hint)
        return Offer(self.type)

    async def publish(
        self, folder: Path, params: LocalPublisherParams, label: Label, progress: Progress
    ) -> Spec:
        if self._trouble:
            raise Unavailable(f"the local publisher does not serve: {self._trouble}")
        packed = self._folder / f"{_PACKING}{secrets.token_hex(8)}"
        name = f"{label.execution}{SUFFIX}"
        try:
            await pack(folder, packed, progress)
            with disk_faults(self._folder):
                size_bytes = packed.stat().st_size
                os.replace(packed, self._folder / name)
        except BaseException:
            await in_thread(lambda _: remove_tree(packed))
            raise
        self._kept.put(name, size_bytes, self._clock.now())
        return Spec("urlDownload", {"URL": self.link(label.execution)})

    def link(self, execution: ExecutionId) -> str:
        """A link to an execution's archive, good from now on for a while; empty if no server of ours runs."""
        if self._trouble:
            return ""
        name = f"{execution}{SUFFIX}"
        return f"{self._root_url}/{token(self._key, name, self._clock.now() + self._link_s)}/{name}"

    async def read(self, execution: ExecutionId, offset: int, limit_bytes: int) -> Piece:
        """A piece of an execution's archive, which then stays for a while. Raises `NotFound`, `Unavailable`."""
        name = f"{execution}{SUFFIX}"

        def piece(stop: Stop) -> Piece:
            with open(open_inside(self._folder, name), "rb", buffering=0) as file:
                seen = os.fstat(file.fileno())
                return Piece(seen.st_size, version_of(seen), os.pread(file.fileno(), limit_bytes, offset))

        try:
            with being_served(self._kept, name, self._clock):
                return await in_thread(piece)
        except FileNotFoundError as error:
            gone = f"the result of execution {execution} is not kept on this node"
            raise NotFound(gone, hint=GONE_HINT, kind="Results") from error
        except OSError as error:
            raise Unavailable(
                f"the result of execution {execution} cannot be read: {error.strerror}"
            ) from error

    async def prune(self) -> None:
        """Remove the archives whose time is over."""
        await self._remove(self._kept.over(self._clock.now()))

    async def make_room(self, size_bytes: int) -> None:
        """Remove the oldest archives of `size_bytes` together, as far as any may go; returns when their room is free."""
        await self._remove(self._kept.excess(size_bytes, self._clock.now()))

    async def _remove(self, names: Sequence[str]) -> None:
        """Nobody finds them from now on; then their bytes go."""
        leaving = []
        for name in names:
            away = self._folder / f"{_LEAVING}{secrets.token_hex(8)}"
            try:
                with contextlib.suppress(FileNotFoundError):
                    (self._folder / name).rename(away)
                    leaving.append(away)
            except OSError as error:
                _log().error("results cannot be removed", path=str(self._folder), fault=error.strerror)
                break
            self._kept.lose(name)
        if leaving:
            _log().info(
                "removing results that were kept long enough, or whose room is needed", count=len(leaving)
            )
            await in_thread(lambda _: _unlink(leaving))


@contextlib.asynccontextmanager
async def open_local_publisher(
    settings: StorageSettings, clock: Clock | None = None
) -> AsyncIterator[Drivers]:
    """The publisher with its server; nothing if the process does not publish locally. Raises `Invalid` for the address.

    A port that is taken does not keep a node from starting: the publisher's probe says so.
    """
    local = settings.local_publishing
    if local is None:
        yield Drivers()
        return
    address = choose_address(local.address, own_addresses())
    clock = clock or SystemClock()
    key = _key(local.folder)
    kept = Kept(local.keep_s, local.link_s)
    for at, name, size_bytes in await in_thread(lambda _: _found(local.folder)):
        kept.put(name, size_bytes, at)
    async with contextlib.AsyncExitStack() as stack:
        root_url = trouble = ""
        try:
            port = await stack.enter_async_context(
                serving(local.folder, key, kept, clock, _listens_on(address), local.port)
            )
            root_url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        except OSError as error:
            trouble = f"no server on {address}:{local.port}: {error.strerror or error}"
        yield Drivers(publishers={"local": LocalPublisher(local, key, kept, clock, root_url, trouble)})


def kept_bytes(folder: Path) -> int:
    """How much the archives in a publisher's folder take; it need not be there. Blocking."""
    with contextlib.suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in folder.iterdir() if path.name.endswith(SUFFIX))
    return 0


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


def _found(folder: Path) -> list[tuple[float, str, int]]:
    """The archives that are there: when they came, names and sizes, the oldest first. What was on its way goes."""
    found = []
    for path in folder.iterdir():
        if path.name.startswith((_PACKING, _LEAVING, ARRIVING)):
            _unlink([path])
        elif path.name.endswith(SUFFIX):
            seen = path.stat()
            found.append((seen.st_mtime, path.name, seen.st_size))
    return sorted(found)


def _unlink(paths: Sequence[Path]) -> None:
    """Remove files. What cannot be removed is tried again when the next process starts."""
    for path in paths:
        try:
            path.unlink()
        except OSError as error:
            _log().error("a result cannot be removed", path=str(path), fault=error.strerror)


def _log() -> "structlog.typing.FilteringBoundLogger":
    """Imported by nodes alone: it takes a third of the time that a command needs to open its drivers."""
    import structlog

    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)
    return log


def _key(folder: Path) -> bytes:
    """The folder's key, made when it is first needed."""
    path = folder / ".key"
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f".key-{secrets.token_hex(8)}"
    try:
        made.touch(0o600)
        made.write_bytes(secrets.token_bytes(32))
        # Whole from the first moment, and never replaced by a second process.
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink(missing_ok=True)
    return path.read_bytes()


if TYPE_CHECKING:

    def _fits(driver: LocalPublisher) -> Publisher[LocalPublisherParams]:
        return driver
