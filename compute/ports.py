"""Ports of this host for programs that listen.

Knows: how to find out whether anybody else uses one. Must not know: how an engine opens it.
"""

import socket

from compute.capacity import Ports
from protocol.errors import Conflict, Exhausted
from protocol.messages import Run

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


def _unused(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
