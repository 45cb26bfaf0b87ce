"""The inputs that a node keeps: brought once, whole or not at all, read by any number of executions.

Knows: folders of entries, who is waiting for one, and how to tell a right one from a wrong one. Must not know: executions,
sources, or which entry goes first (`storage.shelf`).

In the folder: ``<key>/data`` (a file or a folder, what programs see), ``<key>/entry`` (what it is), ``<key>/manifest`` (its
bytes, written down). The key follows from type and identity. An entry is built under a name of its own and then renamed:
who finds it finds it whole, whenever the process was killed. Names that begin with a dot are of entries on their way in or
out; they are swept when a process starts.

**What is not waited for.** Nothing here waits for the disk. After ``kill -9`` the system still has every byte that was
written; only a crash of the system loses some, and then its boot id is another one. So an entry of an earlier boot is not
trusted: before it is served again it is compared with its manifest, which is cheaper than to bring it anew, and one
without a manifest goes. A manifest is written behind the entry's first use, one entry at a time.

**One fetch for all.** Whoever asks while an entry is on its way waits for the same fetch. Each waits on its own: one that is
cancelled leaves, and the fetch ends with the last. A fault is everybody's; the next to ask fetches anew.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Final

import msgspec
import structlog

from protocol.errors import Fault
from storage.arrival import ARRIVING, disk_faults, remove_tree
from storage.cache_entries import (
    DATA,
    ENTRY,
    MANIFEST,
    SPOILED,
    Entry,
    boot_id,
    fit_entry,
    key_of,
    put_away,
    replace_file,
)
from storage.contract import Fetched, Progress, Resolved
from storage.flight import Flight
from storage.long_lists import in_order
from storage.manifest import difference, write_manifest
from storage.shelf import Holder, Key, Shelf
from storage.spread import spread
from storage.threads import Stop, in_thread
from storage.tree import size_of

_WRITING: Final = "manifest"
_log = structlog.get_logger(__name__)

Fetch = Callable[[Path, Progress], Awaitable[Fetched]]
"""Brings an input to a path, as `storage.contract.Source.fetch` does."""


class Cache:
    """One node's inputs in `folder`, which is its alone. Its tasks belong to `tasks`; `open` comes first.

    `changed` is told when what is here, or held, has changed; `spoiled` when an entry turns out to be wrong, and why:
    whoever was given it before has wrong bytes, or none any more.
    """

    def __init__(
        self,
        folder: Path,
        budget_bytes: int,
        tasks: asyncio.TaskGroup,
        *,
        changed: Callable[[], None] = lambda: None,
        spoiled: Callable[[Key, str], None] = lambda key, why: None,
        boot: str | None = None,
    ) -> None:
        self.shelf = Shelf(budget_bytes)
        self._folder = folder
        self._tasks = tasks
        self._changed = changed
        self._spoiled = spoiled
        self._boot = boot if boot is not None else boot_id()
        self._entries: dict[Key, Entry] = {}
        self._doubted: set[Key] = set()
        self._flights: dict[Key, Flight] = {}
        self._unwritten: dict[Key, None] = {}
        self._reading = asyncio.Lock()
        """Had by whoever reads an entry's bytes or writes its manifest: one at a time is hard enough on the disk."""
        self._writing: asyncio.Task[None] | None = None
        self._leaving: list[Path] = []
        self._removing: asyncio.Task[None] | None = None

    async def open(self, held: Mapping[Holder, Collection[Key]] | None = None) -> None:
        """Take up what is there, and sweep what was on its way when the last process ended.

        `held` is what those hold, of what is here, whom that process has left: it stays, whatever the budget.
        """
        # There may be a hundred thousand, and nobody else has the cache yet.
        await in_thread(lambda _: self._take_up())
        for holder, keys in (held or {}).items():
            self.shelf.claim(holder, {key: 0 for key in keys if key in self.shelf})
        self._settle()
        self._write_on()

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    # Who holds what

    def claim(self, holder: Holder, sizes: Mapping[Key, int]) -> None:
        """Let it hold these, whether they are here or are to be brought; they stay until it lets go of them."""
        self.shelf.claim(holder, sizes)
        self._changed()

    def release(self, holder: Holder) -> None:
        """It needs none of them any more. Harmless when repeated."""
        for key in self.shelf.held_by(holder):
            with contextlib.suppress(OSError):
                os.utime(f"{self._folder}/{key}/{ENTRY}")
        self.shelf.release(holder)
        self._settle()

    def path_of(self, key: Key) -> Path:
        """Where an entry that is here has its data."""
        return Path(f"{self._folder}/{key}/{DATA}")

    def tokens(self, most: int) -> dict[str, int]:
        """The tokens of what is here with their sizes, the most recently used."""
        newest = (self._entries[key] for key in self.shelf.newest())
        found: dict[str, int] = {}
        for entry in newest:
            if len(found) == most:
                break
            if entry.token:
                found.setdefault(entry.token, entry.size_bytes)
        return found

    async def make_room(self, size_bytes: int) -> None:
        """Remove idle entries of `size_bytes` together, as far as there are any; returns when their room is free."""
        self._evict(self.shelf.excess(freed_bytes=size_bytes))
        if self._removing is not None:
            await asyncio.wait([self._removing])

    # Bringing

    async def bring(
        self, type: str, resolved: Resolved, fetch: Fetch, progress: Progress, token: str = ""
    ) -> tuple[Path, bool]:
        """Where the input is that its asker has claimed, and whether it was here already. Raises what `fetch` raises."""
        key = key_of(type, resolved.identity)
        self._glance(key)
        if key in self.shelf and key not in self._doubted:
            self._note_token(key, token)
            return self.path_of(key), True
        flight = self._flights.get(key)
        if flight is None:
            entry = Entry(type.lower(), resolved.identity, 0, self._boot, token)
            flight = self._flights[key] = Flight()
            flight.task = self._tasks.create_task(self._fly(key, entry, flight, fetch))
        try:
            cached = await flight.join(progress)
        finally:
            if flight.deserted and self._flights.get(key) is flight:
                # Not to be joined any more. Its asker waits until nothing of it is left.
                del self._flights[key]
                await flight.end()
        return self.path_of(key), cached

    async def _fly(self, key: Key, entry: Entry, flight: Flight, fetch: Fetch) -> None:
        try:
            cached = key in self.shelf and await self._still_right(key)
            if not cached:
                await self._arrive(key, entry, flight, fetch)
            flight.landed(cached)
        except asyncio.CancelledError as cancelled:
            flight.failed(cancelled)
            raise
        except Exception as error:  # noqa: BLE001 (it is raised in each that waits)
            flight.failed(error)
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]

    async def _arrive(self, key: Key, entry: Entry, flight: Flight, fetch: Fetch) -> None:
        """Bring it to a name of its own, and rename that."""
        beside = self._folder / f"{ARRIVING}{secrets.token_hex(8)}"

        def told(done_bytes: int, total_bytes: int | None) -> None:
            if done_bytes > self.shelf.size_of(key):
                self.shelf.resize(key, done_bytes)
                self._changed()
            flight.told(done_bytes, total_bytes)

        try:
            with disk_faults(beside):
                self._make_folder()
                beside.mkdir()
            fetched = await fetch(beside / DATA, told)
            if fetched.path != beside / DATA:
                raise TypeError(f"a source of type {entry.type} said cacheable, and brought {fetched.path}")
            # Who writes just after very much was written is held up by the system until some of that is on the disk.
            entry = await in_thread(lambda _: _noted(entry, beside))
            await asyncio.sleep(0)
            beside.rename(self._folder / key)
        except BaseException:
            await in_thread(lambda _: remove_tree(beside))
            raise
        self._entries[key] = entry
        self.shelf.put(key, entry.size_bytes)
        self._unwritten[key] = None
        self._settle()
        self._write_on()

    async def _still_right(self, key: Key) -> bool:
        """Compare an entry of an earlier boot with its manifest; a wrong one goes."""
        folder = self._folder / key
        async with self._reading:
            wrong = await in_thread(lambda stop: difference(folder / DATA, folder / MANIFEST, stop))
        if wrong or key not in self.shelf:
            self._spoil(key, wrong)
            return False
        self._doubted.discard(key)
        entry = self._entries[key] = msgspec.structs.replace(self._entries[key], boot=self._boot)
        # On a full disk it is right all the same, and the next process compares it again.
        with contextlib.suppress(OSError):
            await in_thread(lambda _: replace_file(folder / ENTRY, msgspec.json.encode(entry)))
        return True

    def _note_token(self, key: Key, token: str) -> None:
        """The newest way in which it was asked for is the one that is told."""
        entry = self._entries[key]
        if token and entry.token != token:
            self._entries[key] = msgspec.structs.replace(entry, token=token)

    # What is wrong

    def look(self) -> None:
        """See whether anything that is held was found to be spoiled by whoever verified it beside the node."""
        for key in self.shelf.held():
            self._glance(key)

    def _glance(self, key: Key) -> None:
        """Serve no more what is marked as spoiled, or was removed by other hands."""
        if key not in self.shelf:
            return
        if os.path.exists(f"{self._folder}/{key}/{SPOILED}"):
            self._spoil(key, "its bytes are not those that came")
        elif not os.path.exists(f"{self._folder}/{key}/{DATA}"):
            self._spoil(key, "it was removed by other hands")

    def _spoil(self, key: Key, why: str) -> None:
        """Serve it no more, and tell of those who read it."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        _log.error("an input in the cache is spoiled", identity=entry.identity, type=entry.type, why=why)
        self._doubted.discard(key)
        self._unwritten.pop(key, None)
        self._put_away(key)
        self.shelf.lose(key)
        self._spoiled(key, why)
        self._changed()

    # Behind the work

    def _settle(self) -> None:
        """Keep the budget, and tell of the change."""
        self._evict(self.shelf.excess())
        self._changed()

    def _evict(self, keys: list[Key]) -> None:
        for key in keys:
            del self._entries[key]
            self._doubted.discard(key)
            self._unwritten.pop(key, None)
            self._put_away(key)
            self.shelf.lose(key)
        if keys:
            self._changed()

    def _put_away(self, key: Key) -> None:
        """Give it a name of what goes, at once; removing follows. Where the disk does not allow it, it stays and is told."""
        try:
            self._leaving.append(put_away(self._folder / key))
        except FileNotFoundError:
            return
        except OSError as error:
            _told_to_stay(self._folder / key, error)
            return
        if self._removing is None or self._removing.done():
            self._removing = self._tasks.create_task(self._remove())

    async def _remove(self) -> None:
        while self._leaving:
            leaving, self._leaving = self._leaving, []
            for path in leaving:
                try:
                    await in_thread(partial(_removed, path))
                except (Fault, OSError) as error:
                    _told_to_stay(path, error)

    def _write_on(self) -> None:
        if self._unwritten and (self._writing is None or self._writing.done()):
            self._writing = self._tasks.create_task(self._write_manifests())

    async def _write_manifests(self) -> None:
        while self._unwritten:
            key = next(iter(self._unwritten))
            del self._unwritten[key]
            folder = self._folder / key
            self.shelf.claim(_WRITING, {key: 0}, used=False)
            try:
                async with self._reading:
                    await in_thread(partial(write_manifest, folder / DATA, folder / MANIFEST))
            except (Fault, OSError) as error:
                if key in self.shelf:
                    _log.warning("no manifest could be written", path=str(folder), fault=str(error))
            finally:
                self.shelf.release(_WRITING)
            self._settle()

    def _take_up(self) -> None:
        for _, key, entry, written in in_order(self._found(), itemgetter(0)):
            self._entries[key] = entry
            self.shelf.put(key, entry.size_bytes)
            if entry.boot != self._boot:
                self._doubted.add(key)
            elif not written:
                self._unwritten[key] = None

    def _found(self) -> list[tuple[float, Key, Entry, bool]]:
        """The entries that are there, with the time of their last use and whether they have a manifest; others go."""
        self._make_folder()
        spread(self._folder)
        found = []
        for path in self._folder.iterdir():
            entry = fit_entry(path, self._boot)
            if entry is None:
                if not path.name.startswith("."):
                    _log.info("removing what is no input of the cache", path=str(path))
                try:
                    remove_tree(path)
                except (Fault, OSError) as error:
                    _told_to_stay(path, error)
                continue
            found.append(((path / ENTRY).stat().st_mtime, path.name, entry, (path / MANIFEST).exists()))
        return found


def _noted(entry: Entry, folder: Path) -> Entry:
    """The entry with the size of its data, written beside it."""
    entry = msgspec.structs.replace(entry, size_bytes=size_of(folder / DATA))
    with disk_faults(folder):
        (folder / ENTRY).write_bytes(msgspec.json.encode(entry))
    return entry


def _removed(path: Path, stop: Stop) -> None:
    remove_tree(path)


def _told_to_stay(path: Path, error: Exception) -> None:
    _log.error("an input in the cache cannot be removed", path=str(path), fault=str(error))
