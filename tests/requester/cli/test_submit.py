"""Submitting and waiting: what is printed where, and what the shell is told (``docs/exit-codes.md``)."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from protocol.entries import Cancelled, Lost
from protocol.errors import Failure, Unavailable
from protocol.ids import JobId
from protocol.messages import RunOutput
from protocol.questions import LogChunk
from protocol.states import ExecutionState, JobState
from requester.cli.progress import Stages
from requester.verbs import LogLine
from tests.conftest import Background
from tests.requester.cli.conftest import SPEC, Shoal
from tests.requester.twin import NODE, Twin, queued

S = ExecutionState
ID = re.compile(r"j-[0-9a-f-]{36}")


def test_submit_waits_and_ends_well(shoal: Shoal, twin: Twin) -> None:
    """A job that does what it should: its id on standard output, its stages on standard error, exit code 0."""
    twin.then = twin.complete
    ran = shoal("submit", "job.yaml")
    assert ran.code == 0
    assert re.fullmatch(r"Job successfully submitted. Job ID: " + ID.pattern + "\n", ran.out)
    for word in ("Assigned", "Preparing", "Completed", "shoal job describe"):
        assert word in ran.err


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("failed", [True, False])
def test_results_are_offered_where_there_are_any(
    shoal: Shoal, twin: Twin, folder: Path, published: bool, failed: bool
) -> None:
    """The command that downloads is told only if there is something to download: what a failed program wrote is, too."""
    (folder / "job.yaml").write_text(f"{SPEC}    Publisher: {{Type: ipfs}}\n")

    async def end(job: JobId) -> None:
        if published:
            await twin.complete(job, exit_code=3 if failed else 0)
            return
        failure = Failure("NotFound.Object", "no such key") if failed else None
        execution = await twin.assign(job)
        await twin.report(execution, S.FAILED if failure else S.COMPLETED, failure=failure)
        await twin.close(job, JobState.FAILED if failure else JobState.COMPLETED, failure)

    twin.then = end

    ran = shoal("submit", "job.yaml")

    assert (ran.code == 0) != failed
    assert ("shoal job get" in ran.err) == published


def test_job_run_is_the_same(shoal: Shoal, twin: Twin) -> None:
    """Bacalhau's ``job run`` submits, from a file or from standard input."""
    twin.then = twin.complete
    assert shoal("job", "run", "job.yaml").code == 0
    assert shoal("job", "run", "-", "--force", stdin=SPEC).code == 0
    assert shoal("submit", "--force", stdin=SPEC).code == 0
    ((_, record),) = twin.records.items()
    assert record.version == 3


def test_a_spec_is_filled_in(shoal: Shoal, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """``{{.name}}`` in a spec is a value from ``-V`` or, with ``-E``, the environment, as Bacalhau's ``job run`` does it;
    without one the spec is wrong; ``--no-template`` leaves braces alone.
    """
    twin.then = twin.complete
    spec = SPEC.replace("words", "{{.name}}")
    assert shoal("submit", "-", "-V", "name=letters", stdin=spec).code == 0
    monkeypatch.setenv("name", "numbers")
    assert shoal("job", "run", "-", "-E", "^name$", stdin=spec).code == 0
    assert {record.spec.name for record in twin.records.values()} == {"letters", "numbers"}
    missing = shoal("validate", "-", stdin=spec)
    assert (missing.code, '"name"' in missing.err) == (2, True)
    braces = SPEC.replace("words", "'{{.name}}'")
    assert shoal("submit", "-", "--no-template", stdin=braces).code == 0
    assert "{{.name}}" in {record.spec.name for record in twin.records.values()}


def test_id_only_prints_the_id_and_nothing_else(shoal: Shoal, twin: Twin) -> None:
    """``$(shoal submit --id-only job.yaml)`` is the id; nothing comes on standard error."""
    twin.then = twin.complete
    ran = shoal("submit", "--id-only", "job.yaml")
    assert ID.fullmatch(ran.out.rstrip("\n"))
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize("flag", ["--no-wait", "--wait=false"])
def test_not_waiting_returns_at_once(shoal: Shoal, twin: Twin, flag: str) -> None:
    """Without waiting the command ends while the job has hardly begun."""
    assert shoal("submit", flag, "job.yaml").code == 0
    ((_, record),) = twin.records.items()
    assert not record.closed


async def _fail(twin: Twin, job: JobId, code: str, message: str) -> None:
    await twin.assign(job)
    await twin.close(job, JobState.FAILED, Failure(code, message, hint="do this"))


@pytest.mark.parametrize(
    ("code", "exit_code", "followed"),
    [("NoSuitableNode.Labels", 12, 12), ("NotFound.Image", 10, 125), ("TimedOut.Total", 10, 125)],
)
def test_a_failed_job_is_no_success(
    shoal: Shoal, twin: Twin, code: str, exit_code: int, followed: int
) -> None:
    """A job that failed is told with its cause and what to do; the code says which kind of failure it was."""
    twin.then = lambda job: _fail(twin, job, code, "it went wrong")
    ran = shoal("submit", "job.yaml")
    assert ran.code == exit_code
    assert "Error: it went wrong\nHint: do this\n" in ran.err
    assert shoal("submit", "--force", "--follow", "job.yaml").code == followed
    assert shoal("submit", "--force", "--exit-zero", "job.yaml").code == 0


def test_a_program_that_fails(shoal: Shoal, twin: Twin) -> None:
    """A program's failure is exit code 10; who follows it gets its own code and its own words, and nothing of ours."""
    twin.then = lambda job: twin.complete(job, stdout="no luck\n", exit_code=3)
    ran = shoal("submit", "job.yaml")
    assert ran.code == 10
    assert "program exited with code 3" in ran.err
    followed = shoal("submit", "--force", "--follow", "job.yaml")
    assert (followed.code, followed.out) == (3, "no luck\n")
    assert "Error" not in followed.err


def test_following_asks_for_nothing_twice(shoal: Shoal, twin: Twin) -> None:
    """Who follows a program watches its job for the attempt, for another one after it, and for the end; no more."""
    twin.then = lambda job: twin.complete(job, stdout="done\n", exit_code=0)
    assert shoal("submit", "--follow", "job.yaml").code == 0
    verbs = [verb for verb, _ in twin.calls]
    # The twin's output watches the job by itself.
    assert verbs.count("watch") - verbs.count("logs") == 3


@pytest.mark.parametrize(("program", "exit_code"), [(0, 0), (255, 255), (256, 1), (-1, 255)])
def test_a_programs_code_never_turns_into_success(
    shoal: Shoal, twin: Twin, program: int, exit_code: int
) -> None:
    """The shell sees eight bits of a code; one that is not 0 never looks like 0."""
    twin.then = lambda job: twin.complete(job, exit_code=program)
    assert shoal("submit", "-f", "job.yaml").code == exit_code


def test_a_job_without_output_can_be_followed(shoal: Shoal, twin: Twin) -> None:
    """Following a job that never gets anywhere ends with the job, and says why."""
    twin.then = lambda job: twin.close(job, JobState.FAILED, Failure("NoSuitableNode", "no node can run it"))
    ran = shoal("submit", "-f", "job.yaml")
    assert (ran.code, ran.out) == (12, "")
    assert "no node can run it" in ran.err


def test_output_out_of_reach_does_not_hide_the_end(shoal: Shoal, twin: Twin) -> None:
    """When the node with the output is gone, that is said, and the job's own end still decides."""

    async def lose_output(job: JobId) -> None:
        execution = await twin.assign(job)
        twin.output[execution] = [LogLine(execution, failure=Failure("Unavailable", "the node is gone"))]
        await twin.report(execution, S.COMPLETED, output=RunOutput())
        await twin.close(job)

    twin.then = lose_output
    ran = shoal("submit", "-f", "job.yaml")
    assert ran.code == 0
    assert "the node is gone" in ran.err


def test_a_program_is_followed_to_the_node_that_runs_it_next(shoal: Shoal, twin: Twin) -> None:
    """When a node goes away while its output is followed, what the program prints on the next one is printed, and its code
    is the command's; no error is told of what was tried again, but that it was.
    """

    async def go_on_elsewhere(job: JobId) -> None:
        lost = await twin.assign(job)
        twin.output[lost] = [LogLine(lost, failure=Failure("Unavailable", "node n-1 does not answer"))]
        await twin.report(lost, S.RUNNING)
        await twin.write(job, Lost(lost, NODE, Failure("Lost", "the node is gone", retryable=True)))
        again = await twin.assign(job, attempt=2)
        twin.output[again] = [LogLine(again, LogChunk(1, 0.0, b"hello\n"))]
        failure = Failure("ProgramFailed", "program exited with code 3")
        await twin.report(again, S.FAILED, failure=failure, output=RunOutput(stdout="hello\n", exit_code=3))
        await twin.close(job, JobState.FAILED, failure)

    twin.then = go_on_elsewhere
    ran = shoal("submit", "-f", "job.yaml")
    assert (ran.code, ran.out) == (3, "hello\n")
    assert "The program is tried again: attempt 2, on n-0f29f45c." in ran.err
    assert "Error" not in ran.err


def test_output_is_printed_once_though_the_connection_breaks(shoal: Shoal, twin: Twin) -> None:
    """A requester that goes away while output is followed costs nothing and repeats nothing: it goes on where it was."""

    async def break_off(job: JobId) -> None:
        execution = await twin.assign(job)
        twin.faults["logs"] = Unavailable("shutting down")
        twin.output[execution] = [LogLine(execution, LogChunk(1, 0.0, each)) for each in (b"one\n", b"two\n")]
        await twin.report(execution, S.RUNNING)
        await twin.report(execution, S.COMPLETED, output=RunOutput(stdout="one\ntwo\n"))
        await twin.close(job)

    twin.then = break_off
    ran = shoal("submit", "-f", "job.yaml")
    assert (ran.code, ran.out) == (0, "one\ntwo\n")
    assert "Error" not in ran.err


def test_a_stopped_job_is_11(shoal: Shoal, twin: Twin) -> None:
    """A job that somebody stopped did not do what it should."""
    twin.then = lambda job: twin.stop(job, namespace="", reason="enough", client="")
    assert shoal("submit", "job.yaml").code == 11


def test_the_time_to_wait_is_honoured(shoal: Shoal, twin: Twin) -> None:
    """After ``--wait-timeout-secs`` the command ends with 124 and says that the job goes on, and it does."""
    ran = shoal("submit", "--wait-timeout-secs", "0.05", "job.yaml")
    assert ran.code == 124
    assert "goes on" in ran.err
    ((_, record),) = twin.records.items()
    assert not record.closed


def test_a_service_is_waited_for_until_it_runs(shoal: Shoal, twin: Twin) -> None:
    """A job that is not meant to end is there when it runs: the command ends then."""

    async def run(job: JobId) -> None:
        await twin.report(await twin.assign(job), S.RUNNING)

    twin.then = run
    assert shoal("submit", "-", stdin=SPEC.replace("batch", "service")).code == 0


def test_all_of_a_service_is_waited_for(shoal: Shoal, twin: Twin) -> None:
    """Of a service of two, one that runs is not enough: the other is waited for, and why it waits is told."""
    service = SPEC.replace("batch", "service\nCount: 2")

    async def run_one(job: JobId) -> None:
        await twin.report(await twin.assign(job), S.RUNNING)
        await twin.write(job, queued("no room now"))

    async def run_both(job: JobId) -> None:
        await run_one(job)
        await twin.report(await twin.assign(job, partition=1), S.RUNNING)

    twin.then = run_one
    ran = shoal("submit", "-", "--wait-timeout-secs", "2", stdin=service)
    assert ran.code == 124
    assert "not all of it runs yet: no room now" in ran.err

    twin.then = run_both
    assert shoal("submit", "-", stdin=service.replace("words", "letters")).code == 0


@pytest.mark.parametrize("type_", ["service", "daemon"])
def test_an_update_is_waited_for_to_its_end(shoal: Shoal, twin: Twin, type_: str) -> None:
    """A new version runs once nothing of the one before does: as long as that goes on somewhere, the command waits."""
    spec = SPEC.replace("batch", type_)

    async def run(job: JobId) -> None:
        await twin.report(await twin.assign(job), S.RUNNING)

    async def run_instead(job: JobId) -> None:
        await run(job)
        for each in twin.records[job].older():
            await twin.write(job, Cancelled(each.id, Failure("Cancelled", "a newer version takes its place")))

    twin.then = run
    assert shoal("submit", "-", stdin=spec).code == 0
    assert shoal("submit", "-", "--force", "--wait-timeout-secs", "0.5", stdin=spec).code == 124
    twin.then = run_instead
    assert shoal("submit", "-", "--force", stdin=spec).code == 0


def test_an_update_that_finds_no_place_is_told(shoal: Shoal, twin: Twin, background: Background) -> None:
    """Who waits for a version that fits nowhere, while the one before goes on, is told so and where the reasons are."""
    service = SPEC.replace("batch", "service")

    async def run(job: JobId) -> None:
        if twin.records[job].version == 1:
            await twin.report(await twin.assign(job), S.RUNNING)

    twin.then = run
    assert shoal("submit", "-", stdin=service).code == 0
    ran = shoal("submit", "-", "--wait-timeout-secs", "0.3", stdin=f"{service}    Resources: {{CPU: 64}}\n")

    assert ran.code == 124
    assert "nothing of version 2 runs yet, an earlier one goes on; why: shoal job explain j-" in ran.err


def test_what_is_heard_late_is_not_told() -> None:
    """That a program runs may be heard before what led to it, which is then no news."""
    job = {"ID": "j-1", "Version": 1, "State": {"StateType": "Running", "Message": ""}}
    execution: dict[str, Any] = {"ID": "e-1", "NodeID": "n1", "State": "running", "Stages": []}
    stages = Stages()
    first = stages.lines({"Job": job, "Executions": [execution]})
    passed = [{"State": state, "Message": ""} for state in ("assigned", "staging", "running", "completed")]
    last = stages.lines({"Job": job, "Executions": [{**execution, "State": "completed", "Stages": passed}]})

    assert [topic for _, topic, _ in first] == ["Assigned", "Running"]
    assert [topic for _, topic, _ in last] == ["Completed"]


def test_a_watch_survives_a_requester(shoal: Shoal, twin: Twin) -> None:
    """A requester that goes away while one waits is waited for, and the job's end is told by the next."""

    async def interrupted(job: JobId) -> None:
        await twin.assign(job)
        await twin.fail_watchers(Unavailable("shutting down"))
        await twin.complete(job)

    twin.then = interrupted
    assert shoal("submit", "job.yaml").code == 0


def test_a_spec_with_faults_is_2(shoal: Shoal, twin: Twin) -> None:
    """All faults of a spec come at once, each with file, line and column; nothing is submitted."""
    Path("bad.yaml").write_text(SPEC.replace("batch", "bacth").replace("noop", "dokcer"))
    for command in ("submit", "validate"):
        ran = shoal(command, "bad.yaml")
        assert ran.code == 2
        assert "bad.yaml:2:7" in ran.err
        assert 'did you mean "docker"' in ran.err
    assert twin.records == {}


def test_a_file_that_is_not_there_is_3(shoal: Shoal) -> None:
    """A spec that cannot be found is told before anything is asked of a server."""
    ran = shoal("submit", "nope.yaml")
    assert ran.code == 3
    assert "nope.yaml" in ran.err


def test_refusals_of_the_server_are_told(shoal: Shoal, twin: Twin) -> None:
    """The server's message and hint are what a person reads."""
    shoal("submit", "--no-wait", "job.yaml")
    ran = shoal("submit", "job.yaml")
    assert ran.code == 1
    assert "no changes detected" in ran.err


def test_nobody_there_is_told(shoal: Shoal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no requester answers, the address and the ways out are named."""
    monkeypatch.setenv("BACALHAU_API_PORT", "1")
    ran = shoal("submit", "job.yaml")
    assert ran.code == 1
    assert "127.0.0.1:1" in ran.err
    assert "BACALHAU_API_PORT" in ran.err


def test_a_dry_run_asks_nobody(shoal: Shoal, twin: Twin) -> None:
    """``--dry-run`` prints a spec that can be submitted, and no server is asked."""
    ran = shoal("submit", "--dry-run", "job.yaml")
    assert ran.code == 0
    assert twin.calls == []
    assert shoal("validate", "-", stdin=ran.out)[:2] == (0, "OK\n")


def test_warnings_are_told_once(shoal: Shoal, twin: Twin) -> None:
    """What a person should know about a spec stands on standard error, once, unless hidden."""
    twin.then = twin.complete
    spec = SPEC + "    ResultPaths: [{Name: o, Path: /o}]\n"
    assert shoal("submit", "--dry-run", "-", stdin=spec).err.count("Warning:") == 1
    assert "Warning:" not in shoal("submit", "--dry-run", "--hide-warnings", "-", stdin=spec).err


def test_interrupting_leaves_the_job(twin: Twin, background: Background) -> None:
    """Ctrl+C ends the waiting with 130 and says that the job goes on, and how to end it."""
    process = _started("submit", "job.yaml")
    assert process.stdout is not None
    job = JobId(ID.search(process.stdout.readline())[0])  # type: ignore[index]
    background.run(twin.assign(job))
    assert process.stderr is not None
    while "Assigned" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"shoal job stop {job}" in err
    assert not twin.records[job].closed


def test_a_reader_that_has_seen_enough(twin: Twin, background: Background) -> None:
    """``shoal … | head -1`` ends in silence: a closed pipe is no error."""
    for _ in range(3):
        background.run(twin.submitted(_job()))
    with _started("job", "list", "--output", "json", "--pretty") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 0


def _job() -> Any:
    from protocol.spec import read_spec

    return read_spec(SPEC.replace("Name: words\n", ""), file="x").job


def _started(*words: str) -> "subprocess.Popen[str]":
    root = str(Path(__file__).parents[3])
    return subprocess.Popen(
        [sys.executable, "-m", "requester", *words],
        env={**os.environ, "PYTHONPATH": root},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
