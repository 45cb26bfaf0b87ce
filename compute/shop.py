"""What all executions of a node share.

Knows: the node's parts, by type. Must not know: what any of them does.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from compute.admission import Policy
from compute.alarms import Alarms
from compute.capacity import Ports
from compute.disk import Disk
from compute.engines.contract import Engine
from compute.inputs import Inputs
from compute.journal import Journal
from compute.limits import Limits
from compute.logs import Logs
from compute.progress import ProgressBoard
from compute.provenance import Manifests
from compute.reports import Reporter
from compute.room import Room
from compute.sweeper import Sweeper
from protocol.clock import Clock
from protocol.ids import ExecutionId, NodeId
from protocol.nodes import Gpu
from protocol.patience import Patience
from storage.contract import Drivers


class Shop(Struct, frozen=True):
    """What all executions of a node share. `version` is what its beats say; `tasks` owns every task they begin, `gpus` are
    the devices of the node by their number.

    `resolving` and `starting` bound how long it may take to learn what an input is, and to start a program.
    """

    node: NodeId
    version: str
    incarnation: int
    folder: Path
    engines: Mapping[str, Engine[Any]]
    drivers: Drivers
    policy: Policy
    limits: Limits
    host: Mapping[str, str]
    room: Room
    gpus: Mapping[int, Gpu]
    ports: Ports
    journal: Journal
    logs: Logs
    reporter: Reporter
    progress: ProgressBoard
    clock: Clock
    alarms: Alarms
    resolving: Patience
    starting: Patience
    tasks: asyncio.TaskGroup
    inputs: Inputs
    disk: Disk
    manifests: Manifests
    sweeper: Sweeper
    forgotten: Callable[[ExecutionId], None]
