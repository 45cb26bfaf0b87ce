"""A working twin of `requester.verbs.Verbs`: all in memory, and what jobs come to is said by the test.

It keeps each job's entries and folds them with the real fold, so a record or a line of history that the API is asked to show
is one that the system can have. Ids and times follow from counters: the same test sees the same.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from protocol.entries import (
    Assigned,
    Cancelled,
    Closed,
    Entry,
    Event,
    Queued,
    Reported,
    StopRequested,
    Submitted,
)
from protocol.errors import Conflict, Failure, Fault, Invalid, NotFound
from protocol.ids import ExecutionId, JobId, NodeId, execution_id, job_id, job_key, nameless_key
from protocol.jobs import Amounts, Job, Spec
from protocol.messages import FileWritten, InputRead, Progress, Report, RunOutput, Stage, Written
from protocol.nodes import NodeInfo, Offer
from protocol.questions import LogChunk
from protocol.ranking import Candidate, Ranking
from protocol.spec.changes import changes
from protocol.spec.selectors import matches_all, parse_selector
from protocol.states import ExecutionState, JobState
from requester.core.deadlines import next_attempt
from requester.core.explanation import standings
from requester.core.fleet import Fleet
from requester.core.fold import fold
from requester.core.history import of_log
from requester.core.model import Cordon, ExecutionRecord, HistoryItem, JobRecord, NodeRecord
from requester.core.policy import Policy
from requester.output import Output
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

S = ExecutionState
BEGIN = 1_750_000_000.0
NODE = NodeId("n-0f29f45c-0000-4000-8000-000000000001")


class Twin:
    """The verbs, and what a test does with them. `faults` are raised once by the verb of their name; `calls` are kept."""

    def __init__(self) -> None:
        self.entries: dict[JobId, list[tuple[int, Entry]]] = {}
        self.records: dict[JobId, JobRecord] = {}
        self.known: dict[NodeId, NodeRecord] = {NODE: a_node(NODE)}
        self.output: dict[ExecutionId, list[LogLine]] = {}
        self.archives: dict[str, bytes] = {}
        self.lists: dict[str, list[FileWritten]] = {}
        """What nodes keep of executions."""
        self.few_entries: int | None = None
        self.faults: dict[str, Fault] = {}
        self.calls: list[tuple[str, Any]] = []
        self.blocked = asyncio.Event()
        """Set: verbs answer. Cleared by a test that wants one to hang."""
        self.blocked.set()
        self.asked = asyncio.Event()
        self.dropped = asyncio.Event()
        """A verb was called; the one that hung was cancelled."""
        self.then: Callable[[JobId], Coroutine[Any, Any, object]] | None = None
        """What becomes of each job that is submitted from now on."""
        self.watching = 0
        self.unwatched = asyncio.Event()
        self._fates: set[asyncio.Task[object]] = set()
        self._seq = 0
        self._now = BEGIN
        self._news = asyncio.Condition()
        self._progress: dict[JobId, list[Progress]] = {}

    # What a test does

    async def write(self, job: JobId, *events: Event) -> JobRecord:
        """Append one entry and fold it."""
        async with self._news:
            self._seq += 1
            self._now += 1
            entry = Entry(job, f"op-{self._seq}", "r-twin", self._now, list(events))
            record = fold(self.records.get(job), entry, self._seq)
            assert record is not None
            self.records[job] = record
            self.entries.setdefault(job, []).append((self._seq, entry))
            self._news.notify_all()
            return record

    async def assign(
        self, job: JobId, *, partition: int = 0, attempt: int = 1, node: NodeId | None = None
    ) -> ExecutionId:
        """Begin an execution on the one node; of a job that runs on every node, on that `node`."""
        version = self.records[job].version
        execution = execution_id(job, version, partition, attempt, node)
        amounts = Amounts(cpu=0.5, memory_bytes=512_000_000)
        ranking = Ranking(2, 1, [Candidate(NODE, input_bytes=3 << 30, free=0.5)], {"has no engine docker": 1})
        await self.write(
            job, Assigned(execution, partition, attempt, node or NODE, amounts, "most room", ranking)
        )
        return execution

    async def report(self, execution: ExecutionId, state: ExecutionState, **more: Any) -> JobRecord:
        """The node's word about an execution. `more` are fields of the report."""
        job = next(record for record in self.records.values() if execution in record.executions)
        stages = more.pop("stages", [Stage(S.STAGING, self._now), Stage(state, self._now)])
        report = Report(NODE, 1, 1, job.id, job.version, execution, state, stages=stages, **more)
        return await self.write(job.id, Reported(report))

    async def close(
        self, job: JobId, state: JobState = JobState.COMPLETED, failure: Failure | None = None
    ) -> JobRecord:
        """Give the job its end."""
        return await self.write(job, Closed(state, failure.message if failure else "", failure))

    async def complete(self, job: JobId, *, stdout: str = "hello\n", exit_code: int = 0) -> ExecutionId:
        """One execution from beginning to end, with a published result, and the job's end."""
        execution = await self.assign(job)
        self.output[execution] = [LogLine(execution, LogChunk(1, self._now, stdout.encode()))]
        failure = None
        if exit_code:
            failure = Failure("ProgramFailed", f"program exited with code {exit_code}", hint="see its logs")
        await self.report(
            execution,
            S.FAILED if failure else S.COMPLETED,
            failure=failure,
            output=RunOutput(stdout=stdout, exit_code=exit_code),
            result=Spec("ipfs", {"CID": "bafyresult"}),
            inputs=[InputRead("/in", "s3", "s3:bucket/key@v1", 12, cached=True)],
            written=Written(12, 2_000, "ab" * 32, [FileWritten("outputs/a", 1_500, "cd" * 32)]),
        )
        await self.close(job, JobState.FAILED if failure else JobState.COMPLETED, failure)
        return execution

    async def progress(self, progress: Progress) -> None:
        """Tell those who watch the job."""
        async with self._news:
            self._progress.setdefault(progress.job, []).append(progress)
            self._news.notify_all()

    async def submitted(self, spec: Job) -> JobId:
        """A job without a detour over HTTP."""
        return (await self.submit(spec, warnings=[], client="")).job

    # The verbs

    async def submit(self, job: Job, *, warnings: list[str], client: str, force: bool = False) -> Submission:
        await self._called("submit", (job, client, force))
        number = len(self.entries) + 1
        key = job_key(job.namespace, job.name) if job.name else nameless_key(number)
        known = next((each for each in self.records.values() if each.key == key), None)
        if known is not None and known.spec == job and not force:
            raise Conflict(f"no changes detected for new job spec. Job name: '{job.name}'", kind="NoChanges")
        id_ = known.id if known is not None else job_id(key, number)
        version = known.version + 1 if known is not None else 1
        await self.write(id_, Submitted(job, version, warnings, client))
        if self.then is not None:
            self._fates.add(asyncio.create_task(self.then(id_)))
        return Submission(id_, version, warnings)

    async def rerun(self, ref: str, *, namespace: str, version: int, reason: str, client: str) -> Submission:
        await self._called("rerun", (ref, version, reason))
        now = await self.job(ref, namespace=namespace)
        again = await self.job(ref, namespace=namespace, version=version)
        event = Submitted(again.spec, now.version + 1, [], client, again.version, reason)
        await self.write(now.id, event)
        if self.then is not None:
            self._fates.add(asyncio.create_task(self.then(now.id)))
        return Submission(now.id, now.version + 1)

    async def changes(self, job: Job) -> str:
        return changes((await self.job(job.name, namespace=job.namespace)).spec, job)

    async def versions(self, ref: str, *, namespace: str = "") -> list[JobRecord]:
        record = await self.job(ref, namespace=namespace)
        return [await self.job(ref, version=version) for version in range(1, record.version + 1)]

    async def put_blob(self, data: bytes) -> str:
        raise NotImplementedError

    async def delete(self, ref: str, *, namespace: str, reason: str, client: str) -> JobRecord:
        await self._called("delete", (ref, reason))
        record = await self.job(ref, namespace=namespace)
        if not record.closed:
            raise Conflict(f"cannot delete job in state {record.state.capitalize()}", kind="JobState")
        return self.records.pop(record.id)

    async def stop(self, ref: str, *, namespace: str, reason: str, client: str) -> JobRecord:
        await self._called("stop", (ref, reason))
        record = await self.job(ref, namespace=namespace)
        if record.closed and record.state is not JobState.STOPPED:
            raise Conflict(f"cannot stop job in state {record.state.capitalize()}", kind="JobState")
        if record.closed:
            return record
        ended: list[Event] = [
            Cancelled(each.id, Failure("Cancelled", "job has been stopped"))
            for each in record.executions.values()
            if each.open
        ]
        return await self.write(
            record.id, StopRequested(reason, client), *ended, Closed(JobState.STOPPED, reason)
        )

    async def job(self, ref: str, *, namespace: str = "", version: int = 0) -> JobRecord:
        await self._called("job", ref)
        named = [
            each
            for each in self.records.values()
            if each.spec.name == ref and namespace in ("", "*", each.spec.namespace)
        ]
        found = named or [each for id_, each in self.records.items() if ref and id_.startswith(ref)]
        if not found:
            raise NotFound(f"job {ref} not found", kind="Job", hint="List jobs with: job list")
        if len(found) > 1:
            raise Conflict(
                f"{ref} could be any of {len(found)} jobs",
                kind="MultipleJobsFound",
                details={each.id: each.spec.name for each in found},
            )
        if version and version != found[0].version:
            earlier = [
                each for each, _ in of_log(self.entries[found[0].id]) if each and each.version == version
            ]
            if not earlier:
                raise NotFound(f"job {ref} has no version {version}", kind="JobVersion")
            return earlier[-1]
        return found[0]

    async def explain(self, ref: str, *, namespace: str = "") -> Explanation:
        fleet = Fleet()
        for node in self.known.values():
            fleet.put(node)
        record = await self.job(ref, namespace=namespace)
        return Explanation(record, standings(record, fleet), self.queue_place(record))

    def next_attempt(self, record: JobRecord) -> float | None:
        return next_attempt(record, record.modified_at, Policy())

    def entries_left(self, record: JobRecord) -> int | None:
        return self.few_entries

    def queue_place(self, record: JobRecord) -> QueuePlace | None:
        if record.queued is None:
            return None
        waiting = sum(each.queued is not None for each in self.records.values())
        return QueuePlace(waiting - 1, waiting, record.queued_at or 0.0, NODE)

    async def jobs(self, query: JobQuery) -> tuple[list[JobRecord], bool]:
        await self._called("jobs", query)
        wanted = [each for text in query.labels for each in parse_selector(text)]
        found = [
            each
            for each in self.records.values()
            if query.namespace in ("", each.spec.namespace)
            and query.state.lower() in ("", each.state)
            and matches_all(wanted, each.spec.labels)
        ]
        found.sort(key=lambda each: float(getattr(each, query.order_by)), reverse=query.reverse)
        page = found[query.offset : query.offset + query.limit] if query.limit else found[query.offset :]
        return page, query.offset + len(page) < len(found)

    async def executions(
        self, ref: str, *, namespace: str = "", version: int = 0, all_versions: bool = False
    ) -> list[ExecutionRecord]:
        record = await self.job(ref, namespace=namespace)
        return list(record.executions.values()) if all_versions else record.shown(version)

    async def history(self, ref: str, query: HistoryQuery, *, namespace: str = "") -> HistoryPage:
        await self._called("history", query)
        record = await self.job(ref, namespace=namespace)
        version = query.version or record.version

        def fits(item: HistoryItem) -> bool:
            return (
                (item.seq, item.index) > query.after
                and item.at >= query.since
                and (query.all_versions or item.version == version)
                and (query.kind not in ("job", "execution") or (query.kind == "job") == (not item.execution))
                and (not query.execution or item.execution.startswith(query.execution))
            )

        items = [item for _, lines in of_log(self.entries[record.id]) for item in lines if fits(item)]
        more = len(items) > query.limit
        found = items[-query.limit :] if query.newest else items[: query.limit]
        return HistoryPage(found, record.closed and not more, more)

    async def results(self, ref: str, *, namespace: str = "") -> list[ExecutionRecord]:
        return (await self.job(ref, namespace=namespace)).published()

    async def files(self, record: ExecutionRecord) -> list[FileWritten]:
        await self._called("files", record.id)
        if record.id not in self.lists:
            raise NotFound(f"no list of {record.id} is kept")
        return [*self.lists[record.id]]

    async def archive(self, ref: str, execution: str, *, namespace: str = "") -> Archive:
        record = await self.job(ref, namespace=namespace)
        await self._called("archive", execution)
        data = self.archives.get(execution)
        if data is None:
            raise NotFound(f"job {record.id} has no result of {execution}")

        async def read(offset: int) -> bytes:
            return data[offset : offset + 1000]

        return Archive(len(data), "v1", read)

    async def watch(self, ref: str, *, namespace: str = "") -> AsyncGenerator[JobUpdate, None]:
        record = await self.job(ref, namespace=namespace)
        await self._called("watch", ref)
        told = 0
        self.watching += 1
        try:
            yield JobUpdate(job=record)
            while not record.closed:
                async with self._news:
                    before = record.revision
                    await self._news.wait_for(
                        lambda: (
                            self.records[record.id].revision != before  # noqa: B023
                            or len(self._progress.get(record.id, ())) > told  # noqa: B023
                            or "watch" in self.faults
                        )
                    )
                await self._called("watch", ref)
                while len(self._progress.get(record.id, ())) > told:
                    yield JobUpdate(progress=self._progress[record.id][told])
                    told += 1
                if self.records[record.id].revision != record.revision:
                    record = self.records[record.id]
                    yield JobUpdate(job=record)
        finally:
            self.watching -= 1
            self.unwatched.set()

    async def fail_watchers(self, fault: Fault) -> None:
        """Every open watch ends with this fault."""
        async with self._news:
            self.faults["watch"] = fault
            self._news.notify_all()

    async def logs(
        self,
        ref: str,
        *,
        namespace: str = "",
        execution: str = "",
        every: bool = False,
        follow: bool = False,
        tail: bool = False,
    ) -> AsyncGenerator[LogLine, None]:
        await self._called("logs", (execution, follow, tail))
        output = Output(self, self, Policy(), fleet=lambda: None)
        async for line in output.read(
            ref, namespace=namespace, execution=execution, every=every, follow=follow, tail=tail
        ):
            yield line

    async def read(
        self, execution: ExecutionRecord, *, follow: bool, tail: bool
    ) -> AsyncGenerator[LogLine, None]:
        """What one execution wrote, as its node would tell it."""

        def known() -> ExecutionRecord:
            return self.records[execution.job].executions[execution.id]

        async with self._news:
            await self._news.wait_for(lambda: execution.id in self.output or not known().open)
        for line in [] if tail else self.output.get(execution.id, []):
            yield line
        async with self._news:
            await self._news.wait_for(lambda: not follow or not known().open)

    async def nodes(self) -> list[NodeRecord]:
        return [self.known[id_] for id_ in sorted(self.known)]

    async def node(self, ref: str) -> NodeRecord:
        found = [each for id_, each in self.known.items() if id_.startswith(ref)]
        if not found:
            raise NotFound(f"node {ref} not found", kind="Node")
        return found[0]

    async def set_membership(self, ref: str, membership: str, message: str) -> NodeRecord:
        await self._called("set_membership", (ref, membership, message))
        if membership not in ("APPROVED", "REJECTED", "DELETED"):
            raise Invalid(membership)
        node = await self.node(ref)
        self.known[node.info.id] = replace(node, membership=membership)
        return self.known[node.info.id]

    async def cordon(self, ref: str, *, reason: str, drain_s: float | None = None) -> NodeRecord:
        await self._called("cordon", (ref, reason, drain_s))
        node = await self.node(ref)
        cordon = Cordon(self._now, reason, self._now + drain_s if drain_s is not None else None)
        self.known[node.info.id] = replace(node, cordon=cordon)
        return self.known[node.info.id]

    async def uncordon(self, ref: str) -> NodeRecord:
        node = await self.node(ref)
        self.known[node.info.id] = replace(node, cordon=None)
        return self.known[node.info.id]

    def facts(self) -> dict[str, Any]:
        return {"id": "r-twin", **{fact: fact not in self.faults for fact in ("connected", "writable")}}

    async def _called(self, verb: str, what: Any) -> None:
        self.calls.append((verb, what))
        self.asked.set()
        try:
            await self.blocked.wait()
        except asyncio.CancelledError:
            self.dropped.set()
            raise
        if verb in self.faults:
            raise self.faults.pop(verb)


def a_node(id_: NodeId, *, connected: bool = True, labels: dict[str, str] | None = None) -> NodeRecord:
    """A node with Docker, and with WebAssembly that is not there."""
    info = NodeInfo(
        id=id_,
        version="0.1.0",
        labels=labels or {"region": "eu"},
        engines=[
            Offer("docker", version="27"),
            Offer("wasm", available=False, reason="no runtime", hint="install it"),
        ],
        sources=[Offer("s3")],
        publishers=[Offer("ipfs")],
        capacity=Amounts(cpu=4.0, memory_bytes=8_000_000_000, disk_bytes=100_000_000_000),
        largest=Amounts(cpu=4.0, memory_bytes=8_000_000_000, disk_bytes=100_000_000_000),
    )
    return NodeRecord(
        info,
        connected=connected,
        last_beat_at=BEGIN,
        connected_since=BEGIN,
        free=Amounts(cpu=3.5, memory_bytes=7_000_000_000, disk_bytes=90_000_000_000),
        running=1,
    )


def queued(reason: str) -> Queued:
    """The event of a job that waits."""
    return Queued(Failure("NoSuitableNode.Room", reason, hint="wait"))


if TYPE_CHECKING:

    def _fits(twin: Twin) -> Verbs:
        return twin
