"""What our long-running programs share as processes: a data folder held, signals that stop, an event loop.

Knows: file locks, signals and which loop there is. Must not know: what a program does.
"""

import asyncio
import contextlib
import errno
import fcntl
import importlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

from protocol.errors import Conflict, Denied, Exhausted, Fault, Invalid
from protocol.threads import Threads

SWITCH_S: Final = 0.001
"""How long one thread computes while another waits for its turn. The event loop waits for each thread that writes the read
model or moves bytes; with Python's own five milliseconds, four of them would hold it up for twenty."""

LOOP_THREADS: Final = min(32, (os.cpu_count() or 1) + 4)
"""For a loop's own work (`asyncio.to_thread`, names that it looks up): as many as Python has."""

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""How the system says that a disk takes no more."""


def lock_folder(folder: Path, owner: str) -> int:
    """Make the data folder if need be, and take it for this process: the answer is a descriptor to close at the end.

    `owner` is what the program calls itself: ``node``. The system frees the folder however the process ends. Raises
    `Conflict` if another such program has it; `Denied`, `Exhausted` or `Invalid` if it cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder / f"{owner}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(folder, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Conflict(
            f"the data folder {folder} is in use by another {owner}",
            hint="End that one, or give this one a folder of its own with --data-dir.",
        ) from error
    return descriptor


@contextlib.contextmanager
def held(folder: Path, owner: str) -> Iterator[None]:
    """`lock_folder` for as long as the context is open."""
    descriptor = lock_folder(folder, owner)
    try:
        yield
    finally:
        os.close(descriptor)


def stop_signal() -> asyncio.Event:
    """Set when the process is asked to end. A hang-up that whoever started us ignores (nohup) stays ignored."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run a program's event loop (uvloop's if it is installed) to its exit code, its threads taking turns every `SWITCH_S`,
    with as many open files as the system lets it have.

    A group of errors that holds nothing but our faults is raised as the first of them.
    """

    async def begun() -> int:
        asyncio.get_running_loop().set_default_executor(Threads(LOOP_THREADS))
        return await main

    run: Callable[[Coroutine[Any, Any, int]], int] = asyncio.run
    with contextlib.suppress(ImportError):
        run = importlib.import_module("uvloop").run
    sys.setswitchinterval(SWITCH_S)
    _open_more_files()
    try:
        return run(begun())
    except BaseExceptionGroup as group:
        raise _first_fault(group) or group from None


def _open_more_files() -> None:
    """Raise the limit of open files to what this process may have. The usual 1,024 is for programs that ask by ``select``;
    each connection that waits is an open file, and a thousand servers that never answer would be all of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _first_fault(group: BaseExceptionGroup[BaseException]) -> Fault | None:
    """The first fault of ours in a group that holds nothing worse."""
    faults, rest = group.split(Fault)
    if faults is None or rest is not None:
        return None
    found: BaseException = faults
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, Fault) else None


def unusable(folder: Path, error: OSError) -> Fault:
    """What a data folder that cannot be used is told as."""
    message = f"the data folder {folder} cannot be used: {error.strerror}"
    hint = "Name another with --data-dir."
    if error.errno in FULL:
        return Exhausted(
            f"there is no room for the data folder {folder}", hint=f"Free some there. {hint}", kind="Disk"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Denied(message, hint=hint)
    return Invalid(message, hint=hint)
