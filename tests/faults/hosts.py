"""Hosts of our own on this machine: a network namespace each, joined by a bridge in a namespace that nobody else sees.

Knows: ``nsenter`` and ``ip``. Must not know: what runs on a host. Everything lives in the namespaces that `enclosure` made:
when its processes have ended, the kernel removes all of it.
"""

import os
import subprocess
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

NAMES: Final = "/run/netns"
HUB: Final = "10.99.0.1"
BRIDGE: Final = "hub"


class Host(Struct, frozen=True):
    """One host: what is started there has `prefix` before its command. `port` is its end of the cable at the bridge."""

    name: str
    address: str
    port: str

    @property
    def prefix(self) -> list[str]:
        return ["nsenter", f"--net={NAMES}/{self.name}"]

    def cut(self) -> None:
        """Pull the cable."""
        _ip("link", "set", self.port, "down")

    def heal(self) -> None:
        """Plug it in again."""
        _ip("link", "set", self.port, "up")


def make(names: Sequence[str]) -> dict[str, Host]:
    """Hosts of these names, which reach each other and, at `HUB`, whoever called this."""
    apart(NAMES)
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{HUB}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    return {name: _host(name, number) for number, name in enumerate(names, 2)}


def apart(folder: str) -> None:
    """Make a folder empty, for us alone: nobody outside sees what is done in it."""
    os.makedirs(folder, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)


def _host(name: str, number: int) -> Host:
    host = Host(name, f"10.99.0.{number}", f"v{number}")
    _ip("netns", "add", name)
    _ip("link", "add", host.port, "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", host.port, "master", BRIDGE)
    _ip("link", "set", host.port, "up")
    for words in (
        ("addr", "add", f"{host.address}/24", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("link", "set", "lo", "up"),
    ):
        _ip("-n", name, *words)
    return host


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
