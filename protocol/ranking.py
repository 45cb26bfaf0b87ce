"""Why an execution went to its node: kept with the decision, in the log.

Knows: the shape of a ranking. Must not know: how it was made (`requester.core.placement`). It is bounded: the chosen node, a
few that came next, and the reasons of the rest by how many nodes gave them.
"""

from typing import Final

from msgspec import Struct, field

from protocol.ids import NodeId

CANDIDATES_MAX: Final = 4
REASONS_MAX: Final = 4


class Candidate(Struct, frozen=True, gc=False, omit_defaults=True):
    """A node that fitted and had room, as the decision saw it, with all by which it was compared.

    `failures` of this very job on it; `replicas`: how many of the same service's executions it has; `input_bytes` that are
    on it already; `preferences` of the job that it meets; `troubles` it has had lately with any job; `spare_gpus`: it has
    devices that the job does not ask for; `free` is the free share of its cores or memory, whichever is scarcer.
    """

    node: NodeId
    failures: int = 0
    input_bytes: int = 0
    preferences: int = 0
    troubles: int = 0
    spare_gpus: bool = False
    free: float = 0.0
    replicas: int = 0


class Ranking(Struct, frozen=True, gc=False, omit_defaults=True):
    """The decision for one execution. `known` nodes in all, of which `fitting` could run it; `best` had room, the chosen
    one first; `others` is why the rest could not, with how many nodes each reason held for."""

    known: int
    fitting: int
    best: list[Candidate] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)
