"""How it looks over REST why a job's executions are where they are: an answer of our own, which Bacalhau does not have.

Knows: the form, as plain functions from records to JSON-ready objects. Must not know: HTTP, or where records come from.
"""

from typing import Any

from protocol.ranking import Ranking
from requester.api.views import JOB_STATES, Json, failure, queue_place, timestamp
from requester.core.explanation import NodeStanding
from requester.core.model import ExecutionRecord
from requester.verbs import Explanation


def explanation(explained: Explanation, decisions: list[Any], standings: list[Any]) -> Json:
    """Why a job's executions are where they are, by the `decision` of each, and how nodes stand towards its next one, by the
    `standing` of each."""
    record = explained.job
    view: Json = {
        "JobID": record.id,
        "Name": record.spec.name,
        "JobVersion": record.version,
        "State": JOB_STATES[record.state],
        "Decisions": decisions,
        "Nodes": standings,
    }
    if record.failure is not None:
        view["Failure"] = failure(record.failure)
    if explained.place is not None:
        view["Queue"] = queue_place(explained.place)
    if record.queued is not None:
        view["Waiting"] = {**failure(record.queued), "Since": timestamp(record.queued_at or 0)}
    return view


def standing(each: NodeStanding) -> Json:
    """How a node stands towards a job's next execution."""
    return {"NodeID": each.node, "Standing": each.standing, "Reason": each.reason, "Hint": each.hint}


def decision(each: ExecutionRecord) -> Json:
    """Why an execution is where it is."""
    ranking = each.ranking or Ranking(0, 0)
    return {
        "ExecutionID": each.id,
        "PartitionIndex": each.partition,
        "Attempt": each.attempt,
        "NodeID": each.node,
        "State": each.state.value,
        "Time": timestamp(each.created_at),
        "Why": each.why,
        "NodesKnown": ranking.known,
        "NodesFitting": ranking.fitting,
        "Candidates": [
            {
                "NodeID": one.node,
                "Failures": one.failures,
                "Replicas": one.replicas,
                "InputBytes": one.input_bytes,
                "Preferences": one.preferences,
                "Troubles": one.troubles,
                "SpareGPUs": one.spare_gpus,
                "Free": one.free,
            }
            for one in ranking.best
        ],
        "Others": [{"Reason": reason, "Nodes": count} for reason, count in ranking.others.items()],
    }
