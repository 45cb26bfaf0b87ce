"""What each process of a cluster costs: processor time and memory, as the system counts them.

Processor time does not depend on what else the machine does, so it is what a shared machine can compare.
"""

import os
from collections.abc import Mapping
from typing import Final

import psutil

from deploy.devstack import Cluster

MIB: Final = 1 << 20


def of_cluster(ours: Cluster) -> dict[str, list[psutil.Process]]:
    """The processes of a cluster by what they are; this one is the client."""
    found = {
        "requester": [psutil.Process(part.process.pid) for part in ours.requesters],
        "node": [psutil.Process(part.process.pid) for part in ours.computes],
        "NATS server": [psutil.Process(ours.nats.process.pid)],
        "client": [psutil.Process(os.getpid())],
    }
    found["wasm workers"] = [child for node in found["node"] for child in node.children(recursive=True)]
    return found


class Usage:
    """Processor seconds since it was made, and the most memory ever, by what a process is."""

    def __init__(self, processes: Mapping[str, list[psutil.Process]]) -> None:
        self._processes = processes
        self._before = self._seconds()

    def seconds(self) -> dict[str, float]:
        """Processor seconds since the beginning."""
        return {name: total - self._before[name] for name, total in self._seconds().items()}

    def peaks_mib(self) -> dict[str, float]:
        """The most memory that any process of a kind ever had, in MiB."""
        return {
            name: max((_peak_bytes(each) / MIB for each in processes if each.is_running()), default=0.0)
            for name, processes in self._processes.items()
        }

    def _seconds(self) -> dict[str, float]:
        return {name: sum(map(_seconds, processes)) for name, processes in self._processes.items()}


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _peak_bytes(process: psutil.Process) -> int:
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
