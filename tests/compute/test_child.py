"""A process of our own that is started beside the event loop."""

import asyncio
import contextlib
import os
import subprocess
import threading
from typing import Any

import pytest

from compute.engines.child import Child
from storage.threads import THREADS, in_thread

SHELL = "/bin/sh"


class Heard:
    """What a child tells."""

    def __init__(self) -> None:
        self.said = b""
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.child = Child(self._say, self.status.set_result)

    def _say(self, data: bytes) -> None:
        self.said += data


async def test_all_that_it_says_comes_before_its_end() -> None:
    """Its output is told whole, then its exit status, once; it has what it was to keep, and nothing else."""
    heard = Heard()
    read, write = os.pipe()
    script = f"i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo kept >/proc/self/fd/{write}; exit 3"

    await heard.child.start([SHELL, "-c", script], {"A": "b"}, [write])
    there = [heard.child.is_there]
    assert await heard.status == 3

    assert [*there, heard.child.is_there] == [True, False]
    assert heard.said.splitlines() == [b"line %d" % number for number in range(20_000)]
    assert os.read(read, 100) == b"kept\n"
    for each in (read, write):
        os.close(each)


async def test_one_that_is_ended_is_gone() -> None:
    """Its status says by which signal; to end it twice is harmless."""
    heard = Heard()
    await heard.child.start([SHELL, "-c", "exec sleep 60"], {"PATH": os.environ["PATH"]}, [])

    heard.child.kill()
    assert await heard.status == -9
    heard.child.kill()


async def test_what_is_no_program_is_told() -> None:
    """There is no process then, and nothing is told of its end."""
    heard = Heard()
    with pytest.raises(OSError, match="no-such-program"):
        await heard.child.start(["/no-such-program"], {}, [])

    assert not heard.child.is_there
    heard.child.kill()


async def test_one_that_nobody_waits_for_any_more_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is cancelled while it starts still has it, and ends it. It is not started on the loop."""
    begun = asyncio.Event()
    loop, go_on = asyncio.get_running_loop(), threading.Event()
    real = subprocess.Popen

    def slow(*given: Any, **named: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        loop.call_soon_threadsafe(begun.set)
        go_on.wait()
        return real(*given, **named)

    monkeypatch.setattr(subprocess, "Popen", slow)
    heard = Heard()
    starting = asyncio.create_task(heard.child.start([SHELL, "-c", "exec /bin/sleep 60"], {}, []))
    await begun.wait()
    starting.cancel()
    go_on.set()
    with contextlib.suppress(asyncio.CancelledError):
        await starting

    assert heard.child.is_there
    heard.child.kill()
    assert await heard.status == -9


async def test_one_starts_while_the_disk_is_busy() -> None:
    """However much the node copies just now, a program that is ready to run begins."""
    heard, copied = Heard(), threading.Event()
    busy: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def copy(_: object) -> None:
        loop.call_soon_threadsafe(busy.put_nowait, None)
        copied.wait()

    async with asyncio.TaskGroup() as copying:
        for _ in range(THREADS):
            copying.create_task(in_thread(copy))
            await busy.get()
        starting = copying.create_task(heard.child.start([SHELL, "-c", "echo here"], {}, []))
        started, _ = await asyncio.wait([starting], timeout=30)
        copied.set()
    assert started
    assert await heard.status == 0
    assert heard.said == b"here\n"
