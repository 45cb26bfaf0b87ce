"""A process of our own that is started beside the event loop.

Knows: how a program is started, what it says, and how its end is seen. Must not know: what it is for.

uvloop starts a program on the loop: it forks all that the process has in memory, and waits until the program is in its
place. On a slow machine that is 25 to 60 ms, for every one. A thread needs the interpreter for one of them.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from storage.threads import Pool, in_thread

READ_BYTES: Final = 1 << 16
_starts: Final = Pool(2)
"""A program is not kept from its start by what the node copies; and the kernel forks for one thread at a time."""


class Child:
    """One process. `said` is told of what it writes to its standard output, `ended` once, with its exit status (as
    ``subprocess`` has it), when it has ended and all was read; both on the loop."""

    def __init__(self, said: Callable[[bytes], None], ended: Callable[[int], None]) -> None:
        self._said = said
        self._ended = ended
        self._popen: subprocess.Popen[bytes] | None = None
        self._out = -1
        self._open: set[int] = set()

    @property
    def is_there(self) -> bool:
        """Whether it was started, and its end was not told yet."""
        return bool(self._open)

    async def start(self, command: Sequence[str], env: Mapping[str, str], keep: Sequence[int]) -> None:
        """Start it in a session of its own; it keeps the descriptors `keep`. Raises ``OSError``."""
        started: list[subprocess.Popen[bytes]] = []

        def start() -> None:
            started.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    env=env,
                    pass_fds=tuple(keep),
                    start_new_session=True,
                )
            )

        try:
            await in_thread(lambda _: start(), _starts)
        finally:
            # One that nobody waits for any more is there all the same.
            if started:
                self._follow(started[0])

    def kill(self) -> None:
        """End it, now; harmless if it has ended."""
        if self._popen is not None:
            self._popen.kill()

    def _follow(self, popen: "subprocess.Popen[bytes]") -> None:
        assert popen.stdout is not None
        self._popen = popen
        self._out, pid = os.dup(popen.stdout.fileno()), os.pidfd_open(popen.pid)
        popen.stdout.close()
        os.set_blocking(self._out, False)
        self._open = {self._out, pid}
        loop = asyncio.get_running_loop()
        loop.add_reader(self._out, self._read)
        loop.add_reader(pid, self._close, pid)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._out, READ_BYTES)
            if data:
                self._said(data)
            else:
                self._close(self._out)

    def _close(self, fd: int) -> None:
        """It says no more, or it is gone; after both its end is told."""
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        self._open.discard(fd)
        if not self._open:
            assert self._popen is not None
            self._ended(self._popen.wait())
