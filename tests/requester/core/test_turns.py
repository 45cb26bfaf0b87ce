"""Many jobs and too little room: who is next, and that nobody is forgotten."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.entries import Assigned, Entry, Event, Reported, Submitted
from protocol.ids import ExecutionId, JobKey, NodeId, job_id, nameless_key
from protocol.jobs import Job
from protocol.messages import Report
from protocol.states import ExecutionState as S
from requester.core.fleet import Fleet
from requester.core.fold import fold
from requester.core.model import ExecutionRecord, JobRecord, NodeRecord
from requester.core.policy import Policy
from requester.core.queue import Queue
from requester.core.standing import demand_of
from requester.core.step import step
from requester.core.turns import Turns
from requester.core.view import View
from tests.requester.core.world import a_job, a_node

POLICY = Policy(reserve_after_s=10.0, jitter=0.0)


class Crowd:
    """Many jobs on one fleet, decided as the orchestrator does it. `started` are all assignments in their order."""

    def __init__(self, *nodes: NodeRecord) -> None:
        self.fleet = Fleet()
        for node in nodes:
            self.fleet.put(node)
        self.queue = Queue()
        self.turns = Turns(self.queue, self.fleet, POLICY)
        self.records: dict[JobKey, JobRecord] = {}
        self.started: list[ExecutionRecord] = []
        self.now = 1_000.0
        self._seq = 0

    def submit(self, job: Job) -> JobKey:
        key = nameless_key(len(self.records) + 1)
        self._decide(key, Submitted(replace(job, name=key), 1))
        self.serve()
        return key

    def finish(self, execution: ExecutionRecord) -> None:
        report = Report(execution.node, 1, execution.ordered, execution.job, 1, execution.id, S.COMPLETED)
        key = next(key for key, record in self.records.items() if record.id == execution.job)
        self._decide(key, Reported(report))
        self.serve()

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.serve()

    def serve(self) -> None:
        for turn in self.turns.due(self.now):
            self._decide(turn.key)
        for key in self.records:
            self._requeue(key)

    def running(self) -> list[ExecutionRecord]:
        return [each for record in self.records.values() for each in record.open()]

    def waits(self, key: JobKey) -> bool:
        return self.records[key].queued is not None

    def _decide(self, key: JobKey, *inputs: Event) -> None:
        job = job_id(key, 1)
        view = View(self.fleet, turns=self.turns)
        decision = step(self.records.get(key), inputs, view, self.now, job=job, policy=POLICY)
        if not decision.events:
            return
        self._seq += 1
        record = fold(self.records.get(key), Entry(job, "op", "r", self.now, decision.events), self._seq)
        assert record is not None
        self.records[key] = record
        freed = []
        for execution in record.executions.values():
            if execution.open:
                spec = record.spec
                stays = spec.type == "service"
                self.fleet.hold(
                    execution.node, execution.id, execution.amounts, (), spec.namespace, stays=stays
                )
            elif self.fleet.release(execution.node, execution.id):
                freed.append(execution.node)
        self.turns.freed(freed)
        self.started += [
            record.executions[each.execution] for each in decision.events if isinstance(each, Assigned)
        ]
        self._requeue(key)
        if record.queued is not None:
            self.turns.joined(demand_of(record.spec))

    def _requeue(self, key: JobKey) -> None:
        record = self.records[key]
        if record.queued is None or record.closed:
            self.queue.remove(key)
            return
        self.queue.put(
            key,
            demand_of(record.spec),
            priority=record.spec.priority,
            namespace=record.spec.namespace,
            age=record.submitted_at,
            since=record.queued_at or 0.0,
        )


@given(
    jobs=st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 2), st.sampled_from("ab"), st.integers(1, 4)), max_size=25
    ),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_every_job_has_its_turn(jobs: list[tuple[int, int, str, int]], order: object) -> None:
    """Whatever jobs come and in whatever order work ends, all of it is done once, no node ever holds more than it has, and
    nothing starts while a job of higher priority with the same demand waits."""
    crowd = Crowd(a_node("n1", cores=3), a_node("n2", cores=4))
    for cores, priority, namespace, count in jobs:
        crowd.submit(a_job(cpu=str(cores), priority=priority, namespace=namespace, count=count))
        crowd.later(1.0)
    while running := crowd.running():
        before = len(crowd.started)
        crowd.finish(order.choice(running))  # type: ignore[attr-defined]
        for node, cores in (("n1", 3), ("n2", 4)):
            assert sum(each.amounts.cpu for each in crowd.running() if each.node == node) <= cores
        for started in crowd.started[before:]:
            record = next(each for each in crowd.records.values() if each.id == started.job)
            for other in crowd.records.values():
                if other.queued is not None and demand_of(other.spec) == demand_of(record.spec):
                    assert other.spec.priority <= record.spec.priority
        crowd.later(1.0)
    assert all(record.closed for record in crowd.records.values())
    assert len(crowd.started) == sum(count for *_, count in jobs)


@given(cores=st.lists(st.integers(2, 8), min_size=1, max_size=4), runtime=st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_a_large_job_is_not_starved(cores: list[int], runtime: int) -> None:
    """A job that needs the whole of the largest node starts within its patience and one run of the small ones, however many
    of these wait and are submitted meanwhile."""
    crowd = Crowd(*(a_node(f"n{number}", cores=each) for number, each in enumerate(cores)))
    ends: list[tuple[float, ExecutionRecord]] = []
    large: JobKey | None = None
    waited = 0
    for second in range(200):
        if second == sum(cores):
            large = crowd.submit(a_job(cpu=str(max(cores))))
        for _ in range(1 if second < sum(cores) else sum(cores) - len(crowd.queue)):
            crowd.submit(a_job())
        ends += [(crowd.now + runtime + number % 3, each) for number, each in enumerate(crowd.started)]
        crowd.started.clear()
        for end in [each for each in ends if each[0] <= crowd.now]:
            ends.remove(end)
            crowd.finish(end[1])
        crowd.later(1.0)
        if large is not None:
            if not crowd.waits(large):
                break
            waited += 1
    assert waited <= POLICY.reserve_after_s + runtime + 5


def test_namespaces_share_what_there_is() -> None:
    """On a full cluster a namespace that floods the queue gets no more than one that asks for little at a time."""
    crowd = Crowd(a_node("n1", cores=4), a_node("n2", cores=4))
    for _ in range(100):
        crowd.submit(a_job(namespace="flood"))
    for turn in range(60):
        waiting = sum(
            each.queued is not None for each in crowd.records.values() if each.spec.namespace == "b"
        )
        if waiting < 2:
            crowd.submit(a_job(namespace="b"))
        crowd.finish(min(crowd.running(), key=lambda each: each.created_at))
        crowd.later(1.0)
        if turn > 10:
            has = Counter(each.spec.namespace for each in crowd.records.values() for _ in each.open())
            assert has == {"flood": 4, "b": 4}


def test_no_node_is_kept_for_nothing() -> None:
    """A node on which services hold too much for a large job is not kept for it: another one is, or none."""
    crowd = Crowd(a_node("n1", cores=4))
    crowd.submit(a_job(type_="service"))
    large = crowd.submit(a_job(cpu="4"))
    crowd.later(10 * POLICY.reserve_after_s)
    assert crowd.turns.reserved == {}
    assert not crowd.waits(crowd.submit(a_job(cpu="3")))
    crowd.fleet.put(a_node("n2", cores=4))
    crowd.turns.everything()
    crowd.later(1.0)
    assert not crowd.waits(large)


def test_higher_priority_does_not_wait_for_what_is_kept() -> None:
    """A node that is kept for a large job is open to work of higher priority."""
    crowd = Crowd(a_node("n1", cores=4))
    small = crowd.submit(a_job(count=2))
    crowd.submit(a_job(cpu="4"))
    crowd.later(POLICY.reserve_after_s)
    assert set(crowd.turns.reserved) == {NodeId("n1")}
    later = crowd.submit(a_job())
    assert crowd.waits(later)
    assert crowd.records[later].queued is not None
    urgent = crowd.submit(a_job(cpu="2", priority=1))
    assert not crowd.waits(urgent)
    assert not crowd.waits(small)


def test_a_job_is_offered_the_node_of_its_turn() -> None:
    """For as long as its turn lasts, and nobody else is."""
    crowd = Crowd(a_node("n1", cores=1))
    crowd.submit(a_job(cpu="1"))
    waiting = crowd.submit(a_job(cpu="1"))
    (running,) = crowd.running()
    crowd.fleet.release(running.node, running.id)
    crowd.turns.freed([running.node])

    for turn in crowd.turns.due(crowd.now):
        assert (turn.key, turn.node) == (waiting, "n1")
        assert crowd.turns.offered_to(waiting) == "n1"
        assert crowd.turns.offered_to(JobKey("another")) is None
        crowd.fleet.hold(turn.node, ExecutionId("e-taken"), turn.waiting.demand.amounts)
    assert crowd.turns.offered_to(waiting) is None


def test_room_that_was_freed_while_nobody_wanted_it_is_not_forgotten() -> None:
    """What had no room before it was freed has its turn when it comes again, also if another was looked at meanwhile."""
    crowd = Crowd(a_node("n1", cores=2))
    node, small, large = NodeId("n1"), demand_of(a_job(cpu="1")), demand_of(a_job(cpu="2"))
    for name in ("e1", "e2"):
        crowd.fleet.hold(node, ExecutionId(name), small.amounts)

    def turns() -> list[JobKey]:
        return [turn.key for turn in crowd.turns.due(crowd.now)]

    crowd.queue.put(JobKey("1"), small, age=1.0, since=1.0)
    crowd.turns.joined(small)
    assert not turns()
    crowd.queue.remove(JobKey("1"))
    crowd.queue.put(JobKey("2"), large, age=2.0, since=2.0)
    crowd.fleet.release(node, ExecutionId("e1"))
    crowd.turns.freed([node])
    assert not turns()
    crowd.queue.put(JobKey("3"), small, age=3.0, since=3.0)
    crowd.turns.joined(small)
    assert turns() == ["3"]
