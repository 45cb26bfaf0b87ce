"""A node's whole path from an order to an answered report, on the in-memory bus, with the noop engine and real drivers."""

import asyncio
import errno
import gc
import tarfile
import urllib.request
import weakref
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from compute.admission import Policy
from compute.limits import Limits
from compute.runner import Runner
from deploy.processes import free_ports
from protocol.errors import Broken, Conflict, Fault, NotFound, TimedOut, Unavailable
from protocol.jobs import Amounts, Input, Network, Port, ResultPath, Spec
from protocol.states import ExecutionState
from storage.contract import Label
from tests.compute.doubles import StagedPublisher, StagedSource, drivers, inline
from tests.compute.twins import NODE, FakeRequester, NodeOnTest, noop, order

S = ExecutionState
Nodes = Callable[..., NodeOnTest]


async def test_a_run_ends_with_one_report(nodes: Nodes, requester: FakeRequester) -> None:
    """A small job says one thing: that it is completed, with its output and every stage it passed."""
    node = nodes()
    await node.start()
    run = order(task=noop({"Stdout": "hello\n", "Stderr": "oh\n"}))

    answer = await requester.run(run)
    report = await requester.ended(run)
    await requester.quiet(node)

    assert answer.taken
    assert report.state is S.COMPLETED
    assert report.seq == run.seq
    assert report.output is not None
    assert (report.output.stdout, report.output.stderr, report.output.exit_code) == ("hello\n", "oh\n", 0)
    assert [stage.state for stage in report.stages] == [S.ASSIGNED, S.STAGING, S.RUNNING, S.COMPLETED]
    assert [each.state for each in requester.reports] == [S.COMPLETED]


@pytest.mark.parametrize("params", [{"Stdout": "hello"}, {"ExitCode": 3}])
async def test_what_has_ended_is_freed_at_once(
    nodes: Nodes, requester: FakeRequester, params: dict[str, Any]
) -> None:
    """Nothing of an execution that has ended waits in memory for a search through all that a node holds."""
    node = nodes()
    await node.start()
    gc.collect()
    gc.disable()
    try:
        run = order(task=noop(params))
        await requester.run(run)
        await requester.ended(run)
        await requester.quiet(node)
        await _freed(Runner)
    finally:
        gc.enable()


async def _freed(kind: type) -> None:
    """Wait until no object of a class is left."""
    freed = asyncio.Event()
    left = weakref.WeakSet(each for each in gc.get_objects() if isinstance(each, kind))
    for each in left:
        weakref.finalize(each, freed.set)
    each = None  # The loop's own name would keep the last one.
    async with asyncio.timeout(5):
        while left:
            await freed.wait()
            freed.clear()


async def test_a_job_without_data_touches_no_files(nodes: Nodes, requester: FakeRequester) -> None:
    """A job with neither inputs, outputs nor output makes no folder and no log."""
    node = nodes()
    await node.start()
    before = sorted(node.folder.rglob("*"))
    run = order()
    await requester.run(run)
    await requester.ended(run)
    await requester.quiet(node)
    assert sorted(path for path in node.folder.rglob("*") if "journal" not in path.name) == [
        path for path in before if "journal" not in path.name
    ]


async def test_inputs_are_read_and_told(nodes: Nodes, requester: FakeRequester, tmp_path: Path) -> None:
    """Inline and local inputs are at their targets, read-only, and the report says which bytes were read."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("from the node")
    node = nodes(allowed=(f"{shared}/**",))
    await node.start()
    inputs = [Input(inline("inside"), "/in"), Input(Spec("local", {"sourcepath": str(shared)}), "/shared")]
    run = order(
        task=noop({"Reads": ["/in", "/shared/file"], "Writes": {"/shared/new": "no"}}, input_sources=inputs)
    )
    await requester.run(run)
    report = await requester.ended(run)
    await requester.quiet(node)

    assert report.output is not None
    assert report.output.stdout == "insidefrom the node"
    assert "read-only" in report.output.stderr
    assert [(read.target, read.type) for read in report.inputs] == [("/in", "inline"), ("/shared", "local")]
    assert all(read.identity for read in report.inputs)
    assert node.leftovers() == []
    assert (shared / "file").read_text() == "from the node"


async def test_results_are_laid_out_as_bacalhau_does(nodes: Nodes, requester: FakeRequester) -> None:
    """What is published holds stdout, stderr, exitCode, and a folder for each result path under its name."""
    publisher = StagedPublisher()
    node = nodes(drivers=drivers(publisher=publisher))
    await node.start()
    task = noop(
        {"Stdout": "o", "Stderr": "e", "ExitCode": 4, "Writes": {"/outputs/deep/file": "made"}},
        publisher=Spec("test"),
        result_paths=[ResultPath("outputs", "/outputs"), ResultPath("empty", "/empty")],
    )
    run = order(task=task)
    await requester.run(run)
    report = await requester.ended(run)

    assert publisher.seen == {"stdout": "o", "stderr": "e", "exitCode": "4", "outputs/deep/file": "made"}
    assert report.state is S.FAILED
    assert report.failure is not None
    assert report.failure.message == "program exited with code 4"
    assert report.result == Spec("test", {"at": run.execution})


class ForeseeingPublisher(StagedPublisher):
    """A publisher that tells before the program runs what it would fail with."""

    async def foresee(self, params: Any, label: Label) -> None:
        self.labels.append(label)
        if self.fault is not None:
            raise self.fault


async def test_what_keeps_a_result_from_its_place_is_told_before_the_program_runs(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """A bucket that is not there, or a place that is somebody else's, costs no run of the program."""
    publisher = ForeseeingPublisher(Conflict("it is there already", kind="Taken"))
    node = nodes(drivers=drivers(publisher=publisher))
    await node.start()
    run = order(task=noop(publisher=Spec("test")))
    await requester.run(run)
    report = await requester.ended(run)

    assert node.world.starts == {}
    assert publisher.times == 0
    assert [each.execution for each in publisher.labels] == [run.execution]
    assert report.state is S.FAILED
    assert report.failure is not None
    assert report.failure.code == "Conflict.Taken"
    assert not report.failure.retryable
    assert report.failure.message == "publisher test: it is there already"


async def test_a_result_published_by_the_node_can_be_fetched(nodes: Nodes, requester: FakeRequester) -> None:
    """The local publisher's result is a URL that serves the archive."""
    node = nodes()
    await node.start()
    task = noop(
        {"Writes": {"/out/f": "made"}}, publisher=Spec("local"), result_paths=[ResultPath("out", "/out")]
    )
    run = order(task=task)
    await requester.run(run)
    report = await requester.ended(run)
    assert report.result is not None
    url = report.result.params["URL"]
    data = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read())
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        made = archive.extractfile("out/f")
        assert made is not None
        assert made.read() == b"made"


async def test_output_folders_can_be_written_by_any_user(nodes: Nodes, requester: FakeRequester) -> None:
    """Programs that run as another user than the node can write their results, whatever the node's umask."""
    publisher = StagedPublisher()
    publisher.gate.clear()
    node = nodes(drivers=drivers(publisher=publisher))
    await node.start()
    run = order(task=noop(publisher=Spec("test"), result_paths=[ResultPath("out", "/out")]))
    await requester.run(run)
    await publisher.publishing.wait()
    mode = (node.folder / "executions" / run.execution / "results" / "out").stat().st_mode
    publisher.gate.set()
    assert mode & 0o777 == 0o777


async def test_without_a_publisher_nothing_is_published(nodes: Nodes, requester: FakeRequester) -> None:
    """Result paths without a publisher are thrown away with the execution."""
    node = nodes()
    await node.start()
    run = order(task=noop({"Writes": {"/out/f": "x"}}, result_paths=[ResultPath("out", "/out")]))
    await requester.run(run)
    report = await requester.ended(run)
    await requester.quiet(node)
    assert report.state is S.COMPLETED
    assert report.result is None
    assert S.PUBLISHING not in [stage.state for stage in report.stages]
    assert node.leftovers() == []


async def test_an_input_that_fails_is_named(nodes: Nodes, requester: FakeRequester) -> None:
    """A missing input fails the execution with its target and source in the message, and keeps what its fault says."""
    fault = NotFound("there is no object k in bucket b", hint="Look at its name.", kind="Object")
    node = nodes(drivers=drivers(StagedSource(fault)))
    await node.start()
    run = order(task=noop(input_sources=[Input(inline("x"), "/ok"), Input(Spec("test"), "/in")]))
    await requester.run(run)
    report = await requester.ended(run)
    await requester.quiet(node)

    assert report.state is S.FAILED
    assert report.failure is not None
    assert report.failure.code == "NotFound.Object"
    assert report.failure.message == "input /in (test): there is no object k in bucket b"
    assert report.failure.hint == "Look at its name."
    assert report.failure.details["input"] == "1"
    assert node.leftovers() == []


async def test_a_full_disk_fails_the_execution_and_not_the_node(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """No space left is Exhausted, worth another node; the next job runs."""
    node = nodes(drivers=drivers(StagedSource(OSError(errno.ENOSPC, "No space left on device"))))
    await node.start()
    run = order(task=noop(input_sources=[Input(Spec("test"), "/in")]))
    await requester.run(run)
    report = await requester.ended(run)
    assert report.failure is not None
    assert (report.failure.code, report.failure.retryable) == ("Exhausted.Disk", True)
    assert f"no space left on node {NODE}" in report.failure.message

    after = order(2)
    await requester.run(after)
    assert (await requester.ended(after)).state is S.COMPLETED


@pytest.mark.parametrize("seconds", [0, 3600], ids=["short", "long"])
async def test_output_that_cannot_be_kept_ends_the_execution(
    nodes: Nodes, requester: FakeRequester, seconds: float
) -> None:
    """A program whose output the disk does not take fails, ended or not, and is cleaned up like any other."""
    node = nodes()
    await node.start()
    run = order(task=noop({"Stdout": "x" * 100_000, "Seconds": seconds}))
    (node.folder / "logs" / f"{run.execution}.log").mkdir()
    await requester.run(run)
    report = await requester.ended(run)
    await requester.quiet(node)
    assert report.state is S.FAILED
    assert report.failure is not None
    assert "keeping the program's output" in report.failure.message
    assert node.leftovers() == []


async def test_a_drivers_bug_ends_its_execution_only(nodes: Nodes, requester: FakeRequester) -> None:
    """An error nobody foresaw becomes a failure that names it, and the node goes on."""
    node = nodes(drivers=drivers(StagedSource(ZeroDivisionError("oops"))))
    await node.start()
    run = order(task=noop(input_sources=[Input(Spec("test"), "/in")]))
    await requester.run(run)
    report = await requester.ended(run)
    assert report.failure is not None
    assert report.failure.code == "Broken.Internal"
    assert "ZeroDivisionError: oops" in report.failure.message
    after = order(2)
    await requester.run(after)
    assert (await requester.ended(after)).state is S.COMPLETED


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"PrepareFails": "NotFound.Image"}, "NotFound.Image"),
        ({"StartFails": "Unavailable.Docker"}, "Unavailable.Docker"),
        ({"Fails": "Exhausted.Memory"}, "Exhausted.Memory"),
    ],
)
async def test_an_engines_fault_is_the_failure(
    nodes: Nodes, requester: FakeRequester, params: dict[str, Any], code: str
) -> None:
    """What the engine says at preparing, starting or while running is what is told, and nothing stays behind."""
    node = nodes()
    await node.start()
    run = order(task=noop(params))
    await requester.run(run)
    report = await requester.ended(run)
    await requester.quiet(node)
    assert report.state is S.FAILED
    assert report.failure is not None
    assert report.failure.code == code
    assert node.leftovers() == []


@pytest.mark.parametrize(("job_type", "everywhere"), [("batch", False), ("ops", True), ("daemon", True)])
async def test_a_publisher_is_told_whose_result_it_is(
    job_type: str, everywhere: bool, nodes: Nodes, requester: FakeRequester
) -> None:
    """Which version, partition and attempt, and whether the job runs on every node: what names of results may hold, and what
    tells one piece of work from another."""
    publisher = StagedPublisher()
    node = nodes(drivers=drivers(publisher=publisher))
    await node.start()
    run = order(
        task=noop(publisher=Spec("test")), job_type=job_type, version=3, partition=4, partitions=5, attempt=2
    )
    await requester.run(run)
    await requester.ended(run)
    (label,) = publisher.labels
    assert (label.job, label.execution, label.node) == (run.job, run.execution, NODE)
    assert (label.version, label.partition, label.attempt, label.everywhere) == (3, 4, 2, everywhere)


@pytest.mark.parametrize(
    ("fault", "retryable"),
    [
        (Unavailable("the bucket does not answer"), True),
        (Conflict("it was changed meanwhile", kind="Key"), True),
        (Conflict("there is another result", kind="Taken"), False),
    ],
    ids=["ill", "raced", "taken"],
)
async def test_a_publishers_fault_fails_the_execution(
    fault: Fault, retryable: bool, nodes: Nodes, requester: FakeRequester
) -> None:
    """A result that cannot be published is never dropped in silence; where its place is taken, no other attempt is made."""
    node = nodes(drivers=drivers(publisher=StagedPublisher(fault)))
    await node.start()
    run = order(task=noop({"Stdout": "kept"}, publisher=Spec("test")))
    await requester.run(run)
    report = await requester.ended(run)
    assert report.state is S.FAILED
    assert report.failure is not None
    assert report.failure.message == f"publisher test: {fault}"
    assert report.failure.retryable is retryable
    assert report.output is not None
    assert report.output.stdout == "kept"


async def test_a_program_that_runs_too_long_is_stopped(nodes: Nodes, requester: FakeRequester) -> None:
    """Beyond its execution timeout a program is stopped and removed; the end says so, with what it had written."""
    node = nodes(limits=Limits(stop_grace_s=0.01))
    await node.start()
    run = order(task=noop({"Seconds": 3600, "Stdout": "so far", "Stubborn": True}), execution_timeout_s=0.05)
    await requester.run(run)
    report = await requester.ended(run)
    await requester.quiet(node)
    assert report.failure is not None
    assert report.failure.code == "TimedOut.Execution"
    assert report.output is not None
    assert report.output.stdout == "so far"
    assert node.leftovers() == []


@pytest.mark.parametrize(
    "fault", [Unavailable("the engine is away"), TimedOut("the engine hangs"), Broken("the engine stammers")]
)
async def test_an_engine_that_stays_away_holds_up_nobody(
    nodes: Nodes, requester: FakeRequester, fault: Fault
) -> None:
    """While an engine cannot end a program, for whatever reason, its end is told, so that others go on; its room is free
    once it is gone.
    """
    node = nodes()
    await node.start()
    run = order(task=noop({"Seconds": 3600}))
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    node.world.away = fault
    await requester.cancel(run)
    assert (await requester.ended(run)).state is S.CANCELLED
    assert node.here._room.ledger.held
    node.world.away = None
    await requester.quiet(node)
    assert not node.here._room.ledger.held
    assert node.leftovers() == []


async def test_staging_has_a_limit_of_its_own(nodes: Nodes, requester: FakeRequester) -> None:
    """An input that never comes ends the execution after the staging limit, worth another try."""
    source = StagedSource()
    source.gate.clear()
    node = nodes(drivers=drivers(source))
    await node.start()
    run = order(task=noop(input_sources=[Input(Spec("test"), "/in")]), staging_timeout_s=0.3)
    await requester.run(run)
    report = await requester.ended(run)
    await requester.quiet(node)
    assert report.failure is not None
    assert (report.failure.code, report.failure.retryable) == ("TimedOut.Staging", True)
    assert report.failure.message == "input /in (test) was not there within 0.3 s"
    assert node.leftovers() == []


async def test_the_environment_has_the_systems_names(nodes: Nodes, requester: FakeRequester) -> None:
    """A program finds its own Env, the node's variables it may read, and who and which part it is."""
    node = nodes(policy=Policy(env_allowed=("API_*",)), host={"API_KEY": "secret", "HOME": "/root"})
    await node.start()
    names = ["GREETING", "KEY", "BACALHAU_PARTITION_INDEX", "BACALHAU_PARTITION_COUNT", "BACALHAU_JOB_TYPE"]
    task = noop({"PrintsEnv": names}, env={"GREETING": "hello", "KEY": "env:API_KEY"})
    run = order(task=task, partition=2, partitions=5)
    await requester.run(run)
    report = await requester.ended(run)
    assert report.output is not None
    assert report.output.stdout.splitlines() == [
        "GREETING=hello",
        "KEY=secret",
        "BACALHAU_PARTITION_INDEX=2",
        "BACALHAU_PARTITION_COUNT=5",
        "BACALHAU_JOB_TYPE=batch",
    ]


async def test_ports_are_told_to_the_program_and_the_requester(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """A program that asks for a port learns which it got, and so does whoever asks the requester."""
    node = nodes()
    await node.start()
    network = Network("Bridge", ports=[Port("http", target=8080)])
    run = order(task=noop({"PrintsEnv": ["BACALHAU_PORT_http", "BACALHAU_HOST_PORT_http"]}, network=network))
    await requester.run(run)
    report = await requester.ended(run)
    assert report.output is not None
    assert report.output.stdout.splitlines() == [
        "BACALHAU_PORT_http=8080",
        f"BACALHAU_HOST_PORT_http={report.ports['http']}",
    ]


async def test_a_port_that_somebody_is_quicker_to_take_is_replaced(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """Where another program takes a port between the choice and the start, the program is given another one and runs."""
    first, last = 20_120, 20_125
    node = nodes(ports=(first, last))
    node.world.others_ports = frozenset(range(first, last))
    await node.start()
    run = order(task=noop(network=Network("Bridge", ports=[Port("web", target=80)])))
    await requester.run(run)
    report = await requester.ended(run)
    assert (report.state, report.ports) == (S.COMPLETED, {"web": last})


async def test_a_port_that_was_asked_for_is_not_replaced(nodes: Nodes, requester: FakeRequester) -> None:
    """Where that port is one the job names, its execution fails and says so: another attempt may go elsewhere."""
    [port] = free_ports(1)
    node = nodes()
    node.world.others_ports = frozenset({port})
    await node.start()
    run = order(task=noop(network=Network("Bridge", ports=[Port("web", static=port), Port("other")])))
    await requester.run(run)
    failure = (await requester.ended(run)).failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("Unavailable.Port", True)


async def test_output_beyond_the_first_bytes_is_cut_in_the_report(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """A report carries the first 2,048 bytes of each stream and says that there is more."""
    node = nodes()
    await node.start()
    run = order(task=noop({"Stdout": "a" * 3000, "Stderr": "b" * 2048}))
    await requester.run(run)
    output = (await requester.ended(run)).output
    assert output is not None
    assert (output.stdout, output.stdout_truncated) == ("a" * 2048, True)
    assert (output.stderr, output.stderr_truncated) == ("b" * 2048, False)


async def test_a_long_stage_is_told_before_the_end(nodes: Nodes, requester: FakeRequester) -> None:
    """A job that runs for a while is reported running; then it ends."""
    node = nodes()
    await node.start()
    run = order(task=noop({"Seconds": 3600}))
    await requester.run(run)
    assert (await requester.reached(run, S.RUNNING)).failure is None
    node.world.end(run.execution)
    assert (await requester.ended(run)).state is S.COMPLETED


async def test_progress_is_told_while_inputs_arrive(nodes: Nodes, requester: FakeRequester) -> None:
    """Whoever watches hears how far an input is."""
    source = StagedSource()
    source.gate.clear()
    node = nodes(drivers=drivers(source))
    await node.start()
    run = order(task=noop(input_sources=[Input(Spec("test"), "/in")]))
    await requester.run(run)
    await requester.until(lambda: bool(requester.progress))
    source.gate.set()
    progress = requester.progress[0]
    assert (progress.what, progress.done_bytes, progress.total_bytes) == ("input /in", 1, 2)
    assert progress.state is S.STAGING
    await requester.ended(run)


async def test_a_full_node_lets_jobs_wait(nodes: Nodes, requester: FakeRequester) -> None:
    """What does not fit now waits, in its order, and runs when there is room."""
    node = nodes()
    await node.start()
    first = order(1, noop({"Seconds": 3600}), amounts=Amounts(cpu=4))
    second = order(2, amounts=Amounts(cpu=4))
    await requester.run(first)
    await requester.run(second)
    await requester.reached(first, S.RUNNING)
    assert node.here.runners[second.execution].execution.state is S.ASSIGNED
    node.world.end(first.execution)
    await requester.ended(second)


async def test_inputs_larger_than_the_free_disk_wait_without_holding_room(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """An input's known size counts as disk: its execution waits for it, holding nothing that others could use."""
    source = StagedSource(size_bytes=6_000_000_000)
    node = nodes(drivers=drivers(source))
    await node.start()
    source.gate.clear()
    task = noop(input_sources=[Input(Spec("test"), "/in")])
    runs = [order(number, task, amounts=Amounts(cpu=2)) for number in (1, 2)]
    for run in runs:
        await requester.run(run)
    await source.fetching.wait()
    plain = order(3, amounts=Amounts(cpu=1))
    await requester.run(plain)
    await requester.ended(plain)
    assert len(node.here._room.ledger.held) == 1
    source.gate.set()
    for run in runs:
        assert (await requester.ended(run)).state is S.COMPLETED


async def test_inputs_larger_than_the_node_are_refused(nodes: Nodes, requester: FakeRequester) -> None:
    """An input that no room on this node could ever hold is refused, with both sizes."""
    node = nodes(drivers=drivers(StagedSource(size_bytes=1 << 50)))
    await node.start()
    run = order(task=noop(input_sources=[Input(Spec("test"), "/in")]))
    await requester.run(run)
    await requester.until(lambda: bool(requester.reports))
    report = requester.reports[-1]
    assert report.state is S.REFUSED
    assert report.failure is not None
    assert report.failure.code == "Exhausted.Capacity"
    assert "1 PiB of 9.3 GiB disk" in report.failure.message
