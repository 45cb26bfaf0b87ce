"""Who can be asked for blocks: a trustless gateway, or Kubo by its RPC API.

Knows: how each is asked for a CAR or a block (https://specs.ipfs.tech/http-gateways/trustless-gateway), and what its
refusals mean. Must not know: what the blocks are for. Neither is believed: who asks checks every block against its CID.
"""

from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import quote

from aiohttp.resolver import ThreadedResolver
from msgspec import Struct

from protocol.errors import Denied, Fault, NotFound, Unavailable
from storage.ipfs.kubo import Kubo
from storage.ranged import Limits
from storage.route import Route, find_route

CAR_TYPE: Final = "application/vnd.ipld.car"
RECORD_TYPE: Final = "application/vnd.ipfs.ipns-record"
BLOCK_TYPE: Final = "application/vnd.ipld.raw"
# Blocks in the order of the tree, each as often as it occurs there: then each can be used at once and forgotten.
_CAR_WANTED: Final = {"Accept": f"{CAR_TYPE}; version=1; order=dfs; dups=y"}
_BLOCK_WANTED: Final = {"Accept": BLOCK_TYPE}
_NO_RECORD: Final = "routing: not found"
_CAR_IS_STRANGE: Final = frozenset({400, 405, 406, 415, 501})


class Ask(Struct, frozen=True):
    """A request: a URL as it stands (already quoted)."""

    url: str
    headers: Mapping[str, str]
    method: str = "GET"


class Holder(Protocol):
    """Somebody who may have blocks."""

    @property
    def name(self) -> str:
        """How messages call it."""

    async def route(self, limits: Limits) -> Route:
        """How it is reached just now. Raises `Unavailable`."""

    def car(self, cid: str) -> Ask:
        """Ask for all blocks of a tree."""

    def block(self, cid: str) -> Ask:
        """Ask for one block."""

    def refusal(self, what: str, status: int, body: bytes) -> Fault:
        """What an answer that is not 200 says about `what`."""

    def knows_no_car(self, status: int) -> bool:
        """Whether an answer to `car` says that single blocks are all that can be had."""


class Gateway:
    """A trustless gateway, by its base URL."""

    def __init__(self, url: str) -> None:
        self.name = url
        self._url = url
        self._base = f"{url}/ipfs"

    async def route(self, limits: Limits) -> Route:
        """As the environment has it, by a proxy if it names one."""
        return await find_route(self._url, limits, ThreadedResolver())

    def car(self, cid: str) -> Ask:
        """See `Holder`."""
        return Ask(f"{self._base}/{cid}?format=car&dag-scope=all", _CAR_WANTED)

    def block(self, cid: str) -> Ask:
        """See `Holder`."""
        return Ask(f"{self._base}/{cid}?format=raw", _BLOCK_WANTED)

    def record(self, name: str) -> Ask:
        """Ask for the record of an IPNS name."""
        return Ask(f"{self._url}/ipns/{quote(name)}?format=ipns-record", {"Accept": RECORD_TYPE})

    def refusal(self, what: str, status: int, body: bytes) -> Fault:
        """See `Holder`."""
        said = body[:300].decode(errors="replace").strip()
        words = f"{what}: {self.name} answered with status {status}{f' ({said})' if said else ''}"
        # Kubo's gateway has no better status for a name that nobody has published.
        if status in (404, 410) or (status == 500 and said.endswith(_NO_RECORD)):
            return NotFound(words)
        if status in (401, 403, 451):
            return Denied(words)
        if 300 <= status < 400:
            return Unavailable(words, hint="Name the gateway by the address that it leads to.")
        return Unavailable(words)

    def knows_no_car(self, status: int) -> bool:
        """See `Holder`."""
        return status in _CAR_IS_STRANGE


class KuboGateway(Gateway):
    """The gateway of a Kubo node that we know."""

    def __init__(self, kubo: Kubo, url: str) -> None:
        super().__init__(url)
        self._kubo = kubo

    async def route(self, limits: Limits) -> Route:
        """As the node itself."""
        return await self._kubo.route(self._url)


class KuboBlocks:
    """A Kubo node, by its RPC API."""

    def __init__(self, kubo: Kubo) -> None:
        self._kubo = kubo
        self.name = f"Kubo at {kubo.endpoint.url}"

    async def route(self, limits: Limits) -> Route:
        """As Kubo says."""
        return await self._kubo.route()

    def car(self, cid: str) -> Ask:
        """See `Holder`."""
        return Ask(f"{self._kubo.url('dag/export')}?progress=false&arg={cid}", {}, method="POST")

    def block(self, cid: str) -> Ask:
        """See `Holder`."""
        return Ask(f"{self._kubo.url('block/get')}?arg={cid}", {}, method="POST")

    def refusal(self, what: str, status: int, body: bytes) -> Fault:
        """See `Holder`."""
        return self._kubo.fault_of(what, status, body)

    def knows_no_car(self, status: int) -> bool:
        """See `Holder`."""
        return status in (403, 404)
