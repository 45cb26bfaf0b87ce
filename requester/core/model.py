"""What the fold of a job's entries adds up to.

Knows: the shape of a job's and an execution's present state, of its history, and of a node as the requester sees it. Must
not know: how it came about (`fold`) or what follows from it (`step`).
"""

from msgspec import Struct, field

from protocol.errors import Failure
from protocol.ids import ExecutionId, JobId, JobKey, NodeId
from protocol.jobs import EVERYWHERE, Amounts, Job, Spec
from protocol.messages import InputRead, RunOutput, Stage, Written
from protocol.nodes import NodeInfo
from protocol.ranking import Ranking
from protocol.states import ENDS, JOB_ENDS, ExecutionState, JobState


class ExecutionRecord(Struct, frozen=True, gc=False, omit_defaults=True):
    """One attempt as the log has it. `ordered` is the sequence of the entry that assigned it, `revision` the newest.

    `partitions` is among how many the inputs are shared out where the job's count does not say it. `incarnation` is that of
    the node when it reported last, 0 if it has not; `read_by` the version of it that refused, if it did and says so.
    """

    id: ExecutionId
    job: JobId
    version: int
    partition: int
    attempt: int
    node: NodeId
    amounts: Amounts
    state: ExecutionState
    created_at: float
    modified_at: float
    ordered: int
    revision: int
    why: str = ""
    ranking: Ranking | None = None
    partitions: int = 0
    stages: list[Stage] = field(default_factory=list)
    failure: Failure | None = None
    output: RunOutput | None = None
    result: Spec | None = None
    inputs: list[InputRead] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    written: Written | None = None
    incarnation: int = 0
    read_by: str = ""

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.state not in ENDS


class JobRecord(Struct, frozen=True, gc=False, omit_defaults=True):
    """A job as the log has it: the fold of its entries up to `revision`, the last one's sequence.

    `spec.name` is never empty here. `submitted_at` is when the present version was submitted; deadlines count from it.
    `executions` holds all attempts, of earlier versions too, in the order of their assignment; but for `forgotten` old ones
    of a service or daemon. `earlier` is what earlier versions asked for, as long as executions of them go on. `entries` is
    how many it has in the log, of which that takes only so many of one job. Its newest snapshot is at the sequence
    `snapshot`, 0 if there is none; `before` of its entries stand before that. The log has nothing of it before `since`.
    """

    id: JobId
    key: JobKey
    spec: Job
    version: int
    state: JobState
    created_at: float
    submitted_at: float
    modified_at: float
    revision: int
    message: str = ""
    failure: Failure | None = None
    stopping: str | None = None
    queued: Failure | None = None
    queued_at: float | None = None
    warnings: list[str] = field(default_factory=list)
    forgotten: int = 0
    earlier: dict[int, Job] = field(default_factory=dict)
    entries: int = 0
    snapshot: int = 0
    before: int = 0
    since: int = 0
    executions: dict[ExecutionId, ExecutionRecord] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        """Whether this version has its final state."""
        return self.state in JOB_ENDS

    @property
    def untried(self) -> bool:
        """Whether it never had an execution, and nothing else is under way with it."""
        return not self.executions and self.stopping is None and self.spec.type not in EVERYWHERE

    def spec_of(self, execution: ExecutionRecord) -> Job:
        """What the version asked for that an execution is of."""
        return self.earlier.get(execution.version, self.spec) if self.earlier else self.spec

    def current(self) -> list[ExecutionRecord]:
        """The executions of the present version."""
        return [execution for execution in self.executions.values() if execution.version == self.version]

    def open(self) -> list[ExecutionRecord]:
        """The executions that have not ended, of whatever version."""
        return [execution for execution in self.executions.values() if execution.open]

    def older(self) -> list[ExecutionRecord]:
        """The executions of earlier versions that go on, until they are replaced or have been ended."""
        version = self.version
        return [each for each in self.executions.values() if each.version != version and each.open]

    def shown(self, version: int = 0) -> list[ExecutionRecord]:
        """The executions of a version; without one those of the present version, and what still runs of earlier ones."""
        if version:
            return [each for each in self.executions.values() if each.version == version]
        return [each for each in self.executions.values() if each.version == self.version or each.open]

    def published(self) -> list[ExecutionRecord]:
        """The execution whose result counts, for each partition of the present version that has one, in order.

        It is the completed attempt; where none completed, the newest that published what its failed program wrote. Of an
        ops or daemon job, which runs on every node, one counts for each node.
        """
        everywhere = self.spec.type in EVERYWHERE
        chosen: dict[tuple[int, NodeId | None], ExecutionRecord] = {}
        for execution in self.current():
            if execution.result is None or not execution.result.type:
                continue
            place = (execution.partition, execution.node if everywhere else None)
            before = chosen.get(place)
            if before is None or before.state is not ExecutionState.COMPLETED:
                chosen[place] = execution
        return sorted(chosen.values(), key=lambda execution: execution.partition)


class HistoryItem(Struct, frozen=True, omit_defaults=True):
    """One line of a job's history. `execution` empty: about the job as a whole. `details` are for programs."""

    seq: int
    index: int
    job: JobId
    version: int
    at: float
    topic: str
    message: str
    execution: str = ""
    details: dict[str, str] = field(default_factory=dict)


class Cordon(Struct, frozen=True, gc=False, omit_defaults=True):
    """A person's word that a node gets no new work. With `drain_by` (unix seconds) what is there leaves it by then."""

    since: float
    reason: str = ""
    drain_by: float | None = None


class Aside(Struct, frozen=True, gc=False):
    """A node gets no new work until then (unix seconds), because what it got kept failing."""

    until: float
    reason: str


class NodeRecord(Struct, frozen=True, gc=False, omit_defaults=True):
    """A node as the requester sees it. `free` is what the fold leaves of its capacity, `membership` a person's word.

    `expected` is False once it has been away for so long that no job should wait for it. `held` are the inputs whose bytes
    it says it has, by `protocol.held.input_token`, with their sizes in bytes. `cordon` and `aside` keep new work away.
    `away_since` (unix seconds) is from when on an absence counts that has lasted so long, 0 for none: what a person said of
    the node meanwhile begins it anew. `doubled_since` (unix seconds) is since when an earlier process is known to speak as
    this node too, 0 for none. `ports_taken` and `ports_lost` are as in its `Beat`.
    """

    info: NodeInfo
    membership: str = "APPROVED"
    connected: bool = True
    last_beat_at: float = 0.0
    connected_since: float = 0.0
    disconnected_since: float = 0.0
    incarnation: int = 0
    free: Amounts = field(default_factory=Amounts)
    running: int = 0
    waiting: int = 0
    expected: bool = True
    held: dict[str, int] = field(default_factory=dict)
    cordon: Cordon | None = None
    aside: Aside | None = None
    away_since: float = 0.0
    doubled_since: float = 0.0
    ports_taken: list[int] = field(default_factory=list)
    ports_lost: int = 0

    @property
    def drain_by(self) -> float | None:
        """When the last work has to be off it, in unix seconds; None if it is not drained."""
        return self.cordon.drain_by if self.cordon is not None else None
