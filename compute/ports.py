"""Ports of this host for programs that listen.

Knows: how to find out whether anybody else uses one. Must not know: how an engine opens it.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from compute.capacity import Ports
from protocol.errors import Conflict, Exhausted
from protocol.messages import Run
from protocol.spec.network import STATIC_PORTS

SOCKETS: Final = Path("/proc/net")
_LISTENING: Final = re.compile(rb" *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:0000 0A ")
"""A line of the kernel's table: its number, the address with the port, nobody's address, and the state LISTEN."""
WITHOUT = frozenset({"none", "http"})
"""Network types under which nobody can connect to a program."""


def take_ports(run: Run, ports: Ports) -> dict[str, tuple[int, int]]:
    """The ports of an execution by name: (on this host, as the program sees it).

    Raises `Conflict` if a static one is in use, `Exhausted` if none is left; what was taken until then is held until
    `Ports.release`.
    """
    if run.task.network.type.lower() in WITHOUT:
        return {}
    taken = {}
    for port in run.task.network.ports:
        outside = ports.take(run.execution, port.static, _unused)
        if outside is None and port.static:
            raise Conflict(
                f"port {port.name}: {port.static} is in use on this node",
                hint="Leave out Static.",
                kind="Port",
            )
        if outside is None:
            raise Exhausted(
                f"port {port.name}: other programs of this node use all ports that jobs may have",
                hint="Give jobs another range: Compute.Network.PortRangeStart and PortRangeEnd of the node.",
                kind="Port",
            )
        taken[port.name] = (outside, port.target or outside)
    return taken


def other_ports(run: Run, ports: Ports) -> dict[str, tuple[int, int]]:
    """Ports in place of those that an execution has, of which somebody else took one. Raises as `take_ports`."""
    ports.release(run.execution)
    return take_ports(run, ports)


def static_ports(run: Run) -> list[int]:
    """The ports of its host that an order names."""
    return [port.static for port in run.task.network.ports if port.static]


def listening(sockets: Path = SOCKETS) -> frozenset[int]:
    """The ports that jobs can ask for on which some program of this machine listens; none where the kernel does not tell.

    Those that listen stand first in the kernel's table: with thousands of connections behind them it costs no more.
    """
    return frozenset(
        port for name in ("tcp", "tcp6") for port in _listening_in(sockets / name) if port in STATIC_PORTS
    )


def _listening_in(table: Path) -> Iterator[int]:
    with suppress(OSError), table.open("rb") as lines:
        next(lines, None)
        for line in lines:
            found = _LISTENING.match(line)
            if found is None:
                return
            yield int(found[1], 16)


def _unused(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
