"""``shoal job explain JOB``: why its executions are where they are, and where the next one could go.

Knows: the layout. Must not know: how nodes are chosen.
"""

from typing import Annotated, Any, Final

from cyclopts import Parameter

from protocol.ids import short
from requester.cli.endpoint import Api
from requester.cli.exits import Exit, tell
from requester.cli.flags import JobRef, Namespace
from requester.cli.output import ObjectFormat, print_object, print_table, size, terminal_width
from requester.client import job_path

Json = dict[str, Any]

DECISIONS_SHOWN: Final = 5
"""Of more executions the newest are explained."""
NODES_SHOWN: Final = 20
"""More nodes are counted by how they stand."""


def explain(
    job: JobRef,
    /,
    *,
    namespace: Namespace = "",
    all: Annotated[
        bool,
        Parameter(
            help=f"Every execution and node, also where there are more than {DECISIONS_SHOWN} or {NODES_SHOWN}."
        ),
    ] = False,
    how: ObjectFormat = ObjectFormat(),
    api: Api = Api(),
) -> int:
    """Tell why a job's executions went where they are, and how each node stands towards the next one."""
    with api.client() as client:
        view = client.call("GET", job_path(job, "explain"), namespace=namespace)
    if how.output:
        print_object(view, how.output, how.pretty)
        return Exit.OK
    _print_waiting(view)
    decisions = view["Decisions"]
    earlier = 0 if all else max(0, len(decisions) - DECISIONS_SHOWN)
    for decision in decisions[earlier:]:
        _print_decision(decision)
    if view["State"] in ("Pending", "Queued", "Running") or not decisions:
        _print_nodes(view["Nodes"], whole=all)
    if earlier:
        tell(
            f"\nThese are the newest; {earlier:,} earlier executions: shoal job explain {view['JobID']} --all"
        )
    return Exit.OK


def _print_nodes(nodes: list[Json], *, whole: bool) -> None:
    """How nodes stand towards the next execution: each, or how many of them so."""
    print("\nNodes now, for its next execution")
    if whole or len(nodes) <= NODES_SHOWN:
        rows = [[short(each["NodeID"]), each["Standing"], each["Reason"], each["Hint"]] for each in nodes]
        print_table(["NODE ID", "STANDING", "REASON", "FIX"], rows, width=terminal_width())
        return
    rows = [
        [str(len(those)), short(those[0]), *standing]
        for standing, those in sorted(_alike(nodes).items(), key=lambda each: -len(each[1]))
    ]
    print_table(["NODES", "SUCH AS", "STANDING", "REASON", "FIX"], rows[:NODES_SHOWN], width=terminal_width())
    if rows[NODES_SHOWN:]:
        left = sum(int(row[0]) for row in rows[NODES_SHOWN:])
        print(f"... and {left:,} more that stand otherwise")


def _alike(nodes: list[Json]) -> dict[tuple[str, str, str], list[str]]:
    """Nodes by how they stand and why."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for each in nodes:
        found.setdefault((each["Standing"], each["Reason"], each["Hint"]), []).append(each["NodeID"])
    return found


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
