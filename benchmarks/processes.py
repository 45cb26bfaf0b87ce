"""What each process of a cluster costs: processor time and memory, as the system counts them.

Processor time does not depend on what else the machine does, so it is what a shared machine can compare.
"""

import os
from collections.abc import Mapping
from typing import Final

import psutil

from deploy.devstack import Cluster

MIB: Final = 1 << 20
WORKERS: Final = "wasm workers"


def of_cluster(ours: Cluster) -> dict[str, list[psutil.Process]]:
    """The processes of a cluster by what they are; this one is the client."""
    return {
        "requester": [psutil.Process(part.process.pid) for part in ours.requesters],
        "node": [psutil.Process(part.process.pid) for part in ours.computes],
        "NATS server": [psutil.Process(ours.nats.pid)],
        "client": [psutil.Process(os.getpid())],
    }


class Usage:
    """Processor seconds since it was made, and the most memory ever, by what a process is.

    The processes that nodes start (WebAssembly workers) are counted apart, those that have ended included.
    """

    def __init__(self, processes: Mapping[str, list[psutil.Process]]) -> None:
        self._processes = processes
        self._before = self._seconds()

    def seconds(self) -> dict[str, float]:
        """Processor seconds since the beginning."""
        return {name: total - self._before[name] for name, total in self._seconds().items()}

    def peaks_mib(self) -> dict[str, float]:
        """The most memory that any process of a kind ever had, in MiB."""
        kinds = {**self._processes, WORKERS: self._children()}
        return {
            name: max((_peak_bytes(each) / MIB for each in processes if each.is_running()), default=0.0)
            for name, processes in kinds.items()
        }

    def _children(self) -> list[psutil.Process]:
        return [child for node in self._processes.get("node", []) for child in node.children(recursive=True)]

    def _seconds(self) -> dict[str, float]:
        found = {name: sum(map(_seconds, processes)) for name, processes in self._processes.items()}
        ended = sum(_seconds_of_ended(node) for node in self._processes.get("node", []))
        return {**found, WORKERS: ended + sum(map(_seconds, self._children()))}


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _seconds_of_ended(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.children_user + times.children_system)


def _peak_bytes(process: psutil.Process) -> int:
    try:
        with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0
