"""What holds for every request: reference of the peer's API, sections 3.1 and 3.3."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Callable
from io import BytesIO

import msgspec
import pytest
from aiohttp import test_utils, web

from protocol.errors import Broken, Conflict, Denied, Exhausted, Fault, Invalid, TimedOut, Unavailable
from requester.api import app
from requester.api.envelope import AT_ONCE, listed
from tests.requester.twin import Twin

Api = test_utils.TestClient[web.Request, web.Application]
JOBS = "/api/v1/orchestrator/jobs"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/agent/alive",
        "/api/v1/agent/version",
        "/api/v1/agent/node",
        "/api/v1/agent/debug",
        "/api/v1/agent/config",
        "/api/v1/agent/authconfig",
        "/api/v1/auth",
        "/api/v1/healthz",
        "/api/v1/livez",
        "/api/v1/id",
        "/api/v1/node_info",
        "/readyz",
        JOBS,
        "/api/v1/orchestrator/nodes",
    ],
)
async def test_success_is_exactly_200(api: Api, path: str) -> None:
    """Every answer that says yes is 200 and JSON: the peer's client takes any other code for a failure."""
    async with api.get(path) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        await answer.json()


@pytest.mark.parametrize(("path", "to"), [("/", "version"), ("/version", "version"), ("/livez", "alive")])
async def test_short_paths_lead_to_the_agent(api: Api, path: str, to: str) -> None:
    """The short paths redirect as the peer's do."""
    async with api.get(path, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (301, f"/api/v1/agent/{to}")


async def test_unknown_routes_get_the_envelope(api: Api) -> None:
    """A path that is not there is 404 with code NotFound, a method that is not there 405, both in the envelope."""
    async with api.get("/api/v1/orchestrator/nonsense") as answer:
        body = await answer.json()
        assert (answer.status, body["Status"], body["Code"], body["Component"]) == (
            404,
            404,
            "NotFound",
            "APIServer",
        )
        assert "/api/v1/orchestrator/nonsense" in body["Message"]
        assert body["Hint"]
    async with api.patch(JOBS) as answer:
        assert (answer.status, (await answer.json())["Status"]) == (405, 405)
        assert "GET" in answer.headers["Allow"]


async def test_a_license_is_not_needed(api: Api) -> None:
    """The peer's ``agent license inspect`` is told that there is no license, not that the server lacks a path."""
    async with api.get("/api/v1/agent/license") as answer:
        told = await answer.json()
        assert (answer.status, told["Code"]) == (404, "NotFound")
    assert told["Message"] == "this server has no license, and needs none"


async def test_removed_routes_say_so(api: Api) -> None:
    """The API of clients before 1.4 answers 410, as 1.4 does."""
    async with api.post("/api/v1/requester/submit") as answer:
        body = await answer.json()
    assert (answer.status, body["Status"]) == (410, 410)
    assert body["RequestID"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Invalid("x"), 400, "ValidationError"),
        (Denied("x"), 403, "Forbidden"),
        (Conflict("x"), 409, "Conflict"),
        (Conflict("x", kind="JobState"), 409, "ConflictJobState"),
        (Conflict("x", kind="MultipleJobsFound"), 409, "MultipleJobsFound"),
        (Exhausted("x"), 429, "ResourceExhausted"),
        (TimedOut("x"), 504, "TimeOut"),
        (Unavailable("x"), 503, "ServiceUnavailable"),
        (Broken("x"), 500, "InternalError"),
    ],
)
async def test_each_fault_has_its_status_and_code(
    api: Api, twin: Twin, fault: Fault, status: int, code: str
) -> None:
    """A fault arrives with the peer's status and code, and with our own exact code under Details."""
    twin.faults["jobs"] = fault
    async with api.get(JOBS) as answer:
        body = await answer.json()
        assert (answer.status, body["Status"], body["Code"], body["Message"]) == (status, status, code, "x")
        assert body["Details"]["Fault"] == fault.failure().code
        assert "Hint" not in body


async def test_a_fault_nobody_foresaw_keeps_its_insides(api: Api, twin: Twin) -> None:
    """A programming error is 500 in the envelope: its text stays in the server's log, found by the request's id."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    twin.jobs = broken  # type: ignore[assignment, method-assign]
    async with api.get(JOBS) as answer:
        body = await answer.json()
        assert (answer.status, body["Code"]) == (500, "InternalError")
        assert "secret" not in str(body)
        assert body["RequestID"] == answer.headers["X-Request-Id"] != ""


async def test_the_request_keeps_its_id(api: Api) -> None:
    """A client's request id comes back in the header and in the envelope; one that could break a log is replaced."""
    async with api.get("/nope", headers={"X-Request-Id": "abc-1"}) as answer:
        assert answer.headers["X-Request-Id"] == (await answer.json())["RequestID"] == "abc-1"
    async with api.get("/nope", headers={"X-Request-Id": "a b"}) as answer:
        assert answer.headers["X-Request-Id"] not in ("", "a b")


async def test_every_answer_carries_the_version_headers(api: Api) -> None:
    """The five headers that the peer's client reads are there, and browsers of other origins may read."""
    async with api.get(JOBS) as answer:
        assert answer.headers["X-Bacalhau-Git-Version"] == "v1.9.3"
        assert {
            "X-Bacalhau-Git-Commit",
            "X-Bacalhau-Build-Date",
            "X-Bacalhau-Build-OS",
            "X-Bacalhau-Arch",
        } <= {*answer.headers}
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    asked = {
        "Origin": "http://x",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "a",
    }
    async with api.options(JOBS, headers=asked) as answer:
        assert answer.status == 200
        assert "PUT" in answer.headers["Access-Control-Allow-Methods"]


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("", 200),
        ("v1.4.0", 200),
        ("v1.9.3", 200),
        ("2.0.0", 200),
        ("v0.0.0", 200),
        ("v0.0.0-xxxxxxx", 200),
        ("v1.3.9", 403),
        ("x", 400),
    ],
)
async def test_the_version_gate(api: Api, version: str, status: int) -> None:
    """Clients before 1.4 are refused with both versions named; what is no version is 400; no version passes, as does the
    one of a client that was built without.
    """
    async with api.get(JOBS, headers={"X-Bacalhau-Git-Version": version} if version else {}) as answer:
        assert answer.status == status
        body = await answer.json()
    if status == 403:
        assert {"Error", "MinVersion", "ClientVersion", "ServerVersion"} == {*body}
        assert body["MinVersion"] == "v1.4.0"


async def test_a_body_beyond_the_limit_is_413(api: Api, twin: Twin) -> None:
    """A body of more than 10 MiB is refused in the envelope, whether its length was told or not, and no verb is called."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 2**20

    for body in (BytesIO(b"x" * (app.BODY_MAX_BYTES + 1)), pieces()):
        async with api.put(JOBS, data=body, headers={"Content-Type": "application/json"}) as answer:
            assert (answer.status, (await answer.json())["Status"]) == (413, 413)
    assert twin.calls == []


async def test_no_answer_takes_for_ever(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb that hangs is answered for: 503 after the deadline."""
    monkeypatch.setattr(app, "ANSWER_S", 0.01)
    twin.blocked.clear()
    hasty = test_utils.TestServer(app.application(twin, "0.1.0"))
    async with test_utils.TestClient(hasty) as api, api.get(JOBS) as answer:
        assert (answer.status, (await answer.json())["Code"]) == (503, "ServiceUnavailable")


@pytest.mark.parametrize("spelled", [str, str.lower, str.title])
async def test_the_anonymous_client_gets_its_token(api: Api, spelled: Callable[[str], str]) -> None:
    """The peer's client without credentials finds exactly one challenge, answers it, and is given a token.

    Its path is the method's name as it was told; a path of another spelling leads there too.
    """
    async with api.get("/api/v1/auth") as answer:
        methods = (await answer.json())["Methods"]
    ((name, method),) = methods.items()
    assert method["type"] == "challenge"
    assert base64.b64decode(method["params"]["InputPhrase"], validate=True)
    async with api.post(f"/api/v1/auth/{spelled(name)}", json={"Name": name, "MethodData": ""}) as answer:
        assert answer.status == 200
        given = (await answer.json())["Authentication"]
    assert given["success"] is True
    assert given["token"]


async def test_the_version_is_flat_and_comparable(api: Api) -> None:
    """The version answers with the peer's flat fields and a version its clients accept."""
    async with api.get("/api/v1/agent/version") as answer:
        body = await answer.json()
    assert {"Major", "Minor", "GitVersion", "GitCommit", "BuildDate", "GOOS", "GOARCH"} <= {*body}
    assert body["GitVersion"] == "v1.9.3"
    assert body["Shoal"] == "0.1.0"


@pytest.mark.parametrize("lack", ["connected", "writable"])
async def test_readiness_follows_the_log(api: Api, twin: Twin, lack: str) -> None:
    """A requester that cannot reach the log, or whose log takes nothing, is alive, and not ready."""
    async with api.get("/readyz") as answer:
        assert answer.status == 200
    twin.faults[lack] = Unavailable("x")
    async with api.get("/readyz") as answer:
        assert answer.status == 503
    async with api.get("/api/v1/agent/alive") as answer:
        assert answer.status == 200


async def test_one_who_goes_away_stops_the_work(api: Api, twin: Twin) -> None:
    """When a client hangs up, what it asked for is no longer worked on."""
    twin.blocked.clear()
    asking = asyncio.create_task(api.get(JOBS).__aenter__())
    await twin.asked.wait()
    asking.cancel()
    await twin.dropped.wait()


async def test_a_long_list_is_worked_out_and_let_go_of_beside_the_loop() -> None:
    """Things of which thousands are listed are neither looked at nor freed on the loop, where all would wait for it."""
    freed_in = set()

    class Thing:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            freed_in.add(threading.get_ident())

    told = await listed([Thing(number) for number in range(AT_ONCE + 1)], lambda each: each.number)

    assert msgspec.json.decode(msgspec.json.encode(told)) == [*range(AT_ONCE + 1)]
    assert freed_in
    assert threading.get_ident() not in freed_in
