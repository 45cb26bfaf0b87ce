"""Results to IPFS: added to a Kubo node as a tree of its own, and pinned there.

Knows: what a result may hold, what a job may say of how it is kept, and pinning services. Must not know: HTTP, how a tree is
sent (`adding`), or how it is pinned (`keeping`).

Nothing stays pinned of a result that failed, and no pin that is not ours is ever taken back, nor one that a pinning service
had. What is done to a node may be done twice, so one that is restarted meanwhile costs tries. Links are stored as links, if
they stay inside.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec
from msgspec import Struct

from protocol.errors import Broken, Invalid, TimedOut, Unavailable
from protocol.jobs import Spec
from storage.contract import Form, Label, Progress
from storage.ipfs.adding import ADDING, Adding
from storage.ipfs.driver import IpfsDriver
from storage.ipfs.keeping import kept, undone_by
from storage.ipfs.kubo import Kubo
from storage.ipfs.params import IpfsSettings, PublisherParams
from storage.ipfs.trailers import asked_lines
from storage.long_lists import Packed
from storage.threads import Stop, in_thread
from storage.tree import Entry, Kind, check_link, walk
from storage.wire import Silent

if TYPE_CHECKING:
    from storage.contract import Publisher

TOP_MAX: Final = 1000
"""With more entries at its top a result gets no mark: it might be what makes Kubo split the root into several blocks."""
ENTRY_S: Final = 0.002
"""How much longer Kubo may be silent for each file: when it has all of them it makes the folders, before it says a word.
Measured: 9 s for 60,000 files."""
ILL_MAX: Final = 5
"""How many questions in a row a pinning service may leave unanswered while it keeps a result."""
NOTE: Final = "ipfs-add"
"""A file of this name among an execution's notes says that its result is being published."""
ANY_STATE: Final = ("queued", "pinning", "pinned", "failed")


class _RemotePin(Struct, frozen=True, rename="pascal"):
    """What a pinning service says of a pin."""

    status: str = ""


class IpfsPublisher(IpfsDriver):
    """Results to IPFS. `check` is called once all was sent, in a thread: if it raises a fault, nothing stays pinned."""

    params: ClassVar[Form] = PublisherParams

    def __init__(
        self,
        kubo: str | Kubo,
        settings: IpfsSettings | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(kubo, settings)
        self._check = check

    async def publish(self, folder: Path, params: PublisherParams, label: Label, progress: Progress) -> Spec:
        """Add and pin the folder; the answer is a spec of source ``ipfs`` with its CID. Raises as `Publisher`."""
        tree = await in_thread(lambda stop: _checked(folder, label, stop))
        told = 0

        def grown(done_bytes: int, total_bytes: int | None) -> None:
            nonlocal told
            # Another try begins anew; progress does not.
            if done_bytes > told:
                told = done_bytes
                progress(done_bytes, total_bytes)

        tries = 0

        async def add(options: Mapping[str, str], mark: str) -> str:
            # Modes are kept only where one differs from the rule: Kubo then makes no raw leaves, whatever else it is told.
            modes = {"preserve-mode": "true"} if tree.has_modes else {}
            wanted = {**options, **modes, **_shape(params)}
            silence_s = self._kubo.settings.silence_s + ENTRY_S * len(tree.entries)
            adding = Adding(self._kubo, folder, tree.entries, tree.size_bytes, wanted, mark)

            async def once() -> str:
                nonlocal tries
                tries += 1
                return await self._added(adding, silence_s, grown)

            return await self._kubo.patiently(once)

        await self._kubo.ready()
        name = params.name or label.execution
        async with AsyncExitStack() as undoing:
            tries += undoing.enter_context(_begun(label.notes))
            keeping = kept(self._kubo, add, name, tree.mark, lambda: tries > 1)
            cid = await undoing.enter_async_context(keeping)
            if self._check is not None:
                check = self._check
                await in_thread(lambda _: check())
            if params.remote:
                await undoing.enter_async_context(self._kept_by(params.remote, cid, name))
        return Spec("ipfs", {"CID": cid})

    async def _added(self, adding: Adding, silence_s: float, progress: Progress) -> str:
        """Send the tree; answers with the CID of its root."""
        done = 0

        def moved(size: int) -> None:
            nonlocal done
            done += size
            progress(done, adding.size_bytes)

        try:
            await self._kubo.once(iter([adding]), ADDING, moved, silence_s=silence_s)
        except TimedOut as fault:
            if not isinstance(fault.__cause__, Silent):
                raise
            said = f"{ADDING}: Kubo at {self._kubo.endpoint.url} took nothing and answered nothing for {silence_s:g} s"
            raise TimedOut(said, hint="Is that machine overloaded, or its disk full?") from fault
        return adding.root

    @asynccontextmanager
    async def _kept_by(self, service: str, cid: str, name: str) -> AsyncIterator[None]:
        """Let a pinning service fetch and keep the root, and wait until it does; taken back as a pin of the node is."""
        what = f"pinning {cid} at the service {service!r}"
        if "pinned" in await self._remote_states(service, cid, what):
            yield
            return
        undo = {"service": service, "cid": cid, "name": name, "status": ANY_STATE, "force": "true"}
        async with undone_by(self._kubo, "pin/remote/rm", undo, what):
            # Kubo would wait itself, without a sign of life.
            wanted = {"arg": cid, "service": service, "name": name, "background": "true"}
            silence_s = self._kubo.settings.silence_s
            await self._kubo.ask("pin/remote/add", _RemotePin, wanted, what=what, silence_s=silence_s)
            await self._until_kept(service, cid, what)
            yield

    async def _until_kept(self, service: str, cid: str, what: str) -> None:
        """Ask a pinning service until it has all of it. Raises `Unavailable` if it says that it will not, `TimedOut`.

        That it does not answer now and then, in what may be an hour, says nothing of the result.
        """
        pause_s = 0.1
        limit_s = self._kubo.settings.remote_s
        ill = 0
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    try:
                        states = await self._remote_states(service, cid, what)
                        ill = 0
                    except (Unavailable, TimedOut):
                        states, ill = set(), ill + 1
                        if ill > ILL_MAX:
                            raise
                    if "pinned" in states:
                        return
                    if "failed" in states:
                        hint = "Ask the service for the reason, or leave RemoteService out."
                        raise Unavailable(f"{what}: it failed", hint=hint)
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, 5.0)
        except TimeoutError as error:
            raise TimedOut(f"{what}: it does not have all of it after {limit_s:g} s") from error

    async def _remote_states(self, service: str, cid: str, what: str) -> set[str]:
        """What a pinning service says of its pins of a CID."""
        options = {"service": service, "cid": cid, "status": ANY_STATE}
        found = await asked_lines(self._kubo, "pin/remote/ls", options, what)
        try:
            return {msgspec.json.decode(line, type=_RemotePin).status for line in found}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Broken(f"{what}: Kubo answered {b' '.join(found)[:100]!r}") from error


@contextmanager
def _begun(notes: Path | None) -> Iterator[bool]:
    """Whether a former process began to publish this and was killed; while this is open, that is noted of ours."""
    if notes is None:
        yield False
        return
    note = notes / NOTE
    former = note.exists()
    with suppress(OSError):
        note.touch()
    try:
        yield former
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)


def _shape(params: PublisherParams) -> dict[str, str]:
    """What ``add`` is told of the tree's shape: only what was asked for, else it is as the node's owner has it."""
    options: dict[str, str] = {}
    if params.cid_version is not None:
        options["cid-version"] = str(params.cid_version)
    if params.raw_leaves is not None:
        options["raw-leaves"] = str(params.raw_leaves).lower()
    if params.chunker:
        options["chunker"] = params.chunker
    return options


class _Tree(Struct, frozen=True):
    """What is published. `mark` is what is beside it for its pin's sake; empty if that might change more than the root's
    block. `has_modes`: some file is executable."""

    entries: Packed[Entry]
    size_bytes: int
    mark: str
    has_modes: bool


def _checked(folder: Path, label: Label, stop: Stop) -> _Tree:
    """Everything in the folder. Raises `Invalid`, which names it, for what IPFS or its readers would not take."""
    mark = f".shoal-{label.execution}"
    entries = Packed(Entry)
    top = size_bytes = 0
    taken = has_modes = False
    for entry in walk(folder):
        stop()
        try:
            entry.path.encode()
            entry.target.encode()
        except UnicodeEncodeError as error:
            hint = "Rename it, or publish to S3 or the node: an archive takes any name."
            raise Invalid(
                f"the name {os.fsencode(entry.path)!r} is not UTF-8", hint=hint, kind="Name"
            ) from error
        if entry.kind is Kind.LINK:
            check_link(entry.path, entry.target)
        entries.append(entry)
        size_bytes += entry.size_bytes
        has_modes |= entry.executable
        top += "/" not in entry.path
        taken |= entry.path == mark
    return _Tree(entries, size_bytes, "" if top > TOP_MAX or taken else mark, has_modes)


if TYPE_CHECKING:

    def _fits(driver: IpfsPublisher) -> Publisher[PublisherParams]:
        return driver
