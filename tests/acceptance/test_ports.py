"""Programs that are reached at ports of their node, beside other programs of the machine."""

import socket

from deploy.processes import free_ports
from tests.acceptance.deployment import Api, Deployment, Json, state
from tests.acceptance.fragile import on
from tests.acceptance.jobs import Gate, job, shell, stdout


def listens(*ports: Json) -> Json:
    """A network at which a program is reached at these ports."""
    return {"Network": {"Type": "Bridge", "Ports": list(ports)}}


def test_a_port_of_another_program_is_waited_for(deployment: Deployment, api: Api, image: str) -> None:
    """A job that names a port on which another program of the machine listens does not fail: it waits, says for which port,
    and runs when that is free.
    """
    [port] = free_ports(1)
    with socket.create_server(("0.0.0.0", port)):
        node = deployment.nodes[0]
        task = shell(image, "echo through", **listens({"Name": "web", "Static": port, "Target": 80}))
        identifier = api.submit(job(task, **on(node)))

        waiting = api.until(identifier, lambda view: f"port {port} is taken" in str(view["Job"]))
        assert state(waiting) == "Queued"

    view = api.ended(identifier)
    assert state(view) == "Completed", view
    assert stdout(view["Executions"][-1]) == "through\n"


def test_a_port_that_another_job_was_given_is_waited_for(
    deployment: Deployment, api: Api, image: str, gate: Gate
) -> None:
    """A port that a job was given by chance is waited for by one that names it, whichever of them the node had first."""
    here = on(deployment.nodes[0])
    first = api.submit(job(gate.holds(image, **listens({"Name": "web", "Target": 80})), **here))
    (running,) = api.running(first)
    port = running["Ports"]["web"]
    named = shell(image, "true", **listens({"Name": "web", "Static": port, "Target": 80}))
    second = api.submit(job(named, **here))

    waiting = api.until(second, lambda view: f"port {port} is taken" in str(view["Job"]))
    assert state(waiting) == "Queued"
    gate.open()

    assert state(api.ended(second)) == "Completed"
    assert state(api.ended(first)) == "Completed"
