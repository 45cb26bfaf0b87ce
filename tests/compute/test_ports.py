"""Ports of the machine that others use."""

import socket

import pytest

from compute.ports import listening
from deploy.processes import free_ports


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
