"""One server process: started in a group of its own, watched until it answers, ended by its own handle.

Knows: processes, log files and deadlines. Must not know: what any server speaks. A process that ends before it is ready
becomes a `Failed` that quotes the end of its log. Nothing here is ever ended by name.
"""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from random import SystemRandom
from typing import Final

READY_S: Final = 30.0
STOP_S: Final = 10.0
POLL_S: Final = 0.01
LOG_TAIL_BYTES: Final = 2000
FIRST_PORT: Final = 20_000
PORTS_MIN: Final = 1_000
FIRST_OUTGOING: Final = 49_152
"""The first port of outgoing connections where the system does not say which it takes for them (RFC 6335)."""

_given: set[int] = set()


class Failed(Exception):
    """A server did not start, or did not answer in time; the message holds the end of its log."""


class Process:
    """A running server. Not tied to an event loop: it may be started in one and stopped in another."""

    def __init__(self, popen: subprocess.Popen[bytes], name: str, log: Path) -> None:
        self._popen = popen
        self.name = name
        self.log = log
        self._began = time.monotonic()

    @classmethod
    def start(
        cls,
        command: Sequence[str | Path],
        *,
        name: str,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> "Process":
        """Start `command` with its output appended to `log` and `env` added to the environment. Raises `OSError`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            popen = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                # A Ctrl-C at the terminal is for us; we end our servers in order.
                start_new_session=True,
            )
        return cls(popen, name, log)

    @property
    def pid(self) -> int:
        """The process id, which is its group's as well."""
        return self._popen.pid

    @property
    def code(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None until `kill` or `stop` has collected its end."""
        return self._popen.returncode

    @property
    def lived_s(self) -> float:
        """How long ago it was started, in seconds to the hundredth."""
        return round(time.monotonic() - self._began, 2)

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        if self._popen.returncode is not None:
            return False
        if not hasattr(os, "waitid"):
            return self._popen.poll() is None
        try:
            # Look without collecting: as long as we have not, its number is its group's and can't become another's.
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    async def ready(self, answers: Callable[[], Awaitable[bool]], *, within_s: float = READY_S) -> None:
        """Ask `answers` until it is true; an `OSError` counts as not yet. Raises `Failed` when it ends or is late."""
        deadline = time.monotonic() + within_s
        while True:
            if not self.running:
                raise Failed(
                    f"{self.name} ended with code {self._popen.poll()} at its start:\n{self.log_tail()}"
                )
            # Not `wait_for`, which hides a cancellation that comes just as the answer does (up to Python 3.11).
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                    if await answers():
                        return
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} did not answer within {within_s:g} s:\n{self.log_tail()}")
            await asyncio.sleep(POLL_S)

    async def stop(self, *, within_s: float = STOP_S) -> None:
        """Ask it to end, insist after `within_s`, and take its whole group along. Harmless when it has ended."""
        if self.running:
            self._popen.terminate()
            await self._ended(within_s)
        await self.kill()

    async def kill(self) -> None:
        """End the process and all of its group at once, without warning. Harmless when it has ended."""
        if self._popen.returncode is not None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._ended(STOP_S)
        self._popen.poll()

    def log_tail(self) -> str:
        """The last lines that the process wrote."""
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
        return "(it wrote nothing)"

    async def _ended(self, within_s: float) -> bool:
        # Polled instead of waited for in a thread: a cancelled wait must not leave a thread behind.
        deadline = time.monotonic() + within_s
        while self.running:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on just now, all different, and none that this process was given before.

    They are not among those that the system gives to outgoing connections: one of these could take the port of a server
    that is being started again, or, asking for it again and again, be connected to itself. Another process may still take
    one first: try again then. Raises `OSError` when there are not so many.
    """
    found: list[int] = []
    ports = _for_servers()
    # Not the shared generator, which tests give a seed.
    first = SystemRandom().randrange(len(ports))
    for port in chain(ports[first:], ports[:first]):
        if len(found) == count:
            break
        if port not in _given and _is_free(host, port):
            found.append(port)
            _given.add(port)
    if len(found) < count:
        raise OSError(f"no {count} free ports on {host}")
    return found


def _for_servers() -> range:
    """Ports that outgoing connections are not given."""
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = FIRST_OUTGOING
    return range(FIRST_PORT, first) if first > FIRST_PORT + PORTS_MIN else range(FIRST_PORT, 1 << 16)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
