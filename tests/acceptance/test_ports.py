"""Programs that are reached at ports of their node, beside other programs of the machine."""

import socket
import threading

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


def test_datagrams_reach_a_program(api: Api, image: str, deployment: Deployment) -> None:
    """A port with `Protocol: udp` is published for datagrams: what is sent to the node's port comes to the program's
    machine, and the same number can be had for TCP beside it.
    """
    [port] = free_ports(1)
    both = listens(
        {"Name": "words", "Static": port, "Target": 5000, "Protocol": "udp"},
        {"Name": "words_tcp", "Static": port, "Target": 5000},
    )
    # No tool of the image listens for datagrams, but its kernel counts those for which nobody listened.
    heard = "awk '/^Udp: [0-9]/ {exit !($3 > 0)}' /proc/net/snmp"
    script = f"until {heard}; do sleep 0.05; done; echo heard"
    identifier = api.submit(job(shell(image, script, **both), **on(deployment.nodes[0])))
    api.running(identifier)
    ended = threading.Event()

    def send() -> None:
        # One that is lost is lost: nobody tells who sends datagrams.
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            while not ended.wait(0.1):
                sender.sendto(b"hello\n", ("127.0.0.1", port))

    sending = threading.Thread(target=send)
    sending.start()
    try:
        view = api.ended(identifier)
    finally:
        ended.set()
        sending.join()

    assert stdout(view["Executions"][-1]) == "heard\n"
