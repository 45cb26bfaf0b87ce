"""Ports of the machine that others use."""

import socket
from pathlib import Path

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


def test_only_what_listens_counts(tmp_path: Path) -> None:
    """Connections take no port from anybody, and a kernel that tells nothing is no fault."""
    lines = [
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100",
        "   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100",
        "   2: 0100007F:2328 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20",
    ]
    (tmp_path / "tcp").write_text("\n".join(lines))
    assert listening(tmp_path) == {8080}
    assert listening(tmp_path / "none") == frozenset()
