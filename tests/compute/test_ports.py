"""Ports of the machine that others use."""

import socket

import pytest

from compute.capacity import Ports
from compute.ports import listening, take_ports
from deploy.processes import free_ports
from protocol.errors import Conflict
from protocol.ids import ExecutionId, JobId, NodeId
from protocol.jobs import Amounts, Network, Port, Task
from protocol.messages import Run


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, ""), (socket.AF_INET6, "::1")]
)
def test_who_listens_is_seen(family: socket.AddressFamily, address: str) -> None:
    """A port on which any program of the machine listens is known, at whichever address; once it is closed it is not."""
    [port] = free_ports(1)
    with socket.socket(family) as other:
        try:
            other.bind((address, port))
        except OSError:
            pytest.skip("this machine has no such address")
        assert port not in listening()
        other.listen()
        assert port in listening()
    assert port not in listening()


def test_only_what_listens_counts() -> None:
    """Who is connected to a program takes no port from anybody."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
        assert server.getsockname()[1] in listening()
        assert client.getsockname()[1] not in listening()


def test_who_cannot_ask_is_told_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel answers no such question, no port counts as taken."""
    monkeypatch.setattr("compute.ports._SOCK_DIAG", 31)
    assert listening() == frozenset()


def of(*ports: Port) -> Run:
    """An order for a program with these ports."""
    network = Network(type="Bridge", ports=list(ports))
    of_job = NodeId("n-1"), JobId("j-1"), "j-1", "default", "batch", 1
    return Run(1, *of_job, ExecutionId("e-1"), 0, 1, 1, Task(network=network), Amounts())


def test_a_port_of_datagrams_is_another_ones() -> None:
    """A number is looked at for the protocol that is asked for: a program that listens for datagrams takes it from jobs that
    want datagrams there, and from no others.
    """
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("", 0))
        port = other.getsockname()[1]
        assert take_ports(of(Port("a", port)), Ports(20_000, 20_009)) == {"a": (port, port)}
        with pytest.raises(Conflict, match=f"port a: {port}/udp is in use"):
            take_ports(of(Port("a", port, protocol="udp")), Ports(20_000, 20_009))


def test_one_number_for_both_protocols() -> None:
    """A job may have one number twice, for TCP and for UDP."""
    [port] = free_ports(1)
    both = of(Port("dns", port, 53, protocol="udp"), Port("dns_tcp", port, 53))
    assert take_ports(both, Ports(20_000, 20_009)) == {"dns": (port, 53), "dns_tcp": (port, 53)}
