"""A node's cache of inputs: one fetch for all who ask, whole or not at all, and never a wrong byte."""

import asyncio
import contextlib
import os
import resource
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compute.__main__ import app
from compute.cache_command import verify_entries
from protocol.errors import Exhausted, Unavailable
from storage.cache import Cache
from storage.cache_entries import DATA, ENTRY, MANIFEST, cached_bytes, key_of
from storage.contract import Fetched, Progress, Resolved, silent
from tests.contracts.trees import Link, Tree, plant, snapshot, with_folders
from tests.storage.cache_kills import STRANGERS, content_of, killed

CONTENT: Tree = {"a": b"alpha", "deep/b": b"beta" * 1000, "deep/link": Link("b"), "empty": None}
SIZE_BYTES = sum(len(each) for each in CONTENT.values() if type(each) is bytes)
BUDGET = 1 << 20


class Origin:
    """Where inputs come from, step by step as a test wants it."""

    def __init__(self, content: Tree | bytes = CONTENT) -> None:
        self.content = content
        self.fetches = 0
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None

    async def __call__(self, into: Path, progress: Progress) -> Fetched:
        self.fetches += 1
        self.begun.set()
        await self.gate.wait()
        progress(5, 10)
        if self.fault is not None:
            raise self.fault
        if isinstance(self.content, bytes):
            into.write_bytes(self.content)
        else:
            plant(self.content, into)
        progress(10, 10)
        return Fetched(into)


@contextlib.asynccontextmanager
async def opened(
    folder: Path, budget: int = BUDGET, boot: str = "boot-1", held: dict[str, list[str]] | None = None
) -> AsyncIterator[Cache]:
    """A cache at work, as one process has it; its digests are taken when it has ended."""
    async with asyncio.TaskGroup() as tasks:
        cache = Cache(folder, budget, tasks, boot=boot)
        await cache.open(held)
        yield cache


async def bring(
    cache: Cache, origin: Origin, name: str = "one", holder: str = "x", progress: Progress = silent
) -> tuple[Path, bool]:
    """Claim an input and bring it."""
    cache.claim(holder, {key_of("test", name): 0})
    return await cache.bring("test", Resolved(name, cacheable=True), origin, progress, f"token-{name}")


def on_disk(folder: Path) -> set[str]:
    """The names in a cache's folder."""
    return {path.name for path in folder.iterdir()}


async def test_all_who_ask_at_once_share_one_fetch(tmp_path: Path) -> None:
    """Twenty askers of one input cause one fetch, each is told of its progress, and all are given the same place."""
    origin = Origin()
    origin.gate.clear()
    told: list[int] = []
    async with opened(tmp_path) as cache:
        askers = [
            asyncio.create_task(
                bring(cache, origin, holder=f"x{number}", progress=lambda done, _: told.append(done))
            )
            for number in range(20)
        ]
        await origin.begun.wait()
        origin.gate.set()
        places = await asyncio.gather(*askers)

    assert origin.fetches == 1
    assert len({path for path, _ in places}) == 1
    assert snapshot(places[0][0]) == with_folders(CONTENT)
    assert told == [5] * 20 + [10] * 20


async def test_what_was_fetched_is_there_for_the_next_process(tmp_path: Path) -> None:
    """An input is fetched once, also when the node is started again; where it came from is not asked."""
    origin = Origin()
    for cached in (False, True, True):
        async with opened(tmp_path) as cache:
            path, was_there = await bring(cache, origin)
            assert was_there is cached
            assert snapshot(path) == with_folders(CONTENT)
            assert cache.tokens(9) == {"token-one": SIZE_BYTES}
    assert origin.fetches == 1
    assert cached_bytes(tmp_path) == SIZE_BYTES


async def test_one_that_is_cancelled_does_not_break_the_others(tmp_path: Path) -> None:
    """Who leaves, leaves alone; when the last has left, the fetch ends and nothing of it stays."""
    origin = Origin()
    origin.gate.clear()
    async with opened(tmp_path) as cache:
        first, second, third = (asyncio.create_task(bring(cache, origin, holder=name)) for name in "xyz")
        await origin.begun.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        origin.gate.set()
        assert (await second)[1] is False
        await third
        assert origin.fetches == 1

        origin.gate.clear()
        origin.begun.clear()
        last = asyncio.create_task(bring(cache, origin, "two"))
        await origin.begun.wait()
        before = on_disk(tmp_path)
        last.cancel()
        await asyncio.gather(last, return_exceptions=True)
        assert {name for name in before if name.startswith(".")}
        assert on_disk(tmp_path) == {key_of("test", "one")}


async def test_a_limit_of_one_ends_its_own_waiting_only(tmp_path: Path) -> None:
    """What one asker's progress raises is raised for it; the others go on with the same fetch."""

    def limited(done_bytes: int, total_bytes: int | None) -> None:
        raise Exhausted("too much for me")

    origin = Origin()
    origin.gate.clear()
    async with opened(tmp_path) as cache:
        poor = asyncio.create_task(bring(cache, origin, holder="poor", progress=limited))
        rich = asyncio.create_task(bring(cache, origin, holder="rich"))
        await origin.begun.wait()
        origin.gate.set()
        await rich
        with pytest.raises(Exhausted, match="too much for me"):
            await poor
        assert origin.fetches == 1
        with pytest.raises(Exhausted, match="too much for me"):
            await bring(cache, origin, "two", "poor", limited)
        assert on_disk(tmp_path) == {key_of("test", "one")}


async def test_a_fault_is_everybodys_and_the_next_asks_anew(tmp_path: Path) -> None:
    """A failed fetch fails all who waited for it, leaves nothing, and is never taken for whole."""
    origin = Origin()
    origin.fault = Unavailable("it is away")
    async with opened(tmp_path) as cache:
        faults = await asyncio.gather(*(bring(cache, origin) for _ in range(3)), return_exceptions=True)
        assert [str(fault) for fault in faults] == ["it is away"] * 3
        assert on_disk(tmp_path) == set()
        origin.fault = None
        assert (await bring(cache, origin))[1] is False
    assert origin.fetches == 2


async def test_what_is_held_is_never_given_up(tmp_path: Path) -> None:
    """Under pressure the least recently used of what nobody holds goes; what a restarted node's programs read does not."""
    async with opened(tmp_path, budget=250) as cache:
        for name in ("one", "two", "three"):
            await bring(cache, Origin(bytes(100)), name, holder=name)
        assert len(on_disk(tmp_path)) == 3
        cache.release("two")
        cache.release("three")
    assert on_disk(tmp_path) == {key_of("test", name) for name in ("one", "three")}

    held = {"adopted": [key_of("test", "one"), key_of("test", "gone")]}
    async with opened(tmp_path, budget=50, held=held) as cache:
        await cache.make_room(10_000)
        assert on_disk(tmp_path) == {key_of("test", "one")}
        cache.release("adopted")
        await cache.make_room(1)
        assert on_disk(tmp_path) == set()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abcde"), st.sampled_from("xyz"), st.booleans()), min_size=1, max_size=25
    )
)
def test_the_disk_is_as_the_shelf_says(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple]) -> None:
    """Whatever is asked for and let go of, in whatever order: what is held is there with its bytes, and the rest fits."""
    folder = tmp_path_factory.mktemp("cache")
    sizes = {name: 100 * (number + 1) for number, name in enumerate("abcde")}

    async def play() -> None:
        held: dict[str, set[str]] = {"x": set(), "y": set(), "z": set()}
        async with opened(folder, budget=600) as cache:
            for name, holder, letting_go in steps:
                if letting_go:
                    cache.release(holder)
                    held[holder] = set()
                else:
                    path, _ = await bring(cache, Origin(name.encode() * sizes[name]), name, holder)
                    held[holder].add(name)
                    assert path.read_bytes() == name.encode() * sizes[name]
                for each in set().union(*held.values()):
                    assert (folder / key_of("test", each) / DATA).stat().st_size == sizes[each]
                assert cache.shelf.size_bytes <= 600 + cache.shelf.held_bytes
        assert cache.shelf.size_bytes <= max(600, cache.shelf.held_bytes)
        assert on_disk(folder) == set(cache.shelf.here())

    asyncio.run(play())


async def test_after_a_crash_of_the_system_nothing_is_taken_on_trust(tmp_path: Path) -> None:
    """An entry of an earlier boot is compared with its manifest before it is served; one without a manifest goes."""
    async with opened(tmp_path) as cache:
        for name in ("right", "flipped", "unwritten"):
            await bring(cache, Origin(), name)
    flip(tmp_path / key_of("test", "flipped") / DATA / "deep" / "b")
    (tmp_path / key_of("test", "unwritten") / MANIFEST).unlink()

    origin = Origin()
    async with opened(tmp_path, boot="boot-2") as cache:
        found = {}
        for name in ("right", "flipped", "unwritten"):
            path, found[name] = await bring(cache, origin, name)
            assert snapshot(path) == with_folders(CONTENT)
    assert found == {"right": True, "flipped": False, "unwritten": False}
    async with opened(tmp_path, boot="boot-2") as cache:
        assert (await bring(cache, origin, "right"))[1]
    assert origin.fetches == 2


@pytest.mark.parametrize("file", [ENTRY, MANIFEST])
@pytest.mark.parametrize("kept", [0, 0.5])
async def test_torn_files_of_its_own_are_known(tmp_path: Path, file: str, kept: float) -> None:
    """An entry whose description or manifest a power cut tore is not served on its word."""
    async with opened(tmp_path) as cache:
        path, _ = await bring(cache, Origin())
    torn = path.parent / file
    torn.write_bytes(torn.read_bytes()[: int(torn.stat().st_size * kept)])
    origin = Origin()
    async with opened(tmp_path, boot="boot-2") as cache:
        assert (await bring(cache, origin))[1] is False
    assert origin.fetches == 1


async def test_a_process_without_files_left_takes_nothing_for_spoiled(tmp_path: Path) -> None:
    """An input that cannot be compared because too many files are open is no wrong one: that is said, and once there are
    files again it is served without being brought anew."""
    async with opened(tmp_path) as cache:
        await bring(cache, Origin())
    origin = Origin()
    async with opened(tmp_path, boot="boot-2") as cache:
        with no_files_left(), pytest.raises(Unavailable, match="cannot be compared: Too many open files"):
            await bring(cache, origin)
        assert (await bring(cache, origin))[1] is True
    assert origin.fetches == 0


@contextlib.contextmanager
def no_files_left() -> Iterator[None]:
    """This process opens no more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def cut(path: Path) -> None:
    """Take a file's end away."""
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    """Change a file's last byte."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda data: flip(data / "a"), "'a' has other bytes"),
        (lambda data: cut(data / "a"), "'a' has 4 bytes, and had 5"),
        (lambda data: (data / "deep" / "b").unlink(), "'deep/b' is missing"),
        (lambda data: (data / "more").write_bytes(b""), "'more' is too much"),
        (lambda data: (data / "a").chmod(0o755), "'a' has other bytes or rights"),
        (
            lambda data: ((data / "deep" / "link").unlink(), (data / "deep" / "link").symlink_to("../a")),
            "link",
        ),
    ],
    ids=["flip", "cut", "lost", "new", "rights", "link"],
)
async def test_entries_are_verified_on_demand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], object], told: str
) -> None:
    """Verifying finds any change, says where, and what is wrong is not served again."""
    origin = Origin()
    folder = tmp_path / "cache"
    async with opened(folder) as cache:
        path, _ = await bring(cache, origin)
        await bring(cache, origin, "other")
    assert verify_entries(folder) == 0
    harm(path)
    capsys.readouterr()
    assert verify_entries(folder) == 1
    wrong, total = capsys.readouterr().out.splitlines()
    assert wrong.startswith("WRONG  test one: ")
    assert told in wrong
    assert total.startswith("1 inputs are as they came, 1 are not; ")
    async with opened(folder) as cache:
        path, cached = await bring(cache, origin)
        assert not cached
        assert snapshot(path) == with_folders(CONTENT)
        assert (await bring(cache, origin, "other"))[1]
    assert verify_entries(folder) == 0


async def test_verified_from_outside_while_it_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command finds what is wrong beside a node that runs, which serves it no more; right ones are left alone."""
    origin = Origin()
    folder = tmp_path / "cache"
    arguments = ["--data-dir", str(tmp_path)]
    async with opened(folder) as cache:
        for name in ("one", "two"):
            await bring(cache, origin, name, holder=name)
    async with opened(folder) as cache:
        assert app(["cache", "verify", *arguments]) == 0
        assert "2 inputs are as they came" in capsys.readouterr().out
        flip(folder / key_of("test", "one") / DATA / "a")
        assert app(["cache", "verify", *arguments]) == 1
        assert "WRONG  test one: 'a' has other bytes" in capsys.readouterr().out
        assert app(["cache", "list", *arguments]) == 0
        assert "test one  SPOILED" in capsys.readouterr().out
        path, cached = await bring(cache, origin, "one")
        assert not cached
        assert snapshot(path) == with_folders(CONTENT)
        assert (await bring(cache, origin, "two"))[1]


@pytest.mark.parametrize("gone", ["data", "entry", "all"])
async def test_what_other_hands_removed_is_fetched_anew(tmp_path: Path, gone: str) -> None:
    """Whoever removes an input by hand, or the whole folder, beside a node that runs, harms nobody: it is fetched again."""
    origin = Origin()
    folder = tmp_path / "cache"
    async with opened(folder) as cache:
        path, _ = await bring(cache, origin)
    async with opened(folder) as cache:
        shutil.rmtree({"data": path, "entry": path.parent, "all": folder}[gone])
        path, cached = await bring(cache, origin)
        assert not cached
        assert snapshot(path) == with_folders(CONTENT)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (await bring(cache, origin))[1]


async def test_what_cannot_be_removed_ends_nothing(tmp_path: Path) -> None:
    """What has to go and cannot be removed is left, and the node goes on; its next process finds it."""
    origin = Origin()
    folder = tmp_path / "cache"
    async with opened(folder) as cache:
        await bring(cache, origin)
    async with opened(folder, budget=1, held={"x": [key_of("test", "one")]}) as cache:
        with without_rights():
            cache.release("x")
        assert cache.shelf.here() == []
        assert on_disk(folder) == {key_of("test", "one")}
    async with opened(folder) as cache:
        assert (await bring(cache, origin))[1]
    assert origin.fetches == 1


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """This process may change nothing that it has made."""
    if os.geteuid():
        pytest.skip("only root can give its rights away for a while")
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_leftovers_are_swept(tmp_path: Path) -> None:
    """What was on its way in or out when the node was killed is gone after its start, and strangers too."""
    async with opened(tmp_path) as cache:
        path, _ = await bring(cache, Origin())
    for name in STRANGERS:
        plant({"data": b"half", "folder/x": b"y"}, tmp_path / name)
    (tmp_path / "file").write_bytes(b"?")
    async with opened(tmp_path):
        assert on_disk(tmp_path) == {path.parent.name}


def test_killed_at_any_moment_it_serves_only_right_bytes(tmp_path: Path) -> None:
    """After ``kill -9`` at random moments of fetching and evicting, what is there is whole, and the rest is fetched."""
    served = killed(tmp_path / "cache", kills=15, seed=1)
    assert served.entries > 0
    assert served.wrong == []


def test_the_content_of_the_kill_test_differs_by_name() -> None:
    """Entries that are mixed up would be noticed."""
    assert content_of("in-1") != content_of("in-2")
