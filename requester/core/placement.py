"""Which of the nodes that fit takes a task.

Knows: how nodes with room are compared, and how the comparison is kept for people. Must not know: why the others do not fit
(`standing`), jobs, attempts or the log; what counts as promised on a node is told by whoever has the `Room`.

Nodes are compared by, in this order: the failures of this very job on them, fewest first (so another attempt is on another
node); how many replicas of it they have, for a service that does not pack; the bytes of its inputs that they hold already,
in steps of powers of two; the preferences they meet; the troubles they have had lately; whether they have devices that the
job does not ask for; how empty they are, or how full for a job that packs. Ties go round by the seed.

Replicas come before the bytes and the preferences: both draw all of a service to the same few nodes, and it would go down
with them. Among the nodes that have fewest of it, they decide as ever.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from protocol.ids import NodeId
from protocol.ranking import CANDIDATES_MAX, Candidate, Ranking
from requester.core.health import Trouble
from requester.core.host import Host
from requester.core.standing import Demand, Standing

SAMPLE_ABOVE: Final = 64
"""With more fitting nodes than this the choice is the best of a sample, not of all."""
SAMPLE_SIZE: Final = 4
"""Two already keep a fleet level, four nearly as well as all (the power of two choices); each costs a microsecond or two."""
HOLDERS_MAX: Final = 8
"""Nodes that are added to a sample because they hold an input."""

Score = tuple[int, int, int, int, int, int, float, int, NodeId]
"""The smallest is the best: failures, replicas, minus the steps of input bytes, minus preferences, troubles, spare GPUs,
share; then whose turn it is among equals, and the node."""

_WHY: Final = (
    "this job has failed there least",
    "it has fewest of this service's other replicas",
    "most of its inputs are there already",
    "it meets most preferences",
    "it has had the least trouble lately",
    "it keeps GPUs free for work that needs them",
    "it has the most room",
)
_WHY_PACK: Final = "it is the fullest that has room"


class Room(Protocol):
    """What is known of nodes beside how they fit."""

    @property
    def changed(self) -> Mapping[NodeId, Host]:
        """The nodes on which something else is left, as this decision sees it."""

    @property
    def troubled(self) -> Mapping[NodeId, Trouble]:
        """The nodes on which work has failed lately for reasons of the node."""

    def having(self, token: str) -> Collection[NodeId]:
        """Some nodes that hold an input."""


class Attempt(Struct, frozen=True, gc=False):
    """What one attempt wants: its job's demand, the tokens of its inputs, and what has happened to the job on nodes.

    `replicas` is how many executions of the same service nodes have, of one that is spread. `excluded` are nodes that cannot
    take it though they fit; `seed` makes the order of equals. `offered` is a node that is known to have room: among very
    many full ones it need not be looked for.
    """

    demand: Demand
    inputs: Sequence[str] = ()
    failures: Mapping[NodeId, int] = {}
    excluded: Collection[NodeId] = ()
    seed: int = 0
    offered: NodeId | None = None
    replicas: Mapping[NodeId, int] = {}


class Choice(Struct, frozen=True, gc=False):
    """The node that takes it, why it and not the next one in a few words, and the ranking."""

    node: NodeId
    why: str
    ranking: Ranking


def choose(standing: Standing, attempt: Attempt, room: Room) -> NodeId | None:
    """The best node with room, or None."""
    scored = _scored(standing, attempt, room)
    return min(scored)[-1] if scored else None


def rank(standing: Standing, attempt: Attempt, room: Room) -> Choice | None:
    """The best node with room and what it was compared with, or None."""
    scored = _scored(standing, attempt, room)
    if not scored:
        return None
    best = sorted(scored)[:CANDIDATES_MAX] if len(scored) > 1 else scored
    candidates = [_candidate(score, standing, attempt) for score in best]
    why = _why(best[0], best[1], attempt.demand) if len(best) > 1 else "the only one that has room"
    ranking = Ranking(standing.known, len(standing.order), candidates, dict(standing.reasons))
    return Choice(best[0][-1], f"{why}; {len(standing.order)} of {standing.known} nodes fit", ranking)


def _scored(standing: Standing, attempt: Attempt, room: Room) -> list[Score]:
    """The nodes with room among all, or among a sample of very many so that deciding stays cheap."""
    order = standing.order
    count = len(order)
    if not count:
        return []
    if count > SAMPLE_ABOVE:
        found = _with_room(_sample(standing, attempt, room), standing, attempt, room)
        if found:
            return found
    start = attempt.seed % count
    return _with_room((*order[start:], *order[:start]), standing, attempt, room)


def _sample(standing: Standing, attempt: Attempt, room: Room) -> list[Host]:
    order, seed = standing.order, attempt.seed
    count = len(order)
    # So short that the last does not come round to the first: no node is drawn twice.
    step = (seed >> 16) % (count // SAMPLE_SIZE) + 1
    sample = [order[at % count] for at in range(seed, seed + SAMPLE_SIZE * step, step)]
    offered = standing.fitting.get(attempt.offered) if attempt.offered is not None else None
    if not attempt.inputs and offered is None:
        return sample
    drawn = {host.id: host for host in sample}
    if offered is not None:
        drawn[offered.id] = offered
    for token in attempt.inputs:
        holders = [node for node in room.having(token) if node in standing.fitting]
        drawn.update((node, standing.fitting[node]) for node in holders[:HOLDERS_MAX])
    return list(drawn.values())


def _with_room(hosts: Iterable[Host], standing: Standing, attempt: Attempt, room: Room) -> list[Score]:
    demand, failures, excluded = attempt.demand, attempt.failures, attempt.excluded
    wanted, inputs, ports = demand.amounts, attempt.inputs, demand.ports
    changed, preferences, troubled = room.changed, standing.preferences, room.troubled
    replicas = attempt.replicas
    sign = 1.0 if demand.pack else -1.0
    small = standing.small
    found: list[Score] = []
    for position, host in enumerate(hosts):
        node = host.id
        if changed:
            host = changed.get(node, host)
        if not ((small and host.roomy) or host.has(wanted, ports)) or (excluded and node in excluded):
            continue
        score = (
            failures.get(node, 0) if failures else 0,
            replicas.get(node, 0) if replicas else 0,
            -step_of(input_bytes(inputs, host.inputs)) if inputs else 0,
            -preferences.get(node, 0) if preferences else 0,
            troubled[node].streak if troubled and node in troubled else 0,
            1 if host.gpus and not wanted.gpu else 0,
            sign * host.share,
            position,
            node,
        )
        found.append(score)
    return found


def _candidate(score: Score, standing: Standing, attempt: Attempt) -> Candidate:
    node = score[-1]
    return Candidate(
        node,
        failures=score[0],
        input_bytes=input_bytes(attempt.inputs, standing.fitting[node].inputs) if attempt.inputs else 0,
        preferences=-score[3],
        troubles=score[4],
        spare_gpus=bool(score[5]),
        free=round(abs(score[6]), 3),
        replicas=score[1],
    )


def _why(best: Score, next_: Score, demand: Demand) -> str:
    """The first thing in which the best was better."""
    for place, why in enumerate(_WHY):
        if best[place] != next_[place]:
            return _WHY_PACK if place == len(_WHY) - 1 and demand.pack else why
    return "it is as good as the next, and has its turn"


def input_bytes(inputs: Iterable[str], held: Mapping[str, int]) -> int:
    """How many bytes of these inputs a node has."""
    return sum(held.get(token, 0) for token in inputs) if held else 0


def step_of(size_bytes: int) -> int:
    """Sizes in steps of powers of two from a MiB on: what is smaller is fetched as fast as it is found."""
    return (size_bytes >> 20).bit_length()
