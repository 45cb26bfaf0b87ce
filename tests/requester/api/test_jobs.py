"""The routes about jobs: reference of the peer's API, sections 3.2 and 3.6."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import test_utils, web

from protocol.errors import Failure
from protocol.ids import JobId, NodeId, short
from protocol.jobs import Input, Job, Resources, ResultPath, Spec, Task, Timeouts
from protocol.messages import RunOutput, Stage
from protocol.spec import Defaults, TypeDefaults
from protocol.states import ExecutionState, JobState
from requester.api import envelope, queries, views
from requester.api.app import application
from requester.core.model import JobRecord
from tests.requester.twin import BEGIN, NODE, Twin, a_node, queued

Api = test_utils.TestClient[web.Request, web.Application]
S = ExecutionState
JOBS = "/api/v1/orchestrator/jobs"
GOLDEN = Path(__file__).parent / "golden"
BODY = {"Job": {"Type": "batch", "Tasks": [{"Name": "main", "Engine": {"Type": "noop"}}]}}


def a_job(name: str = "", **more: Any) -> Job:
    return Job(name=name, tasks=[Task(engine=Spec("noop"))], **more)


async def _get(api: Api, path: str, status: int = 200, **query: Any) -> Any:
    async with api.get(path, params=query) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json()


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_job_is_submitted_by_put_or_post(api: Api, twin: Twin, method: str) -> None:
    """Both methods take a job and answer 200 with its id, an evaluation's id and the warnings as a list."""
    async with api.request(method, JOBS, json=BODY) as answer:
        assert answer.status == 200
        body = await answer.json()
    assert body["JobID"] in twin.records
    assert body["EvaluationID"]
    assert body["Warnings"] == []


async def test_a_body_is_read_in_any_case(api: Api, twin: Twin) -> None:
    """Keys of any case, nulls for what is empty, unknown keys and the Python SDK's members all work."""
    body = {
        "job": {
            "TYPE": "batch",
            "labels": None,
            "tasks": [
                {"name": "main", "engine": {"type": "NOOP", "params": None}, "env": None, "nonsense": 1}
            ],
        },
        "namespace": "team",
        "idempotencyToken": "",
        "credential": None,
    }
    async with api.put(JOBS, json=body) as answer:
        assert answer.status == 200
        record = twin.records[(await answer.json())["JobID"]]
    assert (record.spec.type, record.spec.namespace, record.spec.task.engine.type) == (
        "batch",
        "team",
        "noop",
    )


async def test_system_fields_are_dropped_with_a_warning(api: Api) -> None:
    """What only the server sets is not taken from a client; the answer says so."""
    body = {"Job": {**BODY["Job"], "ID": "j-mine", "Version": 7}}
    async with api.put(JOBS, json=body) as answer:
        given = await answer.json()
    assert given["JobID"] != "j-mine"
    assert len(given["Warnings"]) == 2


async def test_all_faults_of_a_spec_come_at_once(api: Api, twin: Twin) -> None:
    """A bad spec is 400 with every fault and its path, and nothing is submitted."""
    body = {"Job": {"Type": "bacth", "Tasks": [{"Name": "main", "Engine": {"Type": "dokcer"}}]}}
    async with api.put(JOBS, json=body) as answer:
        given = await answer.json()
        assert (answer.status, given["Code"]) == (400, "ValidationError")
    assert 'did you mean "batch"' in given["Message"]
    assert "Tasks[0].Engine.Type" in given["Message"]
    assert twin.records == {}


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b'"x"', b"{}", b'{"Job": 3}', b"\xff\xfe", b"[" * 100_000, b'{"Job": {"Type": NaN}}'],
)
async def test_a_body_that_is_none_is_refused(api: Api, twin: Twin, data: bytes) -> None:
    """A body that is not JSON, not an object, has no job, or nests without end is 400, never 500."""
    async with api.put(JOBS, data=data, headers={"Content-Type": "application/json"}) as answer:
        assert (answer.status, (await answer.json())["Status"]) == (400, 400)
    assert twin.records == {}


async def test_force_and_client_reach_the_verb(api: Api, twin: Twin) -> None:
    """Force submits the same spec again as a new version; without it that is a conflict."""
    body = {"Job": {**BODY["Job"], "Name": "n"}}
    for force, status in ((False, 200), (False, 409), (True, 200)):
        async with api.put(
            JOBS, json={**body, "Force": force}, headers={"X-Bacalhau-InstallationID": "me"}
        ) as answer:
            assert answer.status == status
    assert [what[1:] for verb, what in twin.calls if verb == "submit"][-1] == ("me", True)
    ((_, record),) = twin.records.items()
    assert record.version == 2


@pytest.mark.parametrize(
    ("client", "statuses"),
    [("v1.4.0", [200, 200]), ("v1.7.0", [200, 200]), ("v1.8.0", [200, 409]), ("", [200, 409])],
)
async def test_a_named_spec_runs_again_for_clients_without_force(
    api: Api, twin: Twin, client: str, statuses: list[int]
) -> None:
    """To Bacalhau's clients before 1.8 each submission is a job, and they have no flag to insist: the same spec under the
    same name runs once more, as the job's next version, and they are warned of that. Later ones hear that nothing changes.
    """
    body = {"Job": {**BODY["Job"], "Name": "n"}}
    answers = []
    for status in statuses:
        headers = {"X-Bacalhau-Git-Version": client} if client else {}
        async with api.put(JOBS, json=body, headers=headers) as answer:
            assert answer.status == status
            answers.append(await answer.json())
    assert not answers[0]["Warnings"]
    if statuses[1] == 200:
        assert (answers[1]["JobID"], answers[1]["JobVersion"]) == (answers[0]["JobID"], 2)
        assert answers[1]["Warnings"] == [
            "there is a job named 'n' already: this is version 2 of it and takes its place"
        ]


async def test_jobs_are_listed_oldest_first_and_paged(api: Api, twin: Twin) -> None:
    """Without a wish the oldest comes first; a token leads through all pages, in the direction it was begun in."""
    ids = [await twin.submitted(a_job(f"job-{number}")) for number in range(5)]
    for reverse, wanted in (("false", ids), ("true", ids[::-1])):
        found: list[str] = []
        token = ""
        while True:
            # A later page is asked for by its token alone.
            query = {"next_token": token} if token else {"limit": 2, "reverse": reverse}
            page = await _get(api, JOBS, **query)
            found += [item["ID"] for item in page["Items"]]
            token = page["NextToken"]
            if not token:
                break
        assert found == wanted


async def test_a_list_has_a_bound(api: Api, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """No limit means all, in pages of bounded size: the token says that there is more."""
    monkeypatch.setattr(queries, "LIMIT_MAX", 2)
    for number in range(3):
        await twin.submitted(a_job(f"job-{number}"))
    first = await _get(api, JOBS)
    assert len(first["Items"]) == 2
    assert len((await _get(api, JOBS, next_token=first["NextToken"]))["Items"]) == 1


async def test_a_long_list_holds_up_nobody(api: Api, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many jobs are told at once, each looks as it does alone; and other requests have their turn meanwhile."""
    for number in range(4):
        await twin.submitted(a_job(f"j{number}"))
    alone = [(await _get(api, f"{JOBS}/j{number}"))["Job"] for number in range(4)]
    on_loop: list[bool] = []
    view = views.job

    def watched(record: JobRecord) -> dict[str, Any]:
        on_loop.append(threading.current_thread() is threading.main_thread())
        return view(record)

    monkeypatch.setattr(views, "job", watched)
    assert (await _get(api, JOBS))["Items"] == alone
    monkeypatch.setattr(envelope, "AT_ONCE", 3)
    assert (await _get(api, JOBS))["Items"] == alone
    assert on_loop == [True] * 4 + [False] * 4


async def test_lists_filter(api: Api, twin: Twin) -> None:
    """Namespace (``*`` is all) and label selectors choose jobs; the state too."""
    first = await twin.submitted(a_job("a", labels={"env": "prod"}))
    await twin.submitted(a_job("b", namespace="other"))
    assert [item["ID"] for item in (await _get(api, JOBS, namespace="default"))["Items"]] == [first]
    assert len((await _get(api, JOBS, namespace="*"))["Items"]) == 2
    assert [item["ID"] for item in (await _get(api, JOBS, labels="env in (prod)"))["Items"]] == [first]
    await twin.complete(first)
    assert [item["ID"] for item in (await _get(api, JOBS, state="Completed"))["Items"]] == [first]


async def test_the_python_sdk_spells_its_own_way(api: Api, twin: Twin) -> None:
    """``None``, ``False``, ``True`` and empty values are what the SDK sends for absent, no and yes."""
    ids = [await twin.submitted(a_job(f"job-{number}")) for number in range(2)]
    query: dict[str, Any] = {
        "namespace": "None",
        "limit": "None",
        "next_token": "",
        "order_by": "",
        "labels": "",
    }
    assert [item["ID"] for item in (await _get(api, JOBS, reverse="False", **query))["Items"]] == ids
    assert [item["ID"] for item in (await _get(api, JOBS, reverse="True", **query))["Items"]] == ids[::-1]
    await _get(api, f"{JOBS}/{ids[0]}/executions", order_by="", namespace="None", limit="", reverse="")


@pytest.mark.parametrize(
    "query",
    [
        {"order_by": "colour"},
        {"limit": "-1"},
        {"limit": "many"},
        {"limit": "9" * 30},
        {"reverse": "maybe"},
        {"next_token": "nonsense"},
        {"next_token": queries.pack("created_at", "N", "x", "y")},
        {"next_token": queries.pack("created_at", "N", 1, "9" * 5_000)},
        {"labels": "a in ("},
    ],
)
async def test_bad_queries_are_told(api: Api, query: dict[str, str]) -> None:
    """A parameter that cannot be read is 400 and named, never ignored and never 500."""
    assert (await _get(api, JOBS, status=400, **query))["Message"]


async def test_a_job_is_found_by_name_id_and_prefix(api: Api, twin: Twin) -> None:
    """A reference is a name, an id, or the unique beginning of one; what is unknown is 404, what is several 409."""
    id_ = await twin.submitted(a_job("count-words"))
    for ref in ("count-words", id_, id_[:10]):
        assert (await _get(api, f"{JOBS}/{ref}"))["Job"]["ID"] == id_
    missing = await _get(api, f"{JOBS}/j-nope", status=404)
    assert (missing["Code"], missing["Status"]) == ("NotFound", 404)
    assert "j-nope" in missing["Message"]
    await twin.submitted(a_job("other"))
    several = await _get(api, f"{JOBS}/j-", status=409)
    assert several["Code"] == "MultipleJobsFound"
    assert {*several["Details"]} == {*twin.records, "Fault"}


async def test_include_brings_executions_and_history(api: Api, twin: Twin) -> None:
    """What is included is there as the peer's client reads it, in one comma list or several parameters."""
    id_ = await twin.submitted(a_job())
    execution = await twin.complete(id_)
    plain = await _get(api, f"{JOBS}/{id_}")
    assert {*plain} == {"Job"}
    for params in ([("include", "executions,history")], [("include", "history"), ("include", "executions")]):
        async with api.get(f"{JOBS}/{id_}", params=params) as answer:
            view = await answer.json()
        assert [item["ID"] for item in view["Executions"]["Items"]] == [execution]
        assert view["History"]["Items"][0]["Event"]["Topic"] == "Submission"


async def test_earlier_versions_can_be_asked_for(api: Api, twin: Twin) -> None:
    """``job_version`` shows a job as it was."""
    id_ = await twin.submitted(a_job("n"))
    await twin.submitted(a_job("n", count=2))
    assert (await _get(api, f"{JOBS}/n"))["Job"]["Count"] == 2
    assert (await _get(api, f"{JOBS}/{id_}", job_version=1))["Job"]["Count"] == 1
    await _get(api, f"{JOBS}/n", status=404, job_version=9)


async def test_states_and_times_have_the_peers_forms(api: Api, twin: Twin) -> None:
    """A job's state is a word, an execution's states are numbers, their times are whole nanoseconds."""
    id_ = await twin.submitted(a_job())
    await twin.assign(id_)
    view = await _get(api, f"{JOBS}/{id_}", include="executions")
    (execution,) = view["Executions"]["Items"]
    assert view["Job"]["State"]["StateType"] == "Running"
    assert execution["ComputeState"]["StateType"] == 5
    assert execution["DesiredState"]["StateType"] == 1
    for time in (view["Job"]["CreateTime"], execution["ModifyTime"]):
        assert isinstance(time, int)
        assert BEGIN * 1e9 < time < (BEGIN + 100) * 1e9


@pytest.mark.parametrize(
    ("state", "number"),
    [(S.STAGING, 5), (S.RUNNING, 6), (S.PUBLISHING, 7), (S.COMPLETED, 9), (S.REFUSED, 4), (S.FAILED, 10)],
)
async def test_each_execution_state_has_its_number(
    api: Api, twin: Twin, state: ExecutionState, number: int
) -> None:
    """Our states are shown as the peer's numbers; our own word stands beside them."""
    id_ = await twin.submitted(a_job())
    execution = await twin.assign(id_)
    await twin.report(execution, state, stages=[Stage(state, BEGIN)])
    (item,) = (await _get(api, f"{JOBS}/{id_}/executions"))["Items"]
    assert (item["ComputeState"]["StateType"], item["State"]) == (number, state)


async def test_executions_have_names_of_their_own(api: Api, twin: Twin) -> None:
    """An execution's name says which attempt it is, at a partition or, of a job that runs on every node, on a node."""
    batch = await twin.submitted(a_job(count=2))
    ops = await twin.submitted(a_job(type="ops", count=0))
    for partition in range(2):
        await twin.assign(batch, partition=partition)
    for node in ("n-1", "n-2"):
        await twin.assign(ops, node=NodeId(node))

    for id_, places in ((batch, ["0", "1"]), (ops, ["n-1", "n-2"])):
        items = (await _get(api, f"{JOBS}/{id_}/executions"))["Items"]
        assert [item["Name"] for item in items] == [f"{short(id_)}.{place}.1" for place in places]


async def test_what_an_execution_was_given_stands_under_its_tasks_name(api: Api, twin: Twin) -> None:
    """A task may have any name, and what its execution may take is found under that, as the peer has it."""
    id_ = await twin.submitted(Job(tasks=[Task(name="My main task", engine=Spec("noop"))]))
    await twin.complete(id_)

    (execution,) = (await _get(api, f"{JOBS}/{id_}/executions"))["Items"]

    assert execution["AllocatedResources"]["Tasks"]["My main task"]["CPU"] == 0.5


def test_every_state_has_a_translation() -> None:
    """No state of ours is without the peer's name."""
    assert {*views.EXECUTION_STATES} == {*ExecutionState}
    assert {*views.JOB_STATES} == {*JobState}


async def test_a_queued_job_says_why(api: Api, twin: Twin) -> None:
    """The reason for waiting is the state's message; its place in the queue stands beside the job."""
    id_ = await twin.submitted(a_job())
    await twin.write(id_, queued("all nodes are full"))
    view = await _get(api, f"{JOBS}/{id_}")
    state = view["Job"]["State"]
    assert (state["StateType"], state["Message"]) == ("Queued", "all nodes are full")
    since = views.timestamp(BEGIN + 2)
    assert view["Queue"] == {"Ahead": 0, "Waiting": 1, "Since": since, "KeptNode": NODE}


async def test_a_job_is_stopped_with_a_reason(api: Api, twin: Twin) -> None:
    """DELETE with a JSON body stops, again is harmless, without a body works; of an ended job it is a conflict."""
    id_ = await twin.submitted(a_job())
    await twin.assign(id_)
    for body in ({"reason": "enough"}, None):
        async with api.delete(f"{JOBS}/{id_}", json=body) as answer:
            assert answer.status == 200
            assert (await answer.json())["EvaluationID"]
    assert ("stop", (id_, "enough")) in twin.calls
    ended = await twin.submitted(a_job())
    await twin.complete(ended)
    async with api.delete(f"{JOBS}/{ended}") as answer:
        assert (answer.status, (await answer.json())["Code"]) == (409, "ConflictJobState")


async def _all_history(api: Api, id_: JobId, **query: Any) -> tuple[list[Any], str]:
    items: list[Any] = []
    token = ""
    for _ in range(50):
        page = await _get(api, f"{JOBS}/{id_}/history", next_token=token, **query)
        items += page["Items"]
        token = page["NextToken"]
        if not token or not page["Items"]:
            return items, token
    raise AssertionError("the history does not end")


async def test_history_has_a_token_until_it_is_over(api: Api, twin: Twin) -> None:
    """The token is there while the job is not closed, items or not; behind the last item of a closed job it is empty.

    The peer's client polls until it is, so nothing may be missed or told twice on the way.
    """
    id_ = await twin.submitted(a_job())
    first, token = await _all_history(api, id_, limit=1)
    assert token
    empty = await _get(api, f"{JOBS}/{id_}/history", next_token=token)
    assert (empty["Items"], bool(empty["NextToken"])) == ([], True)
    await twin.complete(id_)
    rest = []
    token = empty["NextToken"]
    while token:
        page = await _get(api, f"{JOBS}/{id_}/history", next_token=token, limit=2)
        rest += page["Items"]
        token = page["NextToken"]
    whole = (await _get(api, f"{JOBS}/{id_}/history"))["Items"]
    assert first + rest == whole
    assert whole[-1]["Event"]["Details"]["NewState"] == "Completed"


@pytest.mark.parametrize(
    ("version", "old"), [("v1.4.0", True), ("v1.5.0", False), ("v0.0.0", False), ("", False)]
)
async def test_history_has_what_a_client_of_1_4_looks_into(
    api: Api, twin: Twin, version: str, old: bool
) -> None:
    """Clients of 1.4 end without a word where a line has no change of state, even an empty one; later ones see none."""
    id_ = await twin.submitted(a_job())
    await twin.complete(id_)
    headers = {"X-Bacalhau-Git-Version": version} if version else {}
    for path, query in ((f"{JOBS}/{id_}/history", {}), (f"{JOBS}/{id_}", {"include": "history"})):
        async with api.get(path, params=query, headers=headers) as answer:
            told = await answer.json()
        items = told.get("History", told)["Items"]
        assert {item["Type"] for item in items} == {"JobLevel", "ExecutionLevel"}
        for item in items:
            changed = "ExecutionState" if item["Type"] == "ExecutionLevel" else "JobState"
            assert {name: item[name] for name in ("JobState", "ExecutionState") if name in item} == (
                {changed: {}} if old else {}
            )


async def test_history_can_be_narrowed(api: Api, twin: Twin) -> None:
    """By level, by execution, by node, by time."""
    id_ = await twin.submitted(a_job())
    execution = await twin.complete(id_)
    path = f"{JOBS}/{id_}/history"
    for level, type_ in (("job", "JobLevel"), ("execution", "ExecutionLevel")):
        assert {item["Type"] for item in (await _get(api, path, event_type=level))["Items"]} == {type_}
    items = (await _get(api, path, execution_id=execution[:10]))["Items"]
    assert {item["ExecutionID"] for item in items} == {execution}
    assert (await _get(api, path, node_id=NODE))["Items"] == items
    assert (await _get(api, path, node_id="n-other"))["Items"] == []
    assert (await _get(api, path, since=int(BEGIN) + 10_000))["Items"] == []
    await _get(api, path, status=400, event_type="nonsense")


async def test_executions_are_ordered_and_cut(api: Api, twin: Twin) -> None:
    """Order, direction, limit and versions of a job's executions: of earlier ones what still runs, or what is asked for."""
    id_ = await twin.submitted(a_job("n", count=2))
    made = [await twin.assign(id_, partition=number) for number in range(2)]
    path = f"{JOBS}/n/executions"
    assert [item["ID"] for item in (await _get(api, path, order_by="create_time"))["Items"]] == made
    assert [item["ID"] for item in (await _get(api, path, reverse="true", limit=1))["Items"]] == made[1:]
    await twin.submitted(a_job("n", count=3))
    assert [(item["ID"], item["JobVersion"]) for item in (await _get(api, path))["Items"]] == [
        (id_, 1) for id_ in made
    ]
    for execution in made:
        await twin.report(execution, ExecutionState.CANCELLED)
    assert (await _get(api, path))["Items"] == []
    assert len((await _get(api, path, all_job_versions="true"))["Items"]) == 2
    assert len((await _get(api, path, job_version=1))["Items"]) == 2


async def test_results_are_specs(api: Api, twin: Twin) -> None:
    """Each published result is a spec that can be read back, and says which execution it is of and what was written."""
    id_ = await twin.submitted(a_job())
    await twin.complete(id_)
    page = await _get(api, f"{JOBS}/{id_}/results")
    (execution,) = (await _get(api, f"{JOBS}/{id_}/executions"))["Items"]
    spec = {"Type": "ipfs", "Params": {"CID": "bafyresult"}}
    (result,) = page["Items"]
    assert result.pop("Written")["Count"] == 12
    assert result == {**spec, "ExecutionID": execution["ID"]}


async def test_rerun_versions_and_diff(api: Api, twin: Twin) -> None:
    """Rerun makes a version of an earlier one's spec, versions lists them all, diff tells what a spec would change."""
    id_ = await twin.submitted(a_job("n"))
    await twin.complete(id_)
    await twin.submitted(a_job("n", count=3))

    async with api.put(f"{JOBS}/n/rerun", json={"JobVersion": 1, "Reason": "again"}) as answer:
        body = await answer.json()
    assert (body["JobID"], body["JobVersion"], body["Warnings"]) == (id_, 3, [])
    assert body["EvaluationID"]
    page = await _get(api, f"{JOBS}/{id_}/versions")
    assert [(item["Version"], item["Count"]) for item in page["Items"]] == [(1, 1), (2, 3), (3, 1)]
    assert page["Items"][0]["State"]["StateType"] == "Completed"
    items = (await _get(api, f"{JOBS}/{id_}/history"))["Items"]
    assert items[0]["Event"]["Message"] == "Job rerun requested (version 1): again"

    changed = {"Job": {**BODY["Job"], "Name": "n", "Count": 2, "Labels": {"team": "a"}}}
    async with api.put(f"{JOBS}/diff", json=changed) as answer:
        assert await answer.json() == {"Diff": '- Count: 1\n+ Count: 2\n+ Labels.team: "a"', "Warnings": []}
    async with api.put(f"{JOBS}/diff", json={"Job": {**changed["Job"], "Name": "other"}}) as answer:
        assert answer.status == 404
    async with api.put(f"{JOBS}/n/rerun", json={"JobVersion": "one"}) as answer:
        assert answer.status == 400


async def test_explain(api: Api, twin: Twin) -> None:
    """Each execution tells why it went where it is, and each node how it stands towards the next one."""
    task = Task(engine=Spec("docker", {"Image": "x"}))
    id_ = await twin.submitted(Job(name="n", tasks=[task]))
    execution = await twin.assign(id_)
    twin.known[NodeId("n-2")] = a_node(NodeId("n-2"), connected=False)

    view = await _get(api, f"{JOBS}/n/explain")

    (decision,) = view["Decisions"]
    assert (decision["ExecutionID"], decision["NodeID"], decision["Why"]) == (execution, NODE, "most room")
    assert decision["Candidates"][0]["InputBytes"] == 3 << 30
    assert decision["Others"] == [{"Reason": "has no engine docker", "Nodes": 1}]
    assert [(each["NodeID"], each["Standing"]) for each in view["Nodes"]] == [(NODE, "next"), ("n-2", "away")]


async def test_golden_forms(api: Api, twin: Twin) -> None:
    """A job, an execution, a line of history and a node look over REST exactly as the files say: these are promises."""
    task = Task(
        engine=Spec("docker", {"Image": "ubuntu:24.04", "Parameters": ["echo", "hello"]}),
        publisher=Spec("ipfs"),
        env={"MODE": "fast"},
        input_sources=[Input(Spec("s3", {"Bucket": "b", "Key": "k"}), "/in", "alias")],
        result_paths=[ResultPath("outputs", "/outputs")],
        resources=Resources(cpu="500m"),
    )
    id_ = await twin.submitted(Job(name="golden", labels={"team": "a"}, tasks=[task]))
    execution = await twin.assign(id_)
    failure = Failure(
        "NotFound.Image", "no such image", hint="check its name", details={"Image": "ubuntu:24.04"}
    )
    await twin.report(
        execution,
        S.FAILED,
        failure=failure,
        output=RunOutput(stdout="hello\n", stderr="oh\n", exit_code=1),
        result=Spec("ipfs", {"CID": "bafyresult"}),
    )
    await twin.close(id_, JobState.FAILED, failure)
    view = await _get(api, f"{JOBS}/{id_}", include="executions,history")
    shown = {
        "job": view["Job"],
        "execution": view["Executions"]["Items"][0],
        "history": view["History"]["Items"][-1],
        "node": (await _get(api, "/api/v1/orchestrator/nodes"))["Nodes"][0],
    }
    shown["node"]["Info"]["BacalhauVersion"] = {"GitVersion": "v1.9.3"}
    for name, value in shown.items():
        assert value == json.loads((GOLDEN / f"{name}.json").read_text()), name


async def test_the_requesters_defaults_fill_what_is_missing(twin: Twin) -> None:
    """Where a job says nothing, the requester's own publisher and timeouts count; what it says stays."""
    mine = TypeDefaults(publisher=Spec("local"), timeouts=Timeouts(total_timeout=1800))
    app = application(twin, "0.1.0", Defaults(batch=mine))
    async with test_utils.TestClient(test_utils.TestServer(app)) as api:
        for timeouts, wanted in (({}, 1800), ({"TotalTimeout": 60}, 60)):
            task = {"Name": "main", "Engine": {"Type": "noop"}, "Timeouts": timeouts}
            async with api.put(JOBS, json={"Job": {"Type": "batch", "Tasks": [task]}}) as answer:
                record = twin.records[(await answer.json())["JobID"]]
            assert record.spec.task.publisher.type == "local"
            assert record.spec.task.timeouts.total_timeout == wanted
