"""The verbs: what a requester can be asked, carried out on the jobs in memory, the log and the read model.

Knows: how jobs are read and watched, and who does the other verbs of `requester.verbs`: `requester.job_changes`,
`requester.nodes`, `requester.output`, `requester.results`. Must not know: HTTP or the command line.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, Final

from protocol.bus import Bus
from protocol.clock import Clock
from protocol.errors import Failure, Invalid
from protocol.jobs import Job
from protocol.messages import FileWritten, Progress
from protocol.spec.selectors import parse_selector
from requester.core.deadlines import next_attempt
from requester.core.ends import entries_left
from requester.core.explanation import standings
from requester.core.model import ExecutionRecord, HistoryItem, JobRecord, NodeRecord
from requester.core.requests import execution_named
from requester.core.waiting import Reasons, as_they_wait
from requester.duties import Duties
from requester.follower import Follower
from requester.intake import Intake
from requester.job_changes import JobChanges
from requester.jobs import Jobs
from requester.live import Watcher
from requester.logs import Logs
from requester.lookup import Lookup
from requester.nodes import Nodes
from requester.orchestrator import Orchestrator
from requester.output import Output
from requester.presence import Presence
from requester.read_queries import ORDERS, select
from requester.recorder import Recorder
from requester.results import KeptResults
from requester.settings import Settings
from requester.verbs import (
    Archive,
    Explanation,
    HistoryPage,
    HistoryQuery,
    JobQuery,
    JobUpdate,
    LogLine,
    QueuePlace,
    Submission,
    Verbs,
)
from requester.words import Words

REASON_EVERY_S: Final = 2.0
"""How often it is looked at whether a watched job waits for another reason: no entry says so."""
TOLD_AT_ONCE: Final = 200
"""Jobs of a list of which it is looked up why they wait before others have their turn on the loop."""


class Service:
    """A requester's verbs; see `requester.verbs.Verbs` for what each promises."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        settings: Settings,
        *,
        version: str,
        jobs: Jobs,
        orchestrator: Orchestrator,
        words: Words,
        recorder: Recorder,
        follower: Follower,
        presence: Presence,
        duties: Duties,
        randbits: Callable[[int], int],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._version = version
        self._jobs = jobs
        self._orchestrator = orchestrator
        self._recorder = recorder
        self._follower = follower
        self._presence = presence
        self._duties = duties
        self._lookup = Lookup(bus, jobs, recorder, follower, wait_s=settings.report_wait_s)
        self._changes = JobChanges(
            bus,
            clock,
            settings,
            jobs=jobs,
            orchestrator=orchestrator,
            lookup=self._lookup,
            intake=Intake(jobs, recorder, orchestrator.put, timeout_s=settings.submit_timeout_s),
            duties=duties,
            randbits=randbits,
        )
        self._nodes = Nodes(clock, jobs, words, orchestrator.attend_node)
        self._output = Output(
            self,
            Logs(bus, clock, self),
            settings.policy,
            fleet=lambda: jobs.fleet if orchestrator.settled else None,
        )
        self._kept = KeptResults(bus)

    # Changing jobs

    async def submit(self, job: Job, *, warnings: list[str], client: str, force: bool = False) -> Submission:
        return await self._changes.submit(job, warnings=warnings, client=client, force=force)

    async def stop(self, ref: str, *, namespace: str, reason: str, client: str) -> JobRecord:
        return await self._changes.stop(ref, namespace=namespace, reason=reason, client=client)

    async def delete(self, ref: str, *, namespace: str, reason: str, client: str) -> JobRecord:
        return await self._changes.delete(ref, namespace=namespace, reason=reason, client=client)

    async def rerun(self, ref: str, *, namespace: str, version: int, reason: str, client: str) -> Submission:
        return await self._changes.rerun(
            ref, namespace=namespace, version=version, reason=reason, client=client
        )

    async def changes(self, job: Job) -> str:
        return await self._changes.compared(job)

    async def put_blob(self, data: bytes) -> str:
        return await self._bus.put_blob(data)

    # Reading jobs

    async def job(self, ref: str, *, namespace: str = "", version: int = 0) -> JobRecord:
        return self._told(await self._lookup.job(ref, namespace, version))

    def _told(self, record: JobRecord) -> JobRecord:
        """A job as people are told of it. Before enough was heard of the nodes the log says best why it waits."""
        return as_they_wait([record], self._jobs.fleet)[0] if self._orchestrator.settled else record

    async def _all_told(self, records: list[JobRecord]) -> list[JobRecord]:
        """The same of many; others have their turn meanwhile."""
        if not self._orchestrator.settled:
            return records
        told: list[JobRecord] = []
        reasons: Reasons = {}
        for first in range(0, len(records), TOLD_AT_ONCE):
            told += as_they_wait(records[first : first + TOLD_AT_ONCE], self._jobs.fleet, reasons)
            await asyncio.sleep(0)
        return told

    async def versions(self, ref: str, *, namespace: str = "") -> list[JobRecord]:
        return await self._lookup.versions(await self.job(ref, namespace=namespace))

    async def explain(self, ref: str, *, namespace: str = "") -> Explanation:
        record = await self.job(ref, namespace=namespace)
        nodes = standings(record, self._jobs.fleet)
        return Explanation(record, nodes, self.queue_place(record))

    def queue_place(self, record: JobRecord) -> QueuePlace | None:
        queue = self._jobs.queue
        waiting = queue.get(record.key)
        if waiting is None:
            return None
        reserved = self._orchestrator.turns.reserved.values()
        kept = next((each.node for each in reserved if each.key == record.key), None)
        ahead = queue.place(record.key, self._jobs.fleet.share)
        return QueuePlace(ahead, len(queue), waiting.since, kept)

    def next_attempt(self, record: JobRecord) -> float | None:
        return next_attempt(record, self._clock.now(), self._settings.policy)

    def entries_left(self, record: JobRecord) -> int | None:
        entries_max = self._orchestrator.entries_max
        many = not record.closed and record.entries >= entries_max // 2
        return entries_left(record, entries_max) if many else None

    async def jobs(self, query: JobQuery) -> tuple[list[JobRecord], bool]:
        if query.order_by and query.order_by not in ORDERS:
            raise Invalid(
                f"jobs cannot be ordered by {query.order_by!r}",
                hint=f"Order by one of {', '.join(ORDERS)}",
            )
        wanted = [constraint for text in query.labels if text for constraint in parse_selector(text)]
        await self._lookup.settle()
        found, more = await self._recorder.read(lambda database: select(database, query, wanted))
        return await self._all_told(found), more

    async def executions(
        self, ref: str, *, namespace: str = "", version: int = 0, all_versions: bool = False
    ) -> list[ExecutionRecord]:
        record = await self.job(ref, namespace=namespace)
        return list(record.executions.values()) if all_versions else record.shown(version)

    async def history(self, ref: str, query: HistoryQuery, *, namespace: str = "") -> HistoryPage:
        record = await self.job(ref, namespace=namespace)
        execution = execution_named(record, query.execution) if query.execution else None
        version = query.version or record.version

        def meant(item: HistoryItem) -> bool:
            return (
                (item.seq, item.index) > query.after
                and item.at >= query.since
                and (query.all_versions or item.version == version)
                and _is_of_kind(item, query.kind)
                and (execution is None or item.execution == execution.id)
            )

        lines, more = await self._lookup.history(record, meant, limit=query.limit, newest=query.newest)
        over = record.closed if execution is None else not execution.open
        return HistoryPage(lines, ended=over and not more, more=more)

    async def results(self, ref: str, *, namespace: str = "") -> list[ExecutionRecord]:
        return await self._kept.linked((await self.job(ref, namespace=namespace)).published())

    async def files(self, record: ExecutionRecord) -> list[FileWritten]:
        return await self._kept.files(record)

    async def archive(self, ref: str, execution: str, *, namespace: str = "") -> Archive:
        return await self._kept.archive(execution_named(await self.job(ref, namespace=namespace), execution))

    async def watch(self, ref: str, *, namespace: str = "") -> AsyncGenerator[JobUpdate, None]:
        record = await self.job(ref, namespace=namespace)
        live = self._jobs.get(record.key)
        if live is None and not record.closed:
            # It has ended and left memory since the read model was asked.
            await self._recorder.settle()
            record = await self.job(record.id)
            live = self._jobs.get(record.key)
        if live is None:
            yield JobUpdate(job=record)
            return
        watcher = Watcher()
        live.watchers.append(watcher)
        try:
            now = live.present() or record
            told = self._told(now)
            yield JobUpdate(job=told)
            while not now.closed:
                update = await _next(watcher, REASON_EVERY_S if now.queued is not None else None)
                if isinstance(update, Progress):
                    yield JobUpdate(progress=update)
                    continue
                before, now = told, update or now
                told = self._told(now)
                if update is not None or _code(told.queued) != _code(before.queued):
                    yield JobUpdate(job=told)
        finally:
            live.watchers.remove(watcher)
            self._orchestrator.forget_gone(live)

    def logs(
        self,
        ref: str,
        *,
        namespace: str = "",
        execution: str = "",
        every: bool = False,
        follow: bool = False,
        tail: bool = False,
    ) -> AsyncGenerator[LogLine, None]:
        return self._output.read(
            ref, namespace=namespace, execution=execution, every=every, follow=follow, tail=tail
        )

    # Nodes

    async def nodes(self) -> list[NodeRecord]:
        return self._nodes.all()

    async def node(self, ref: str) -> NodeRecord:
        return self._nodes.one(ref)

    async def set_membership(self, ref: str, membership: str, message: str) -> NodeRecord:
        return await self._nodes.set_membership(ref, membership, message)

    async def cordon(self, ref: str, *, reason: str, drain_s: float | None = None) -> NodeRecord:
        return await self._nodes.cordon(ref, reason=reason, drain_s=drain_s)

    async def uncordon(self, ref: str) -> NodeRecord:
        return await self._nodes.uncordon(ref)

    def facts(self) -> dict[str, Any]:
        return {
            "id": self._presence.me,
            "version": self._version,
            "folded": self._follower.position,
            "recorded": self._recorder.written,
            "log": self._follower.created,
            "log_share": self._duties.log_share,
            "connected": self._bus.connected,
            "writable": self._duties.writable,
            "acting": self._orchestrator.acting,
            "open_jobs": len(self._jobs),
            "queued_jobs": len(self._jobs.queue),
            "requesters": list(self._presence.there),
            "nodes": len(self._jobs.fleet.nodes),
            "commands": self._orchestrator.dispatch.sent,
            "repairs": self._orchestrator.dispatch.repeated,
            **self._orchestrator.counters,
        }


async def _next(watcher: Watcher, within_s: float | None) -> JobRecord | Progress | None:
    """The next update, or None if there is none for so long. What came last is not lost."""
    try:
        async with asyncio.timeout(within_s):
            return await watcher.next()
    except TimeoutError:
        return None


def _code(reason: Failure | None) -> str:
    return reason.code if reason is not None else ""


def _is_of_kind(item: HistoryItem, kind: str) -> bool:
    return kind not in ("job", "execution") or (kind == "job") == (not item.execution)


if TYPE_CHECKING:

    def _fits(service: Service) -> Verbs:
        return service
