"""Ports of this host for programs that listen.

Knows: how to find out whether anybody else uses one. Must not know: how an engine opens it.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Final

from compute.capacity import Ports
from protocol.errors import Conflict, Exhausted
from protocol.jobs import TCP, UDP
from protocol.messages import Run
from protocol.spec.network import STATIC_PORTS

_HEADER: Final = struct.Struct("=IHHII")
"""Of a netlink message: its length, type, flags, number, and whose it is."""
_QUESTION: Final = struct.Struct("=BBxxI48x")
"""``inet_diag_req_v2``: family, protocol, and the states that are asked for, as bits; any address."""
_ANSWER: Final = struct.Struct("!BBxxH")
"""How ``inet_diag_msg`` begins: family, state, and the socket's port."""
_SOCK_DIAG, _BY_FAMILY, _DUMP, _DATA = 4, 20, 0x301, 20
_LISTEN: Final = 1 << 10
_ANSWER_S: Final = 1.0

WITHOUT: Final = frozenset({"none", "http"})
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
        outside = ports.take(run.execution, port.static, _UNUSED[port.transport])
        if outside is None and port.static:
            raise Conflict(
                f"port {port.name}: {port.static}/{port.transport} is in use on this node",
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
    """The ports of its host that an order names, and that its program can listen on."""
    if run.task.network.type.lower() in WITHOUT:
        return []
    return list(run.task.network.static_ports)


def listening() -> frozenset[int]:
    """The ports that jobs can ask for on which some program of this machine listens (TCP); none if the kernel does not tell.

    It is asked for those alone (``sock_diag``). To write all connections below ``/proc/net`` takes it milliseconds.
    """
    # Other systems have no such sockets at all.
    with suppress(OSError, AttributeError, struct.error):
        return frozenset(
            port
            for family in (socket.AF_INET, socket.AF_INET6)
            for port in _listening(family)
            if port in STATIC_PORTS
        )
    return frozenset()


def _listening(family: int) -> Iterator[int]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(_ANSWER_S)
        question = _QUESTION.pack(family, socket.IPPROTO_TCP, _LISTEN)
        kernel.send(_HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _DUMP, 1, 0) + question)
        while True:
            answer = kernel.recv(1 << 16)
            begin = 0
            while begin < len(answer):
                length, type_, *_ = _HEADER.unpack_from(answer, begin)
                if type_ != _DATA or length < _HEADER.size:
                    # That was all, or it does not say.
                    return
                yield _ANSWER.unpack_from(answer, begin + _HEADER.size)[2]
                begin += length + 3 & ~3


def _unused(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(type=kind) as probe:
        if kind is socket.SOCK_STREAM:
            # What a connection that has ended still holds; of datagrams the option would share a port that is in use.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


_UNUSED: Final = {
    TCP: partial(_unused, kind=socket.SOCK_STREAM),
    UDP: partial(_unused, kind=socket.SOCK_DGRAM),
}
