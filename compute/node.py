"""Puts a node together and runs it: the only place that knows all its parts.

Knows: what is built from what, in which order it starts and ends. Must not know: how any part works.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from compute.agent import Agent, AgentSettings
from compute.blobs import blob_reader
from compute.early_beat import read_info
from compute.engines.contract import Engine
from compute.engines.table import open_engines
from compute.facts import VERSION, Facts
from compute.first_room import make_first_room
from compute.gpus import find_gpus
from compute.journal import INFO, Journal
from compute.machine import cache_budget, capacity, disk_reserve, labels, machine
from compute.node_name import node_id
from compute.ports import listening
from compute.settings import Settings
from compute.uploads import BusGrants
from protocol.bus import Messages
from protocol.clock import Clock, SystemClock
from protocol.ids import NodeId
from protocol.nodes import NodeInfo
from storage import s3
from storage.cache_entries import cached_bytes
from storage.contract import Drivers
from storage.drivers import open_drivers
from storage.local_publisher import kept_bytes


@asynccontextmanager
async def running(
    bus: Messages,
    settings: Settings,
    *,
    node: NodeId | None = None,
    engines: Mapping[str, Engine[Any]] | None = None,
    clock: Clock | None = None,
    host: Mapping[str, str] | None = None,
) -> AsyncIterator[Agent]:
    """A node at work on a bus, from its first beat until the context closes.

    `engines` replaces those of the settings (whoever made them closes them), `host` the environment that jobs may read by
    ``env:NAME``. On leaving, programs that can outlive the process go on; the next node on the same data folder adopts
    them. Raises `Conflict` if the data folder is in use, `Invalid` for settings that make no sense, and an
    ``ExceptionGroup`` if the node breaks.
    """
    clock = clock or SystemClock()
    node = node or node_id(settings)
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(make_first_room, settings.data_dir, settings.disk_reserve)
        journal = Journal(settings.data_dir)
        stack.push_async_callback(journal.close)
        if engines is None:
            engines = await stack.enter_async_context(open_engines(settings.engine_settings(node)))
        drivers = await stack.enter_async_context(
            open_drivers(settings.storage(), blob_reader(bus), BusGrants(bus, node))
        )
        drivers = _enabled(drivers, settings)
        if "s3" in {*drivers.sources, *drivers.publishers}:
            # Before anything is served: the loop would stand still while it is imported.
            await asyncio.to_thread(s3.load)
        info = await _info(settings, node)
        facts = Facts(info, engines, drivers, clock, before=read_info(journal.noted(INFO)))
        await facts.first_probe()
        agent = Agent(
            _agent_settings(settings, info),
            bus,
            engines,
            drivers,
            facts,
            journal,
            clock=clock,
            host=os.environ if host is None else host,
            listening=listening,
        )
        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(agent.run())
            await agent.ready.wait()
            try:
                yield agent
            finally:
                life.cancel()


def _enabled(drivers: Drivers, settings: Settings) -> Drivers:
    """The drivers without those that the node's owner disabled."""
    sources, publishers = settings.sources_disabled, settings.publishers_disabled
    return Drivers(
        {name: each for name, each in drivers.sources.items() if name not in sources},
        {name: each for name, each in drivers.publishers.items() if name not in publishers},
        {name: each for name, each in drivers.absent_sources.items() if name not in sources},
        {name: each for name, each in drivers.absent_publishers.items() if name not in publishers},
    )


async def _info(settings: Settings, node: NodeId) -> NodeInfo:
    inputs_bytes = await asyncio.to_thread(cached_bytes, settings.data_dir / "cache")
    results_bytes = await asyncio.to_thread(kept_bytes, settings.data_dir / "published")
    reserve_bytes = disk_reserve(settings.data_dir, settings.disk_reserve)
    here = machine(
        settings.data_dir,
        await find_gpus(),
        kept_bytes=inputs_bytes + results_bytes,
        reserve_bytes=reserve_bytes,
    )
    given = capacity(settings.share, here, settings.port_last - settings.port_first + 1)
    return NodeInfo(
        id=node,
        version=VERSION,
        labels=labels(node, here, settings.labels),
        capacity=given,
        largest=given,
        gpus=here.gpus[: given.gpu],
        address=settings.publish_address,
    )


def _agent_settings(settings: Settings, info: NodeInfo) -> AgentSettings:
    return AgentSettings(
        node=info.id,
        folder=settings.data_dir,
        beat_s=settings.beat_s,
        policy=settings.policy(),
        limits=settings.limits,
        logs=settings.logs,
        ports=(settings.port_first, settings.port_last),
        end_work=settings.end_work_at_exit,
        cache_bytes=cache_budget(settings.cache, info.capacity),
        reserve_bytes=disk_reserve(settings.data_dir, settings.disk_reserve),
    )
