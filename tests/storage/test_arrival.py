"""Arrivals that are whole or nothing, and removals that leave nothing."""

import asyncio
import errno
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.errors import Conflict, Denied, Exhausted, Invalid
from protocol.threads import begin
from storage.arrival import arriving, disk_faults, remove_tree
from storage.threads import THREADS, Apart, Stop, in_thread, relayed
from tests.contracts.trees import Link, plant, snapshot


class TestArriving:
    """`arriving`."""

    @pytest.mark.parametrize("tree", [{"": b"file"}, {"a/b": b"folder"}, {"": b""}])
    async def test_what_arrived_is_whole(self, tmp_path: Path, tree: dict[str, bytes | None]) -> None:
        """Until the end nothing is at the place; then all is, and nothing beside it."""
        async with arriving(tmp_path / "in") as beside:
            plant({**tree}, beside)
            assert not (tmp_path / "in").exists()

        assert snapshot(tmp_path / "in").items() >= tree.items()
        assert [path.name for path in tmp_path.iterdir()] == ["in"]

    @pytest.mark.parametrize("fault", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
    async def test_a_fault_leaves_nothing(self, tmp_path: Path, fault: type[BaseException]) -> None:
        """On any fault, and on cancellation, what had been built is removed."""

        async def fail() -> None:
            async with arriving(tmp_path / "in") as beside:
                plant({"a/b": b"x"}, beside)
                raise fault

        with pytest.raises(fault):
            await fail()

        assert list(tmp_path.iterdir()) == []

    async def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        """What is there already stays as it is."""
        (tmp_path / "in").write_bytes(b"mine")

        with pytest.raises(Conflict, match="already there"):
            async with arriving(tmp_path / "in"):
                pass

        assert (tmp_path / "in").read_bytes() == b"mine"

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (errno.ENOSPC, Exhausted),
            (errno.EDQUOT, Exhausted),
            (errno.EROFS, Denied),
            (errno.EACCES, Denied),
            (errno.ENAMETOOLONG, Invalid),
        ],
    )
    def test_the_disk_speaks_our_language(self, tmp_path: Path, code: int, kind: type[Exception]) -> None:
        """A full or read-only disk is a clear fault that names the place."""
        with pytest.raises(kind, match=str(tmp_path)), disk_faults(tmp_path):
            raise OSError(code, os.strerror(code))

    def test_a_real_full_disk_is_exhausted(self, tmp_path: Path) -> None:
        """A device without room says so through the same words."""
        with (
            pytest.raises(Exhausted, match="is full"),
            disk_faults(tmp_path),
            open("/dev/full", "wb", 0) as full,
        ):
            full.write(b"x")

    def test_other_errors_pass(self, tmp_path: Path) -> None:
        """Only the disk's own errors are translated."""
        with pytest.raises(ConnectionResetError), disk_faults(tmp_path):
            raise ConnectionResetError


class TestRemoving:
    """`remove_tree`."""

    def test_what_is_not_there_is_gone(self, tmp_path: Path) -> None:
        """Removing is harmless when repeated."""
        remove_tree(tmp_path / "nothing")

    def test_links_are_removed_not_followed(self, tmp_path: Path) -> None:
        """Only the link goes, wherever it leads."""
        plant({"keep/file": b"x"}, tmp_path / "outside")
        plant({"l": Link("../outside"), "d/l": Link("../../outside/keep/file")}, tmp_path / "tree")
        (tmp_path / "link").symlink_to("outside")

        remove_tree(tmp_path / "tree")
        remove_tree(tmp_path / "link")

        assert snapshot(tmp_path) == {"outside": None, "outside/keep": None, "outside/keep/file": b"x"}

    def test_read_only_folders_are_removed(self, tmp_path: Path) -> None:
        """A program may take away its own rights; its folder goes all the same."""
        tree = plant({"a/b/c": b"x", "a/e": None}, tmp_path / "tree")
        for path in ("a/b/c", "a/b", "a/e", "a", ""):
            (tree / path).chmod(0)

        as_nobody(lambda: remove_tree(tree), tmp_path)

        assert not tree.exists()

    def test_folders_of_others_are_named(self, tmp_path: Path) -> None:
        """What belongs to another user and cannot be removed is a clear refusal; empty ones go."""
        tree = plant({"mine/x": b"x", "theirs/full/x": b"x", "theirs-empty": None}, tmp_path / "tree")
        if os.geteuid() != 0:
            pytest.skip("needs root to make another user's folder")

        def attempt() -> None:
            with pytest.raises(Denied, match="cannot be removed"):
                remove_tree(tree)

        as_nobody(
            attempt, tmp_path, theirs=[tree / "theirs", tree / "theirs" / "full", tree / "theirs-empty"]
        )

        assert snapshot(tree) == {"theirs": None, "theirs/full": None, "theirs/full/x": b"x"}

    def test_what_is_gone_takes_no_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of very many files each is let go of with its turn: all at once, at the end, would hold up every thread."""
        tree = plant({f"{number:04}": b"" for number in range(2000)}, tmp_path / "tree")
        taken = []

        def unlink(name: str, *, dir_fd: int) -> None:
            taken.append(tracemalloc.get_traced_memory()[0])
            os.remove(name, dir_fd=dir_fd)

        monkeypatch.setattr("storage.arrival.os.unlink", unlink)
        tracemalloc.start()
        try:
            remove_tree(tree)
        finally:
            tracemalloc.stop()

        assert taken[-1] < taken[0] / 2

    def test_depth_does_not_matter(self, tmp_path: Path) -> None:
        """A tree too deep for any path name, made one step at a time, is removed."""
        at = os.open(tmp_path, os.O_RDONLY)
        for _ in range(1_500):
            os.mkdir("deep-folder", dir_fd=at)
            below = os.open("deep-folder", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)

        remove_tree(tmp_path / "deep-folder")

        assert list(tmp_path.iterdir()) == []


class TestThreads:
    """`in_thread`."""

    async def test_the_answer_and_the_fault_come_back(self) -> None:
        """Work in a thread ends as if it had been called."""

        def fail(stop: Stop) -> None:
            raise ValueError("from there")

        assert await in_thread(lambda _: 7) == 7
        with pytest.raises(ValueError, match="from there"):
            await in_thread(fail)

    async def test_a_cancelled_caller_waits_for_the_end(self) -> None:
        """After a cancellation the thread has ended: no rival is left behind."""
        loop = asyncio.get_running_loop()
        started, ended = asyncio.Event(), threading.Event()

        def work(stop: Stop) -> None:
            loop.call_soon_threadsafe(started.set)
            try:
                while True:
                    stop()
            finally:
                ended.set()

        task = asyncio.ensure_future(in_thread(work))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert ended.is_set()

    async def test_what_is_relayed_keeps_its_order(self) -> None:
        """Told from a thread, heard on the loop, in order and before the work's end."""
        heard: list[tuple[int, None]] = []
        tell = relayed(lambda *values: heard.append(values))

        await in_thread(lambda _: [tell(number, None) for number in range(100)])

        assert heard == [(number, None) for number in range(100)]


def test_who_begins_a_thread_does_not_wait_for_it() -> None:
    """A thread is begun without a turn of it: whoever begins one, an event loop for instance, stands for nobody's turn."""
    ran = threading.Event()
    before = sys.getswitchinterval()
    # Only one that waits lets another thread run.
    sys.setswitchinterval(10)
    try:
        begin(ran.set)
        had_turn = ran.is_set()
    finally:
        sys.setswitchinterval(before)

    assert not had_turn
    assert ran.wait(10)


class TestApart:
    """`Apart`."""

    async def test_the_answer_and_the_fault_come_back(self) -> None:
        """Work apart ends as if it had been called, and its place is free again."""

        def fail(stop: Stop) -> None:
            raise ValueError("from there")

        apart = Apart(1)

        assert await apart.run(lambda _: 7) == 7
        with pytest.raises(ValueError, match="from there"):
            await apart.run(fail)
        assert await apart.run(lambda _: 8) == 8

    async def test_what_hangs_holds_up_nobody_else(self) -> None:
        """However many hang, work in the pool goes on; a caller may give up at once; a place is free when its work ends."""
        apart, disk = Apart(THREADS), threading.Event()
        hung = [asyncio.ensure_future(apart.run(lambda _: disk.wait())) for _ in range(THREADS)]
        await asyncio.sleep(0)
        next_one = asyncio.ensure_future(apart.run(lambda _: "next"))

        assert await in_thread(lambda _: 7) == 7
        hung[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await hung[0]
        assert not next_one.done()
        disk.set()
        assert await next_one == "next"
        assert await asyncio.gather(*hung[1:]) == [True] * (THREADS - 1)


def as_nobody(act: Callable[[], object], own: Path, theirs: list[Path] | None = None) -> None:
    """Run `act` in a child process without root's rights over `own`, except for what is `theirs`."""
    if os.geteuid() != 0:
        act()
        return
    for path in [own, *own.rglob("*")]:
        if path not in (theirs or []) and not any(each in path.parents for each in theirs or []):
            os.chown(path, 65_534, 65_534, follow_symlinks=False)
    for path in own.parents:
        if path.name.startswith(("pytest-", "popen-")):
            path.chmod(0o755)
    child = os.fork()
    if child == 0:
        failed = True
        try:
            os.setgroups([])
            os.setgid(65_534)
            os.setuid(65_534)
            act()
            failed = False
        finally:
            os._exit(failed)
    assert os.waitpid(child, 0)[1] == 0
