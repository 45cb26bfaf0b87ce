"""How ``get`` reaches an IPFS result: the Kubo that a person names, gateways, or a Kubo for the length of the command.

Knows: the flags and keys for it, and one call of Kubo's RPC API. Must not know: results. Bacalhau's own flags of these names
are from the days when every client was an IPFS node. Here ``--ipfs-swarm-addrs`` are connected to first by whichever Kubo
reads the results; ``--ipfs-swarm-key`` opens a private network: a Kubo that a person names has its own key, so without one
named, a node is started with that key in a folder of its own, and ended afterwards. Where the person's own Kubo has that
key, it is of that network already.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from protocol.config import Config
from protocol.errors import Fault, Invalid, Unavailable
from requester.cli.endpoint import IPFS, IPFS_GATEWAYS
from requester.cli.exits import tell
from requester.cli.output import clean

KUBO_DEFAULT: Final = "/ip4/127.0.0.1/tcp/5001"
KUBO_HELP: Final = (
    f"Kubo's RPC API, to read IPFS results from; default the one that ipfs uses, or {KUBO_DEFAULT}"
)
REPOSITORY_DEFAULT: Final = "~/.ipfs"
ADDRESS_MAX_BYTES: Final = 1024
CONNECT_S: Final = 15.0
KEY_BEGINS: Final = "/key/swarm/psk/1.0.0/"
KEY_MAX_BYTES: Final = 4096


class Swarm(Struct, frozen=True):
    """What was said of IPFS. `kubo` is empty if none was named: then it is the one of `kubo_here`."""

    kubo: str = ""
    gateways: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    key: str = ""


class Way(Struct, frozen=True):
    """How to read: through a Kubo, or through gateways."""

    kubo: str = ""
    gateways: tuple[str, ...] = ()


class _Connected(Struct, frozen=True):
    """Answer of ``swarm/connect``; only that it is one counts."""


def read_swarm(settings: Config) -> Swarm:
    """What the flags, variables and files say."""
    return Swarm(
        settings.text(*IPFS),
        settings.texts(*IPFS_GATEWAYS),
        settings.texts("Node.IPFS.SwarmAddresses"),
        settings.text("Node.IPFS.SwarmKeyPath"),
    )


def kubo_here(environ: Mapping[str, str]) -> str:
    """The Kubo that `ipfs` itself would talk to: a running one leaves its address in its repository, as ``api``."""
    try:
        with (_repository(environ) / "api").open("rb") as file:
            address = file.read(ADDRESS_MAX_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError):
        return KUBO_DEFAULT
    return address if address.startswith("/") else KUBO_DEFAULT


def _repository(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("IPFS_PATH") or REPOSITORY_DEFAULT).expanduser()


def _is_key_here(key: str, environ: Mapping[str, str]) -> bool:
    """Whether the Kubo of `kubo_here` has the key that is in the file `key`."""
    try:
        return Path(key).expanduser().read_bytes() == (_repository(environ) / "swarm.key").read_bytes()
    except OSError:
        return False


@asynccontextmanager
async def reached(swarm: Swarm, folder: Path) -> AsyncIterator[Way]:
    """A way to read results, its swarm connected, for the length of the context; `folder` is for a node that is started.

    A connection that does not come about is told and no failure: the node may find a way itself. Raises `Invalid` for a
    key that is none, `Unavailable` if a node must be started and there is no program for it.
    """
    is_here = _is_key_here(swarm.key, os.environ) if swarm.key else not swarm.gateways
    if swarm.kubo or is_here:
        if swarm.kubo and swarm.key:
            tell(
                f"Warning: {clean(swarm.key)} is not used: the Kubo at {clean(swarm.kubo)} has the key that is swarm.key "
                "in its own repository. Name no Kubo, and one is started with this key."
            )
        kubo = swarm.kubo or kubo_here(os.environ)
        if swarm.kubo or not swarm.addresses or await _answers(kubo):
            await _join(kubo, swarm.addresses)
            yield Way(kubo)
            return
    if swarm.gateways and not swarm.key:
        yield Way(gateways=swarm.gateways)
        return
    async with _own_kubo(swarm, folder) as kubo:
        await _join(kubo, swarm.addresses)
        yield Way(kubo)


@asynccontextmanager
async def _own_kubo(swarm: Swarm, folder: Path) -> AsyncIterator[str]:
    """A Kubo that knows only who it is told of, with the swarm's key if there is one."""
    from deploy.servers import Failed, Missing, kubo

    key = _read_key(Path(swarm.key).expanduser()) if swarm.key else ""
    if not swarm.addresses:
        raise Invalid(
            "nobody is named who could have the results",
            hint="Name a node of the swarm with --ipfs-swarm-addrs /ip4/…/tcp/4001/p2p/….",
        )
    tell("Starting a Kubo for this download...")
    try:
        async with kubo(folder, swarm_key=key) as node:
            yield node.multiaddr
    except (Missing, Failed) as error:
        raise Unavailable(
            f"no Kubo runs here, and none could be started: {error}", hint="Name one with --ipfs-connect."
        ) from error


def _read_key(path: Path) -> str:
    try:
        key = path.read_bytes()[: KEY_MAX_BYTES + 1].decode()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"the swarm key {path} cannot be read: {error}") from error
    if not key.startswith(KEY_BEGINS):
        raise Invalid(f"{path} is no swarm key", hint=f"It begins with {KEY_BEGINS}.")
    return key


async def _answers(kubo: str) -> bool:
    from storage.ipfs import Kubo

    async with Kubo(kubo) as node:
        try:
            await node.probe()
        except (Fault, TimeoutError):
            return False
    return True


async def _join(kubo: str, addresses: tuple[str, ...]) -> None:
    """Let the node connect to each address, all at once."""
    from storage.ipfs import Kubo

    async with Kubo(kubo) as node:

        async def connect(address: str) -> None:
            try:
                await node.ask(
                    "swarm/connect", _Connected, {"arg": address}, what=address, silence_s=CONNECT_S
                )
            except Fault as fault:
                tell(f"Warning: Kubo did not connect to {clean(fault.message)}")

        async with asyncio.TaskGroup() as group:
            for address in addresses:
                group.create_task(connect(address))
