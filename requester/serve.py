"""Puts a requester together and runs it: the only place that knows all its parts.

Knows: what is built from what, in which order it starts and ends. Must not know: how any part works.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple
from uuid import uuid4

import structlog
from msgspec.structs import replace

from protocol.bus import Bus
from protocol.clock import Clock, SystemClock
from protocol.ids import RequesterId
from requester.beats import Beats
from requester.blobs import serve_blobs
from requester.committer import Committer
from requester.compaction import Compaction
from requester.core.fleet import Fleet
from requester.duties import Duties
from requester.follower import Follower
from requester.forgetting import Forgetting
from requester.jobs import Jobs
from requester.node_cells import NodeCells
from requester.orchestrator import Orchestrator
from requester.presence import Presence
from requester.recorder import Recorder
from requester.registry import Registry
from requester.repair import Repair
from requester.reports import Reports
from requester.retention import Retention
from requester.service import Service
from requester.settings import Settings
from requester.uploads import Bucket, serve_uploads
from requester.verbs import Verbs
from requester.words import Words

_log = structlog.get_logger(__name__)

Api = Callable[[Verbs, str, int], AbstractAsyncContextManager[tuple[str, int]]]
"""Serves the verbs at a host and port while the context is open; gives the address it listens on."""

Work = list[Coroutine[Any, Any, None]]
"""What goes on while a requester is there, not begun yet."""


class _Parts(NamedTuple):
    """A requester put together, with nothing of it begun."""

    service: Service
    jobs: Jobs
    orchestrator: Orchestrator
    follower: Follower
    recorder: Recorder
    retention: Retention
    work: Work


@asynccontextmanager
async def running(
    bus: Bus,
    settings: Settings,
    *,
    clock: Clock | None = None,
    version: str = "0",
    randbits: Callable[[int], int] | None = None,
    bucket: Bucket | None = None,
) -> AsyncIterator[Service]:
    """A requester at work on a bus, from the moment it has read the log to its end until the context closes.

    `randbits` gives that many bits of chance: ids of jobs are made of it. `bucket` is where nodes may be let publish.
    """
    clock = clock or SystemClock()
    # Seeded by the system once: an id has to be new, not secret, and asking the system for each takes twenty times as long.
    randbits = randbits or random.Random(secrets.randbits(256)).getrandbits
    if not settings.id:
        settings = replace(settings, id=RequesterId(f"r-{uuid4()}"))
    parts = _put_together(bus, settings, clock, version=version, randbits=randbits, bucket=bucket)
    try:
        await _resume(parts)
        async with asyncio.TaskGroup() as tasks:
            started = [tasks.create_task(each) for each in parts.work]
            try:
                await parts.follower.read_to_the_end()
                _log.info(
                    "requester ready",
                    id=settings.id,
                    folded=parts.follower.position,
                    open_jobs=len(parts.jobs),
                )
                yield parts.service
            finally:
                for task in started:
                    task.cancel()
    finally:
        for each in parts.work:
            each.close()
        await parts.recorder.close()


async def _resume(parts: _Parts) -> None:
    """Take up the jobs that were open when this requester ended, except those whose end it missed."""
    # Not later: a job that has nearly all entries that the log takes of it may be changed at once.
    parts.orchestrator.entries_max = (await parts.follower.begin()).entries_max
    async for some in parts.recorder.every_open():
        missed = await parts.retention.missed(some)
        for record in some:
            if record.key in missed:
                await parts.recorder.forget(record)
            else:
                parts.orchestrator.resume(record)


class _Deciding(NamedTuple):
    """What makes jobs' entries and folds them."""

    fleet: Fleet
    jobs: Jobs
    recorder: Recorder
    committer: Committer
    presence: Presence
    orchestrator: Orchestrator
    follower: Follower


class _Nodes(NamedTuple):
    """What hears of nodes."""

    cells: NodeCells
    registry: Registry


def _put_together(
    bus: Bus,
    settings: Settings,
    clock: Clock,
    *,
    version: str,
    randbits: Callable[[int], int],
    bucket: Bucket | None,
) -> _Parts:
    """Who is told what by whom: each part knows the others only as what it is given here."""
    deciding = _deciding(bus, settings, clock, version)
    fleet, jobs, recorder, _, presence, orchestrator, follower = deciding
    reports = Reports(
        bus, clock, jobs=jobs, orchestrator=orchestrator, follower=follower, wait_s=settings.report_wait_s
    )
    follower.advanced = reports.folded
    nodes = _nodes(bus, settings, clock, deciding)
    duties = _duties(bus, settings, clock, deciding, nodes, reports)
    follower.caught_up = duties.begin
    retention = Retention(
        bus,
        clock,
        settings,
        recorder=recorder,
        presence=presence,
        jobs=jobs,
        spoken_of=nodes.registry.spoken_of,
        vanished=orchestrator.applier.vanished,
        # Who has heard no node for a while knows nothing of what nodes speak of.
        ready=lambda: orchestrator.acting and orchestrator.settled,
    )
    service = Service(
        bus,
        clock,
        settings,
        version=version,
        jobs=jobs,
        orchestrator=orchestrator,
        words=Words(bus, clock, fleet=fleet, presence=presence, cells=nodes.cells),
        recorder=recorder,
        follower=follower,
        presence=presence,
        duties=duties,
        randbits=randbits,
    )
    work = _work(deciding, nodes, reports, duties, retention)
    work += [_compaction(bus, settings, clock, deciding).run(), serve_blobs(bus)]
    if bucket is not None:
        work.append(serve_uploads(bus, jobs, bucket))
    return _Parts(service, jobs, orchestrator, follower, recorder, retention, work)


def _duties(
    bus: Bus, settings: Settings, clock: Clock, deciding: _Deciding, nodes: _Nodes, reports: Reports
) -> Duties:
    fleet, jobs, _, committer, presence, orchestrator, _ = deciding
    cells, registry = nodes
    return Duties(
        bus,
        clock,
        settings,
        fleet=fleet,
        jobs=jobs,
        orchestrator=orchestrator,
        registry=registry,
        cells=cells,
        forgetting=Forgetting(bus, clock, settings, fleet=fleet, presence=presence, cells=cells),
        reports=reports,
        committer=committer,
        presence=presence,
    )


def _compaction(bus: Bus, settings: Settings, clock: Clock, deciding: _Deciding) -> Compaction:
    _, jobs, recorder, _, presence, orchestrator, follower = deciding
    return Compaction(
        bus,
        clock,
        settings,
        jobs=jobs,
        recorder=recorder,
        presence=presence,
        decide=orchestrator.decide,
        reached=follower.reached,
        log_created=lambda: follower.created,
        entries_max=lambda: orchestrator.entries_max,
        ready=lambda: orchestrator.acting,
    )


def _deciding(bus: Bus, settings: Settings, clock: Clock, version: str) -> _Deciding:
    fleet = Fleet()
    recorder = Recorder(
        settings.read_model,
        pause_s=settings.flush_s,
        group_max=settings.flush_max,
        group_max_bytes=settings.flush_bytes,
    )
    jobs = Jobs(
        fleet,
        clock,
        closed_max=settings.keep_closed,
        waiting_max=settings.keep_waiting,
        size_max_bytes=settings.keep_bytes,
        load=recorder.load_here,
    )
    committer = Committer(bus, clock, settings.commits_max, keep_s=settings.keep_s)
    presence = Presence(bus, clock, settings.id, beat_s=settings.beat_s, version=version)
    orchestrator = Orchestrator(
        bus,
        clock,
        settings,
        jobs=jobs,
        committer=committer,
        presence=presence,
        recorder=recorder,
        position=lambda: follower.position,
        log_created=lambda: follower.created,
    )
    follower = Follower(bus, clock, recorder, take=orchestrator.applier.take, anew=orchestrator.begin_anew)
    recorder.recorded = jobs.recorded
    presence.changed = orchestrator.attend_mine
    presence.folded, presence.recorded = lambda: follower.position, lambda: recorder.written
    return _Deciding(fleet, jobs, recorder, committer, presence, orchestrator, follower)


def _nodes(bus: Bus, settings: Settings, clock: Clock, deciding: _Deciding) -> _Nodes:
    fleet, jobs, _, _, presence, orchestrator, follower = deciding
    repair = Repair(
        clock,
        jobs=jobs,
        orchestrator=orchestrator,
        follower=follower,
        presence=presence,
        after_s=settings.repair_after_s,
    )
    beats = Beats()
    cells = NodeCells(
        bus,
        clock,
        settings,
        fleet=fleet,
        presence=presence,
        changed=orchestrator.nodes_changed,
        moves=orchestrator.attend_node,
        left=[beats.forget, repair.forget],
    )
    presence.heard = cells.told
    follower.begun_anew = cells.begin_anew
    registry = Registry(
        bus,
        clock,
        settings,
        fleet=fleet,
        cells=cells,
        beats=beats,
        changed=orchestrator.nodes_changed,
        freed=orchestrator.freed,
        moves=orchestrator.attend_node,
        heard=repair.heard,
        unwanted=repair.unwanted,
        doubled=repair.doubled,
    )
    return _Nodes(cells, registry)


def _work(deciding: _Deciding, nodes: _Nodes, reports: Reports, duties: Duties, retention: Retention) -> Work:
    return [
        deciding.committer.run(),
        deciding.follower.run(),
        deciding.recorder.run(),
        deciding.recorder.learn(),
        deciding.orchestrator.run(),
        reports.answer(),
        reports.listen(),
        reports.listen_to_progress(),
        nodes.registry.listen(),
        nodes.cells.listen_to_people(),
        deciding.presence.listen(),
        deciding.presence.beat(),
        duties.tick(),
        duties.sweep(),
        duties.refresh(),
        retention.run(),
        retention.run_blobs(),
    ]


async def serve(
    bus: Bus, settings: Settings, api: Api | None = None, *, version: str = "0", bucket: Bucket | None = None
) -> None:
    """Run a requester, and its API if there is one, until cancelled. `bucket` is the one that it manages for nodes."""
    async with running(bus, settings, version=version, bucket=bucket) as service:
        if api is None:
            await asyncio.Event().wait()
            return
        async with api(service, settings.api_host, settings.api_port) as (host, port):
            _log.info("api ready", host=host, port=port)
            await asyncio.Event().wait()
