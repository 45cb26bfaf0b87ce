"""The command line and the API over a real requester on the memory bus, with a node that only pretends.

What the other tests show on a twin of the verbs, a few of these show on the verbs themselves: that both sides of the seam
mean the same.
"""

import http.client
import json
import shlex
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import Failure
from protocol.ids import ExecutionId
from protocol.messages import Run
from tests.conftest import Background
from tests.requester.cli.conftest import SPEC, Shoal, served
from tests.requester.cluster import PretendNode, a_cluster, hold

NAMELESS = SPEC.replace("Name: words\n", "")


class World:
    """A requester with its API, and its one node."""

    def __init__(self) -> None:
        self.node: PretendNode
        self.address = ("", 0)
        self._stack = AsyncExitStack()

    async def begin(self, folder: Path) -> None:
        """Start it all."""
        cluster = await self._stack.enter_async_context(a_cluster(folder))
        service = await cluster.requester()
        self.node = await cluster.node(labels={"region": "eu"})
        self.address = await self._stack.enter_async_context(served(service))

    async def end(self) -> None:
        """End it all."""
        await self._stack.aclose()

    def get(self, path: str) -> Any:
        """The JSON of a GET below the jobs' path."""
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        connection.request("GET", f"/api/v1/orchestrator/jobs{path}")
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer


@pytest.fixture
def world(
    background: Background, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """The requester that the environment names."""
    world = World()
    background.run(world.begin(tmp_path_factory.mktemp("world")))
    monkeypatch.setenv("BACALHAU_API_HOST", world.address[0])
    monkeypatch.setenv("BACALHAU_API_PORT", str(world.address[1]))
    yield world
    background.run(world.end())


def test_a_job_from_its_spec_to_its_description(shoal: Shoal, world: World) -> None:
    """Submitted, waited for, listed, described: one story, told the same by every command."""
    ran = shoal("submit", "job.yaml")
    assert ran.code == 0
    job = ran.out.split()[-1]
    assert "Assigned" in ran.err
    assert job in shoal("job", "list", "--wide").out
    described = shoal("job", "describe", "words").out
    assert f"= {job}" in described
    assert "Completed successfully" in described
    assert "Published Result: ipfs {CID: cid-0}" in described
    (result,) = world.get(f"/{job}/results")["Items"]
    assert (result["Type"], result["Params"]) == ("ipfs", {"CID": "cid-0"})


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_a_described_job_can_be_submitted_again(shoal: Shoal, world: World, form: str) -> None:
    """``job describe --spec`` is a spec: the same job, which has no changes; with ``--force`` its next version. The whole
    description is not one, and is refused with the way to get it.
    """
    assert shoal("submit", "job.yaml").code == 0
    spec = shoal("job", "describe", "words", "--spec", "--output", form).out
    again = shoal("submit", "-", stdin=spec)
    assert (again.code, "no changes" in again.err) == (1, True)
    assert shoal("submit", "--force", "-", stdin=spec).code == 0
    assert world.get("/words")["Job"]["Version"] == 2
    whole = shoal("submit", "-", stdin=shoal("job", "describe", "words", "--output", form).out)
    assert (whole.code, "--spec" in whole.err) == (2, True)


def test_a_nameless_job_can_be_submitted_again(shoal: Shoal, world: World) -> None:
    """The name that such a job was given is no part of its spec: submitted again, it is another job."""
    assert shoal("submit", "-", stdin=NAMELESS).code == 0
    (first,) = world.get("")["Items"]
    spec = shoal("job", "describe", first["ID"], "--spec").out
    assert shoal("submit", "-", stdin=spec).code == 0
    assert len({item["Name"] for item in world.get("")["Items"]}) == 2


def test_following_shows_what_the_log_kept(shoal: Shoal, world: World) -> None:
    """Where the node cannot be asked for the output, its beginning is in the log."""
    ran = shoal("submit", "--follow", "job.yaml")
    assert (ran.code, ran.out) == (0, "hello\n")
    assert shoal("logs", "words").out == "hello\n"


def test_a_program_that_fails(shoal: Shoal, world: World) -> None:
    """A program's failure is the job's: no second attempt, exit code 10, and its cause in the description."""
    failure = Failure("ProgramFailed", "program exited with code 3", hint="see its logs")
    world.node.script = lambda _: failure
    ran = shoal("submit", "job.yaml")
    assert ran.code == 10
    assert "program exited with code 3" in ran.err
    assert "program exited with code 3" in shoal("job", "describe", "words").out
    assert len(world.node.runs) == 1


def test_no_node_fits(shoal: Shoal, world: World) -> None:
    """A job that no node can run fails with 12, and the reason for the node is told."""
    ran = shoal("submit", "-", stdin=NAMELESS + "Constraints: [{Key: region, Operator: '=', Values: [us]}]\n")
    assert ran.code == 12
    assert "n1" in ran.err
    assert "region" in ran.err


def test_who_waits_hears_of_the_stop(shoal: Shoal, world: World, background: Background) -> None:
    """A job that is stopped by somebody else ends the waiting with 11."""
    world.node.script = hold
    address = world.address

    async def assigned() -> Run:
        await world.node.until(lambda node: bool(node.runs))
        return world.node.runs[0]

    def stop() -> None:
        run = background.run(assigned())
        connection = http.client.HTTPConnection(*address, timeout=30)
        connection.request("DELETE", f"/api/v1/orchestrator/jobs/{run.job}", body='{"reason": "enough"}')
        assert connection.getresponse().status == 200
        connection.close()

    stopper = threading.Thread(target=stop)
    stopper.start()
    ran = shoal("submit", "job.yaml")
    stopper.join()
    assert ran.code == 11
    assert "enough" in shoal("job", "history", "words").out


def test_the_same_again(shoal: Shoal, world: World) -> None:
    """The same spec under the same name is refused with what to do; forced, it is the next version of the same job."""
    first = shoal("submit", "--id-only", "job.yaml").out
    refused = shoal("submit", "job.yaml")
    assert refused.code == 1
    assert "--force" in refused.err
    assert shoal("submit", "--id-only", "--force", "job.yaml").out == first
    assert world.get("/words")["Job"]["Version"] == 2
    assert world.get("/words?job_version=1")["Job"]["Version"] == 1


def test_history_as_the_peers_client_polls_it(shoal: Shoal, world: World, background: Background) -> None:
    """Polling with a limit of one: a token until the job is closed and drained, every line once, in order."""
    world.node.script = hold
    job = shoal("submit", "--no-wait", "--id-only", "job.yaml").out.strip()
    background.run(world.node.until(lambda node: bool(node.runs)))
    items: list[Any] = []
    token = ""
    finished = False
    for _ in range(200):
        page = world.get(f"/{job}/history?limit=1&next_token={token}")
        items += page["Items"]
        token = page["NextToken"]
        if not token:
            break
        if not page["Items"] and not finished:
            finished = True
            background.run(_finish(world.node, world.node.runs[0].execution))
    assert finished
    assert token == ""
    assert items == world.get(f"/{job}/history")["Items"]
    assert items[0]["Event"]["Topic"] == "Submission"
    assert items[-1]["Event"]["Details"]["NewState"] == "Completed"


async def _finish(node: PretendNode, execution: ExecutionId) -> None:
    node.finish(execution)
    # It forgets an execution when a requester has answered that its end is in the log.
    await node.until(lambda one: execution not in one.states)


def test_lists_are_paged_by_the_read_model(shoal: Shoal, world: World) -> None:
    """Seven jobs in pages of three, newest first, each once."""
    submitted = [shoal("submit", "--id-only", stdin=NAMELESS).out.strip() for _ in range(7)]
    found: list[str] = []
    token: list[str] = []
    while True:
        ran = shoal("job", "list", "--output", "csv", "--hide-header", "--wide", "--limit", "3", *token)
        found += [line.split(",")[1] for line in ran.out.splitlines()]
        page = world.get(f"?limit=3&reverse=true&next_token={token[1] if token else ''}")
        if not page["NextToken"]:
            break
        token = ["--next-token", page["NextToken"]]
    assert found == submitted[::-1]


def test_what_is_told_to_go_on_with_is_the_same_list(shoal: Shoal, world: World) -> None:
    """The command that a cut list names goes on with that list: its namespace, its labels and its order."""
    asked = ("--namespace", "prod", "--labels", "team=a,tier in (x, y)", "--order-reversed", "--limit", "1")
    wanted = []
    for _ in range(4):
        labels = "Labels: {team: a, tier: x}\n"
        wanted.append(shoal("submit", "--id-only", stdin=f"{NAMELESS}Namespace: prod\n{labels}").out.strip())
        shoal("submit", "--id-only", stdin=f"{NAMELESS}{labels}")
        shoal("submit", "--id-only", stdin=f"{NAMELESS}Namespace: prod\n")

    found: list[str] = []
    told = shlex.join(["shoal", "job", "list", *asked])
    while told:
        words = shlex.split(told)[1:]
        ran = shoal(*words, "--hide-header", "--wide")
        found += [line.split()[2] for line in ran.out.splitlines()]
        told = ran.err.partition("use: ")[2]

    assert found == wanted


def test_nodes_as_the_requester_knows_them(shoal: Shoal, world: World) -> None:
    """The node that beats is listed with its labels, and can be rejected and approved again."""
    assert "region=eu" in shoal("node", "list").out
    assert shoal("node", "reject", "n1").code == 0
    assert "REJECTED" in shoal("node", "list").out
    assert shoal("node", "approve", "n1").code == 0


def test_a_service_runs_when_all_of_it_does(shoal: Shoal, world: World) -> None:
    """Submitting a service of two, and then its next version, ends when both run, and nothing of the version before."""
    world.node.script = hold
    service = SPEC.replace("batch", "service\nCount: 2")
    for version in (1, 2):
        assert shoal("submit", "-", stdin=f"{service}    Meta: {{version: '{version}'}}\n").code == 0
        executions = world.get("/words/executions")["Items"]
        running = [each["JobVersion"] for each in executions if each["State"] == "running"]
        assert running == [version, version]
