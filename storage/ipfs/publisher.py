"""Results to IPFS: added to a Kubo node as a tree of its own, and pinned there.

Knows: what a result may hold, and that nothing stays pinned of one that failed. Must not know: HTTP, or how a tree is sent
(`adding`).

The tree is pinned afterwards, by itself: then it is known whether the same bytes were
pinned before, and a pin that is not ours is never taken back; nor is one that a pinning service had. Both may be done twice,
so a node that is restarted meanwhile costs tries. Links are stored as links, if they stay inside.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec
from msgspec import Struct

from protocol.errors import Broken, Fault, Invalid, TimedOut, Unavailable
from protocol.jobs import Spec
from storage.contract import Form, Label, Progress
from storage.ipfs.adding import ADDING, Adding
from storage.ipfs.driver import IpfsDriver
from storage.ipfs.kubo import Away, Options, read_bounded
from storage.ipfs.params import PublisherParams
from storage.threads import in_thread
from storage.tree import Entry, Kind, check_link, walk
from storage.wire import Silent

if TYPE_CHECKING:
    from storage.contract import Publisher

UNDO_S: Final = 20.0
ILL_MAX: Final = 5
"""So many questions in a row may a pinning service fail to answer while it keeps a result."""
ANY_STATE: Final = ("queued", "pinning", "pinned", "failed")


class _Pins(Struct, frozen=True, rename="pascal"):
    keys: dict[str, msgspec.Raw] = {}


class _Done(Struct, frozen=True, rename="pascal"):
    pins: list[str] | None = None


class _RemotePin(Struct, frozen=True, rename="pascal"):
    """What a pinning service says of a pin."""

    status: str = ""


class IpfsPublisher(IpfsDriver):
    """Results to IPFS."""

    params: ClassVar[Form] = PublisherParams

    async def publish(self, folder: Path, params: PublisherParams, label: Label, progress: Progress) -> Spec:
        """Add and pin the folder; the answer is a spec of source ``ipfs`` with its CID. Raises as `Publisher`."""
        entries = await in_thread(lambda _: _checked(folder))
        told = 0

        def grown(done_bytes: int, total_bytes: int | None) -> None:
            nonlocal told
            # Another try begins anew; progress does not.
            if done_bytes > told:
                told = done_bytes
                progress(done_bytes, total_bytes)

        await self._kubo.ready()
        cid = await self._kubo.patiently(lambda: self._add(folder, entries, params, grown))
        name = params.name or label.execution
        async with AsyncExitStack() as undoing:
            await undoing.enter_async_context(self._pinned(cid, name))
            if params.remote:
                await undoing.enter_async_context(self._kept_by(params.remote, cid, name))
        return Spec("ipfs", {"CID": cid})

    async def _add(
        self, folder: Path, entries: list[Entry], params: PublisherParams, progress: Progress
    ) -> str:
        """Send the tree; answers with the CID of its root."""
        options = {"pin": "false", "progress": "false", **_modes(entries), **_shape(params)}
        adding = Adding(self._kubo, folder, entries, options)
        done = 0

        def moved(size: int) -> None:
            nonlocal done
            done += size
            progress(done, adding.size_bytes)

        try:
            await self._kubo.once(adding, moved)
        except TimedOut as fault:
            if not isinstance(fault.__cause__, Silent):
                raise
            silence_s = self._kubo.settings.silence_s
            said = f"{ADDING}: Kubo at {self._kubo.endpoint.url} took nothing and answered nothing for {silence_s:g} s"
            raise TimedOut(said, hint="Is that machine overloaded, or its disk full?") from fault
        return adding.root

    @asynccontextmanager
    async def _pinned(self, cid: str, name: str) -> AsyncIterator[None]:
        """Pin the root. Where it was not pinned before, a fault or cancellation, also a later one, takes the pin back."""
        what = f"pinning {cid}"
        if await self._kubo.patiently(lambda: self._is_pinned(cid)):
            yield
            return
        async with self._undone_by("pin/rm", {"arg": cid}, what):
            silence_s = self._kubo.settings.silence_s
            options = {"arg": cid, "name": name}
            done = await self._kubo.patiently(
                lambda: self._kubo.ask("pin/add", _Done, options, what=what, silence_s=silence_s)
            )
            if not done.pins:
                raise Broken(f"{what}: Kubo does not say that it did")
            yield

    async def _is_pinned(self, cid: str) -> bool:
        try:
            pins = await self._kubo.ask("pin/ls", _Pins, {"arg": cid, "type": "recursive"}, what=f"pin {cid}")
        except (Away, TimedOut):
            raise
        except Fault:
            # That it is not pinned is an error to Kubo, too.
            return False
        return bool(pins.keys)

    @asynccontextmanager
    async def _kept_by(self, service: str, cid: str, name: str) -> AsyncIterator[None]:
        """Let a pinning service fetch and keep the root, and wait until it does; taken back as a pin of the node is."""
        what = f"pinning {cid} at the service {service!r}"
        if "pinned" in await self._remote_states(service, cid, what):
            yield
            return
        undo = {"service": service, "cid": cid, "name": name, "status": ANY_STATE, "force": "true"}
        async with self._undone_by("pin/remote/rm", undo, what):
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
        silence_s = self._kubo.settings.silence_s
        async with self._kubo.call("pin/remote/ls", options, what=what, silence_s=silence_s) as response:
            body = await read_bounded(response, what, silence_s)
        try:
            return {msgspec.json.decode(line, type=_RemotePin).status for line in body.splitlines() if line}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Broken(f"{what}: Kubo answered {body[:100]!r}") from error

    @asynccontextmanager
    async def _undone_by(self, command: str, options: Options, what: str) -> AsyncIterator[None]:
        """On a fault or cancellation inside, call what takes back what may have been done."""
        try:
            yield
        except BaseException:
            with suppress(Fault, TimeoutError):
                async with asyncio.timeout(UNDO_S), self._kubo.call(command, options, what=what) as response:
                    await response.read()
            raise


def _modes(entries: list[Entry]) -> dict[str, str]:
    """Modes are kept only where one differs from the rule: Kubo then makes no raw leaves, whatever else it is told."""
    return {"preserve-mode": "true"} if any(entry.executable for entry in entries) else {}


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


def _checked(folder: Path) -> list[Entry]:
    """Everything in the folder. Raises `Invalid`, which names it, for what IPFS or its readers would not take."""
    entries = list(walk(folder))
    for entry in entries:
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
    return entries


if TYPE_CHECKING:

    def _fits(driver: IpfsPublisher) -> Publisher[PublisherParams]:
        return driver
