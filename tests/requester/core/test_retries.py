"""What is tried again, how often, and after which rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Failure
from protocol.ids import ExecutionId
from protocol.jobs import Retry
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.core.deadlines import next_deadline
from requester.core.policy import Policy, rest_s, rule_of
from tests.requester.core.world import POLICY, World, a_job, a_node

CRASH = Failure("ProgramFailed", "exit code 3")
KILLED = Failure("Exhausted.Memory", "killed for its memory")
SLOW = Failure("TimedOut.Execution", "took longer than 5s", retryable=True)
ILL = Failure("Unavailable.Engine", "the engine is ill", retryable=True)
NO_IMAGE = Failure("NotFound.Image", "no such image")
TAKEN = Failure("Conflict.Taken", "there is another result")
MISMATCH = Failure("Broken.Mismatch", "it has 6 bytes, and Size says 5")


def tried(retry: Retry, failure: Failure, *, exit_code: int = 0, type_: str = "batch") -> int:
    """How many attempts there are if each ends with this failure."""
    world = World(a_node("n1"), a_node("n2"))
    count = 0 if type_ == "ops" else 1
    world.submit(a_job(type_=type_, count=count, retry=retry))
    while not world.job.closed:
        for execution in world.open():
            world.report(execution, S.FAILED, failure, exit_code)
        due = next_deadline(world.job, {}, world.now, POLICY)
        if due is not None:
            world.now = due
            world.look()
    assert world.job.state is JobState.FAILED
    assert world.job.failure == failure
    return len(world.executions())


@pytest.mark.parametrize(
    ("retry", "failure", "exit_code", "attempts"),
    [
        (Retry(), CRASH, 3, 1),
        (Retry(attempts=4, causes=["program"]), CRASH, 3, 4),
        (Retry(attempts=4, causes=["program"], exit_codes=[3, 9]), CRASH, 3, 4),
        (Retry(attempts=4, causes=["program"], exit_codes=[3, 9]), CRASH, 4, 1),
        (Retry(attempts=4, causes=["program"], exit_codes=[137]), KILLED, 0, 4),
        (Retry(attempts=2, causes=["timeout"]), SLOW, 0, 2),
        (Retry(attempts=2, causes=["program"]), SLOW, 0, 1),
        (Retry(attempts=5), ILL, 0, 5),
        (Retry(attempts=1), ILL, 0, 1),
        (Retry(attempts=5, causes=["program"]), ILL, 0, 1),
        (Retry(attempts=5, causes=["program", "timeout", "system", "node"]), NO_IMAGE, 0, 1),
        (Retry(attempts=5), TAKEN, 0, 1),
        (Retry(attempts=5), MISMATCH, 0, 1),
    ],
)
def test_a_job_says_what_is_tried_again(
    retry: Retry, failure: Failure, exit_code: int, attempts: int
) -> None:
    """A failed attempt is made again for the causes and as often as the job says; what nothing can mend never is."""
    assert tried(retry, failure, exit_code=exit_code) == attempts


def test_an_ops_job_is_tried_again_on_the_same_node_if_it_says_so() -> None:
    """An ops job with a retry policy has that many attempts on each node."""
    assert tried(Retry(attempts=3, causes=["program"]), CRASH, exit_code=3, type_="ops") == 6


@pytest.mark.parametrize("type_", ["ops", "daemon"])
def test_attempts_are_counted_on_each_node(type_: str) -> None:
    """The first attempt on a node is its first, however many there were elsewhere; and each has an id of its own."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job(type_=type_, count=0, retry=Retry(attempts=3, causes=["program"])))
    (first,) = [each for each in world.open() if each.node == "n1"]
    world.report(first, S.FAILED, CRASH, exit_code=3)
    world.now += 400
    world.look()
    world.fleet.put(a_node("n3"))
    world.look()

    told = sorted((each.node, each.attempt) for each in world.executions())
    assert told == [("n1", 1), ("n1", 2), ("n2", 1), ("n3", 1)]
    assert tried(Retry(), CRASH, exit_code=3, type_="ops") == 2


def test_a_service_may_be_given_a_limit() -> None:
    """A service with a number of attempts fails after so many ends in a row that came too soon."""
    assert tried(Retry(attempts=3, causes=["system"]), CRASH, exit_code=3, type_="service") == 3


def test_work_that_must_not_move_ends_with_its_node() -> None:
    """Without the cause `node` a lost node ends the job."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job(retry=Retry(causes=["system"])))
    world.gone = {world.open()[0].node: 6.0}
    world.look()

    assert world.job.state is JobState.FAILED
    assert world.job.failure is not None
    assert world.job.failure.code == "Unavailable.NodeLost"


def test_a_job_that_takes_every_node_with_it_is_ended() -> None:
    """A lost node is no failure of its work, but nobody believes that twenty times."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job())
    while not world.job.closed:
        world.gone = {world.open()[0].node: 6.0}
        world.look()

    assert len(world.executions()) == POLICY.losses_max + 1
    assert world.job.message.endswith("(tried 21 times)")


@given(
    failures=st.integers(1, 40),
    jitter=st.floats(0, 1),
    backoff=st.floats(0.1, 100),
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2, unique=True),
)
def test_rests_keep_to_their_bounds(failures: int, jitter: float, backoff: float, seeds: list[int]) -> None:
    """A rest lies between its doubled beginning less the jitter and that beginning, and its limit; it is the same
    whoever works it out, and different for other attempts."""
    job = a_job(retry=Retry(backoff=backoff, backoff_max=1_000.0, jitter=jitter))
    rule = rule_of(job, Policy())
    whole = min(1_000.0, backoff * 2 ** (failures - 1))
    rests = [rest_s(rule, failures, ExecutionId(f"e-{seed:08x}-0000")) for seed in seeds]

    for rest in rests:
        assert whole * (1 - jitter) - 1e-9 <= rest <= whole
    assert (rests[0] > rests[1]) <= (seeds[0] < seeds[1])


def test_a_rest_that_was_over_before_its_entry_was_read() -> None:
    """When the log takes longer than the rest between two attempts, there is still a moment to look at the job."""
    world = World(a_node("n1"))
    world.submit(a_job(retry=Retry(attempts=3, backoff=1.0)))
    (execution,) = world.open()
    world.report(execution, S.FAILED, ILL)

    due = next_deadline(world.job, {}, world.job.modified_at, POLICY)
    assert due is not None
    assert next_deadline(world.job, {}, due, POLICY) is None
