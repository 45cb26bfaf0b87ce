"""What a decision about one job sees beside the job.

Knows: the shape of that view. Must not know: what is decided from it, or where it comes from.
"""

from collections.abc import Mapping

from msgspec import Struct, field

from protocol.ids import ExecutionId, NodeId
from requester.core.fleet import Fleet
from requester.core.turns import Turns


class View(Struct, frozen=True):
    """What a step sees beside the job.

    `gone` are the nodes given up for their silence, each with the seconds it has been silent. `running_since` says when
    executions were first seen running, in unix seconds. `settled` is False right after a start or a cut, when a node that
    was not heard of yet may still be there. `turns` is the queue, and what is kept for its jobs; None for no queue at all.
    `entries_max` is how many entries the log takes of one job, 0 for any number.
    """

    fleet: Fleet
    gone: Mapping[NodeId, float] = field(default_factory=dict)
    running_since: Mapping[ExecutionId, float] = field(default_factory=dict)
    settled: bool = True
    turns: Turns | None = None
    entries_max: int = 0
