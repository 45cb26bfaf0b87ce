"""Trees brought block by block, each checked against its CID, from holders of whom none is believed.

Knows: what to ask which holder for, and what to do when one breaks off, lies or is silent. Must not know: RPC or gateways
(`holders`), what a block means (`unixfs`) or the disk (`sink`).

A tree comes as one CAR, whose blocks are used in a thread as they come and then forgotten, so memory does not grow with the
data. What is still wanted is a stack; when a stream ends too early, what is left of the stack is asked for again, piece by
piece, of the same or another holder: nothing that came is asked for twice. Large files are split at their root and come
through several streams at once.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from msgspec import Struct

from protocol.errors import Broken, Fault, NotFound, TimedOut, Unavailable
from protocol.together import together
from storage.ipfs.car import BLOCK_MAX_BYTES
from storage.ipfs.cid import EMPTY_CID, RAW, check_block, cid_text, inlined, parts_of
from storage.ipfs.exchange import Exchanges, Failed, Take
from storage.ipfs.holders import BLOCK_TYPE, CAR_TYPE, Ask, Holder
from storage.ipfs.sink import Sink
from storage.ipfs.taking import Taking, Untrue
from storage.ipfs.unixfs import Want
from storage.lanes import Lane
from storage.ranged import PAUSE_MAX_S
from storage.threads import in_thread
from storage.wire import Line

SPLIT_BYTES: Final = 32 << 20
"""A file, or part of one, that weighs more comes through several streams, if its own parts are worth one each."""
SPLIT_PART_BYTES: Final = 4 << 20


class BlockLimits(Struct, frozen=True):
    """How a transfer behaves; times in seconds. A holder is given up after `tries` for one block that brought nothing."""

    retry_s: float = 0.2
    tries: int = 3
    requests: int = 4


class _Unit:
    """What is wanted of the tree below one block, and how asking for it has gone."""

    def __init__(self, asked: bytes, wants: list[Want]) -> None:
        self.asked = asked
        self.wants = wants
        self.single = False
        self.tries: dict[str, int] = {}
        self.last: Fault | None = None

    @property
    def weight(self) -> int:
        """Bytes of what is wanted, as far as it is known."""
        return sum(want.total_bytes for want in self.wants)

    @property
    def is_one_block(self) -> bool:
        """Whether nothing can be below what is wanted."""
        return len(self.wants) == 1 and parts_of(self.wants[0].cid).codec == RAW


class Blocks:
    """Reads from `holders`, the first first; whoever has failed stands behind those that have failed less, until a `probe`
    finds it well."""

    def __init__(self, exchanges: Exchanges, holders: Sequence[Holder], limits: BlockLimits) -> None:
        self._exchanges = exchanges
        self._holders = list(holders)
        self.limits = limits
        self._faults: dict[str, int] = {}
        self._single: set[str] = set()

    async def block(self, cid: bytes, what: str) -> bytes:
        """One block, verified. Raises as `bring`."""
        held = inlined(cid)
        if held is not None:
            return held
        unit = _Unit(cid, [Want(cid)])
        while True:
            holder = self.choose(unit)
            try:
                block = await self.read_block(holder, cid, what)
                check_block(cid, block, holder.name)
            except Failed as failed:
                await self.note(unit, holder, failed)
            except Broken as fault:
                await self.note(unit, holder, Failed(fault, lasting=True))
            else:
                return block

    async def whole(self, holder: Holder, ask: Ask, media_type: str, limit_bytes: int, what: str) -> bytes:
        """Something small of one holder. Raises its fault."""
        try:
            return await self._whole(holder, ask, media_type, limit_bytes, what)
        except Failed as failed:
            raise failed.fault from failed

    async def probe(self, holder: Holder) -> None:
        """Ask a holder for something that each has; if it answers, nothing that it did before counts any more. Raises the
        fault that this meets."""
        await self.whole(holder, holder.block(EMPTY_CID), BLOCK_TYPE, BLOCK_MAX_BYTES, "probe")
        self._faults.pop(holder.name, None)
        self._single.discard(holder.name)

    async def bring(self, root: Want, sink: Sink, moved: Callable[[int], None], what: str) -> None:
        """Put all that is below `root` into `sink`; `moved` is told of bytes as they are written.

        Raises what stands in the way when every holder was asked: `NotFound` (nobody has a block), `Broken` (other bytes
        than a CID names; names the block), `TimedOut`, `Unavailable`, `Denied`; at once what the data itself is to blame
        for (`expand`, `Sink`). Then, as when cancelled, nobody writes any more.
        """
        bringing = _Bringing(self, sink, moved, what)
        bringing.add([_Unit(root.cid, [root])])
        await together(bringing.work() for _ in range(self.limits.requests))

    def choose(self, unit: _Unit) -> Holder:
        """Whom to ask next: of those that were not given up for this block, whoever has failed least."""
        able = [each for each in self._holders if unit.tries.get(each.name, 0) < self.limits.tries]
        if not able:
            raise unit.last or Unavailable("no gateway is named")
        return min(able, key=lambda each: (unit.tries.get(each.name, 0), self._faults.get(each.name, 0)))

    async def note(self, unit: _Unit, holder: Holder, failed: Failed) -> None:
        """Remember that a holder failed, and wait a little before whoever is asked next, if that may be the same."""
        tries = self.limits.tries if failed.lasting else unit.tries.get(holder.name, 0) + 1
        unit.tries[holder.name] = tries
        # That one holder lacks a block says nothing against it, and little while another could not be asked.
        lacking = isinstance(failed.fault, NotFound)
        if not lacking:
            self._faults[holder.name] = self._faults.get(holder.name, 0) + 1
        if unit.last is None or not lacking:
            unit.last = failed.fault
        if not failed.lasting:
            pause = min(self.limits.retry_s * 2.0**tries, PAUSE_MAX_S)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    def has_single_blocks_only(self, holder: Holder) -> bool:
        """Whether a holder was found to know no CARs."""
        return holder.name in self._single

    async def read_block(self, holder: Holder, cid: bytes, what: str) -> bytes:
        """One block as a holder answers it, not verified. Raises `Failed`."""
        return await self._whole(holder, holder.block(cid_text(cid)), BLOCK_TYPE, BLOCK_MAX_BYTES, what)

    async def read_car(
        self, holder: Holder, cid: bytes, take: Take, moved: Callable[[int], None], what: str
    ) -> None:
        """Have the CAR of all below `cid` taken. Raises `Failed`, and as `take`."""
        await self._asked(holder, holder.car(cid_text(cid)), CAR_TYPE, what, take, moved)

    async def _whole(self, holder: Holder, ask: Ask, media_type: str, limit_bytes: int, what: str) -> bytes:
        """A whole body. Raises `Failed`, also beyond `limit_bytes`."""
        body = b""

        def take(line: Line, lane: Lane) -> None:
            nonlocal body
            body = line.rest(limit_bytes + 1)

        await self._asked(holder, ask, media_type, what, take)
        if len(body) > limit_bytes:
            raise Failed(Broken(f"{what}: more than {limit_bytes} bytes were answered"), lasting=True)
        return body

    async def _asked(
        self,
        holder: Holder,
        ask: Ask,
        media_type: str,
        what: str,
        take: Take,
        moved: Callable[[int], None] = lambda size: None,
    ) -> None:
        try:
            await self._exchanges.ask(holder, ask, media_type, what, take, moved)
        except Failed as failed:
            if failed.no_car:
                self._single.add(holder.name)
            raise


class _Bringing:
    """One tree on its way: what is still wanted, and who works on it."""

    def __init__(self, blocks: Blocks, sink: Sink, moved: Callable[[int], None], what: str) -> None:
        self._blocks = blocks
        self._sink = sink
        self._moved = moved
        self._what = what
        self._waiting: list[_Unit] = []
        self._busy = 0
        self._changed = asyncio.Condition()
        self._done_bytes = 0

    def add(self, units: list[_Unit]) -> None:
        """Say what else is wanted, in order."""
        self._waiting.extend(reversed(units))

    async def work(self) -> None:
        """Work as long as something is wanted, or may come to be by the work of others."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting or not self._busy)
                if not self._waiting:
                    return
                unit = self._waiting.pop()
                self._busy += 1
            left = await self._unit(unit)
            async with self._changed:
                self.add(left)
                self._busy -= 1
                self._changed.notify_all()

    async def _unit(self, unit: _Unit) -> list[_Unit]:
        """Ask one holder once; what is left to be asked for, in order."""
        holder = self._blocks.choose(unit)
        taking = Taking(unit.wants, self._sink, holder.name)
        self._wrote(await in_thread(lambda _: taking.begin()))
        if not taking.left():
            return []
        splits = unit.weight > SPLIT_BYTES and unit.asked == unit.wants[0].cid
        single = unit.single or splits or unit.is_one_block or self._blocks.has_single_blocks_only(holder)
        try:
            await (self._one if single else self._car)(unit, taking, holder)
        except Failed as failed:
            return await self._failed(unit, taking, holder, failed)
        left = taking.left()
        if not left:
            return []
        if splits and sum(want.total_bytes for want in left) < SPLIT_PART_BYTES * len(left):
            # Too small to be asked for one by one: all together, and the block that is there already once more.
            return [_Unit(unit.asked, left)]
        return await _each_by_itself(left)

    async def _failed(self, unit: _Unit, taking: Taking, holder: Holder, failed: Failed) -> list[_Unit]:
        fault = failed.fault
        if isinstance(fault, TimedOut) and self._done_bytes:
            fault = TimedOut(f"{fault.message}, after {self._done_bytes} bytes", hint=fault.hint)
            failed = Failed(fault, lasting=failed.lasting)
        await self._blocks.note(unit, holder, failed)
        if not taking.taken:
            # What ended a CAR is often told only to who asks for the very block that should have come.
            unit.single = unit.single or isinstance(fault, Broken)
            return [unit]
        left = taking.left()
        if left and failed.lasting:
            # The one that was next is the one that this holder has no answer for.
            first = _Unit(left[0].cid, [left[0]])
            first.tries, first.last = {holder.name: self._blocks.limits.tries}, failed.fault
            return [first, *await _each_by_itself(left[1:])]
        return await _each_by_itself(left)

    async def _one(self, unit: _Unit, taking: Taking, holder: Holder) -> None:
        block = await self._blocks.read_block(holder, unit.wants[0].cid, self._what)
        self._wrote(await in_thread(lambda _: self._told(lambda: taking.only(block))))

    async def _car(self, unit: _Unit, taking: Taking, holder: Holder) -> None:
        """Read a CAR to its end; it is an error if then nothing was in it that was wanted."""

        def take(line: Line, lane: Lane) -> None:
            while size := line.read_into(taking.room()):
                lane.moved += self._told(partial(taking.came, size, lane.check))
            self._told(taking.end)

        await self._blocks.read_car(holder, unit.asked, take, self._wrote, self._what)
        if taking.left() and not taking.taken:
            missing = cid_text(taking.left()[0].cid)
            lacks = f"{self._what}: the CAR of {holder.name} lacks the block {missing}"
            raise Failed(Broken(lacks, kind="Cut"))

    def _told(self, work: Callable[[], int]) -> int:
        """Do some of a thread's work; what the sender is to blame for becomes `Failed`."""
        try:
            return work()
        except Untrue as untrue:
            fault = untrue.fault
            told = type(fault)(f"{self._what}: {fault.message}", hint=fault.hint, kind=fault.kind)
            raise Failed(told, lasting=untrue.lies) from untrue

    def _wrote(self, size: int) -> None:
        if size:
            self._done_bytes += size
            self._moved(size)


async def _each_by_itself(wants: list[Want]) -> list[_Unit]:
    """Each is asked for alone. A folder that breaks off may leave forty thousand."""
    return await in_thread(lambda _: [_Unit(want.cid, [want]) for want in wants])
