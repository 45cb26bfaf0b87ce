"""A node's cache under everything at once: cancelled askers, faults, spoiled and removed entries, a small budget."""

import asyncio
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.errors import Unavailable
from storage.cache import Cache
from storage.cache_entries import DATA, SPOILED, key_of
from storage.contract import Fetched, Progress, Resolved, silent

BUDGET = 300
SIZES = {name: 100 * (number + 1) for number, name in enumerate("abc")}
HOLDERS = st.sampled_from("xyz")
NAMES = st.sampled_from("abc")
ASK = st.tuples(st.just("ask"), HOLDERS, NAMES)
END = st.tuples(st.just("end"), HOLDERS, st.none())
PASS = st.tuples(st.sampled_from(["pass", "settle"]), st.none(), st.integers(1, 8))
HARM = st.tuples(st.sampled_from(["fail", "spoil", "remove", "press"]), st.none(), NAMES)
STEPS = st.lists(st.one_of(ASK, ASK, END, PASS, PASS, HARM), min_size=15, max_size=40)


class World:
    """Executions that ask for inputs and end, each at its own moment."""

    def __init__(self, cache: Cache, folder: Path) -> None:
        self.cache = cache
        self.folder = folder
        self.asking: dict[str, asyncio.Task[None]] = {}
        self.failing: set[str] = set()
        self.at_once: dict[str, int] = {}
        self.harms = 0
        self.given: dict[str, tuple[Path, str, int]] = {}
        """What each was given, and how much harm other hands had done before."""

    async def play(self, what: str, holder: str, more: str | int) -> None:
        """One step."""
        if what == "ask" and holder not in self.asking:
            self.asking[holder] = asyncio.create_task(self.ask(holder, str(more)))
        elif what == "end" and holder in self.asking:
            await self.end(holder)
        elif what == "fail":
            self.failing ^= {str(more)}
        elif what == "spoil" and (at := self.folder / key_of("test", str(more))).exists():
            self.harms += 1
            (at / SPOILED).touch()
            self.cache.look()
        elif what == "remove":
            self.harms += 1
            shutil.rmtree(self.folder / key_of("test", str(more)) / DATA, ignore_errors=True)
        elif what == "press":
            await self.cache.make_room(150)
        elif what == "pass":
            for _ in range(int(more)):
                await asyncio.sleep(0)
        elif what == "settle" and self.asking:
            await asyncio.wait(self.asking.values())
        for path, name, harms in self.given.values():
            assert self.harms > harms or (path / "file").read_bytes() == name.encode() * SIZES[name]

    async def end(self, holder: str) -> None:
        """End an execution wherever it is, as a node does: its work first, then what it holds."""
        task = self.asking.pop(holder)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        self.given.pop(holder, None)
        self.cache.release(holder)

    async def ask(self, holder: str, name: str) -> None:
        """Ask for an input, and look at every byte of what is given."""
        self.cache.claim(holder, {key_of("test", name): SIZES[name]})

        async def fetch(into: Path, progress: Progress) -> Fetched:
            return await self.fetch(name, into, progress)

        before = self.harms
        try:
            path, _ = await self.cache.bring("test", Resolved(name, cacheable=True), fetch, silent)
            found = (path / "file").read_bytes()
        except Unavailable:
            return
        except FileNotFoundError:
            # Taken away after it had come and before this one had its turn.
            assert self.harms > before
            return
        assert found == name.encode() * SIZES[name]
        self.given[holder] = path, name, self.harms

    async def fetch(self, name: str, into: Path, progress: Progress) -> Fetched:
        """Bring an input in pieces, alone."""
        self.at_once[name] = self.at_once.get(name, 0) + 1
        assert self.at_once[name] == 1, "one fetch of an input at a time"
        try:
            into.mkdir()
            with (into / "file").open("wb") as file:
                for part in range(4):
                    file.write(name.encode() * (SIZES[name] // 4))
                    progress(SIZES[name] * (part + 1) // 4, SIZES[name])
                    for _ in range(4):
                        await asyncio.sleep(0)
                    if name in self.failing:
                        raise Unavailable("it is away")
        finally:
            self.at_once[name] -= 1
        return Fetched(into)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS)
def test_whatever_happens_what_is_given_is_right_and_nothing_is_left(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple]
) -> None:
    """Askers that are cancelled at any moment, faults, and entries that go bad or away: who is given an input has its bytes,
    one fetch of it runs at a time, and in the end the disk is as the books say, within the budget."""
    folder = tmp_path_factory.mktemp("cache")

    async def run() -> Cache:
        async with asyncio.TaskGroup() as tasks:
            cache = Cache(folder, BUDGET, tasks, boot="boot-1")
            await cache.open()
            world = World(cache, folder)
            for step in steps:
                await world.play(*step)
            for holder in list(world.asking):
                await world.end(holder)
        return cache

    cache = asyncio.run(run())
    assert {path.name for path in folder.iterdir()} == set(cache.shelf.here())
    assert cache.shelf.held_bytes == 0
    assert cache.shelf.size_bytes <= BUDGET
