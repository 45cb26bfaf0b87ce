"""A result in a Kubo node and the pin that keeps it: ours, or one that was there before, and neither taken for the other.

Knows: a node's pins. Must not know: how a tree is sent (`adding`), what a result may hold, pinning services.

``pin/add`` reads every block again before it believes that a tree is whole. ``add`` pins what it adds without that, and
keeps the garbage collector away until it has; but where somebody has a pin on the same CID, it takes that over, name and
all, without a word. So what is added is the result with one entry more, the mark, which makes a root that nobody else has.
Its block without the mark is that of the result's own root, and ``pin/update`` moves the pin there, with its name: it reads
those two blocks alone, and refuses, in one step, where there is a pin already (docs/adr/0011).

A mark is the same for every try of one execution: what a killed one left pinned, the next one moves on. Kubo may still be
at what an earlier try has sent, and pin the mark once more behind the next one's back; so a try that is not the first waits
until Kubo is done with the others, and looks again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec
from msgspec import Struct

from protocol.errors import Broken, Fault, TimedOut, Unavailable
from storage.ipfs.cid import check_block, cid_like, cid_text, parts_of, read_cid
from storage.ipfs.dag_pb import Type, read_node, without_link
from storage.ipfs.kubo import Away, Kubo, Options, read_bounded
from storage.ipfs.trailers import asked_lines

Add = Callable[[Mapping[str, str], str], Awaitable[str]]
"""Adds a result, with these options for ``add``, and with a mark if one is named; answers with the root's CID."""

UNDO_S: Final = 20.0
LOOKS: Final = 2
LOOK_AGAIN_S: Final = 0.5
"""Kubo may still be at what we have hung up on, and pin it in the end."""
STRAY_S: Final = 60.0
"""How long to wait for the ``add`` of an earlier try: it has all that it will ever get."""
SHA_256: Final = 0x12
_NOT_PINNED: Final = "not pinned or pinned indirectly"
_NO_LONGER_THERE: Final = "'from' cid was not recursively pinned"
_THERE_ALREADY: Final = "'to' cid was already recursively pinned"


class _Pin(Struct, frozen=True, rename="pascal"):
    """How something is pinned."""

    name: str = ""


class _Pins(Struct, frozen=True, rename="pascal"):
    keys: dict[str, _Pin] = {}


class _Asked(Struct, frozen=True, rename="pascal"):
    """What was asked of Kubo lately; `active` while it is at it."""

    command: str
    active: bool
    options: dict[str, Any] = {}


class _Done(Struct, frozen=True, rename="pascal"):
    pins: list[str] | None = None


class _Put(Struct, frozen=True, rename="pascal"):
    """Answer of ``block/put``."""

    key: str


@asynccontextmanager
async def kept(kubo: Kubo, add: Add, name: str, mark: str, again: Callable[[], bool]) -> AsyncIterator[str]:
    """Add a result and pin it by `name`; the context's value is its CID. Without a `mark` every block is read twice.

    A fault or cancellation, also a later one within the context, takes the pin back if it is ours. `again` says, once the
    result is added, whether it was sent before.
    """
    if mark and kubo.names_added:
        marked = _Marked(kubo, name, mark, again)
        try:
            cid = await marked.set(add)
            if cid:
                yield cid
                return
        except BaseException:
            await marked.take_back()
            raise
    cid = await add({"pin": "false"}, "")
    async with _pinned(kubo, cid, name):
        yield cid


@asynccontextmanager
async def undone_by(kubo: Kubo, command: str, options: Options, what: str) -> AsyncIterator[None]:
    """On a fault or cancellation inside, call what takes back what may have been done."""
    try:
        yield
    except BaseException:
        with suppress(Fault, TimeoutError):
            async with asyncio.timeout(UNDO_S), kubo.call(command, options, what=what) as response:
                await response.read()
        raise


@asynccontextmanager
async def _pinned(kubo: Kubo, cid: str, name: str) -> AsyncIterator[None]:
    """Pin what was added without a pin: only then is it known whether it was pinned before."""
    what = f"pinning {cid}"
    if await kubo.patiently(lambda: is_pinned(kubo, cid)):
        yield
        return
    async with undone_by(kubo, "pin/rm", {"arg": cid}, what):
        await kubo.patiently(lambda: _pin(kubo, cid, name, what))
        yield


async def _pin(kubo: Kubo, cid: str, name: str, what: str) -> None:
    """Have a tree pinned. Kubo reads all of it for that, which may take long, and tells of it as it goes."""
    told = await asked_lines(kubo, "pin/add", {"arg": cid, "name": name, "progress": "true"}, what)
    try:
        done = any(msgspec.json.decode(line, type=_Done).pins for line in told)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Broken(f"{what}: Kubo answered {told[-1][:100]!r}") from error
    if not done:
        raise Broken(f"{what}: Kubo does not say that it did")


async def is_pinned(kubo: Kubo, cid: str) -> bool:
    """Whether a node has a pin on all of a tree, which it then has whole."""
    try:
        pins = await kubo.ask("pin/ls", _Pins, {"arg": cid, "type": "recursive"}, what=f"pin {cid}")
    except (Away, TimedOut):
        raise
    except Fault:
        # That it is not pinned is an error to Kubo, too.
        return False
    return bool(pins.keys)


async def _changed(kubo: Kubo, command: str, options: Options, what: str) -> None:
    """Have pins changed. May be done twice, and is while the node goes away."""
    silence_s = kubo.settings.silence_s
    done = await kubo.patiently(lambda: kubo.ask(command, _Done, options, what=what, silence_s=silence_s))
    if not done.pins:
        raise Broken(f"{what}: Kubo does not say that it did")


class _Marked:
    """A result that is added with a mark, and its pin on the way to the result's own root."""

    def __init__(self, kubo: Kubo, name: str, mark: str, again: Callable[[], bool]) -> None:
        self._kubo = kubo
        self._name = name
        self._mark = mark
        self._again = again
        self._cid = ""
        self._root = ""

    async def set(self, add: Add) -> str:
        """Add the result and pin it. The CID of its root; empty where that cannot be told, and then nothing is pinned."""
        # The root that is to be found by others is the one without the mark.
        options = {"pin": "true", "pin-name": self._name, "fast-provide-root": "false"}
        self._cid = await add(options, self._mark)
        root = await self._put_root()
        if root:
            await self._move(root)
        else:
            await self._unpin(self._cid)
        await self._outlast_others()
        return root

    async def _outlast_others(self) -> None:
        """Have nothing left of what earlier tries may have sent: wait until Kubo is at no ``add`` by the name any more."""
        if not self._again():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(STRAY_S):
                while True:
                    if not await self._may_be_adding():
                        break
                    await asyncio.sleep(LOOK_AGAIN_S)
        await self._unpin(self._cid)

    async def take_back(self) -> None:
        """Let go of whatever pin is ours. Raises nothing: a fault is on its way already."""
        with suppress(Fault, TimeoutError):
            async with asyncio.timeout(UNDO_S):
                for cid in [self._cid] if self._cid else await self._all_marked():
                    # Where the mark is not pinned any more, the pin was moved; and while it is, the root's is not ours.
                    if not await self._unpin(cid) and self._root:
                        await self._unpin(self._root)
                if self._cid:
                    await self._outlast_others()

    async def _put_root(self) -> str:
        """Store the block of the root without the mark; its CID. Empty for a root that is more than a block."""
        marked = read_cid(self._cid)
        block = await self._kubo.patiently(lambda: self._block(self._cid))
        check_block(marked, block, self._kubo.endpoint.url)
        if read_node(block).unixfs.type is not Type.DIRECTORY or parts_of(marked).hash != SHA_256:
            return ""
        rest = without_link(block, self._mark.encode())
        root = cid_like(marked, rest)
        if root is None or len(rest) == len(block):
            raise Broken(f"{self._cid} was added and is not what was sent")
        what = f"storing the block {cid_text(root)}"
        options = {"cid-codec": "dag-pb", "mhtype": "sha2-256"}
        put = await self._kubo.patiently(
            lambda: self._kubo.ask("block/put", _Put, options, what=what, block=rest)
        )
        if parts_of(read_cid(put.key)).digest != parts_of(root).digest:
            raise Broken(f"{what}: Kubo stored {put.key[:100]!r}")
        return cid_text(root)

    async def _move(self, root: str) -> None:
        """Have the pin moved to the root; where there is one already, ours goes."""
        self._root = root
        try:
            await _changed(self._kubo, "pin/update", {"arg": [self._cid, root]}, f"pinning {root}")
        except Unavailable as fault:
            if _THERE_ALREADY in fault.message:
                self._root = ""
                await self._unpin(self._cid)
            # An earlier try may have moved it and not been heard of.
            elif _NO_LONGER_THERE not in fault.message or not await is_pinned(self._kubo, root):
                raise

    async def _unpin(self, cid: str) -> bool:
        """Take a pin away; False if there is none."""
        try:
            await _changed(self._kubo, "pin/rm", {"arg": cid}, f"unpinning {cid}")
        except Unavailable as fault:
            if _NOT_PINNED not in fault.message:
                raise
            return False
        return True

    async def _all_marked(self) -> list[str]:
        """What is pinned by the name and has the mark: an answer that did not come may have told of it."""
        asked = {"type": "recursive", "names": "true", "name": self._name}
        look = 0
        while True:
            look += 1
            # Asked first: what ends after that is pinned by the time of the look.
            adding = await self._may_be_adding()
            pins = await self._kubo.ask("pin/ls", _Pins, asked, what=f"pins named {self._name!r}")
            named = [cid for cid, pin in pins.keys.items() if pin.name == self._name]
            found = [cid for cid in named if self._mark.encode() in await self._block(cid)]
            if found or (look >= LOOKS and not adding):
                return found
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _may_be_adding(self) -> bool:
        """Whether Kubo is still at an ``add`` that pins by the name; also where it does not tell what it is at."""
        try:
            asked = await self._kubo.ask("diag/cmds", list[_Asked], what="what Kubo is at")
        except Fault:
            # A node in trouble, or whose API is open to some commands only: whoever waits for it has a limit.
            return True
        return any(
            each.active and each.command == "add" and each.options.get("pin-name") == self._name
            for each in asked
        )

    async def _block(self, cid: str) -> bytes:
        """A block that the node has."""
        what = f"the block {cid}"
        async with self._kubo.call("block/get", {"arg": cid, "offline": "true"}, what=what) as response:
            return await read_bounded(response, what, self._kubo.settings.answer_s)
