"""The verbs: what a requester can be asked, carried out on the jobs in memory, the log and the read model.

Knows: how each verb of `requester.verbs` is done. Must not know: HTTP or the command line. Ids are made here and
nowhere further in, from the chance that is passed in (`randbits`).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from protocol import failpoints
from protocol.bus import Bus, Stored
from protocol.clock import Clock
from protocol.entries import Deleted, Entry, Event, StopRequested, Submitted
from protocol.errors import Conflict, Exhausted, Fault, Invalid, NotFound, TimedOut, Unavailable
from protocol.ids import RANDOM_BITS, JobId, JobKey, NodeId, job_id, job_key, nameless_key
from protocol.jobs import Job
from protocol.messages import FileWritten, decode
from protocol.spec.blobs import large_inline, with_blob
from protocol.spec.bounds import SECONDS_MAX
from protocol.spec.changes import changes
from protocol.spec.selectors import matches_all, parse_selector
from protocol.states import JobState
from requester.core.explanation import standings
from requester.core.history import of_log
from requester.core.membership import APPROVED, DELETED, REJECTED
from requester.core.model import Cordon, ExecutionRecord, HistoryItem, JobRecord, NodeRecord
from requester.duties import Duties
from requester.follower import Follower
from requester.jobs import Jobs
from requester.live import Input, Live, Settled, Watcher
from requester.logs import Logs
from requester.lookup import Lookup
from requester.orchestrator import Orchestrator
from requester.patience import Patience
from requester.presence import Presence
from requester.read_queries import ORDERS, page
from requester.recorder import Recorder
from requester.registry import Registry
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
        registry: Registry,
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
        self._registry = registry
        self._recorder = recorder
        self._follower = follower
        self._presence = presence
        self._duties = duties
        self._randbits = randbits
        self._patience = Patience(settings.submit_timeout_s)
        self._lookup = Lookup(jobs, recorder, self._settle)
        self._logs = Logs(bus, self)
        self._kept = KeptResults(bus)

    # Changing jobs

    async def submit(self, job: Job, *, warnings: list[str], client: str, force: bool = False) -> Submission:
        if self._duties.log_share >= self._settings.log_full:
            raise Exhausted(
                f"the log is {self._duties.log_share:.0%} full and takes no new jobs",
                hint="wait until old jobs are purged, shorten the keep time, or raise the log's max_bytes",
            )
        failpoints.reached("requester.submit.received")
        job = await self._without_large_data(job)
        named = bool(job.name)
        key = job_key(job.namespace, job.name) if named else nameless_key(self._randbits(60))
        fresh = job_id(key, self._randbits(RANDOM_BITS))
        live = await self._live(key) if named else self._jobs.make(key)

        made: tuple[JobId, Submitted] | None = None

        def submitted(record: JobRecord | None) -> Event:
            nonlocal made
            event = _submitted(record, job, warnings, client, force)
            made = (record.id if record is not None else fresh, event)
            return event

        await self._written(live, submitted, fresh)
        assert made is not None
        # Not what the record says now: another's submission may have been folded meanwhile.
        id_, event = made
        return Submission(id_, event.version, warnings)

    async def _without_large_data(self, job: Job) -> Job:
        """Move what is too large for the log into blobs."""
        for inline in large_inline(job, self._settings.inline_max_bytes):
            digest = await self._bus.put_blob(inline.data)
            job = with_blob(job, inline.input, digest, len(inline.data), inline.media_type)
        return job

    async def _live(self, key: JobKey) -> Live:
        """A job in memory, brought there from the read model if it has left."""
        live = self._jobs.get(key)
        if live is None:
            record, deleted = await self._recorder.look(key)
            live = self._jobs.adopt(record) if record is not None else self._jobs.make(key)
            live.guard = max(live.guard, deleted)
        return live

    async def _still(self, live: Live) -> Live:
        """The same job, also if all was forgotten meanwhile and read anew."""
        left = live.record is not None and not self._jobs.holds(live)
        return await self._live(live.key) if left else live

    async def _written(
        self, live: Live, event: Callable[[JobRecord | None], Event], job: JobId | None = None
    ) -> Settled:
        """Wait until an input is in the log. Raises its fault; returns None if it would have changed nothing."""
        waiter: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()

        def done(outcome: Settled) -> None:
            if not waiter.done():
                waiter.set_result(outcome)

        item = Input(event, done, job)
        self._orchestrator.put(live, item)
        try:
            with self._patience.once():
                outcome = await waiter
        except TimeoutError as error:
            raise Unavailable(
                f"the log did not answer within {self._settings.submit_timeout_s:g} s; "
                "whether the request was taken is not known",
                hint="ask for the job, or submit it again under the same name",
            ) from error
        finally:
            item.wanted = False
        if isinstance(outcome, Fault):
            raise outcome
        if outcome is None or isinstance(outcome, Stored):
            return outcome
        reason = getattr(outcome, "reason", "")
        if getattr(outcome, "full", False):
            raise Exhausted(
                f"the log is full: {reason}", hint="raise its max_bytes, or shorten the keep time"
            )
        raise Invalid(f"the log refused the entry: {reason}")

    async def stop(self, ref: str, *, namespace: str, reason: str, client: str) -> JobRecord:
        record = await self._lookup.job(ref, namespace)
        live = await self._live(record.key)

        def stopped(_: JobRecord | None) -> Event:
            _meant(live, record)
            return StopRequested(reason, client)

        until = self._clock.elapsed() + self._settings.submit_timeout_s
        while live.record is not None and not live.record.closed:
            if await self._written(live, stopped) is None:
                # It is being stopped already.
                if self._clock.elapsed() >= until:
                    raise Unavailable(f"job {record.id} is being stopped and has not ended yet")
                await self._clock.sleep(self._settings.tick_s)
            live = await self._still(live)
        if live.record is None:
            self._jobs.forget(live)
            raise NotFound(f"job {record.id} has ended and left the log", kind="Job")
        record = _meant(live, record)
        if record.state is not JobState.STOPPED:
            raise Conflict(
                f"cannot stop job in state {record.state.capitalize()}",
                kind="JobState",
                details={"JobID": record.id, "State": record.state},
            )
        return record

    async def delete(self, ref: str, *, namespace: str, reason: str, client: str) -> JobRecord:
        record = await self.job(ref, namespace=namespace)

        def deleted(_: JobRecord | None) -> Event:
            return _deleted(_meant(live, record), reason, client)

        live = await self._live(record.key)
        while live.record is not None and live.record.id == record.id:
            await self._written(live, deleted, record.id)
            live = await self._still(live)
        self._orchestrator.forget_gone(live)
        return record

    async def rerun(self, ref: str, *, namespace: str, version: int, reason: str, client: str) -> Submission:
        record = await self.job(ref, namespace=namespace)
        wanted = (await self._at_version(record, version)) if version else None
        live = await self._live(record.key)
        made: Submitted | None = None

        def again(now: JobRecord | None) -> Event:
            nonlocal made
            made = _rerun(_meant(live, record), wanted, reason, client, anew=now is None)
            return made

        await self._written(live, again, record.id)
        assert made is not None
        return Submission(record.id, made.version, made.warnings)

    async def changes(self, job: Job, *, warnings: list[str]) -> str:
        record = await self.job(job.name, namespace=job.namespace) if job.name else None
        if record is None or record.spec.name != job.name:
            raise NotFound(
                f"there is no job of the name {job.name!r}", kind="Job", hint="give the job a Name"
            )
        return changes(record.spec, await self._without_large_data(job))

    async def put_blob(self, data: bytes) -> str:
        return await self._bus.put_blob(data)

    # Reading jobs

    async def job(self, ref: str, *, namespace: str = "", version: int = 0) -> JobRecord:
        try:
            record = await self._lookup.job(ref, namespace)
        except NotFound as unknown:
            if not await self._catch_up():
                raise Unavailable(
                    f"whether there is a job {ref} is not known here: the log cannot be read just now",
                    hint="ask again in a moment, or ask another requester",
                ) from unknown
            record = await self._lookup.job(ref, namespace)
        if not version or version == record.version:
            return record
        return await self._at_version(record, version)

    async def _catch_up(self) -> bool:
        """Read the log to its end: a job that is not known yet may have been submitted elsewhere a moment ago.

        False if that cannot be done now.
        """
        try:
            async with asyncio.timeout(self._settings.report_wait_s):
                await self._follower.reached(await self._bus.newest())
        except (TimeoutError, Unavailable, TimedOut):
            return False
        return True

    async def _at_version(self, record: JobRecord, version: int) -> JobRecord:
        """A job as it was when its next version came."""
        found = next((each for each in await self._versions(record) if each.version == version), None)
        if found is None:
            raise NotFound(f"job {record.id} has no version {version}", kind="JobVersion")
        return found

    async def _versions(self, record: JobRecord) -> list[JobRecord]:
        last = {
            each.version: each
            for each, _ in of_log(await self._entries(record))
            if each is not None and each.id == record.id
        }
        return list(last.values())

    async def versions(self, ref: str, *, namespace: str = "") -> list[JobRecord]:
        return await self._versions(await self.job(ref, namespace=namespace))

    async def _entries(self, record: JobRecord) -> list[tuple[int, Entry]]:
        await self._read_up_to(record.revision)
        every = [(seq, decode(data, Entry)) for seq, data in await self._recorder.entries(record.key)]
        # A name that was used again after its first job was purged or deleted has the entries of both.
        return [(seq, entry) for seq, entry in every if entry.job == record.id]

    async def _settle(self) -> None:
        """Have everything in the read model that anyone was told here."""
        await self._read_up_to(self._jobs.newest)
        await self._recorder.settle()

    async def _read_up_to(self, seq: int) -> None:
        try:
            async with asyncio.timeout(self._settings.report_wait_s):
                await self._follower.reached(seq)
        except TimeoutError:
            pass  # What has been read so far is told.

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

    async def jobs(self, query: JobQuery) -> tuple[list[JobRecord], bool]:
        order_by = query.order_by or "created_at"
        if order_by not in ORDERS:
            raise Invalid(
                f"jobs cannot be ordered by {order_by!r}", hint=f"order_by is one of {', '.join(ORDERS)}"
            )
        wanted = [constraint for text in query.labels if text for constraint in parse_selector(text)]
        namespace = "" if query.namespace == "*" else query.namespace
        await self._settle()

        def read(database: Any) -> tuple[list[JobRecord], bool]:
            found: list[JobRecord] = []
            passed = 0
            for record in page(
                database,
                namespace=namespace,
                state=query.state.lower(),
                order_by=order_by,
                reverse=query.reverse,
            ):
                if wanted and not matches_all(wanted, record.spec.labels):
                    continue
                passed += 1
                if passed <= query.offset:
                    continue
                if query.limit and len(found) == query.limit:
                    return found, True
                found.append(record)
            return found, False

        return await self._recorder.read(read)

    async def executions(
        self, ref: str, *, namespace: str = "", version: int = 0, all_versions: bool = False
    ) -> list[ExecutionRecord]:
        record = await self.job(ref, namespace=namespace)
        wanted = version or record.version
        return [each for each in record.executions.values() if all_versions or each.version == wanted]

    async def history(self, ref: str, query: HistoryQuery, *, namespace: str = "") -> HistoryPage:
        record = await self.job(ref, namespace=namespace)
        execution = _execution_named(record, query.execution) if query.execution else None
        version = query.version or record.version
        lines = [
            item
            for _, items in of_log(await self._entries(record))
            for item in items
            if (item.seq, item.index) > query.after
            and item.at >= query.since
            and (query.all_versions or item.version == version)
            and _is_of_kind(item, query.kind)
            and (execution is None or item.execution == execution.id)
        ]
        limit = query.limit or len(lines)
        over = record.closed if execution is None else not execution.open
        return HistoryPage(lines[:limit], ended=over and len(lines) <= limit)

    async def results(self, ref: str, *, namespace: str = "") -> list[ExecutionRecord]:
        return await self._kept.linked((await self.job(ref, namespace=namespace)).published())

    async def files(self, record: ExecutionRecord) -> list[FileWritten]:
        return await self._kept.files(record)

    async def archive(self, ref: str, execution: str, *, namespace: str = "") -> Archive:
        return await self._kept.archive(_execution_named(await self.job(ref, namespace=namespace), execution))

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
            yield JobUpdate(job=now)
            while not now.closed:
                update = await watcher.next()
                if isinstance(update, JobRecord):
                    now = update
                    yield JobUpdate(job=update)
                else:
                    yield JobUpdate(progress=update)
        finally:
            live.watchers.remove(watcher)
            self._orchestrator.forget_gone(live)

    async def logs(
        self, ref: str, *, namespace: str = "", execution: str = "", follow: bool = False, tail: bool = False
    ) -> AsyncGenerator[LogLine, None]:
        chosen = await self._to_read(ref, namespace, execution, follow=follow)
        if chosen is None:
            return
        async with aclosing(self._logs.read(chosen, follow=follow, tail=tail)) as lines:
            async for line in lines:
                yield line

    async def _to_read(
        self, ref: str, namespace: str, execution: str, *, follow: bool
    ) -> ExecutionRecord | None:
        """The execution whose output is meant; one who follows waits until there is one."""
        async with aclosing(self.watch(ref, namespace=namespace)) as updates:
            async for update in updates:
                record = update.job
                if record is None:
                    continue
                if execution:
                    return _execution_named(record, execution)
                kept = [each for each in record.current() if each.open or each.output is not None]
                every = kept or record.current()
                if every:
                    return every[-1]
                if not follow or record.closed:
                    raise NotFound(f"job {record.id} has no execution yet", kind="Execution")
        return None

    # Nodes

    async def nodes(self) -> list[NodeRecord]:
        fleet = self._jobs.fleet
        return [self._told(fleet.nodes[id_]) for id_ in sorted(fleet.nodes)]

    async def node(self, ref: str) -> NodeRecord:
        nodes = self._jobs.fleet.nodes
        exact = nodes.get(NodeId(ref))
        found = [exact] if exact is not None else [node for id_, node in nodes.items() if id_.startswith(ref)]
        if not ref or not found:
            raise NotFound(f"node {ref} not found", kind="Node", hint="list nodes with: node list")
        if len(found) > 1:
            raise Conflict(
                f"{ref} could be any of {len(found)} nodes",
                kind="MultipleNodesFound",
                hint="use more of the id",
                details={node.info.id: node.membership for node in found},
            )
        return self._told(found[0])

    def _told(self, node: NodeRecord) -> NodeRecord:
        """A node with what is free on it, and how many of its executions have not begun to run."""
        told = self._jobs.fleet.told(node)
        held = self._jobs.fleet.held(node.info.id)
        running = sum(execution in self._jobs.running_since for execution in held)
        return replace(told, running=running, waiting=len(held) - running)

    async def set_membership(self, ref: str, membership: str, message: str) -> NodeRecord:
        if membership not in (APPROVED, REJECTED, DELETED):
            raise Invalid(f"membership {membership!r} is not one of {APPROVED}, {REJECTED}, {DELETED}")
        node = await self.node(ref)
        after = await self._registry.set_membership(node.info.id, membership, message)
        self._orchestrator.attend_node(node.info.id)
        return self._told(after)

    async def cordon(self, ref: str, *, reason: str, drain_s: float | None = None) -> NodeRecord:
        if drain_s is not None and not 0 <= drain_s <= SECONDS_MAX:
            raise Invalid(f"a deadline is between 0 and {SECONDS_MAX:,} seconds, and this is {drain_s:g}")
        node = await self.node(ref)
        now = self._clock.now()
        cordon = Cordon(now, reason, now + drain_s if drain_s is not None else None)
        return self._told(await self._registry.set_cordon(node.info.id, cordon))

    async def uncordon(self, ref: str) -> NodeRecord:
        node = await self.node(ref)
        return self._told(await self._registry.set_cordon(node.info.id, None))

    def facts(self) -> dict[str, Any]:
        return {
            "id": self._presence.me,
            "version": self._version,
            "folded": self._follower.position,
            "recorded": self._recorder.written,
            "log": self._follower.created,
            "log_share": self._duties.log_share,
            "connected": self._bus.connected,
            "acting": self._orchestrator.acting,
            "open_jobs": len(self._jobs),
            "queued_jobs": len(self._jobs.queue),
            "requesters": list(self._presence.there),
            "nodes": len(self._jobs.fleet.nodes),
            "commands": self._orchestrator.dispatch.sent,
            "repairs": self._orchestrator.dispatch.repeated,
            **self._orchestrator.counters,
        }


def _submitted(
    record: JobRecord | None, job: Job, warnings: list[str], client: str, force: bool
) -> Submitted:
    """A job's first version, or its next. Raises `Conflict` when nothing would change, or for a collision of hashes."""
    if record is None:
        return Submitted(job, 1, warnings, client)
    if (record.spec.namespace, record.spec.name) != (job.namespace, job.name):
        raise Conflict(
            f"the name {job.name!r} has the same hash as {record.spec.name!r} in {record.spec.namespace}",
            kind="NameCollision",
            hint="choose another name",
        )
    if record.spec == job and not force:
        raise Conflict(
            f"no changes detected for new job spec. Job name: '{job.name}'",
            kind="NoChanges",
            hint="Use the --force flag to override this warning",
            details={"JobID": record.id, "Version": str(record.version)},
        )
    return Submitted(job, record.version + 1, warnings, client)


def _deleted(record: JobRecord, reason: str, client: str) -> Deleted:
    """Raises `Conflict` for a job that has not ended."""
    if not record.closed:
        raise Conflict(
            f"cannot delete job in state {record.state.capitalize()}",
            kind="JobState",
            hint="stop it first: job stop",
            details={"JobID": record.id, "State": record.state},
        )
    return Deleted(reason, client)


def _meant(live: Live, record: JobRecord) -> JobRecord:
    """The job that a person means as it is now, or as it was if it has left the log. Raises `NotFound` if it was deleted, or
    if its end was missed here: others know versions that this requester has never seen.
    """
    if live.deleted is not None or (live.record is not None and live.record.id != record.id):
        raise NotFound(f"job {record.id} was deleted", kind="Job")
    if live.record is None and not record.closed:
        raise NotFound(
            f"job {record.id} ended and left the log while this requester was away",
            kind="Job",
            hint="ask another requester",
        )
    return live.record or record


def _rerun(record: JobRecord, wanted: JobRecord | None, reason: str, client: str, *, anew: bool) -> Submitted:
    """A version that repeats an earlier one. Raises `Conflict` for a job that waits to run: it needs no other go."""
    if record.state in (JobState.PENDING, JobState.QUEUED):
        raise Conflict(
            f"cannot rerun job in state {record.state.capitalize()}",
            kind="JobState",
            hint="it has not begun to run; a changed spec is submitted under the same name",
            details={"JobID": record.id, "State": record.state},
        )
    again = wanted or record
    return Submitted(again.spec, record.version + 1, again.warnings, client, again.version, reason, anew)


def _is_of_kind(item: HistoryItem, kind: str) -> bool:
    return kind not in ("job", "execution") or (kind == "job") == (not item.execution)


def _execution_named(record: JobRecord, ref: str) -> ExecutionRecord:
    """One of a job's executions by id or unique prefix. Raises `NotFound` or `Conflict`."""
    found = [each for id_, each in record.executions.items() if id_.startswith(ref)]
    if not found:
        raise NotFound(f"job {record.id} has no execution {ref}", kind="Execution")
    if len(found) > 1:
        raise Conflict(
            f"{ref} could be any of {len(found)} executions",
            kind="MultipleExecutionsFound",
            details={each.id: each.state for each in found},
        )
    return found[0]


if TYPE_CHECKING:

    def _fits(service: Service) -> Verbs:
        return service
