"""Results over REST: links that lead somewhere from where they are asked for, and the bytes of what a node keeps."""

import asyncio
from types import SimpleNamespace

import pytest
from aiohttp import ClientPayloadError, test_utils, web

from protocol.ids import ExecutionId, JobId
from protocol.jobs import Job, Spec, Task
from protocol.states import ExecutionState
from requester.api import results
from tests.requester.twin import Twin

Api = test_utils.TestClient[web.Request, web.Application]
JOBS = "/api/v1/orchestrator/jobs"
DATA = bytes(range(256)) * 20


async def kept(twin: Twin, url: str = "http://127.0.0.1:6001/x/e.tar.gz") -> tuple[JobId, ExecutionId]:
    """A job whose node keeps its result."""
    job = await twin.submitted(Job(tasks=[Task(engine=Spec("noop"), publisher=Spec("local"))]))
    execution = await twin.assign(job)
    await twin.report(execution, ExecutionState.COMPLETED, result=Spec("urlDownload", {"URL": url}))
    twin.archives[execution] = DATA
    return job, execution


@pytest.mark.parametrize(
    ("given", "status", "part"),
    [
        (None, 200, DATA),
        ("bytes=0-9", 206, DATA[:10]),
        ("bytes=4090-", 206, DATA[4090:]),
        ("bytes=-7", 206, DATA[-7:]),
        ("bytes=5000-999999", 206, DATA[5000:]),
        ("bytes=999999-", 416, b""),
        ("apples=1-2", 200, DATA),
    ],
)
async def test_a_kept_result_is_brought_with_ranges(
    api: Api, twin: Twin, given: str | None, status: int, part: bytes
) -> None:
    """What a node keeps comes through the requester byte for byte, whole or in part."""
    job, execution = await kept(twin)
    headers = {"Range": given} if given else {}

    async with api.get(f"{JOBS}/{job}/results/{execution}.tar.gz", headers=headers) as answer:
        assert (answer.status, await answer.read()) == (status, part)
        assert answer.headers["ETag"] == '"v1"'
        assert answer.status != 206 or answer.headers["Content-Range"].endswith(f"/{len(DATA)}")


async def test_who_takes_nothing_is_let_go(api: Api, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that stands still holds no result open for ever: its connection is cut, which says that this was not all."""
    ended = asyncio.Event()
    monkeypatch.setattr(results, "TAKEN_S", 0.2)
    monkeypatch.setattr(results, "log", SimpleNamespace(warning=lambda *said, **more: ended.set()))
    job, execution = await kept(twin)
    twin.archives[execution] = bytes(20 << 20)

    async with api.get(f"{JOBS}/{job}/results/{execution}.tar.gz") as answer:
        async with asyncio.timeout(60):
            await ended.wait()
        with pytest.raises(ClientPayloadError):
            await answer.read()


async def test_a_range_of_another_version_is_the_whole(api: Api, twin: Twin) -> None:
    """Whoever goes on with another version gets the beginning of this one; a HEAD tells the size."""
    job, execution = await kept(twin)
    path = f"{JOBS}/{job}/results/{execution}.tar.gz"

    async with api.get(path, headers={"Range": "bytes=5-9", "If-Range": '"v0"'}) as answer:
        assert (answer.status, await answer.read()) == (200, DATA)
    async with api.head(path) as answer:
        assert (answer.status, answer.content_length) == (200, len(DATA))


async def test_what_no_node_keeps_is_not_found(api: Api, twin: Twin) -> None:
    """An execution of another job, or none at all, is an ordinary refusal."""
    job, _ = await kept(twin)

    async with api.get(f"{JOBS}/{job}/results/e-nothing.tar.gz") as answer:
        assert answer.status == 404
        assert "e-nothing" in (await answer.json())["Message"]


@pytest.mark.parametrize(
    ("url", "asker", "relayed"),
    [
        ("http://127.0.0.1:6001/t/e.tar.gz", "127.0.0.1", False),
        ("http://127.0.0.1:6001/t/e.tar.gz", "10.0.0.9", True),
        ("http://[::1]:6001/t/e.tar.gz", "2001:db8::7", True),
        ("http://10.0.0.7:6001/t/e.tar.gz", "10.0.0.9", False),
        ("http://node7:6001/t/e.tar.gz", "10.0.0.9", False),
    ],
)
async def test_a_link_leads_somewhere_from_where_it_is_asked_for(
    api: Api, twin: Twin, url: str, asker: str, relayed: bool
) -> None:
    """On another machine a node's loopback link would lead to nothing: there the link is one to the requester."""
    job, execution = await kept(twin, url)
    (record,) = await twin.results(job)

    found = results.within_reach(record, asker, "http://hub:1234").result

    path = f"{JOBS}/{job}/results/{execution}.tar.gz"
    assert found == Spec("urlDownload", {"URL": f"http://hub:1234{path}" if relayed else url})


async def test_results_are_listed_as_bacalhau_does(api: Api, twin: Twin) -> None:
    """Each item has a type, params with the URL, and which execution it is of; and what it holds, if the node has told."""
    job, execution = await kept(twin)
    async with api.get(f"{JOBS}/{job}/results") as answer:
        (item,) = (await answer.json())["Items"]

    assert item == {
        "Type": "urlDownload",
        "Params": {"URL": "http://127.0.0.1:6001/x/e.tar.gz"},
        "ExecutionID": execution,
    }
    job = await twin.submitted(Job(tasks=[Task(engine=Spec("noop"), publisher=Spec("local"))]))
    await twin.complete(job)
    async with api.get(f"{JOBS}/{job}/results") as answer:
        (item,) = (await answer.json())["Items"]

    assert item["Written"] == {"Count": 12, "Size": 2_000, "SHA256": "ab" * 32}
