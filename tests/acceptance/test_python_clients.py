"""Bacalhau's own Python clients (`bacalhau-apiclient`, `bacalhau-sdk`), against the session's deployment.

They are the peer's released packages, unchanged: what they send and what they read is theirs.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from deploy.programs import HOW_TO_GET, Missing, clients_folder
from tests.acceptance import client_calls
from tests.acceptance.deployment import CLEAN_S, Api, Deployment
from tests.acceptance.jobs import OUTPUTS, SMALL
from tests.conftest import skip

Json = dict[str, Any]
CALLS: Final = Path(client_calls.__file__)


class Clients:
    """The clients in a process of their own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def answer(self, object_: str, method: str, *arguments: Any, **named: Any) -> Json:
        """One call, and what it returned or how it was refused."""
        given, said = self._process.stdin, self._process.stdout
        assert given is not None
        assert said is not None
        print(json.dumps([object_, method, arguments, named]), file=given, flush=True)
        answer: Json = json.loads(said.readline())
        return answer

    def call(self, object_: str, method: str, *arguments: Any, **named: Any) -> Any:
        """One call that has to succeed."""
        answer = self.answer(object_, method, *arguments, **named)
        assert "returned" in answer, answer
        return answer["returned"]

    def refused(self, object_: str, method: str, *arguments: Any, **named: Any) -> tuple[int, Json]:
        """One call that has to be refused: the status and the envelope."""
        answer = self.answer(object_, method, *arguments, **named)
        assert "refused" in answer, answer
        return answer["refused"], answer["body"]


@pytest.fixture(scope="module")
def clients(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """The clients, told where the deployment is as a person tells them."""
    folder = clients_folder()
    if not folder.exists():
        skip(Missing("bacalhau-sdk", HOW_TO_GET["bacalhau-sdk"]))
    env = {
        **os.environ,
        **deployment.env,
        "BACALHAU_DIR": str(tmp_path_factory.mktemp("bacalhau")),
        "PYTHONPATH": str(folder),
    }
    with subprocess.Popen(
        [sys.executable, "-P", CALLS], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield Clients(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(CLEAN_S) == 0


def a_job(namespace: str, image: str, script: str, name: str = "") -> Json:
    """A request to put a job, in the client's models."""
    params = {"Image": image, "Entrypoint": ["/bin/sh", "-c"], "Parameters": [script]}
    resources = {"@ResourcesConfig": {key.lower(): value for key, value in SMALL.items()}}
    task = {
        "name": "main",
        "engine": {"@SpecConfig": {"type": "docker", "params": params}},
        "publisher": {"@SpecConfig": {"type": "local", "params": {}}},
        "result_paths": [{"@ResultPath": {key.lower(): value for key, value in OUTPUTS[0].items()}}],
        "resources": resources,
        "network": {"@NetworkConfig": {"type": "None", "domains": []}},
        "timeouts": {"@TimeoutConfig": {"total_timeout": 300}},
        "env": {"WHO": "sdk"},
    }
    job = {
        "name": name,
        "namespace": namespace,
        "type": "batch",
        "count": 1,
        "labels": {"made-by": "sdk"},
        "tasks": [{"@Task": task}],
    }
    return {"@ApiPutJobRequest": {"job": {"@Job": job}, "namespace": namespace, "idempotency_token": "x"}}


def test_a_job_from_its_submission_to_its_results(
    clients: Clients, api: Api, image: str, namespace: str
) -> None:
    """`OrchestratorApi`: a job of the client's models is put, looked at, and its output, history and result are read."""
    put = clients.call(
        "OrchestratorApi", "orchestratorput_job", a_job(namespace, image, 'echo "$WHO"; echo x > /outputs/x')
    )
    job = put["job_id"]
    assert (put["evaluation_id"] != "", put["warnings"]) == (True, [])
    api.ended(job)

    got = clients.call("OrchestratorApi", "orchestratorget_job", job, include="executions,history", limit=10)
    assert got["job"]["state"]["state_type"] == "Completed"
    assert got["job"]["tasks"][0]["env"] == {"WHO": "sdk"}
    (execution,) = got["executions"]["items"]
    assert (execution["compute_state"]["state_type"], execution["desired_state"]["state_type"]) == (9, 2)
    assert (execution["run_output"]["stdout"], execution["run_output"]["exit_code"]) == ("sdk\n", 0)
    assert execution["allocated_resources"]["tasks"]["main"]["cpu"] == 0.1

    listed = clients.call("OrchestratorApi", "orchestratorjob_executions", job, order_by="")["items"]
    assert [each["id"] for each in listed] == [execution["id"]]
    history = clients.call("OrchestratorApi", "orchestratorjob_history", job)
    assert history == got["history"]
    assert history["items"][0]["event"]["topic"] == "Submission"
    for node, found in ((execution["node_id"], True), ("nobody", False)):
        items = clients.call("OrchestratorApi", "orchestratorjob_history", job, node_id=node)["items"]
        assert bool(items) is found
        assert {item["execution_id"] for item in items} <= {execution["id"]}

    (result,) = clients.call("OrchestratorApi", "orchestratorjob_results", job)["items"]
    assert result["type"] == "urlDownload"
    assert result["params"]["URL"].endswith(".tar.gz")


def test_jobs_are_listed_a_page_at_a_time(clients: Clients, api: Api, image: str, namespace: str) -> None:
    """`OrchestratorApi`: pages of one namespace, in either direction, until there is no token any more."""
    put = [
        clients.call(
            "OrchestratorApi", "orchestratorput_job", a_job(namespace, image, "true", f"job-{number}")
        )["job_id"]
        for number in range(3)
    ]
    for job in put:
        api.ended(job)
    for reverse in (False, True):
        query = {"namespace": namespace, "order_by": "created_at", "reverse": reverse, "limit": 2}
        first = clients.call("OrchestratorApi", "orchestratorlist_jobs", **query, next_token="")
        rest = clients.call(
            "OrchestratorApi", "orchestratorlist_jobs", **query, next_token=first["next_token"]
        )
        found = [item["id"] for item in (*first["items"], *rest["items"])]
        assert (found[::-1] if reverse else found) == put
        assert (len(first["items"]), rest["next_token"]) == (2, "")


def test_the_sdk_stops_and_reads_jobs(clients: Clients, api: Api, image: str, namespace: str) -> None:
    """`Jobs` of the SDK: put, get, list, executions, history, stop, results."""
    job = clients.call("Jobs", "put", a_job(namespace, image, "sleep 300"))["job_id"]
    (running,) = api.running(job)
    assert (
        clients.call("Jobs", "get", job, include="executions")["executions"]["items"][0]["id"]
        == running["ID"]
    )
    assert job in [item["id"] for item in clients.call("Jobs", "list", limit=5, reverse=True)["items"]]
    assert [item["id"] for item in clients.call("Jobs", "executions", job)["items"]] == [running["ID"]]
    # While a job is open its history goes on, which its token says.
    assert clients.call("Jobs", "history", job)["next_token"]
    assert clients.call("Jobs", "stop", job, reason="enough")["evaluation_id"]
    api.ended(job)
    assert clients.call("Jobs", "get", job)["job"]["state"]["state_type"] == "Stopped"
    ended = clients.call("Jobs", "history", job, event_type="job")
    assert (ended["next_token"], "enough" in json.dumps(ended["items"])) == ("", True)
    assert clients.call("Jobs", "results", job)["items"] == []


def test_refusals_are_the_envelope(clients: Clients, image: str, namespace: str) -> None:
    """A job that is not there, a spec that is wrong, an order that is none: the client raises with status and reason."""
    status, body = clients.refused("OrchestratorApi", "orchestratorget_job", "nobody")
    assert (status, body["Code"], body["Status"]) == (404, "NotFound", 404)
    wrong = a_job(namespace, "", "true")
    status, body = clients.refused("OrchestratorApi", "orchestratorput_job", wrong)
    assert (status, "Image" in body["Message"]) == (400, True)
    status, body = clients.refused("OrchestratorApi", "orchestratorlist_jobs", order_by="colour")
    assert (status, "colour" in body["Message"]) == (400, True)


def test_nodes_and_the_agent(clients: Clients, deployment: Deployment) -> None:
    """`OrchestratorApi`, `OpsApi`, `UtilsApi`, `MiscApi`: nodes with filters, and all the agent tells about itself."""
    nodes = clients.call("OrchestratorApi", "orchestratorlist_nodes")["nodes"]
    assert sorted(node["info"]["node_id"] for node in nodes) == sorted(deployment.nodes)
    assert "docker" in nodes[0]["info"]["compute_node_info"]["execution_engines"]
    name = deployment.nodes[0]
    node = clients.call("OrchestratorApi", "orchestratorget_node", name)["node"]["info"]
    assert (node["node_id"], node["node_type"]) == (name, "Compute")
    assert node["compute_node_info"]["max_capacity"]["cpu"] == 2.0
    for query, count in (
        ({"limit": 1, "order_by": "available_cpu", "reverse": True}, 1),
        ({"filter_status": "DISCONNECTED"}, 0),
        ({"filter_approval": "REJECTED"}, 0),
        ({"filter_approval": "APPROVED", "filter_status": "CONNECTED", "next_token": ""}, len(nodes)),
    ):
        found = clients.call("OrchestratorApi", "orchestratorlist_nodes", **query)["nodes"]
        assert len(found) == count, query

    version = clients.call("OpsApi", "agentversion")
    assert version["git_version"].startswith("v1.")
    told = clients.call("MiscApi", "api_serverversion", {"@SharedVersionRequest": {"client_id": "x"}})
    assert told["build_version_info"] == version
    requester = deployment.cluster.api.name
    assert clients.call("OpsApi", "agentnode")["node_id"] == requester
    assert clients.call("UtilsApi", "node_info")["node_id"] == requester
    assert clients.call("UtilsApi", "id") == requester
    for object_, method in (("OpsApi", "agentalive"), ("UtilsApi", "livez")):
        assert "OK" in clients.call(object_, method)
    for object_, method in (("OpsApi", "agentdebug"), ("UtilsApi", "healthz"), ("UtilsApi", "home")):
        assert clients.call(object_, method)


def test_a_node_is_rejected_and_approved(clients: Clients, deployment: Deployment) -> None:
    """`OrchestratorApi`: a node is rejected and approved by the id in the body; without that id nothing happens."""
    name = deployment.nodes[-1]

    def update(action: str, **more: str) -> tuple[Any, ...]:
        body = {"@ApiPutNodeRequest": {"action": action, "message": "a test", **more}}
        return ("OrchestratorApi", "orchestratorupdate_node", body, name)

    def rejected() -> list[str]:
        found = clients.call("OrchestratorApi", "orchestratorlist_nodes", filter_approval="REJECTED")
        return [node["info"]["node_id"] for node in found["nodes"]]

    status, body = clients.refused(*update("reject"))
    assert (status, "NodeID" in body["Message"], rejected()) == (400, True, [])
    try:
        assert clients.call(*update("reject", node_id=name))["success"] is True
        assert rejected() == [name]
    finally:
        assert clients.call(*update("approve", node_id=name))["success"] is True
    assert rejected() == []
