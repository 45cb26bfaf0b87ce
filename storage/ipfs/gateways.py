"""Inputs from IPFS without a node of one's own: through trustless gateways, every block checked against its CID.

Knows: how a path is followed and a tree brought when nobody is believed. Must not know: RPC.

Resolving follows the path by the blocks that lead there, and tells a size where that takes few more blocks; the tree itself
is only met when it comes (`blocks`).
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from protocol.errors import Broken, Exhausted, Fault, Invalid, NotFound
from protocol.nodes import Offer
from protocol.together import together
from storage.arrival import arriving
from storage.contract import Fetched, Form, Progress, Resolved, Share
from storage.ipfs.blocks import BlockLimits, Blocks
from storage.ipfs.cid import CODECS, cid_text, parts_of, read_cid
from storage.ipfs.dns import lookup_txt
from storage.ipfs.exchange import Exchanges
from storage.ipfs.holders import RECORD_TYPE, Gateway
from storage.ipfs.ipns import RECORD_MAX_BYTES, canonical, key_of, meaning_of
from storage.ipfs.kubo import PROBE_S
from storage.ipfs.near import said
from storage.ipfs.params import FILES, IpfsSettings, SourceParams, split_path
from storage.ipfs.sink import Sink
from storage.ipfs.unixfs import Found, Role, Want, expand, towards
from storage.multiaddr import parse_endpoint
from storage.ranged import Limits as RangeLimits
from storage.ranged import check_size
from storage.threads import in_thread
from storage.tree import Entry, Kind, Limits

if TYPE_CHECKING:
    from storage.contract import Source
    from storage.lister import Lister

NAMES_MAX: Final = 8
SIZING_BLOCKS: Final = 64
"""How many blocks are asked for to find out a folder's size before it is fetched; a larger folder has no known size."""


class GatewaySource:
    """Data by CID, through gateways of which none is trusted. The first is asked first, the others when it fails, and then
    they are, until a probe finds it well."""

    type: ClassVar[str] = "ipfs"
    params: ClassVar[Form] = SourceParams

    def __init__(self, gateways: Sequence[str], settings: IpfsSettings | None = None) -> None:
        """Raises `Invalid` if an address is neither a multiaddress nor an http URL."""
        self._settings = settings or IpfsSettings()
        self._gateways = [Gateway(parse_endpoint(each).url) for each in gateways]
        self._limits = BlockLimits(self._settings.retry_s, requests=self._settings.requests + 2)
        self._exchanges: Exchanges | None = None
        self._blocks: Blocks | None = None

    async def close(self) -> None:
        """Let go of all connections."""
        exchanges, self._exchanges, self._blocks = self._exchanges, None, None
        if exchanges is not None:
            exchanges.close()

    async def probe(self) -> Offer:
        """Available if one of the gateways answers as a trustless gateway does."""
        reasons = []
        for gateway in self._gateways:
            try:
                async with asyncio.timeout(PROBE_S):
                    await self._opened().probe(gateway)
                return Offer(self.type, version=f"gateway {gateway.name}")
            except Fault as fault:
                reasons.append(fault.message)
            except TimeoutError:
                reasons.append(f"{gateway.name} does not answer")
        return Offer(self.type, available=False, reason="; ".join(reasons))

    async def resolve(self, params: SourceParams, share: Share) -> Resolved:
        """Follow the path to a CID, and tell its size where few blocks do. Raises as `Source`."""
        blocks = self._opened()
        for _ in range(NAMES_MAX):
            if not params.is_name:
                break
            params = await self._named(blocks, params)
        else:
            raise Invalid(f"{params.cid} is more than {NAMES_MAX} names away from a CID")
        want = await self._found(blocks, params)
        root = await self._expanded_one(blocks, want, params.cid)
        size_bytes: int | None = root.size_bytes
        if root.kind is Kind.FOLDER:
            size_bytes = await self._size(blocks, root.wants, params.cid)
        if size_bytes is not None:
            check_size(params.cid, size_bytes, self._settings.max_bytes)
        weight = root.size_bytes if root.kind is Kind.FILE else 0
        return Resolved(
            identity=f"ipfs://{cid_text(want.cid)}",
            size_bytes=size_bytes,
            pinned=Want(want.cid, total_bytes=weight),
            cacheable=True,
        )

    async def fetch(
        self, params: SourceParams, resolved: Resolved, into: Path, progress: Progress
    ) -> Fetched:
        """Bring what was resolved to `into`. Raises as `Source`; `Broken` names the block that holds other bytes."""
        blocks = self._opened()
        limits = Limits(entries=self._settings.entries, size_bytes=self._settings.max_bytes)
        done = 0

        def moved(size: int) -> None:
            nonlocal done
            done += size
            progress(done, resolved.size_bytes)

        async with arriving(into) as beside:
            with Sink(beside, params.cid, limits) as sink:
                await blocks.bring(resolved.pinned, sink, moved, params.cid)
        return Fetched(into)

    async def entries(self, params: SourceParams, resolved: Resolved) -> list[Entry]:
        """See `storage.lister.Lister`. Takes a block for each folder, and for each file that is not one raw block itself."""
        blocks = self._opened()
        found: list[Entry] = []
        level = [resolved.pinned]
        while level:
            untold = []
            for want in level:
                if want.size_bytes is not None and want.role is Role.NODE:
                    found.append(Entry(want.path, Kind.FILE, want.size_bytes))
                else:
                    untold.append(want)
            below = await self._expanded(blocks, untold, params.cid)
            found += [
                Entry(each.path, each.kind, each.size_bytes, each.executable, target=each.target)
                for each in below
                if each.kind is not None
            ]
            if len(found) > self._settings.entries:
                raise Exhausted(f"{params.cid} holds more than {self._settings.entries} files and folders")
            level = [want for each in below if each.kind is not Kind.FILE for want in each.wants]
        return [each for each in found if each.path]

    async def _named(self, blocks: Blocks, params: SourceParams) -> SourceParams:
        """What an IPNS name means now: by a record that its owner signed, or, for a domain, by DNS."""
        name, *names = split_path(params.cid)
        key = key_of(name)
        meaning = await self._by_dns(name) if key is None else await self._by_record(blocks, name, key)
        try:
            return SourceParams("/".join((meaning.rstrip("/"), *names)))
        except Invalid as fault:
            raise Broken(f"{params.cid} means {meaning[:200]!r}, which is no CID") from fault

    async def _by_record(self, blocks: Blocks, name: str, key: bytes) -> str:
        """By the first gateway that has a good record."""
        faults: list[Fault] = []
        for gateway in self._gateways:
            try:
                ask = gateway.record(canonical(name))
                record = await blocks.whole(gateway, ask, RECORD_TYPE, RECORD_MAX_BYTES, f"/ipns/{name}")
                return meaning_of(record, name, key, datetime.now(UTC))
            except Fault as fault:
                faults.append(fault)
        raise faults[0]

    async def _by_dns(self, name: str) -> str:
        for domain in (f"_dnslink.{name}", name):
            for text in await lookup_txt(domain):
                key, _, path = text.partition("=")
                if key == "dnslink" and path:
                    return path
        raise NotFound(f"/ipns/{name}: there is no TXT record _dnslink.{name} that says what it means")

    async def _found(self, blocks: Blocks, params: SourceParams) -> Want:
        """What the path leads to, block by block: whichever gateway has one, and no answer but a folder's own block can say
        that something is not in it."""
        cid, *names = split_path(params.cid)
        want = Want(read_cid(cid))
        for depth, name in enumerate(names):
            found, there = await self._entry(blocks, want, name, params.cid)
            if found is None:
                missing = f"{params.cid}: there is no {'/'.join(names)!r} below {cid}"
                raise NotFound(missing, hint=await in_thread(lambda _: said(names[:depth], name, there)))  # noqa: B023
            want = found
        return want

    async def _entry(
        self, blocks: Blocks, folder: Want, name: str, what: str
    ) -> tuple[Want | None, list[str]]:
        """What is called `name` in a folder, None for nothing; and the names that were seen on the way to it."""
        seen: list[str] = []
        way = folder
        while True:
            if (codec := parts_of(way.cid).codec) not in FILES:
                other = f"{cid_text(way.cid)} is {CODECS.get(codec, hex(codec))} and no folder"
                raise Invalid(f"{what}: {other}", hint="Only a node with a Kubo follows a path through it.")
            block = await blocks.block(way.cid, what)
            found, names = await in_thread(lambda _: towards(way, block, name))  # noqa: B023
            seen += names
            if found is None or found.role is Role.NODE:
                return found, seen
            way = found

    async def _size(self, blocks: Blocks, wants: Sequence[Want], what: str) -> int | None:
        """Bytes of all files below these, or None if that takes too many blocks."""
        total = 0
        left = SIZING_BLOCKS
        level = [Found("", wants=list(wants))]
        while level:
            more, untold = await in_thread(lambda _: _sized(level))  # noqa: B023
            total += more
            left -= len(untold)
            if left < 0:
                return None
            level = await self._expanded(blocks, untold, what)
        return total

    async def _expanded(self, blocks: Blocks, wants: Sequence[Want], what: str) -> list[Found]:
        """What these blocks hold, some asked for at once."""
        below: list[Found] = []
        waiting = iter(wants)

        async def read() -> None:
            below.extend([await self._expanded_one(blocks, want, what) for want in waiting])

        await together(read() for _ in range(self._settings.small_requests))
        return below

    async def _expanded_one(self, blocks: Blocks, want: Want, what: str) -> Found:
        block = await blocks.block(want.cid, what)
        # A block of a folder may name forty thousand files.
        return await in_thread(lambda _: expand(want, block))

    def _opened(self) -> Blocks:
        if self._blocks is None:
            self._exchanges = Exchanges(RangeLimits(self._settings.connect_s, self._settings.silence_s))
            self._blocks = Blocks(self._exchanges, self._gateways, self._limits)
        return self._blocks


def _sized(level: Sequence[Found]) -> tuple[int, list[Want]]:
    """The bytes of these files and of all below these folders of which they are told, and of what they are not."""
    total = 0
    untold = []
    for found in level:
        if found.kind is Kind.FILE:
            total += found.size_bytes
            continue
        for want in found.wants:
            total += want.size_bytes or 0
            if want.size_bytes is None:
                untold.append(want)
    return total, untold


if TYPE_CHECKING:

    def _fits(driver: GatewaySource) -> tuple[Source[SourceParams], Lister[SourceParams]]:
        return driver, driver
