"""What results hold, over REST: from records, and from the lists that nodes keep."""

from typing import Any

import pytest
from aiohttp import test_utils, web

from protocol.errors import Unavailable
from protocol.ids import ExecutionId, JobId
from protocol.jobs import Job, Spec, Task
from protocol.messages import FileWritten, LinkWritten, Written
from protocol.states import ExecutionState
from tests.requester.twin import Twin

Api = test_utils.TestClient[web.Request, web.Application]
JOBS = "/api/v1/orchestrator/jobs"
LINK = LinkWritten("outputs/newest", "f-1")


def files(count: int) -> list[FileWritten]:
    """So many, each a byte longer than the one before."""
    return [FileWritten(f"outputs/f-{number}", number, f"{number:064}") for number in range(count)]


def wrote(found: list[FileWritten], known: int, *, others: int | None = 2) -> Written:
    """What a node reports of these files, naming the first of them."""
    size_bytes = sum(each.size_bytes for each in found)
    return Written(len(found), size_bytes, "0" * 64, found[:known], others, [LINK], ["outputs/none"])


async def finished(twin: Twin, *written: Written | None) -> tuple[JobId, list[ExecutionId]]:
    """A job with a partition for each of these."""
    job = await twin.submitted(
        Job(count=len(written), tasks=[Task(engine=Spec("noop"), publisher=Spec("ipfs"))])
    )
    executions = []
    for partition, each in enumerate(written):
        executions.append(await twin.assign(job, partition=partition))
        result = Spec("ipfs", {"CID": "bafyresult"})
        await twin.report(executions[-1], ExecutionState.COMPLETED, result=result, written=each)
    return job, executions


async def asked(api: Api, job: str, **query: str) -> Any:
    """The route's answer."""
    async with api.get(f"{JOBS}/{job}/results/files", params=query) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_what_a_record_names_is_told_without_asking_anybody(api: Api, twin: Twin) -> None:
    """Each file with size and SHA-256, links with where they lead, empty folders; a path picks a folder or a file."""
    job, (execution,) = await finished(twin, wrote(files(2), 2))

    told = await asked(api, job)

    assert told["Incomplete"] == []
    assert told["NextToken"] == ""
    assert told["Items"][0] == {
        "ExecutionID": execution,
        "Path": "outputs/f-0",
        "Size": 0,
        "SHA256": "0" * 64,
        "Type": "file",
    }
    assert [(each["Path"], each["Type"]) for each in told["Items"]] == [
        ("outputs/f-0", "file"),
        ("outputs/f-1", "file"),
        ("outputs/newest", "link"),
        ("outputs/none", "folder"),
    ]
    assert told["Items"][2]["Target"] == "f-1"
    assert [each["Path"] for each in (await asked(api, job, path="/outputs/f-1"))["Items"]] == ["outputs/f-1"]
    assert (await asked(api, job, path="else"))["Items"] == []
    assert "files" not in [verb for verb, _ in twin.calls]


async def test_a_long_list_comes_from_its_node_page_by_page(api: Api, twin: Twin) -> None:
    """Pages of any size add up to every file of every execution, once and in order; one execution can be picked."""
    job, executions = await finished(twin, wrote(files(30), 20), wrote(files(3), 3), wrote(files(25), 20))
    for execution, count in zip(executions, (30, 3, 25), strict=True):
        twin.lists[execution] = files(count)
    whole = (await asked(api, job))["Items"]
    assert len(whole) == 58 + 3 * 2

    paged: list[Any] = []
    token, pages = "", 0
    while pages == 0 or token:
        page = await asked(api, job, limit="7", next_token=token)
        assert len(page["Items"]) <= 7
        paged += page["Items"]
        token, pages = page["NextToken"], pages + 1

    assert paged == whole
    picked = await asked(api, job, execution_id=executions[2][:12])
    assert {each["ExecutionID"] for each in picked["Items"]} == {executions[2]}
    assert sum(each["Type"] == "file" for each in picked["Items"]) == 25


@pytest.mark.parametrize("cause", ["away", "silent", "links"])
async def test_what_is_not_known_is_said(api: Api, twin: Twin, cause: str) -> None:
    """A node that is away, or has told nothing, costs the list no more than its own files; the answer says which and why."""
    given = None if cause == "silent" else wrote(files(30), 20, others=90 if cause == "links" else 2)
    job, (first, second) = await finished(twin, given, wrote(files(1), 1))
    twin.lists[first] = files(30)
    if cause == "away":
        twin.faults["files"] = Unavailable("the node n1 is not connected")

    told = await asked(api, job)

    (lacking,) = told["Incomplete"]
    assert lacking["ExecutionID"] == first
    assert {"away": "not connected", "silent": "has not told", "links": "of its 90 links"}[cause] in lacking[
        "Message"
    ]
    count = {"away": 20, "silent": 0, "links": 30}[cause]
    assert sum(each["ExecutionID"] == first and each["Type"] == "file" for each in told["Items"]) == count
    assert any(each["ExecutionID"] == second for each in told["Items"])


@pytest.mark.parametrize(
    ("query", "status"),
    [({"execution_id": "e-none"}, 404), ({"next_token": "x"}, 400), ({"limit": "-1"}, 400)],
)
async def test_a_wrong_question_is_refused(api: Api, twin: Twin, query: dict[str, str], status: int) -> None:
    """An execution without a result, a token of something else, a number that is none."""
    job, _ = await finished(twin, wrote(files(1), 1))
    async with api.get(f"{JOBS}/{job}/results/files", params=query) as answer:
        assert answer.status == status
        assert (await answer.json())["Message"]
