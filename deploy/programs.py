"""Where the programs of other projects are found: the cache folder, this Python's own folder, then PATH.

Knows: names, folders and what to tell someone who lacks a program. Must not know: what a program is for. Standard library
only: ``deploy/setup`` runs it before anything is installed.
"""

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""The repository, or the folder that the packages were installed into."""

CLIENTS: Final = ROOT / "deploy" / "clients.txt"
"""The pinned Python clients of Bacalhau."""

HOW_TO_GET: Final = {
    "nats-server": "run `make setup`, or put a nats-server 2.12 or later on PATH",
    "ipfs": "run `deploy/setup kubo` (needs Go), or put Kubo 0.30 or later on PATH as `ipfs`",
    "versitygw": "run `deploy/setup s3` (needs Go)",
    "weed": "run `make setup`",
    "s5cmd": "run `deploy/setup s5cmd` (needs Go)",
    "bacalhau": "run `deploy/setup peer` (needs Go, and minutes)",
    "bacalhau-sdk": "run `deploy/setup clients`",
    "dockerd": "run `SETUP=system deploy/setup docker` as root on Debian, or install Docker and start its daemon",
    "iptables": "run `SETUP=system deploy/setup docker` as root on Debian, or install iptables",
    "docker-registry": "run `SETUP=system deploy/setup registry` as root on Debian",
    "mkfs.xfs": "run `SETUP=system deploy/setup filesystems` as root on Debian (the package xfsprogs)",
    "mkfs.btrfs": "run `SETUP=system deploy/setup filesystems` as root on Debian (the package btrfs-progs)",
    "busybox": "run `SETUP=system deploy/setup images` as root on Debian (the package busybox-static)",
}


class Missing(Exception):
    """A program or service that is needed is not there. `what` names it, `how_to_get_it` is an imperative sentence."""

    def __init__(self, what: str, how_to_get_it: str) -> None:
        super().__init__(f"{what} is missing: {how_to_get_it}")
        self.what = what
        self.how_to_get_it = how_to_get_it


def cache_folder() -> Path:
    """Where built programs and the test daemon's data are kept between runs: ``SHOAL_CACHE``, or shoal in XDG's cache."""
    if own := os.environ.get("SHOAL_CACHE"):
        return Path(own).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "shoal"


def clients_folder() -> Path:
    """Where the packages that `CLIENTS` names are, once they were got: one folder for each state of that file."""
    return cache_folder() / f"clients-{hashlib.sha256(CLIENTS.read_bytes()).hexdigest()[:12]}"


def find(name: str) -> Path | None:
    """The program of that name, or None. What was built for us wins over what the system happens to have."""
    beside_python = Path(sys.executable).parent
    for folder in (cache_folder() / "bin", beside_python, ROOT / ".venv" / "bin"):
        candidate = folder / name
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    # Debian keeps daemons in sbin, which is not on everyone's PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def need(name: str) -> Path:
    """The program of that name. Raises `Missing`, which says how to get it."""
    found = find(name)
    if found is None:
        raise Missing(name, HOW_TO_GET[name])
    return found
