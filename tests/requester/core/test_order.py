"""Who is first: jobs in the queue, requesters for a job, and silence."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import JobKey, RequesterId
from requester.core import owners
from requester.core.membership import silent
from requester.core.queue import Queue
from requester.core.standing import Demand, demand_of
from tests.requester.core.world import a_job

DEMANDS = [demand_of(a_job(cpu=str(cores))) for cores in (1, 2, 3)]


NAMESPACES = {"": 0.0, "poor": 0.1, "rich": 0.9}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20),
            st.sampled_from(DEMANDS),
            st.integers(-2, 2),
            st.sampled_from(sorted(NAMESPACES)),
            st.integers(0, 5),
        ),
        max_size=60,
    ),
    st.sets(st.integers(0, 20)),
)
def test_the_queue_gives_jobs_by_priority_then_fairness_then_age(
    puts: list[tuple[int, Demand, int, str, int]], removed: set[int]
) -> None:
    """Whatever is put, moved and removed, jobs come out by priority, then by what their namespaces have, then by age, each
    once; and each job's place says how many come before it."""
    queue = Queue()
    there: dict[JobKey, tuple[int, float, float, JobKey]] = {}
    for number, demand, priority, namespace, age in puts:
        key = JobKey(f"{number:015x}")
        queue.put(key, demand, priority=priority, namespace=namespace, age=age, since=age)
        there[key] = (-priority, NAMESPACES[namespace], age, key)
    for number in removed:
        queue.remove(JobKey(f"{number:015x}"))
        there.pop(JobKey(f"{number:015x}"), None)

    assert len(queue) == len(there)
    wanted = [order[3] for order in sorted(there.values())]
    assert [queue.place(key, NAMESPACES.__getitem__) for key in wanted] == list(range(len(wanted)))
    given_out = []
    round_ = queue.round(NAMESPACES.__getitem__)
    while (head := round_.next()) is not None:
        given_out.append(head[0])
        queue.remove(head[0])
    assert given_out == wanted


def test_a_line_without_room_holds_up_no_other() -> None:
    """A demand that finds no room is passed over; the next in order of another demand is given."""
    queue = Queue()
    queue.put(JobKey("a"), DEMANDS[2], priority=5, age=1.0, since=1.0)
    queue.put(JobKey("b"), DEMANDS[0], age=2.0, since=2.0)

    def head(without: set[Demand]) -> str | None:
        found = queue.round(lambda _: 0.0).next(without)
        return found[0] if found is not None else None

    assert head(set()) == "a"
    assert head({DEMANDS[2]}) == "b"
    assert head(set(DEMANDS)) is None


@given(st.integers(1, 6), st.text("0123456789abcdef", min_size=15, max_size=15))
def test_exactly_one_owner(count: int, key: str) -> None:
    """All requesters agree on one order: one is first, and if it goes the next moves up by one."""
    requesters = [RequesterId(f"r{number}") for number in range(count)]
    ranks = {requester: owners.rank(requester, requesters, key) for requester in requesters}

    assert sorted(ranks.values()) == list(range(count))
    first = min(ranks, key=lambda requester: ranks[requester])
    left = [requester for requester in requesters if requester != first]
    assert all(owners.rank(requester, left, key) == ranks[requester] - 1 for requester in left)


def test_jobs_are_shared_out() -> None:
    """Each of three requesters owns about a third of the jobs."""
    requesters = [RequesterId(f"r-{number}") for number in range(3)]
    mine = sum(owners.rank(requesters[0], requesters, f"{key:015x}") == 0 for key in range(3_000))

    assert 850 < mine < 1_150


def test_silence_counts_from_when_one_could_hear() -> None:
    """A node is silent only when it could have been heard: not right after a start, whenever its last beat was."""
    assert silent(100.0, 0.0, 105.1)
    assert not silent(100.0, 0.0, 105.0)
    assert not silent(0.0, 103.0, 105.1)
