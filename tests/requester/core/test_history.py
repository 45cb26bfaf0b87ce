"""A job's history, read from its entries."""

from msgspec.structs import replace

from protocol.entries import Entry, Reported
from protocol.errors import Failure
from protocol.ids import NodeId
from protocol.jobs import Timeouts
from protocol.messages import Report, Stage
from protocol.states import ExecutionState as S
from requester.core.history import items, of_log
from requester.core.model import HistoryItem
from tests.requester.core.world import World, a_job, a_node


def lines(world: World) -> list[HistoryItem]:
    return [line for _, each in of_log(list(enumerate(world.entries, 1))) for line in each]


def told(world: World) -> list[tuple[str, str]]:
    return [(line.topic, line.message) for line in lines(world)]


def test_stages_are_told_once_with_their_own_times() -> None:
    """Each stage a node passed is one line with the node's own time, though reports repeat earlier stages."""
    world = World(a_node("n1"))
    world.submit(a_job(type_="service"))
    (execution,) = world.open()
    stages = [Stage(S.STAGING, 1.0, "Pulling alpine"), Stage(S.RUNNING, 2.0)]
    report = world.report_of(execution, S.RUNNING)
    world.look(Reported(_with(report, stages)))
    world.look(Reported(_with(world.report_of(execution, S.PUBLISHING), [*stages, Stage(S.PUBLISHING, 3.0)])))

    assert [(line.topic, line.message, line.at) for line in lines(world) if line.execution][1:] == [
        ("Downloading Inputs", "Pulling alpine", 1.0),
        ("Running Execution", "Running", 2.0),
        ("Publishing Results", "Publishing results", 3.0),
    ]


def test_a_failure_stands_under_the_stage_it_happened_in() -> None:
    """A failure is told under its stage, with the details that programs look for."""
    world = World(a_node("n1"))
    world.submit(a_job())
    (execution,) = world.open()
    failure = Failure("NotFound.Object", "s3://data/x is not there", hint="check the key")
    report = world.report_of(execution, S.FAILED, failure)

    world.look(Reported(_with(report, [Stage(S.STAGING, 1.0), Stage(S.FAILED, 2.0)])))

    (line,) = [line for line in lines(world) if line.details.get("FailsExecution")]
    assert (line.topic, line.message, line.at) == ("Downloading Inputs", "s3://data/x is not there", 2.0)
    assert line.details == {
        "ErrorCode": "NotFound.Object",
        "IsError": "true",
        "Hint": "check the key",
        "FailsExecution": "true",
    }
    assert told(world)[-1] == ("State Update", "s3://data/x is not there")


def test_queueing_loss_and_stop() -> None:
    """Waiting, a lost node and a stop are told in Bacalhau's words."""
    world = World(a_node("n1", connected=False))
    world.submit(a_job())
    world.fleet.put(a_node("n1"))
    world.look()
    world.gone = {NodeId("n1"): 6.0}
    world.fleet.put(a_node("n1", connected=False))
    world.look()
    world.stop()

    assert told(world) == [
        ("Submission", "Job submitted"),
        (
            "Queueing",
            "Job queued. waiting for a node: 1 of 1 node could run this job, and none takes work now",
        ),
        ("Scheduling", "Requested execution on n1"),
        ("State Update", "Running"),
        ("Scheduling", "Execution stop requested because node has disappeared: n1 silent for 6 s"),
        (
            "Queueing",
            "Job queued. waiting for a node: 1 of 1 node could run this job, and none takes work now",
        ),
        ("State Update", "Job stop requested: enough"),
        ("State Update", "Job stopped: enough"),
    ]


def test_timeouts_have_topics_of_their_own() -> None:
    """A job's timeout is told under Job Timeout, with what to do."""
    world = World(a_node("n1"))
    world.submit(a_job(timeouts=Timeouts(total_timeout=5)))
    world.now += 5
    world.look()

    last = lines(world)[-1]
    assert (last.topic, last.message) == ("Job Timeout", "Job timed out. Job took longer than 5s")
    assert last.details["Hint"] == "Try increasing the task timeout or allocating more resources"


def test_what_changes_nothing_leaves_no_line() -> None:
    """An entry that is read twice, or names another job, has no history."""
    world = World(a_node("n1"))
    world.submit(a_job())
    other = Entry("j-other", "op", "r1", 1.0, world.entries[0].events)  # type: ignore[arg-type]

    assert items(world.job, world.entries[0], 1) == []
    assert items(world.job, other, 2) == []


def _with(report: Report, stages: list[Stage]) -> Report:
    return replace(report, stages=stages)
