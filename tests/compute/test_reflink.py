"""Own copies of inputs on file systems that share blocks: real XFS and btrfs, each in an image of its own.

Needs root, a loop device and the file system in the kernel. Where the kernel or the machine has not got one of them, the
test is an expected failure that says so: nobody can install a kernel.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from deploy.programs import Missing, need
from protocol.jobs import Amounts, Input, Spec
from protocol.memory_bus import MemoryHub
from protocol.nodes import Offer
from protocol.states import ExecutionState
from storage.contract import Drivers, Fetched, Form, Progress, Resolved, Share
from storage.copying import copy, make_writable
from tests.compute.doubles import Nothing
from tests.compute.twins import FakeRequester, NodeOnTest, noop, order
from tests.conftest import skip
from tests.contracts.trees import snapshot

MIB = 1 << 20
DATA = hashlib.shake_256(b"reflink").digest(48 * MIB)
SLACK_BYTES = 3 * MIB
"""What a file system may write beside data: inodes, extents, its log."""
MAKE = {"xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"), "btrfs": ("mkfs.btrfs", "-q")}


@pytest.fixture(params=MAKE)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty file system that shares blocks, mounted."""
    program, *options = MAKE[request.param]
    if os.geteuid() != 0:
        pytest.skip("a file system is mounted by root")
    try:
        make = need(program)
    except Missing as missing:
        skip(missing)
    image, at = tmp_path / "image", tmp_path / "disk"
    at.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    subprocess.run([make, *options, image], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, at], check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.xfail(f"this machine mounts no {request.param}: {mounted.stderr.strip()}")
    yield at
    subprocess.run(["umount", "--lazy", at], check=True)


def taken_bytes(disk: Path) -> int:
    """How much is taken of a file system when all has been written."""
    os.sync()
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_a_copy_costs_nothing_until_it_is_changed(disk: Path) -> None:
    """A copy of a folder takes no room; changing some of it takes that much, and what it was made of stays as it is."""
    source = disk / "source"
    (source / "deep").mkdir(parents=True)
    (source / "data").write_bytes(DATA)
    (source / "deep" / "more").write_bytes(DATA[::-1])
    tree = snapshot(source)
    before = taken_bytes(disk)

    copy(source, disk / "copy", lambda: None)
    make_writable(disk / "copy", lambda: None)

    assert taken_bytes(disk) - before < SLACK_BYTES
    assert snapshot(disk / "copy") == tree
    with (disk / "copy" / "data").open("r+b") as file:
        file.write(bytes(8 * MIB))
    assert 8 * MIB - SLACK_BYTES < taken_bytes(disk) - before < 8 * MIB + SLACK_BYTES
    assert snapshot(source) == tree


class LargeSource:
    """A source of one file that the cache may keep."""

    type: ClassVar[str] = "test"
    params: ClassVar[Form] = Nothing

    async def probe(self) -> Offer:
        return Offer(self.type)

    async def resolve(self, params: Nothing, share: Share) -> Resolved:
        return Resolved("test:large", len(DATA), cacheable=True)

    async def fetch(self, params: Nothing, resolved: Resolved, into: Path, progress: Progress) -> Fetched:
        into.write_bytes(DATA)
        return Fetched(into)


async def test_an_input_that_may_be_changed_costs_the_node_nothing(
    disk: Path, hub: MemoryHub, requester: FakeRequester
) -> None:
    """Five programs on a node that each may write to one input have a copy each, and the disk holds its bytes once."""
    node = NodeOnTest(hub, disk / "node", drivers=Drivers({"test": LargeSource()}))
    await node.start()
    try:
        before = taken_bytes(disk)
        mine = Input(Spec("test"), "/in", read_write=True)
        for number in range(1, 6):
            run = order(
                number, noop({"Seconds": 3600}, input_sources=[mine]), amounts=Amounts(disk_bytes=100 * MIB)
            )
            await requester.run(run)
            await requester.reached(run, ExecutionState.RUNNING)
            own = node.folder / "executions" / run.execution / "input-0"
            assert own.read_bytes() == DATA
            assert own.stat().st_mode & 0o666 == 0o666
        assert taken_bytes(disk) - before < len(DATA) + 2 * SLACK_BYTES
    finally:
        await node.crash()
