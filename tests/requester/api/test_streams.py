"""The routes that go on: logs as websocket frames (reference section 3.4), watch and output as lines of JSON."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import test_utils, web
from msgspec.structs import replace

from protocol.errors import Broken, Failure
from protocol.ids import ExecutionId, JobId
from protocol.jobs import Job, Retry, Spec, Task
from protocol.messages import Progress, RunOutput
from protocol.questions import LogChunk
from protocol.states import ExecutionState
from requester.api import app, streams
from requester.verbs import LogLine
from tests.requester.twin import BEGIN, NODE, Twin

Api = test_utils.TestClient[web.Request, web.Application]
JOBS = "/api/v1/orchestrator/jobs"
JOB = Job(tasks=[Task(engine=Spec("noop"))])


async def _frames(api: Api, ref: str, **query: str) -> tuple[list[Any], int | None]:
    """All frames of a log stream, and the code it was closed with."""
    async with api.ws_connect(f"{JOBS}/{ref}/logs", params=query) as socket:
        frames = []
        async for message in socket:
            assert message.type is aiohttp.WSMsgType.TEXT
            frames.append(json.loads(message.data))
        return frames, socket.close_code


async def _written(twin: Twin, *chunks: LogChunk) -> tuple[JobId, ExecutionId]:
    id_ = await twin.submitted(JOB)
    execution = await twin.complete(id_)
    twin.output[execution] = [LogLine(execution, chunk) for chunk in chunks]
    return id_, execution


async def test_logs_are_frames_and_end_with_1000(api: Api, twin: Twin) -> None:
    """Standard output is type 1, standard error type 2; when all is told the stream is closed with 1000."""
    id_, _ = await _written(twin, LogChunk(1, BEGIN, b"out\n"), LogChunk(2, BEGIN, b"err\n"))
    frames, code = await _frames(api, id_)
    assert frames == [{"value": {"Type": 1, "Line": "out\n"}}, {"value": {"Type": 2, "Line": "err\n"}}]
    assert code == 1000


async def test_a_character_may_be_cut_by_a_chunk(api: Api, twin: Twin) -> None:
    """Text is put together over chunks; what is not UTF-8 is replaced and never ends the stream."""
    whole = "é".encode()
    id_, _ = await _written(
        twin, LogChunk(1, BEGIN, whole[:1]), LogChunk(1, BEGIN, whole[1:]), LogChunk(1, BEGIN, b"\xff")
    )
    frames, code = await _frames(api, id_)
    assert "".join(frame["value"]["Line"] for frame in frames) == "é\ufffd"
    assert code == 1000


async def test_faults_of_logs_are_frames_too(api: Api, twin: Twin) -> None:
    """Unknown jobs and jobs without executions are told in a frame, as the peer's client expects, then 1000."""
    for ref in ("j-nope", await twin.submitted(JOB)):
        frames, code = await _frames(api, ref)
        assert frames[0]["value"] == {"Type": 0, "Line": ""}
        assert ref in frames[0]["error"]
        assert code == 1000


async def test_output_that_cannot_be_had_is_an_error_frame(api: Api, twin: Twin) -> None:
    """A failure in the middle of the output is told where it happened."""
    id_, execution = await _written(twin)
    twin.output[execution] = [LogLine(execution, failure=Failure("Unavailable", "the node is gone"))]
    frames, code = await _frames(api, id_)
    assert [frame["error"] for frame in frames] == ["the node is gone"]
    assert code == 1000


async def test_following_goes_on_until_the_end(api: Api, twin: Twin) -> None:
    """With ``follow`` the stream stays open until the job is closed; the flags reach the verb."""
    id_ = await twin.submitted(JOB)
    following = asyncio.create_task(_frames(api, id_, follow="true", tail="false"))
    await twin.asked.wait()
    await twin.complete(id_, stdout="late\n")
    frames, code = await following
    assert (frames, code) == ([{"value": {"Type": 1, "Line": "late\n"}}], 1000)
    assert ("logs", ("", True, False)) in twin.calls


async def test_frames_go_on_with_the_next_attempt(api: Api, twin: Twin) -> None:
    """Bacalhau's clients follow a job from attempt to attempt; they get the program's own words alone, and no character is
    put together from two attempts.
    """
    id_, _ = await _failed_once(twin)
    following = asyncio.create_task(_frames(api, id_, follow="true"))
    await _tried_again(twin, id_)
    frames, code = await following
    assert ([frame["value"]["Line"] for frame in frames], code) == (["one", "\ufffd", "two"], 1000)


async def test_lines_of_output_say_that_it_is_tried_again(api: Api, twin: Twin) -> None:
    """Between two attempts a line of ``output`` tells the number of the next one, its node, and why the one before ended."""
    id_, _ = await _failed_once(twin)
    async with api.get(f"{JOBS}/{id_}/output", params={"follow": "true"}) as answer:
        two = await _tried_again(twin, id_)
        lines = await _lines(answer)
    (again,) = [line for line in lines if "Attempt" in line]
    assert (again["ExecutionID"], again["Attempt"], again["JobVersion"], again["NodeID"]) == (two, 2, 1, NODE)
    assert again["Before"]["Message"] == "program exited with code 3"


async def test_an_execution_that_is_named_is_followed_alone(api: Api, twin: Twin) -> None:
    """Who names an execution is let go at its end, though the job is tried again."""
    id_, one = await _failed_once(twin)
    frames, code = await _frames(api, id_, follow="true", execution_id=one)
    assert ([frame["value"]["Line"] for frame in frames], code) == (["one", "\ufffd"], 1000)


async def _failed_once(twin: Twin) -> tuple[JobId, ExecutionId]:
    """A job whose first attempt has failed within a character, and will be tried again."""
    id_ = await twin.submitted(replace(JOB, retry=Retry(attempts=2, causes=["program"])))
    one = await twin.assign(id_)
    twin.output[one] = [LogLine(one, LogChunk(1, BEGIN, each)) for each in (b"one", b"\xc3")]
    failure = Failure("ProgramFailed", "program exited with code 3")
    await twin.report(one, ExecutionState.FAILED, failure=failure, output=RunOutput("one", exit_code=3))
    return id_, one


async def _tried_again(twin: Twin, id_: JobId) -> ExecutionId:
    """The second attempt, which completes, once somebody follows the job."""
    # Its first attempt has been found then, and is read.
    await twin.unwatched.wait()
    two = await twin.assign(id_, attempt=2)
    twin.output[two] = [LogLine(two, LogChunk(1, BEGIN, b"two"))]
    await twin.report(two, ExecutionState.COMPLETED, output=RunOutput("two"))
    await twin.close(id_)
    return two


async def test_logs_need_a_websocket(api: Api) -> None:
    """A plain GET of the log route is refused in the envelope, with what to do."""
    async with api.get(f"{JOBS}/x/logs") as answer:
        assert (answer.status, (await answer.json())["Status"]) == (426, 426)


async def _lines(answer: aiohttp.ClientResponse) -> list[Any]:
    return [json.loads(line) async for line in answer.content]


async def test_a_watch_tells_all_changes_and_ends(api: Api, twin: Twin) -> None:
    """Lines of JSON: the job as it is, each change, progress in between; the last line says that it has ended."""
    id_ = await twin.submitted(JOB)
    async with api.get(f"{JOBS}/{id_}/watch") as answer:
        assert (answer.status, answer.content_type) == (200, "application/x-ndjson")
        first = json.loads(await answer.content.readline())
        execution = await twin.assign(id_)
        second = json.loads(await answer.content.readline())
        await twin.progress(Progress(id_, execution, NODE, ExecutionState.STAGING, "input /in", 5, 10))
        third = json.loads(await answer.content.readline())
        await twin.close(id_)
        rest = await _lines(answer)
    assert (first["Job"]["State"]["StateType"], first["Executions"]) == ("Pending", [])
    assert second["Executions"][0]["ID"] == execution
    assert third["Progress"] == {
        "ExecutionID": execution,
        "NodeID": NODE,
        "State": "staging",
        "What": "input /in",
        "Done": 5,
        "Total": 10,
    }
    assert rest[0]["Job"]["State"]["StateType"] == "Completed"
    assert rest[-1] == {"Ended": True}
    assert twin.watching == 0


async def test_a_quiet_watch_shows_that_it_lives(
    api: Api, twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing happens an empty object comes now and then."""
    monkeypatch.setattr(streams, "SILENCE_S", 0.01)
    id_ = await twin.submitted(JOB)
    async with api.get(f"{JOBS}/{id_}/watch") as answer:
        await answer.content.readline()
        assert json.loads(await answer.content.readline()) == {}


async def test_a_watch_of_nothing_is_refused(api: Api) -> None:
    """What is wrong from the start is an ordinary refusal."""
    for route in ("watch", "output"):
        async with api.get(f"{JOBS}/j-nope/{route}") as answer:
            assert (answer.status, (await answer.json())["Code"]) == (404, "NotFound")


async def test_a_fault_in_the_middle_of_a_watch_is_its_last_word(api: Api, twin: Twin) -> None:
    """A watch that cannot go on says why, in the same line format."""
    id_ = await twin.submitted(JOB)
    async with api.get(f"{JOBS}/{id_}/watch") as answer:
        await answer.content.readline()
        await twin.fail_watchers(Broken("the log was made anew"))
        lines = await _lines(answer)
    assert lines[0]["Failure"]["Message"] == "the log was made anew"
    assert lines[-1] == {"Ended": True}


async def test_one_who_stops_watching_is_forgotten(api: Api, twin: Twin) -> None:
    """When the reader hangs up, the watch behind it ends as well."""
    id_ = await twin.submitted(JOB)
    async with api.get(f"{JOBS}/{id_}/watch") as answer:
        await answer.content.readline()
        assert twin.watching == 1
        answer.close()
    await twin.unwatched.wait()
    assert twin.watching == 0


async def test_one_who_goes_away_while_being_told_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """A reader that hangs up at the very moment of a line leaves no trace in the requester's log."""

    async def told(request: web.Request) -> web.StreamResponse:
        async def values() -> AsyncGenerator[int, None]:
            yield 1

        async def view(value: int) -> int:
            assert request.transport is not None
            request.transport.close()
            return value

        return await streams._stream(request, values(), view)

    served = web.Application()
    served.router.add_get("/", told)
    async with test_utils.TestClient(test_utils.TestServer(served)) as client, client.get("/") as answer:
        with suppress(aiohttp.ClientError):
            await answer.read()
    assert not [line for line in caplog.records if line.levelname == "ERROR"]


async def test_output_keeps_every_byte(api: Api, twin: Twin) -> None:
    """Output as lines carries the exact bytes, their stream and their time."""
    data = bytes(range(256))
    id_, execution = await _written(twin, LogChunk(2, BEGIN, data))
    async with api.get(f"{JOBS}/{id_}/output") as answer:
        of, first, last = await _lines(answer)
    assert of == {"ExecutionID": execution, "Executions": 1}
    assert base64.b64decode(first["Data"]) == data
    assert (first["Stream"], first["ExecutionID"]) == (2, execution)
    assert first["Time"].startswith("2025-06-15T")
    assert last == {"Ended": True}


async def test_streams_have_no_deadline(api: Api, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bounds an answer does not bound a stream: it goes on for as long as there is something to watch."""
    monkeypatch.setattr(app, "ANSWER_S", 0.01)
    monkeypatch.setattr(streams, "SILENCE_S", 0.02)
    id_ = await twin.submitted(JOB)
    async with api.get(f"{JOBS}/{id_}/watch") as answer:
        for _ in range(3):
            await answer.content.readline()
        await twin.close(id_)
        assert (await _lines(answer))[-1] == {"Ended": True}
