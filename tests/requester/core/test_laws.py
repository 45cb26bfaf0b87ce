"""Laws of deciding: what holds whatever happens, in whatever order."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import UNSET, UnsetType

from protocol.entries import Entry, Event, Reported
from protocol.errors import Failure
from protocol.jobs import LONG_RUNNING, Constraint, Retry, Timeouts
from protocol.messages import decode, encode
from protocol.states import ENDS, JOB_ENDS, ExecutionState, JobState
from requester.core.fold import fold
from requester.core.history import of_log
from requester.core.model import JobRecord
from requester.core.snapshots import draft, told_by
from requester.core.standing import demand_of
from tests.requester.core.world import JOB, World, a_job, a_node, assigned, refold

S = ExecutionState

FAILURES = st.sampled_from(
    [
        Failure("ProgramFailed", "exit code 3"),
        Failure("NotFound.Image", "no image"),
        Failure("Invalid.Params", "bad params"),
        Failure("Denied", "not here"),
        Failure("Unavailable.Engine", "ill", retryable=True),
        Failure("Broken", "wrong bytes", retryable=True),
    ]
)
RETRIES = [
    Retry(attempts=1, causes=["system"]),
    Retry(attempts=5, backoff=3.0, causes=["program", "timeout", "node"]),
]
NODES = ("n1", "n2", "n3")


class AnyLife(RuleBasedStateMachine):
    """One job under every occasion there is: reports in any order, silence, rejection, time, stops and new versions."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.ended: dict[str, str] = {}
        self.final: tuple[int, str] | None = None

    @initialize(
        type_=st.sampled_from(["batch", "batch", "batch", "ops", "service", "daemon"]),
        count=st.integers(1, 9),
        cores=st.lists(st.integers(1, 4), min_size=3, max_size=3),
        total=st.sampled_from([0, 0, 50]),
        execution=st.sampled_from([0, 0, 20]),
        queue=st.sampled_from([0, 0, 30]),
        pinned=st.booleans(),
        retry=st.sampled_from([UNSET, UNSET, *RETRIES]),
    )
    def begin(
        self,
        type_: str,
        count: int,
        cores: list[int],
        total: int,
        execution: int,
        queue: int,
        pinned: bool,
        retry: Retry | UnsetType,
    ) -> None:
        for number, name in enumerate(NODES):
            labels = {"zone": "a" if number else "b"}
            self.world.fleet.put(a_node(name, cores=cores[number], labels=labels))
        constraints = [Constraint("zone", "=", ["a"])] if pinned else []
        timeouts = Timeouts(execution_timeout=execution, total_timeout=total, queue_timeout=queue)
        everywhere = type_ in ("ops", "daemon")
        self.spec = a_job(
            type_=type_,
            count=0 if everywhere else count,
            constraints=constraints,
            timeouts=timeouts,
            retry=retry,
        )
        self.look_at(self.world.submit(self.spec))

    def look_at(self, events: Sequence[Event]) -> None:
        """What was just decided never puts work on a node that does not fit."""
        standing = self.world.fleet.standing(demand_of(self.spec))
        fitting = set(standing.fitting)
        assert {event.node for event in assigned(events)} <= fitting

    @precondition(lambda self: self.world.executions())
    @rule(data=st.data(), state=st.sampled_from([S.STAGING, S.RUNNING, S.PUBLISHING, *sorted(ENDS)]))
    def node_reports(self, data: st.DataObject, state: ExecutionState) -> None:
        execution = data.draw(st.sampled_from(self.world.executions()))
        failure = data.draw(FAILURES) if state in (S.FAILED, S.REFUSED) else None
        before = self.world.record
        events = self.world.report(execution, state, failure)
        self.look_at(events)
        if not execution.open:
            assert not any(isinstance(event, Reported) for event in events)
            assert before is None or self.world.job.executions[execution.id] == execution

    @rule(node=st.sampled_from(NODES))
    def node_falls_silent(self, node: str) -> None:
        record = self.world.fleet.nodes[node]  # type: ignore[index]
        self.world.fleet.put(a_node(node, labels=record.info.labels, connected=False))
        self.world.gone[record.info.id] = 6.0
        self.look_at(self.world.look())

    @rule(node=st.sampled_from(NODES), cores=st.integers(1, 4))
    def node_comes_back(self, node: str, cores: int) -> None:
        record = self.world.fleet.nodes[node]  # type: ignore[index]
        self.world.fleet.put(a_node(node, cores=cores, labels=record.info.labels))
        self.world.gone.pop(record.info.id, None)
        self.look_at(self.world.look())

    @rule(node=st.sampled_from(NODES))
    def node_is_rejected(self, node: str) -> None:
        record = self.world.fleet.nodes[node]  # type: ignore[index]
        self.world.fleet.put(a_node(node, labels=record.info.labels, membership="REJECTED", connected=False))
        self.look_at(self.world.look())

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.look_at(self.world.look())

    @rule()
    def someone_stops_it(self) -> None:
        was = self.world.job.state
        self.look_at(self.world.stop())
        assert self.world.job.state is (was if was in JOB_ENDS else JobState.STOPPED)

    @rule(count=st.integers(1, 5))
    def someone_submits_it_again(self, count: int) -> None:
        everywhere = self.spec.count == 0
        self.spec = a_job(type_=self.spec.type, count=0 if everywhere else count)
        self.final = None
        self.look_at(self.world.submit(self.spec))

    @precondition(lambda self: self.world.executions() and not self.world.job.closed)
    @rule(attempts=st.sampled_from([1, 50]))
    def a_snapshot_is_written(self, attempts: int) -> None:
        """Whatever has happened, it can be said; and from here on all is decided by who knows nothing else."""
        world = self.world
        made = draft(told_by(enumerate(world.entries, 1), JOB), world.job, attempts=attempts)
        if world.job.spec.type not in LONG_RUNNING:
            return
        assert made is not None
        entry = Entry(JOB, "snapshot", "r1", world.now, made.events, made.snapshot)
        world.entries.append(entry)
        seq = len(world.entries)
        known = fold(None, decode(encode(entry), Entry), seq)
        assert known == fold(world.job, entry, seq)
        assert known is not None
        assert known.open() == world.open()
        world.record = known

    @invariant()
    def nothing_is_left_to_decide(self) -> None:
        """A step after its own decision finds nothing to do."""
        if self.world.record is not None:
            before = len(self.world.entries)
            assert self.world.look() == []
            assert len(self.world.entries) == before

    @invariant()
    def never_above_count(self) -> None:
        """No partition has two open executions, nor two that completed, nor one of each in a batch job."""
        record = self.world.record
        if record is None:
            return
        open_now = [each for each in record.current() if each.open]
        if record.spec.count:
            assert all(0 <= each.partition < record.spec.count for each in record.current())
            held = [
                each.partition
                for each in record.current()
                if each.open or (each.state is S.COMPLETED and record.spec.type == "batch")
            ]
        else:
            held = [each.node for each in open_now]  # type: ignore[misc]
        assert max(Counter(held).values(), default=0) <= 1
        if record.spec.type in ("service", "daemon"):
            places = [
                each.node if record.spec.type == "daemon" else each.partition for each in self.world.open()
            ]
            assert max(Counter(places).values(), default=0) <= 1
        else:
            assert not record.older()

    @invariant()
    def ends_are_final(self) -> None:
        """An execution's end and a version's final state never change; a closed job has nothing open."""
        for execution in self.world.executions():
            if not execution.open:
                assert self.ended.setdefault(execution.id, execution.state) == execution.state
        record = self.world.record
        if record is not None and record.closed:
            assert not self.world.open()
            self.final = self.final or (record.version, record.state)
            assert self.final == (record.version, record.state)

    @invariant()
    def the_log_is_the_truth(self) -> None:
        """Folding the whole log gives the same record, however often an entry is read, and after a round on the wire."""
        if self.world.record is not None:
            assert refold(self.world.entries) == self.world.record
            assert decode(encode(self.world.record), JobRecord) == self.world.record

    def teardown(self) -> None:
        """Once faults stop every job that can end does."""
        if self.world.record is None:
            return
        for name in NODES:
            self.world.fleet.put(a_node(name, labels={"zone": "a"}))
        self.world.gone.clear()
        for _ in range(200):
            self.world.now += 40.0
            self.world.look()
            for execution in self.world.open():
                if self.world.job.executions[execution.id].open:
                    self.world.report(execution, S.COMPLETED)
            if self.world.job.closed:
                break
        if self.world.job.spec.type in ("batch", "ops"):
            assert self.world.job.closed
        lines = [line for _, each in of_log(list(enumerate(self.world.entries, 1))) for line in each]
        assert [(line.seq, line.index) for line in lines] == sorted((line.seq, line.index) for line in lines)


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


@given(count=st.integers(1, 40), cores=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_no_node_holds_more_than_it_has(count: int, cores: list[int]) -> None:
    """However many partitions want room, no node is promised more than it gives to jobs."""
    world = World(*(a_node(f"n{number}", cores=each) for number, each in enumerate(cores)))
    world.submit(a_job(count=count))

    on_each = Counter(execution.node for execution in world.open())

    assert sum(on_each.values()) == min(count, sum(cores))
    for number, each in enumerate(cores):
        assert on_each.get(f"n{number}", 0) <= each  # type: ignore[call-overload]
