"""Looking at jobs and nodes: what lists, descriptions and logs print, for people and for programs."""

import csv
import io
import json
import re
import threading
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from protocol.entries import Queued, Submitted
from protocol.errors import Failure
from protocol.ids import JobId, NodeId, short
from protocol.jobs import Job, ResultPath, Retry, Spec, Task
from protocol.messages import RunOutput, Stage
from protocol.questions import LogChunk
from protocol.states import ExecutionState, JobState
from requester.cli.output import print_table
from requester.core.model import Cordon
from requester.verbs import LogLine
from tests.conftest import Background
from tests.requester.cli.conftest import Shoal
from tests.requester.twin import BEGIN, NODE, Twin, a_node

EVIL = "\x1b]0;owned\x07\x9b31m"
"""What would set a terminal's title and colour."""


def a_job(name: str = "", **more: object) -> Job:
    task = Task(
        engine=Spec("docker", {"Image": "x"}), result_paths=[ResultPath("o", "/o")], publisher=Spec("ipfs")
    )
    return Job(name=name, tasks=[task], **more)  # type: ignore[arg-type]


@pytest.fixture
def jobs(twin: Twin, background: Background) -> list[JobId]:
    """A job that failed, and one that has just been submitted."""
    first = background.run(twin.submitted(a_job("first", labels={"team": "a"})))
    background.run(twin.complete(first, exit_code=3))
    return [first, background.run(twin.submitted(a_job("second")))]


def test_a_list_has_the_newest_first(shoal: Shoal, jobs: list[JobId]) -> None:
    """``job list`` is a table with short ids, the newest job in its first line; ``--wide`` shows whole ids."""
    header, *lines = shoal("job", "list").out.splitlines()
    assert header.split() == ["CREATED", "ID", "NAME", "JOB", "TYPE", "STATE"]
    assert [line.split()[3] for line in lines] == ["second", "first"]
    assert lines[1].endswith("Failed")
    assert jobs[0] in shoal("list", "--wide").out
    assert jobs[0] not in shoal("list").out


def test_a_list_of_one_state(shoal: Shoal, jobs: list[JobId]) -> None:
    """``job list --state`` shows the jobs in that state alone, and takes no state that there is not."""
    _, *lines = shoal("job", "list", "--state", "failed").out.splitlines()
    assert [line.split()[3] for line in lines] == ["first"]
    assert shoal("job", "list", "--state", "failing").code == 2


def test_tables_fit_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal the longest cells of a table go on below themselves, and no word is broken or lost."""
    labels = " ".join(f"label-{number}=some-value" for number in range(9))
    rows = [["n-1", labels, "3.5 / 4"], ["n-2", "region=eu", "0 / 64"]]

    print_table(["ID", "LABELS", "CPU"], rows, width=60)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[1].split() == ["n-1", "label-0=some-value", "label-1=some-value", "3.5", "/", "4"]
    assert lines[-1].split() == ["n-2", "region=eu", "0", "/", "64"]
    assert " ".join(" ".join(lines[1:-1]).split()) == f"n-1 {labels.replace('label-2', '3.5 / 4 label-2')}"

    print_table(["ID", "LABELS", "CPU"], rows)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_long_words_fit_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal of 80 columns the list of nodes keeps its columns, however long the longest label is."""
    header = ["ID", "TYPE", "APPROVAL", "STATUS", "LABELS", "CPU", "MEMORY", "DISK", "GPU"]
    labels = "Architecture=amd64 GPU-0=NVIDIA-A100-SXM4-80GB Operating-System=linux hostname=a-rather-long-name-0042"
    rest = ["1.6 / 1.6", "6.2 GB / 6.2 GB", "39.1 GB / 39.1 GB", "0 / 0"]

    print_table(header, [["n-0f29f45c", "Compute", "APPROVED", "CONNECTED", labels, *rest]], width=80)

    head, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, [head, *lines])) <= 80
    assert lines[0].startswith("n-0f29f45c  Compute  APPROVED  CONNECTED  ")
    left, right = head.index("LABELS"), head.index("CPU")
    assert "".join(line[left:right] for line in lines).replace(" ", "") == labels.replace(" ", "")


def test_tables_are_aligned_in_any_writing(capsys: pytest.CaptureFixture[str]) -> None:
    """What is wide on a terminal, and what takes no place there, does not push the next column aside."""
    print_table(["NAME", "STATE"], [["größe", "a"], ["日本語", "b"], ["🐟", "c"], ["e\u0301t\u00e9", "d"]])

    assert capsys.readouterr().out.splitlines() == [
        "NAME    STATE",
        "größe   a",
        "日本語  b",
        "🐟      c",
        "e\u0301t\u00e9     d",
    ]


def test_a_row_of_a_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What was said in several lines stands in one in a table, as in the history of a job that no node can run."""
    print_table(["TOPIC", "EVENT"], [["Scheduling", "no node can run it\n  n-1  is full\n  n-2  has no GPU"]])

    assert capsys.readouterr().out.splitlines()[1] == (
        "Scheduling  no node can run it; n-1  is full; n-2  has no GPU"
    )


def test_lists_for_programs(shoal: Shoal, jobs: list[JobId]) -> None:
    """JSON and YAML are the items as the API gives them; CSV has the table's columns; nothing else is printed."""
    as_json = json.loads(shoal("job", "list", "--output", "json").out)
    assert [item["ID"] for item in as_json] == jobs[::-1]
    assert yaml.safe_load(shoal("job", "list", "-o", "yaml").out) == as_json
    assert json.loads(shoal("job", "list", "-o", "json", "--pretty").out) == as_json
    rows = list(csv.reader(io.StringIO(shoal("job", "list", "-o", "csv", "--hide-header").out)))
    assert [row[2] for row in rows] == ["second", "first"]


def test_a_list_tells_how_to_go_on(shoal: Shoal, jobs: list[JobId]) -> None:
    """When there is more, the command for the next page is on standard error, and it works as it is printed."""
    first = shoal("job", "list", "--limit", "1")
    command = re.search(r"shoal (job list .*)", first.err)
    assert command is not None
    second = shoal(*command[1].split())
    assert "second" in first.out
    assert "first" in second.out
    assert second.err == ""


def test_a_description_says_at_which_ports_a_program_is_reached(
    shoal: Shoal, twin: Twin, background: Background
) -> None:
    """``job describe`` shows the ports of the node's machine that a program was given, by name."""
    job = background.run(twin.submitted(a_job("web")))
    execution = background.run(twin.assign(job))
    background.run(twin.report(execution, ExecutionState.RUNNING, ports={"web": 20_005, "dns": 5_353}))
    assert "Ports: web 20005, dns 5353\n" in shoal("job", "describe", "web").out


def test_a_description_says_what_and_why(shoal: Shoal, jobs: list[JobId]) -> None:
    """``job describe`` shows the job, its end with cause and hint, its executions, results and output."""
    out = shoal("job", "describe", "first").out
    assert re.search(r"^State +=\s+Failed$", out, re.MULTILINE)
    assert re.search(r"^Message +=\s+program exited with code 3$", out, re.MULTILINE)
    assert re.search(r"^Hint +=\s+see its logs$", out, re.MULTILINE)
    assert "Labels        = team=a" in out
    for text in (
        "Job History",
        "Published Result: ipfs {CID: bafyresult}",
        "Input /in: s3:bucket/key@v1 (12 B, on the node already)",
        f"Written: 12 files, 2.0 KiB; their list has SHA-256 {'ab' * 32}",
        f"{'cd' * 32}  outputs/a (1.5 KiB)",
        "... and 11 more",
        "hello",
    ):
        assert text in out
    whole = json.loads(shoal("describe", jobs[0][:10], "--output", "json").out)
    assert {*whole} == {"Job", "Executions", "History"}


def test_executions_and_history(shoal: Shoal, jobs: list[JobId]) -> None:
    """Executions are told with their nodes, states and attempts; of a history one kind of events can be asked for alone."""
    header, line = shoal("job", "executions", "first").out.splitlines()
    assert {"ID", "NODE-ID", "STATE", "ATTEMPT"} <= {*header.split()}
    assert "n-0f29f45c" in line
    history = shoal("job", "history", "first").out
    assert "Job submitted" in history
    assert "ExecutionLevel" not in shoal("job", "history", "first", "--event-type", "job").out


def test_a_long_history_goes_on_where_it_was_cut(shoal: Shoal, jobs: list[JobId]) -> None:
    """A history that has more than was asked for says how to see the rest, and the rest is all that was left out."""
    whole = shoal("job", "history", "first", "--output", "csv", "--hide-header").out.splitlines()
    first = shoal("job", "history", "first", "--output", "csv", "--hide-header", "--limit", "2")
    assert first.out.splitlines() == whole[:2]
    assert "--next-token" not in first.err

    told = shoal("job", "history", "first", "--limit", "2").err
    words = told.partition("shoal ")[2].split()
    assert words[:3] == ["job", "history", "first"]
    words[words.index("--limit") + 1] = "1000"
    assert shoal(*words, "--output", "csv", "--hide-header").out.splitlines() == whole[2:]
    assert "--next-token" not in shoal(*words).err


def test_what_is_not_there_is_3(shoal: Shoal, twin: Twin) -> None:
    """An unknown job or node is told with its name and exit code 3."""
    for words in (
        ("job", "describe", "nope"),
        ("logs", "nope"),
        ("stop", "nope"),
        ("get", "nope"),
        ("node", "describe", "nope"),
    ):
        ran = shoal(*words)
        assert (ran.code, ran.out) == (3, "")
        assert "nope not found" in ran.err


def test_several_meanings_are_listed(shoal: Shoal, jobs: list[JobId]) -> None:
    """The beginning of more than one id is exit code 2, and the candidates are named."""
    ran = shoal("job", "describe", "j-")
    assert ran.code == 2
    assert all(job in ran.err for job in jobs)


def test_a_name_may_hold_anything(shoal: Shoal, twin: Twin, background: Background) -> None:
    """Slashes, blanks and question marks in a job's name are no trouble."""
    background.run(twin.submitted(a_job("a/b c?d#e")))
    assert "a/b c?d#e" in shoal("job", "describe", "a/b c?d#e").out


def test_what_jobs_say_cannot_steer_a_terminal(shoal: Shoal, twin: Twin, background: Background) -> None:
    """Escape sequences in names, messages and kept output are shown, never obeyed, in tables, JSON and YAML."""
    job = background.run(twin.submitted(a_job(f"evil{EVIL}", labels={"a": EVIL})))
    execution = background.run(twin.complete(job, stdout=EVIL + "\n"))
    failed = background.run(twin.submitted(a_job()))
    background.run(twin.close(failed, JobState.FAILED, Failure("Broken", EVIL, hint=EVIL)))
    assert execution
    for words in (("job", "list"), ("job", "list", "-o", "json"), ("job", "list", "-o", "yaml")):
        assert not {"\x1b", "\x07", "\x9b"} & {*shoal(*words).out}
    for ref in (job, failed):
        assert not {"\x1b", "\x07", "\x9b"} & {*shoal("job", "describe", ref).out}


def test_logs_are_the_programs_own_bytes(shoal: Shoal, twin: Twin, background: Background) -> None:
    """``logs`` writes what the program wrote, each stream to its own, byte for byte; ``--timestamps`` adds times."""
    job = background.run(twin.submitted(a_job()))
    execution = background.run(twin.complete(job))
    chunks = [LogChunk(1, BEGIN, b"one\ntwo\n"), LogChunk(2, BEGIN, b"err\n")]
    twin.output[execution] = [LogLine(execution, chunk) for chunk in chunks]
    ran = shoal("logs", job)
    assert (ran.code, ran.out, ran.err) == (0, "one\ntwo\n", "err\n")
    timed = shoal("logs", "--timestamps", "-f", job)
    assert [line.split("Z ")[1] for line in timed.out.splitlines()] == ["one", "two"]


def test_logs_that_cannot_be_had_are_an_error(shoal: Shoal, twin: Twin, background: Background) -> None:
    """Output out of reach is told, with exit code 1."""
    job = background.run(twin.submitted(a_job()))
    execution = background.run(twin.complete(job))
    twin.output[execution] = [
        LogLine(execution, failure=Failure("Unavailable", "the node is gone", hint="wait"))
    ]
    ran = shoal("logs", job)
    assert (ran.code, ran.err) == (1, "Error: the node is gone\nHint: wait\n")


def test_logs_say_whose_they_are(shoal: Shoal, twin: Twin, background: Background) -> None:
    """Of several executions it is told which one's output is shown and how to see another's; if one is named, nothing is."""
    job = background.run(twin.submitted(a_job()))
    for number in (0, 1):
        execution = background.run(twin.assign(job, partition=number))
        twin.output[execution] = [LogLine(execution, LogChunk(1, BEGIN, b"%d\n" % number))]
    first, second = twin.records[job].executions
    ran = shoal("logs", job)
    assert ran.out == "1\n"
    assert ran.err.startswith(
        f"This is the output of {short(second)}, one of 2 executions; of another one:\n"
    )
    assert f"shoal logs {job} --execution-id ID" in ran.err
    assert shoal("logs", job, "--execution-id", first) == (0, "0\n", "")


def test_logs_are_followed_to_the_next_attempt(shoal: Shoal, twin: Twin, background: Background) -> None:
    """``logs -f`` goes on with what the program writes when it is tried again, and says so on standard error alone."""
    job = background.run(twin.submitted(replace(a_job(), retry=Retry(attempts=2, causes=["program"]))))
    one = background.run(twin.assign(job))
    twin.output[one] = [LogLine(one, LogChunk(1, BEGIN, b"one\n"))]
    failure = Failure("ProgramFailed", "program exited with code 3")
    background.run(
        twin.report(one, ExecutionState.FAILED, failure=failure, output=RunOutput("one\n", exit_code=3))
    )

    async def try_again() -> None:
        await twin.unwatched.wait()
        two = await twin.assign(job, attempt=2)
        twin.output[two] = [LogLine(two, LogChunk(1, BEGIN, b"two\n"))]
        await twin.report(two, ExecutionState.COMPLETED, output=RunOutput("two\n"))
        await twin.close(job)

    trying = threading.Thread(target=lambda: background.run(try_again()))
    trying.start()
    ran = shoal("logs", "-f", job)
    trying.join()
    assert (ran.code, ran.out) == (0, "one\ntwo\n")
    assert ran.err == (
        "It has ended: program exited with code 3\n"
        "The program is tried again: attempt 2, on n-0f29f45c. What follows is what it prints there.\n"
    )


def test_logs_of_what_has_not_run_say_why(shoal: Shoal, twin: Twin, background: Background) -> None:
    """Where no program has run there is no output, and it is told at once for what the job waits, or how it ended."""
    full = Failure("NoRoom", "waiting for room: all nodes are full\n  n1  has none", retryable=True)
    job = background.run(twin.submitted(a_job()))
    background.run(twin.write(job, Queued(full)))
    ran = shoal("logs", job)
    assert ran.code == 3
    assert f"job {job} has no execution yet: waiting for room: all nodes are full\n" in ran.err
    background.run(twin.close(job, JobState.FAILED, Failure("NoSuitableNode", "no node can run this job")))
    ran = shoal("logs", job)
    assert ran.code == 3
    assert f"job {job} never ran, it is Failed: no node can run this job\n" in ran.err


def test_history_is_in_the_order_of_time(shoal: Shoal, twin: Twin, background: Background) -> None:
    """What a node did while others were told something stands where it belongs, though it was reported later."""
    job = background.run(twin.submitted(a_job()))
    execution = background.run(twin.assign(job, partition=0))
    began = twin.records[job].executions[execution].created_at + 0.5
    background.run(twin.assign(job, partition=1))
    stages = [Stage(ExecutionState.STAGING, began), Stage(ExecutionState.RUNNING, began + 0.25)]
    background.run(twin.report(execution, ExecutionState.RUNNING, stages=stages))

    items = json.loads(shoal("job", "history", job, "-o", "json").out)

    assert [each["Time"] for each in items] == sorted(each["Time"] for each in items)
    assert items[-1]["Event"]["Topic"] == "Scheduling"


def test_stop(shoal: Shoal, twin: Twin, background: Background) -> None:
    """``job stop`` stops with a reason; again is harmless; of an ended job it is an error."""
    job = background.run(twin.submitted(a_job()))
    ran = shoal("job", "stop", job, "--reason", "enough")
    assert ran.out.startswith("Job stop successfully submitted with evaluation ID: ")
    assert shoal("stop", job, "--quiet")[:2] == (0, "")
    assert twin.records[job].state is JobState.STOPPED
    done = background.run(twin.submitted(a_job()))
    background.run(twin.complete(done))
    assert "cannot stop job in state Completed" in shoal("stop", done).err


def test_rerun_versions_and_diff(shoal: Shoal, twin: Twin, background: Background, folder: Path) -> None:
    """``rerun`` runs a version again and waits for it, ``versions`` lists them, ``diff`` tells what a spec would change."""
    twin.then = twin.complete
    assert shoal("submit", "job.yaml").code == 0
    (folder / "more.yaml").write_text((folder / "job.yaml").read_text() + "Count: 2\n")
    assert shoal("diff", "more.yaml").out == "- Count: 1\n+ Count: 2\n"
    assert shoal("submit", "more.yaml").code == 0

    ran = shoal("job", "rerun", "words", "--version", "1", "--reason", "again", "--id-only")

    assert (ran.code, ran.out.strip()) == (0, next(iter(twin.records)))
    assert twin.records[JobId(ran.out.strip())].spec.count == 1
    rows = [line.split() for line in shoal("job", "versions", "words", "--hide-header").out.splitlines()]
    assert [row[-2:] for row in rows] == [["1", "Completed"], ["2", "Completed"], ["3", "Completed"]]
    same = shoal("diff", "job.yaml")
    assert (same.out, same.err) == ("", "No changes: the job of that name has this spec.\n")
    forced = shoal("job", "rerun", "words", "--force")
    assert forced.code == 2
    assert "--force" in forced.err
    assert len(shoal("job", "versions", "words", "--hide-header").out.splitlines()) == 3


def test_a_waiting_job_tells_its_place(shoal: Shoal, twin: Twin, background: Background) -> None:
    """A description says how many jobs go first, and what each node lacks."""
    job = background.run(twin.submitted(a_job()))
    full = Failure(
        "Exhausted.NoRoom", "waiting for room", details={NODE: "fits, but has 0 of the 1 cores free now"}
    )
    background.run(twin.write(job, Queued(full)))
    out = shoal("describe", job).out
    assert "0 of 1 waiting jobs go first, since 2025-06-15" in out
    assert f"{NODE[:10]}  fits, but has 0 of the 1 cores free now" in out


def test_a_job_of_which_the_log_takes_little_more_says_so(
    shoal: Shoal, twin: Twin, background: Background
) -> None:
    """Long before a job is ended for its entries ``describe`` tells how many are left, and what to do."""
    job = background.run(twin.submitted(a_job()))
    assert "Log Takes" not in shoal("describe", job).out
    twin.few_entries = 42_000

    assert "42,000 more entries of this job, then it fails: stop it, delete it" in shoal("describe", job).out


def test_a_job_that_rests_says_until_when(shoal: Shoal, twin: Twin, background: Background) -> None:
    """Between two attempts ``describe`` tells when the next begins, and what went wrong with the last."""
    job = background.run(twin.submitted(a_job("ill")))
    execution = background.run(twin.assign(job))
    assert "Next Attempt" not in shoal("describe", "ill").out
    ill = Failure("Unavailable.Engine", "the engine is ill", retryable=True)
    background.run(twin.report(execution, ExecutionState.FAILED, failure=ill))

    out = shoal("describe", job).out
    assert re.search(r"Next Attempt += 2025-06-15 15:0\d:\d\d, after a rest", out)
    assert re.search(r"Last Failure += the engine is ill", out)


def test_an_update_that_does_not_come_up(shoal: Shoal, twin: Twin, background: Background) -> None:
    """While an earlier version of a service goes on because the newest has no place, ``describe`` says so."""
    service = a_job("web", type="service")
    job = background.run(twin.submitted(service))
    background.run(twin.assign(job))
    assert "earlier" not in shoal("describe", "web").out
    background.run(twin.write(job, Submitted(service, 2)))

    assert "nothing of version 2 runs yet, an earlier one goes on" in shoal("describe", "web").out


def test_an_update_that_keeps_failing(shoal: Shoal, twin: Twin, background: Background) -> None:
    """While a version fails and the one before goes on, ``describe`` shows what runs of both."""
    service = a_job("web", type="service")
    job = background.run(twin.submitted(service))
    background.run(twin.report(background.run(twin.assign(job)), ExecutionState.RUNNING))
    assert "VERSION" not in shoal("describe", "web").out
    background.run(twin.write(job, Submitted(service, 2)))
    bad = Failure("ProgramFailed", "program exited with code 3")
    background.run(twin.report(background.run(twin.assign(job)), ExecutionState.FAILED, failure=bad))

    out = shoal("describe", "web").out
    assert "0 of version 2 running; 1 of earlier versions go on until it has come up" in out
    assert re.search(r"^Running \(version 1\) += 1$", out, re.MULTILINE)
    assert re.search(r"^Failed +=\s+1$", out, re.MULTILINE)
    assert re.search(r"^e-\w+ +1 +\S+ +Running", out, re.MULTILINE)
    assert [
        each["JobVersion"] for each in json.loads(shoal("describe", "web", "-o", "json").out)["Older"]
    ] == [1]


def test_explain(shoal: Shoal, twin: Twin, background: Background) -> None:
    """``job explain`` tells why an execution is where it is, what else there was, and why others were not."""
    job = background.run(twin.submitted(Job(name="n", tasks=[Task(engine=Spec("wasm"))])))
    background.run(twin.assign(job))
    ran = shoal("job", "explain", "n")
    assert ran.code == 0
    assert f"assigned on {NODE[:10]} because most room" in ran.out
    assert "3.0 GiB" in ran.out
    assert "1 of 2 nodes: has no engine docker" in ran.out
    assert "engine wasm is not available: no runtime" in ran.out


def test_nodes(shoal: Shoal, twin: Twin) -> None:
    """``node list`` shows nodes with room and labels, ``describe`` all of one, ``approve`` and ``reject`` change one."""
    twin.known[NodeId("n-b")] = a_node(NodeId("n-b"), connected=False)
    header, first, second = shoal(
        "node", "list", "--show", "labels,features,capacity,version"
    ).out.splitlines()
    assert "ENGINES" in header
    assert "region=eu" in first
    assert "3.5 / 4" in first
    assert "DISCONNECTED" in second
    described = yaml.safe_load(shoal("node", "describe", NODE[:10]).out)
    assert described["Info"]["NodeID"] == NODE
    assert shoal("node", "reject", NODE, "-m", "loud").out == "Ok\n"
    assert twin.known[NODE].membership == "REJECTED"


def test_two_processes_speak_as_one_node(shoal: Shoal, twin: Twin) -> None:
    """``node list`` shows it beside what else there is to say, ``describe`` says what to do."""
    twin.known[NODE] = replace(twin.known[NODE], doubled_since=5.0, cordon=Cordon(1.0))
    assert "CONNECTED (cordoned, two processes)" in shoal("node", "list").out
    doubled = yaml.safe_load(shoal("node", "describe", NODE).out)["Doubled"]
    assert "started earlier" in doubled["Reason"]
    assert "shoal node enroll NAME" in doubled["Hint"]


def test_drain(shoal: Shoal, twin: Twin) -> None:
    """``node drain`` takes a deadline as people write it, and the list says that the node is drained."""
    assert shoal("node", "drain", NODE, "--deadline", "1m30s", "-m", "new disk").out == "Ok\n"
    assert twin.calls[-1] == ("cordon", (NODE, "new disk", 90.0))
    assert "CONNECTED (draining)" in shoal("node", "list").out
    assert shoal("node", "uncordon", NODE).out == "Ok\n"
    assert "(" not in shoal("node", "list").out
    assert shoal("node", "cordon", NODE).code == 0
    assert "(cordoned)" in shoal("node", "list").out


def test_versions(shoal: Shoal, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """``version`` names both sides; without a server it still names its own, and fails."""
    assert shoal("version").out.split()[:2] == ["CLIENT", "SERVER"]
    monkeypatch.setenv("BACALHAU_API_PORT", "1")
    ran = shoal("version")
    assert ran.code == 1
    assert "CLIENT" in ran.out
    assert shoal("version", "--client").code == 0


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("job", "lst"), 'Did you mean "list"'),
        (("submti",), 'Did you mean "submit"'),
        (("job", "list", "--limt", "3"), "Did you mean --limit"),
        (("job", "list", "--limit", "many"), "--limit"),
        (("job", "list", "-o", "xml"), "xml"),
        (("job", "describe"), "JOB"),
    ],
)
def test_slips_are_2_with_what_was_meant(shoal: Shoal, words: tuple[str, ...], meant: str) -> None:
    """A command or flag that is not there is exit code 2, on standard error, with the near one."""
    ran = shoal(*words)
    assert (ran.code, ran.out) == (2, "")
    assert meant in ran.err
    assert "--help" in ran.err
