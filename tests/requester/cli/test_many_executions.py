"""Jobs of many executions: what a person sees of one without reading a thousand."""

import re
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.errors import Failure
from protocol.ids import ExecutionId, JobId, NodeId, short
from protocol.jobs import Job, Spec, Task
from protocol.messages import RunOutput
from protocol.questions import LogChunk
from protocol.states import ExecutionState, JobState
from requester.cli.describe import SHOWN_MAX, TOLD_IN_FULL
from requester.cli.explain import DECISIONS_SHOWN, NODES_SHOWN
from requester.together import AT_ONCE
from requester.verbs import LogLine
from tests.conftest import Background
from tests.requester.cli.conftest import Shoal
from tests.requester.twin import BEGIN, Twin, a_node

TASK = Task(engine=Spec("noop"))
OF_40 = Job(name="wide", count=40, tasks=[TASK])
LOST = Failure("NodeLost", "the node was lost", hint="nothing to do")
RAN_OUT = Failure("ProgramFailed", "program exited with code 3", hint="see its logs")


@pytest.fixture
def wide(twin: Twin, background: Background) -> JobId:
    """A job of 40 executions: three whose program failed, one that was lost with its node, two that run, the rest done."""

    async def made() -> JobId:
        job = await twin.submitted(OF_40)
        for partition in range(40):
            execution = await twin.assign(job, partition=partition)
            output = RunOutput(stdout=f"from {partition}\n")
            match partition:
                case 2 | 5 | 9:
                    await twin.report(execution, ExecutionState.FAILED, failure=RAN_OUT, output=output)
                case 12:
                    await twin.report(execution, ExecutionState.FAILED, failure=LOST)
                case 20 | 21:
                    await twin.report(execution, ExecutionState.RUNNING)
                case _:
                    await twin.report(execution, ExecutionState.COMPLETED, output=output)
        return job

    return background.run(made())


def test_many_executions_are_summed_up(shoal: Shoal, twin: Twin, wide: JobId) -> None:
    """``describe`` of a job of many executions counts them, tells each cause of failure once, and shows those that say most:
    what failed, what runs. Where the rest is, it says."""
    ran = shoal("describe", "wide")
    ids = [each.id for each in sorted(twin.records[wide].executions.values(), key=lambda e: e.partition)]

    for state, count in (("Completed", 34), ("Failed", 4), ("Running", 2)):
        assert re.search(rf"^{state} += {count}$", ran.out, re.MULTILINE)
    assert re.search(
        rf"^3 +{short(ids[9])} +program exited with code 3 +see its logs$", ran.out, re.MULTILINE
    )
    assert re.search(rf"^1 +{short(ids[12])} +the node was lost +nothing to do$", ran.out, re.MULTILINE)
    table = ran.out.partition(f"Executions ({SHOWN_MAX} of 40)")[2]
    rows = re.findall(r"^(e-\w+) +n-", table, re.MULTILINE)
    assert len(rows) == SHOWN_MAX
    assert {short(ids[number]) for number in (2, 5, 9, 12, 20, 21)} <= {*rows}
    assert ran.out.count(" History\n") == 1 + TOLD_IN_FULL
    assert ran.out.count("from ") == 1
    assert f"shoal job describe {wide} --all" in ran.err
    assert f"shoal job executions {wide}" in ran.err


def test_each_of_many_executions_in_full(shoal: Shoal, wide: JobId) -> None:
    """``describe --all`` tells every execution in full, as it does by itself of a job that has few."""
    ran = shoal("describe", wide, "--all")

    assert ran.out.count(" History\n") == 1 + 40
    assert ran.out.count("from ") == 37
    assert "--all" not in ran.err


def test_few_executions_are_told_in_full(shoal: Shoal, twin: Twin, background: Background) -> None:
    """A job of few executions has each of them told in full, and nothing is said of more."""

    async def made() -> None:
        job = await twin.submitted(replace(OF_40, name="narrow", count=SHOWN_MAX))
        for partition in range(SHOWN_MAX):
            execution = await twin.assign(job, partition=partition)
            await twin.report(execution, ExecutionState.FAILED, failure=RAN_OUT)

    background.run(made())
    ran = shoal("describe", "narrow")

    assert ran.out.count(" History\n") == 1 + SHOWN_MAX
    assert "Failures" not in ran.out
    assert "--all" not in ran.err


def wrote(twin: Twin, execution: ExecutionId, *pieces: bytes) -> None:
    """Have an execution have written that."""
    twin.output[execution] = [LogLine(execution, LogChunk(1, BEGIN, piece)) for piece in pieces]


def test_logs_of_all_executions(shoal: Shoal, twin: Twin, background: Background) -> None:
    """``logs --all`` prints what every execution wrote, one after the other, each line with its execution before it: also a
    line that came in pieces, and a last one without an end."""
    job = background.run(twin.submitted(OF_40))
    one, two = [background.run(twin.assign(job, partition=number)) for number in (0, 1)]
    wrote(twin, one, b"first\nsec", b"ond\nno end")
    wrote(twin, two, b"other\n")

    ran = shoal("logs", "wide", "--all")

    a, b = short(one), short(two)
    assert ran.out == f"{a} | first\n{a} | second\n{a} | no end\n{b} | other\n"
    assert (ran.code, ran.err) == (0, "")
    timed = shoal("logs", "wide", "--all", "--timestamps")
    assert re.match(rf"{a} \| 2025-\S+Z first\n", timed.out)
    assert f"shoal logs {job} --all" in shoal("logs", job).err


def test_all_and_one_execution(shoal: Shoal, wide: JobId) -> None:
    """``logs --all --execution-id`` is refused: it says two things."""
    ran = shoal("logs", wide, "--all", "--execution-id", "e-1")
    assert (ran.code, ran.out) == (2, "")


def test_all_executions_are_followed(shoal: Shoal, twin: Twin, background: Background) -> None:
    """``logs --all -f`` goes on with executions that begin meanwhile, also more than are followed at a time, and ends with
    the job."""
    job = background.run(twin.submitted(OF_40))
    background.run(twin.assign(job))

    async def go_on() -> None:
        await twin.asked.wait()
        for partition in range(AT_ONCE + 2):
            execution = await twin.assign(job, partition=partition)
            wrote(twin, execution, b"of %d\n" % partition)
            await twin.report(execution, ExecutionState.COMPLETED, output=RunOutput("ok\n"))
        await twin.close(job)

    going = threading.Thread(target=lambda: background.run(go_on()))
    going.start()
    ran = shoal("logs", "-f", "--all", job)
    going.join()

    assert ran.code == 0
    assert sorted(line.split(" | ")[1] for line in ran.out.splitlines()) == sorted(
        f"of {partition}" for partition in range(AT_ONCE + 2)
    )


def test_many_decisions_are_not_all_explained(shoal: Shoal, twin: Twin, wide: JobId) -> None:
    """``explain`` of a job of many executions tells of the newest, and of many nodes how many stand alike; ``--all`` tells
    of every one.
    """
    for number in range(NODES_SHOWN):
        twin.known[NodeId(f"n-{number}")] = a_node(NodeId(f"n-{number}"))

    ran = shoal("explain", "wide")

    assert len(re.findall(r"^Execution e-", ran.out, re.MULTILINE)) == DECISIONS_SHOWN
    assert f"{40 - DECISIONS_SHOWN} earlier executions: shoal job explain {wide} --all" in ran.err
    assert re.search(rf"^{NODES_SHOWN + 1} +n-\w+ ", ran.out, re.MULTILINE)
    whole = shoal("explain", "wide", "--all")
    assert len(re.findall(r"^Execution e-", whole.out, re.MULTILINE)) == 40
    assert all(re.search(rf"^n-{number} ", whole.out, re.MULTILINE) for number in range(NODES_SHOWN))
    assert whole.err == ""


@pytest.mark.parametrize("type", ["batch", "ops"])
def test_who_follows_a_new_job_sees_all_its_programs(
    shoal: Shoal, twin: Twin, folder: Path, type: str
) -> None:
    """``--follow`` of a job of several programs prints what each of them prints, its execution before each line, and the
    cause if the job fails; its exit code is the job's.
    """
    (folder / "job.yaml").write_text(f"Type: {type}\nTasks: [{{Name: main, Engine: {{Type: noop}}}}]\n")
    if type == "batch":
        with (folder / "job.yaml").open("a") as spec:
            spec.write("Count: 2\n")
    begun: list[ExecutionId] = []

    async def run(job: JobId) -> None:
        for partition in (0, 1):
            execution = await twin.assign(job, partition=partition)
            begun.append(execution)
            wrote(twin, execution, b"of %d\n" % partition)
            done = ExecutionState.FAILED if partition else ExecutionState.COMPLETED
            await twin.report(
                execution, done, failure=RAN_OUT if partition else None, output=RunOutput("of\n")
            )
        await twin.close(job, JobState.FAILED, RAN_OUT)

    twin.then = run
    ran = shoal("submit", "--follow", "job.yaml")

    assert sorted(ran.out.splitlines()) == sorted(f"{short(id_)} | of {n}" for n, id_ in enumerate(begun))
    assert ran.code == 10
    assert "Error: program exited with code 3\n" in ran.err
