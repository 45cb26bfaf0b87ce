"""What an execution may take of its node's disk, and what the node never gives."""

import asyncio
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from compute.agent import HOUSEKEEPING_S
from compute.disk import INODE_BYTES, Disk, inode_of, taken_bytes
from compute.provenance import FILES_MAX, Manifests
from protocol.clock import ManualClock
from protocol.ids import ExecutionId
from protocol.jobs import Amounts, ResultPath, Spec, Task
from protocol.messages import LinkWritten, Report, Run
from protocol.states import ExecutionState
from tests.compute.doubles import StagedPublisher, StagedSource, drivers
from tests.compute.test_inputs import INPUT, READING, failed
from tests.compute.twins import WITHIN_S, FakeRequester, NodeOnTest, noop, order
from tests.contracts.trees import Link, Tree, plant

S = ExecutionState
Nodes = Callable[..., NodeOnTest]
EXECUTION = ExecutionId("e-1")
PART = 100_000


def never() -> None:
    """Nobody ends the work."""


def test_a_folder_takes_what_its_blocks_take(tmp_path: Path) -> None:
    """Holes count for nothing, a file with two names once, an empty one for its inode, other people's files not at all, and
    links are not followed."""
    folder = tmp_path / "folder"
    plant({"a": bytes(100_000), "deep/b": bytes(50_000), "link": Link("/")}, folder)
    plain = taken_bytes(folder, (), never)
    assert 150_000 <= plain < 200_000
    with (folder / "hole").open("wb") as file:
        file.truncate(1 << 40)
    os.link(folder / "a", folder / "deep" / "again")
    assert taken_bytes(folder, (), never) == plain + INODE_BYTES
    assert taken_bytes(folder, {inode_of(folder / "a")}, never) <= plain - 100_000
    assert taken_bytes(tmp_path / "nowhere", (), never) == 0


def test_inodes_have_a_reserve_too(tmp_path: Path) -> None:
    """A disk that is nearly out of inodes is as good as full, whatever space is left on it."""
    if os.geteuid() != 0:
        pytest.skip("a file system is mounted by root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m,nr_inodes=100", "tmpfs", tmp_path], check=True)
    try:
        disk = Disk(tmp_path, reserve_bytes=1 << 20)
        for number in range(85):
            (tmp_path / str(number)).touch()
        assert disk.spare_bytes() > 8 << 20
        for number in range(85, 95):
            (tmp_path / str(number)).touch()
        assert -(1 << 20) < disk.spare_bytes() < 0
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def writing(size: int, **fields: Any) -> Task:
    """A task that writes so many bytes into its result."""
    params = {"Writes": {"/out/file": "x" * size}, **fields.pop("params", {})}
    return noop(params, result_paths=[ResultPath("out", "/out")], **fields)


def limited(task: Task, disk_bytes: int) -> Run:
    """An order with that Disk."""
    return order(task=task, amounts=Amounts(cpu=0.1, disk_bytes=disk_bytes))


async def test_a_running_program_that_takes_too_much_is_ended(nodes: Nodes, requester: FakeRequester) -> None:
    """A program that goes beyond its Disk is ended while it runs, with both numbers and what to do, and no second try."""
    node = nodes()
    await node.start()
    failure = await failed(requester, limited(writing(3 * PART, params={"Seconds": 3600}), 2 * PART))
    assert (failure.code, failure.retryable) == ("Exhausted.DiskLimit", False)
    assert re.search(r"it takes [\d.]+ KiB", failure.message)
    assert "Disk is 195.3 KiB" in failure.message
    await requester.quiet(node)
    assert node.leftovers() == []


async def test_empty_files_are_not_free(nodes: Nodes, requester: FakeRequester) -> None:
    """A program that makes very many empty files goes beyond its Disk too."""
    node = nodes()
    await node.start()
    files = {f"/out/{number}": "" for number in range(400)}
    task = noop({"Writes": files}, result_paths=[ResultPath("out", "/out")])
    assert (await failed(requester, limited(task, PART))).code == "Exhausted.DiskLimit"


async def test_a_program_that_took_too_much_fails_at_its_end(nodes: Nodes, requester: FakeRequester) -> None:
    """One that ended before anybody looked fails all the same: inputs, outputs and its log count together."""
    source = StagedSource(cacheable=True, size_bytes=4)
    node = nodes(drivers=drivers(source))
    await node.start()
    inside = writing(PART, input_sources=[INPUT], params={"Stdout": "x" * 50_000})
    run = limited(inside, 2 * PART)
    await requester.run(run)
    assert (await requester.ended(run)).state is S.COMPLETED
    beyond = replace(limited(inside, 120_000), seq=2, execution=ExecutionId("e-2"))
    assert (await failed(requester, beyond)).code == "Exhausted.DiskLimit"


async def test_without_a_disk_there_is_no_limit(nodes: Nodes, requester: FakeRequester) -> None:
    """A job that says nothing of Disk runs as ever."""
    node = nodes()
    await node.start()
    run = order(task=writing(3 * PART))
    await requester.run(run)
    assert (await requester.ended(run)).state is S.COMPLETED


async def test_the_reserve_is_kept(nodes: Nodes, requester: FakeRequester) -> None:
    """When the disk's reserve is touched, the program that takes most ends and may be tried elsewhere; others go on."""
    node = nodes(drivers=drivers(StagedSource(size_bytes=4)))
    node.settings = replace(node.settings, reserve_bytes=1 << 60)
    await node.start()
    large, small = (
        order(number, writing(size, params={"Seconds": 3600})) for number, size in ((1, 3 * PART), (2, 9))
    )
    await requester.run(small)
    failure = await failed(requester, large)
    assert (failure.code, failure.retryable) == ("Exhausted.Disk", True)
    assert re.search(r"takes most: [\d.]+ KiB", failure.message)
    assert node.here.runners[small.execution].execution.state is S.RUNNING
    failure = await failed(requester, order(3, READING))
    assert (failure.code, failure.retryable) == ("Exhausted.Disk", True)


async def test_kept_results_go_when_their_time_is_over_or_their_room_is_needed(nodes: Nodes) -> None:
    """A node looks after the results that it keeps; those that people have just been told of stay even then."""
    clock = ManualClock()
    node = nodes(clock=clock)
    published = node.folder / "published"
    published.mkdir(parents=True)
    for name, days in (("e-expired", 40), ("e-old", 2), ("e-new", 0)):
        (published / f"{name}.tar.gz").write_bytes(b"x")
        came_at = time.time() - days * 86_400
        os.utime(published / f"{name}.tar.gz", (came_at, came_at))

    async def left(names: set[str]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while {path.name.partition(".")[0] for path in published.glob("e-*")} != names:
                await clock.advance(HOUSEKEEPING_S)

    await node.start()
    await left({"e-old", "e-new"})
    await node.stop()
    node.settings = replace(node.settings, reserve_bytes=1 << 60)
    await node.start()
    await left({"e-new"})


TREE: Tree = {
    "stdout": b"out\n",
    "outputs/a": b"alpha",
    "outputs/b\\c\nd": b"odd",
    "outputs/link": Link("a"),
    "outputs/empty": None,
}


def test_what_was_written_is_listed_as_sha256sum_does(tmp_path: Path) -> None:
    """A record names each file with size and digest; its own digest is that of the list that ``sha256sum`` makes."""
    plant(TREE, tmp_path / "results")
    written = Manifests(tmp_path / "manifests", 60).record(EXECUTION, tmp_path / "results", never)
    names = sorted(path for path, content in TREE.items() if isinstance(content, bytes))
    assert [each.path for each in written.files] == names
    assert (written.count, written.size_bytes) == (3, 12)
    assert (written.others, written.links, written.folders) == (
        2,
        [LinkWritten("outputs/link", "a")],
        ["outputs/empty"],
    )
    listed = subprocess.run(["sha256sum", *names], cwd=tmp_path / "results", capture_output=True, check=True)
    digest = subprocess.run(["sha256sum"], input=listed.stdout, capture_output=True, check=True).stdout
    assert digest.split()[0].decode() == written.sha256
    assert list((tmp_path / "manifests").iterdir()) == []


@pytest.mark.parametrize(("count", "name"), [(2000, "file"), (30, "n" * 200)])
def test_a_record_is_small_and_the_whole_list_is_kept(tmp_path: Path, count: int, name: str) -> None:
    """However many files, a record stays within a few kilobytes; the node keeps the list, for as long as the logs."""
    plant({f"outputs/{name}-{number}": b"x" for number in range(count)}, tmp_path / "results")
    manifests = Manifests(tmp_path / "manifests", 60)
    written = manifests.record(EXECUTION, tmp_path / "results", never)
    assert written.count == count
    assert 0 < len(written.files) <= FILES_MAX
    kept = tmp_path / "manifests" / EXECUTION
    assert len(kept.read_text().splitlines()) == count
    subprocess.run(["sha256sum", "--quiet", "-c", kept], cwd=tmp_path / "results", check=True)
    manifests.prune(kept.stat().st_mtime + 59)
    assert kept.exists()
    manifests.prune(kept.stat().st_mtime + 61)
    assert not kept.exists()


@pytest.mark.parametrize("count", [1, 40])
def test_a_name_that_is_no_text_is_recorded_all_the_same(tmp_path: Path, count: int) -> None:
    """A program may write names of any bytes: the record can be kept and sent, and the list has the bytes themselves."""
    (tmp_path / "results").mkdir()
    for number in range(count):
        (tmp_path / "results" / os.fsdecode(b"caf\xe9-%02d" % number)).write_bytes(b"x")
    os.symlink(b"caf\xe9-00", os.fsencode(tmp_path / "results") + b"/l\xff")
    os.mkdir(os.fsencode(tmp_path / "results") + b"/d\xff")
    written = Manifests(tmp_path / "manifests", 60).record(EXECUTION, tmp_path / "results", never)
    assert msgspec.json.decode(msgspec.json.encode(written), type=type(written)) == written
    assert written.files[0].path == "caf\\xe9-00"
    assert (written.links, written.folders) == ([LinkWritten("l\\xff", "caf\\xe9-00")], ["d\\xff"])
    listed = subprocess.run(
        ["sh", "-c", "sha256sum caf* | sha256sum"], cwd=tmp_path / "results", capture_output=True, check=True
    )
    assert listed.stdout.split()[0].decode() == written.sha256


async def test_a_report_says_what_was_published(nodes: Nodes, requester: FakeRequester) -> None:
    """The report of an end holds the files of the result, and none where nothing was published."""
    node = nodes(drivers=drivers(publisher=StagedPublisher()))
    await node.start()
    run = order(task=writing(5, publisher=Spec("test")))
    await requester.run(run)
    report: Report = await requester.ended(run)
    assert report.written is not None
    assert [(each.path, each.size_bytes) for each in report.written.files] == [
        ("exitCode", 1),
        ("out/file", 5),
        ("stderr", 0),
        ("stdout", 0),
    ]
    plain = order(2, writing(5))
    await requester.run(plain)
    assert (await requester.ended(plain)).written is None
