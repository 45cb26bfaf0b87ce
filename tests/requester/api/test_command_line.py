"""What Bacalhau's own command line sends (release 1.7.0, as it was recorded), answered as it needs it.

The program itself is not there in CI; what it would send is.
"""

import json
from typing import Any

from aiohttp import test_utils, web

from protocol.jobs import Spec
from tests.requester.api.test_jobs import a_job
from tests.requester.twin import NODE, Twin

Api = test_utils.TestClient[web.Request, web.Application]
Json = dict[str, Any]
BASE = "/api/v1/orchestrator"
HEADERS = {
    "Accept-Encoding": "gzip",
    "X-Bacalhau-Git-Version": "v1.7.0",
    "X-Bacalhau-Git-Commit": "aaaa",
    "X-Bacalhau-Build-Date": "1970-01-01 00:00:00 +0000 UTC",
    "X-Bacalhau-Build-Os": "linux",
    "X-Bacalhau-Arch": "amd64",
    "X-Bacalhau-Instanceid": "0035969ec53f6e7f",
}
REQUEST = {
    "Namespace": "",
    "Credential": {"Scheme": "Bearer", "Value": "anonymous", "Params": None},
    "IdempotencyToken": "",
}
"""What every body has."""
UNSET = {
    "ID": "",
    "Name": "",
    "Namespace": "default",
    "Type": "batch",
    "Priority": 0,
    "Count": 1,
    "Constraints": [],
    "Meta": {},
    "Labels": {},
    "State": {"StateType": "Undefined"},
    "Version": 0,
    "Revision": 0,
    "CreateTime": 0,
    "ModifyTime": 0,
}
"""A job that no flag says anything of."""


def source(type: str, target: str, **params: object) -> Json:
    """An input as the flag ``-i`` makes it."""
    return {"Source": {"Type": type, "Params": params}, "Alias": f"alias of {target}", "Target": target}


async def call(
    api: Api, method: str, path: str, body: Json | None = None, query: dict[str, str] | None = None
) -> Json:
    """One request of the command line's, which takes no answer but 200 for success."""
    data = None if body is None else json.dumps(body) + "\n"
    headers = HEADERS if body is None else {**HEADERS, "Content-Type": "application/json"}
    async with api.request(method, path, data=data, params=query or {}, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        told: Json = await answer.json()
        return told


async def put(api: Api, **job: object) -> Json:
    """Submit what `job` says beside what is not set."""
    return await call(api, "PUT", f"{BASE}/jobs", {**REQUEST, "Job": {**UNSET, **job}})


async def test_a_docker_job_with_every_flag(api: Api, twin: Twin) -> None:
    """``docker run`` with inputs of all kinds, outputs, limits and constraints makes that job, and nothing is warned of."""
    params = {
        "Entrypoint": None,
        "EnvironmentVariables": None,
        "Image": "busybox:1.36",
        "Parameters": ["echo", "hi"],
        "WorkingDirectory": "",
    }
    unset = {"ChecksumSHA256": "", "Endpoint": "", "Filter": "", "Region": "", "VersionID": ""}
    task = {
        "Name": "main",
        "Engine": {"Type": "docker", "Params": params},
        "Publisher": {"Type": "local"},
        "Env": {"A": "b"},
        "InputSources": [
            source("s3", "/in", Bucket="b", Key="k", **unset),
            source("ipfs", "/ip", CID="bafybeiaphwdvluan6ve5ozrc2j34m7n25cahjbeomzc33nfsourn53x4ue"),
            source("urlDownload", "/u", URL="https://x.invalid/a"),
            source("localDirectory", "/f", ReadWrite=False, SourcePath="/data"),
        ],
        "ResultPaths": [{"Name": "outputs", "Path": "/outputs"}],
        "Resources": {"CPU": "0.1", "Memory": "1gb"},
        "Network": {"Type": "HTTP", "Domains": ["example.com"]},
        "Timeouts": {"QueueTimeout": 1, "TotalTimeout": 5},
    }
    chosen = [{"Key": "region", "Operator": "in", "Values": ["eu", "us"]}]

    told = await put(api, Name="p1", Labels={"a": "b"}, Constraints=chosen, Tasks=[task])

    assert told["Warnings"] == []
    spec = twin.records[told["JobID"]].spec
    assert (spec.name, spec.labels, spec.constraints[0].values) == ("p1", {"a": "b"}, ["eu", "us"])
    assert [each.source.type for each in spec.task.input_sources] == ["s3", "ipfs", "urlDownload", "local"]
    assert (spec.task.network.type, spec.task.timeouts.total_timeout) == ("HTTP", 5)


async def test_a_wasm_job_from_a_file(api: Api, twin: Twin) -> None:
    """``wasm run FILE`` ships the file as an input, and names it without a slash."""
    params = {"EntryModule": "main.wasm", "Entrypoint": "_start", "ImportModules": None, "Parameters": ["a"]}
    shipped = {"Source": {"Type": "inline", "Params": {"URL": "data:application/gzip;base64,H4sIAA=="}}}
    task = {
        "Name": "main",
        "Engine": {"Type": "wasm", "Params": params},
        "Publisher": {"Type": ""},
        "InputSources": [{**shipped, "Alias": "", "Target": "main.wasm"}],
        "Resources": {},
        "Network": {"Type": "Default"},
        "Timeouts": {},
    }

    told = await put(api, Tasks=[task])

    made = twin.records[told["JobID"]].spec.task
    assert made.engine == Spec(
        "wasm", {"EntryModule": "/main.wasm", "Entrypoint": "_start", "Parameters": ["a"]}
    )
    assert [each.target for each in made.input_sources] == ["/main.wasm"]


async def test_a_job_is_followed_by_its_history(api: Api, twin: Twin) -> None:
    """It asks for ten lines at a time until there is no next token, then for the job's state, which is a word."""
    id_ = await twin.submitted(a_job())
    lines: list[str] = []
    asked = {"event_type": "all", "limit": "10"}
    token: dict[str, str] = {}
    while True:
        page = await call(api, "GET", f"{BASE}/jobs/{id_}/history", query=asked | token)
        lines += [item["Event"]["Message"] for item in page["Items"]]
        if not page["NextToken"]:
            break
        token = {"next_token": page["NextToken"]}
        if not page["Items"]:
            await twin.complete(id_)

    job = (await call(api, "GET", f"{BASE}/jobs/{id_}"))["Job"]

    assert (lines[0], lines[-1]) == ("Job submitted", "Completed successfully")
    assert job["State"]["StateType"] == "Completed"


async def test_lists_and_decisions(api: Api, twin: Twin) -> None:
    """``job list``, ``node list``, ``job stop``, ``node reject`` and ``node approve`` do what they say."""
    id_ = await twin.submitted(a_job())
    jobs = await call(api, "GET", f"{BASE}/jobs", query={"labels": "bacalhau_canary!=true", "limit": "10"})
    nodes = await call(api, "GET", f"{BASE}/nodes", query={"filter-status": "connected"})

    stopped = await call(
        api, "DELETE", f"{BASE}/jobs/{id_}", {**REQUEST, "reason": "Stopped at user request"}
    )
    for action, membership in (("reject", "REJECTED"), ("approve", "APPROVED")):
        body = {**REQUEST, "Action": action, "Message": "why", "NodeID": NODE}
        assert (await call(api, "PUT", f"{BASE}/nodes/{NODE}", body))["Success"] is True
        assert twin.known[NODE].membership == membership

    assert [each["ID"] for each in jobs["Items"]] == [id_]
    assert [each["Info"]["NodeID"] for each in nodes["Nodes"]] == [NODE]
    assert stopped["EvaluationID"]
    assert twin.records[id_].message == "Stopped at user request"
