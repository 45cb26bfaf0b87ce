"""New jobs that wait, read in part: what is found of them is what the whole entry says."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.entries import Assigned, Closed, Entry, Event, Queued, StopRequested, Submitted
from protocol.errors import Failure
from protocol.ids import ExecutionId, JobKey, NodeId, job_id, job_key
from protocol.jobs import (
    Amounts,
    Constraint,
    Input,
    Job,
    Network,
    Placement,
    Port,
    Resources,
    Spec,
    Task,
    Timeouts,
)
from protocol.messages import encode
from protocol.states import JobState
from requester.core.deadlines import next_deadline
from requester.core.fold import fold
from requester.core.newcomers import KINDS_MAX, Newcomers, record_of
from requester.core.policy import Policy
from requester.core.queue import hopes
from requester.core.standing import demand_of

SEQ = 7
POLICY = Policy()
KEY = job_key("default", "job")
TEXT = st.sampled_from(["", "one", 'two "quoted"', "dreißig"])
SPECS = st.builds(Spec, type=TEXT, params=st.dictionaries(TEXT, st.integers() | TEXT, max_size=2))
TASKS = st.builds(
    Task,
    engine=SPECS,
    publisher=SPECS,
    env=st.dictionaries(TEXT, TEXT, max_size=2),
    input_sources=st.lists(st.builds(Input, source=SPECS, target=TEXT), max_size=2),
    resources=st.builds(
        Resources, cpu=st.sampled_from(["", "1", "500m"]), gpu_name=st.sampled_from(["", "A100"])
    ),
    network=st.builds(
        Network, ports=st.lists(st.builds(Port, name=TEXT, static=st.integers(0, 9)), max_size=2)
    ),
    timeouts=st.builds(Timeouts, queue_timeout=st.integers(0, 9), total_timeout=st.integers(0, 9)),
)
JOBS = st.builds(
    Job,
    name=TEXT,
    namespace=TEXT,
    type=st.sampled_from(["batch", "service", "ops", "daemon"]),
    priority=st.integers(-2, 2),
    count=st.integers(0, 3),
    constraints=st.lists(
        st.builds(Constraint, key=TEXT, operator=st.just("="), values=st.lists(TEXT)), max_size=2
    ),
    labels=st.dictionaries(TEXT, TEXT, max_size=2),
    tasks=st.lists(TASKS, min_size=1, max_size=1),
    placement=st.just(Placement("pack")) | st.just(Job().placement),
)
REASONS = st.builds(Failure, code=TEXT, message=TEXT, retryable=st.booleans())
WAITS = st.tuples(st.builds(Submitted, spec=JOBS, version=st.just(1)), st.builds(Queued, reason=REASONS))
OTHERS: list[list[Event]] = [
    [],
    [Submitted(Job(tasks=[Task()]), 1)],
    [Submitted(Job(tasks=[Task()]), 2), Queued(Failure("Exhausted", "full"))],
    [Queued(Failure("Exhausted", "full")), Submitted(Job(tasks=[Task()]), 1)],
    [Submitted(Job(tasks=[Task()]), 1), Assigned(ExecutionId("e-1"), 0, 1, NodeId("n-1"), Amounts())],
    [Submitted(Job(tasks=[Task()]), 1), Queued(Failure("Exhausted", "full")), StopRequested()],
    [Submitted(Job(tasks=[Task()]), 1), Queued(Failure("Exhausted", "full")), Closed(JobState.FAILED)],
]
WAITING: list[Event] = [Submitted(Job(tasks=[Task()]), 1), Queued(Failure("Exhausted", "full"))]


def an_entry(events: list[Event], *, at: float = 5.25, key: JobKey = KEY) -> Entry:
    return Entry(job_id(key, 1), "op", "r1", at, events)


@given(st.lists(WAITS, min_size=1, max_size=4), st.floats(0, 2e9))
def test_it_is_what_the_entry_says(many: list[tuple[Submitted, Queued]], at: float) -> None:
    """Whatever a new job asks for, and whatever came before it: its turn, its deadline and its row are those of its record;
    and one that does more than wait is left to be read whole."""
    newcomers = Newcomers(POLICY)
    for submitted, queued in (*many, *many):
        entry = an_entry([submitted, queued], at=at)
        data = encode(entry)
        record = fold(None, entry, SEQ)
        assert record is not None
        new = newcomers.read(KEY, SEQ, data)
        if not record.untried:
            assert new is None
            continue
        assert new is not None
        assert record.queued is not None
        spec = record.spec
        assert (new.key, new.id, new.namespace, new.name) == (KEY, record.id, spec.namespace, spec.name)
        assert (new.priority, new.demand, new.hopes) == (spec.priority, demand_of(spec), hopes(record))
        assert new.at == record.created_at == record.modified_at == record.submitted_at == record.queued_at
        assert new.due == next_deadline(record, {}, at, POLICY)
        assert record.state is JobState.QUEUED
        assert record_of(new.data, new.seq) == record


def test_other_entries_are_read_whole() -> None:
    """What is no new job, or no job that only waits, or cannot be read, or names another job, is not taken for one."""
    newcomers = Newcomers(POLICY)
    data = encode(an_entry(WAITING))
    assert newcomers.read(KEY, SEQ, data) is not None
    for events in OTHERS:
        assert newcomers.read(KEY, SEQ, encode(an_entry(events))) is None
    assert newcomers.read(JobKey("0" * 15), SEQ, data) is None
    for broken in (b"", data[:-2], b"\xff" + data, data.replace(b'"Priority":0', b'"Priority":"high"')):
        assert newcomers.read(KEY, SEQ, broken) is None


def test_what_many_ask_for_is_bounded() -> None:
    """However many kinds of jobs there are, no more than so many are remembered, and each is read as what it is."""
    newcomers = Newcomers(POLICY)
    for number in range(KINDS_MAX + 10):
        task = Task(resources=Resources(cpu=f"{number + 1}m"))
        submitted = Submitted(Job(tasks=[task]), 1)
        new = newcomers.read(KEY, SEQ, encode(an_entry([submitted, WAITING[1]])))
        assert new is not None
        assert new.demand == demand_of(submitted.spec)
        assert len(newcomers._kinds) <= KINDS_MAX


def test_an_entry_that_cannot_be_read_is_no_job() -> None:
    """Of an entry that only looks whole there is no record."""
    data = encode(an_entry(WAITING)).replace(b'"Env":{}', b'"Env":5')
    assert Newcomers(POLICY).read(KEY, SEQ, data) is None
    assert record_of(data, SEQ) is None
