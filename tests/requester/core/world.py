"""One job and some nodes without any shell: occasions in, entries out, folded as the log would."""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from protocol.entries import Assigned, Entry, Event, Reported, StopRequested, Submitted
from protocol.errors import Failure
from protocol.ids import ExecutionId, NodeId, job_id, nameless_key
from protocol.jobs import Amounts, Constraint, Job, Resources, Spec, Task, Timeouts
from protocol.messages import Report, RunOutput
from protocol.nodes import NodeInfo, Offer
from protocol.states import ExecutionState
from requester.core.deadlines import next_deadline
from requester.core.fleet import Fleet
from requester.core.fold import fold
from requester.core.model import ExecutionRecord, JobRecord, NodeRecord
from requester.core.policy import Policy
from requester.core.standing import static_ports
from requester.core.step import step
from requester.core.view import View

S = ExecutionState
POLICY = Policy(attempts_max=3, backoff_s=1.0, jitter=0.0, join_grace_s=5.0, events_max=4)
JOB = job_id(nameless_key(7), 7)
ILL = Failure("Unavailable.Engine", "the engine is ill", retryable=True)


def a_job(
    *,
    type_: str = "batch",
    count: int = 1,
    cpu: str = "1",
    engine: str = "noop",
    constraints: Sequence[Constraint] = (),
    timeouts: Timeouts | None = None,
    priority: int = 0,
    **more: Any,
) -> Job:
    """A job of the noop engine; `more` are fields of the job."""
    task = Task(
        engine=Spec(engine), resources=Resources(cpu=cpu, memory="1b"), timeouts=timeouts or Timeouts()
    )
    return Job(
        type=type_, count=count, constraints=list(constraints), tasks=[task], priority=priority, **more
    )


def a_node(
    name: str,
    *,
    cores: float = 4,
    engines: Sequence[str] = ("noop",),
    labels: dict[str, str] | None = None,
    version: str = "0",
    ports: int = 0,
    **more: object,
) -> NodeRecord:
    info = NodeInfo(
        id=NodeId(name),
        version=version,
        labels=labels or {},
        engines=[Offer(engine) for engine in engines],
        capacity=Amounts(cores, 1 << 30, 1 << 30, 0, ports),
    )
    return replace(NodeRecord(info), **more)


class World:
    """A job's log and the nodes. `entries` is what was written, `record` its fold."""

    def __init__(self, *nodes: NodeRecord, now: float = 1_000.0) -> None:
        self.fleet = Fleet()
        for node in nodes:
            self.fleet.put(node)
        self.now = now
        self.record: JobRecord | None = None
        self.entries: list[Entry] = []
        self.gone: dict[NodeId, float] = {}
        self.settled = True
        self.entries_max = 0
        self.running_since: dict[ExecutionId, float] = {}

    def look(self, *inputs: Event) -> list[Event]:
        """One decision, folded; and those that follow at once, because it was cut or freed room. Returns their events."""
        written: list[Event] = []
        for _ in range(200):
            decision = step(
                self.record,
                inputs,
                View(
                    self.fleet,
                    self.gone,
                    self.running_since,
                    self.settled,
                    entries_max=self.entries_max,
                ),
                self.now,
                job=JOB,
                policy=POLICY,
            )
            freed = self._write(decision.events)
            written += decision.events
            inputs = ()
            if not decision.more and not freed:
                return written
        raise AssertionError("a decision that never ends")

    def _write(self, events: list[Event]) -> bool:
        """Fold an entry of these events; whether that freed room."""
        if not events:
            return False
        freed = False
        entry = Entry(JOB, f"op-{len(self.entries)}", "r1", self.now, events)
        self.entries.append(entry)
        self.record = fold(self.record, entry, len(self.entries))
        for execution in self.executions():
            if execution.open:
                ports = static_ports(self.job.spec_of(execution))
                self.fleet.hold(execution.node, execution.id, execution.amounts, ports)
            else:
                freed |= self.fleet.release(execution.node, execution.id)
        return freed

    def submit(self, job: Job) -> list[Event]:
        version = self.record.version + 1 if self.record is not None else 1
        return self.look(Submitted(job, version))

    def stop(self) -> list[Event]:
        return self.look(StopRequested("enough"))

    def report(
        self,
        execution: ExecutionRecord,
        state: ExecutionState,
        failure: Failure | None = None,
        exit_code: int = 0,
        read_by: str = "",
    ) -> list[Event]:
        if state is S.RUNNING:
            self.running_since.setdefault(execution.id, self.now)
        report = replace(self.report_of(execution, state, failure), read_by=read_by)
        if exit_code:
            report = replace(report, output=RunOutput(exit_code=exit_code))
        return self.look(Reported(report))

    def report_of(
        self, execution: ExecutionRecord, state: ExecutionState, failure: Failure | None = None
    ) -> Report:
        return Report(
            node=execution.node,
            incarnation=1,
            seq=execution.ordered,
            job=JOB,
            version=execution.version,
            execution=execution.id,
            state=state,
            failure=failure,
        )

    def executions(self) -> list[ExecutionRecord]:
        return list(self.record.executions.values()) if self.record is not None else []

    def open(self) -> list[ExecutionRecord]:
        return [execution for execution in self.executions() if execution.open]

    @property
    def job(self) -> JobRecord:
        assert self.record is not None
        return self.record


def assigned(events: Sequence[Event]) -> list[Assigned]:
    return [event for event in events if isinstance(event, Assigned)]


def refold(entries: Sequence[Entry]) -> JobRecord | None:
    """The fold of a whole log from its beginning."""
    record = None
    for seq, entry in enumerate(entries, 1):
        record = fold(record, entry, seq)
    return record


def deadline(world: World) -> float | None:
    """When the world's job next needs a look though nothing comes in."""
    return next_deadline(world.job, world.running_since, world.now, POLICY)
