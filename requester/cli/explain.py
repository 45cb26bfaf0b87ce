"""``shoal job explain JOB``: why its executions are where they are, and where the next one could go.

Knows: the layout. Must not know: how nodes are chosen.
"""

from typing import Any

from protocol.ids import short
from requester.cli.endpoint import Api
from requester.cli.exits import Exit
from requester.cli.flags import JobRef, Namespace
from requester.cli.output import ObjectFormat, print_object, print_table, size, terminal_width
from requester.client import job_path

Json = dict[str, Any]


def explain(
    job: JobRef, /, *, namespace: Namespace = "", how: ObjectFormat = ObjectFormat(), api: Api = Api()
) -> int:
    """Tell why a job's executions went where they are, and how each node stands towards the next one."""
    with api.client() as client:
        view = client.call("GET", job_path(job, "explain"), namespace=namespace)
    if how.output:
        print_object(view, how.output, how.pretty)
        return Exit.OK
    _print_waiting(view)
    for decision in view["Decisions"]:
        _print_decision(decision)
    if view["State"] in ("Pending", "Queued", "Running") or not view["Decisions"]:
        print("\nNodes now, for its next execution")
        rows = [
            [short(each["NodeID"]), each["Standing"], each["Reason"], each["Hint"]] for each in view["Nodes"]
        ]
        print_table(["NODE ID", "STANDING", "REASON", "FIX"], rows, width=terminal_width())
    return Exit.OK


def _print_waiting(view: Json) -> None:
    name = f" {view['Name']}" if view["Name"] != view["JobID"] else ""
    print(f"Job {short(view['JobID'])}{name}, version {view['JobVersion']}: {view['State']}")
    ended = view.get("Failure")
    if ended:
        print(ended["Message"].partition("\n")[0])
    waiting = view.get("Waiting")
    if waiting:
        print(f"Waiting since {waiting['Since']}: {waiting['Message']}")
        if waiting["Hint"]:
            print(f"Hint: {waiting['Hint']}")
    queue = view.get("Queue")
    if queue and queue["Ahead"] is not None:
        print(f"{queue['Ahead']} of {queue['Waiting']} waiting jobs go first")
    if queue and "KeptNode" in queue:
        print(f"{short(queue['KeptNode'])} is kept for it: the next room there is this job's")


def _print_decision(decision: Json) -> None:
    print(
        f"\nExecution {short(decision['ExecutionID'])} (partition {decision['PartitionIndex']}, attempt "
        f"{decision['Attempt']}): {decision['State']} on {short(decision['NodeID'])} because {decision['Why']}"
    )
    rows = [
        [
            short(each["NodeID"]),
            str(each["Failures"]),
            str(each.get("Replicas", 0)),
            size(each["InputBytes"]),
            str(each["Preferences"]),
            str(each["Troubles"]),
            "yes" if each["SpareGPUs"] else "",
            f"{each['Free']:.0%}",
        ]
        for each in decision["Candidates"]
    ]
    if rows:
        print_table(
            [
                "CANDIDATE",
                "FAILED HERE",
                "REPLICAS",
                "INPUTS THERE",
                "PREFERENCES",
                "TROUBLES",
                "SPARE GPUS",
                "FREE",
            ],
            rows,
            width=terminal_width(),
        )
    for other in decision["Others"]:
        print(f"{other['Nodes']} of {decision['NodesKnown']} nodes: {other['Reason']}")
