"""Which fault comes next: a seed gives the same plan each time.

Knows: kinds of faults, the parts they may hit, and what must not be broken at once. Must not know: processes or networks.
"""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from msgspec import Struct

from protocol.failpoints import NODE, REQUESTER

KINDS: Final = ("kill", "pause", "cut")
STORE: Final = "s3"
KUBO: Final = "kubo"
DOCKER: Final = "docker"
BESIDE: Final = (STORE, KUBO, DOCKER)
"""The S3 server, the Kubo node, the Docker daemon: there is one of each, on no host, so it has no cable to pull."""
LONG_S: Final = 7.0
"""Longer than the silence after which a node is given up."""
STEP_SHARE: Final = 0.4
VISITS_MAX: Final = 4
BURST_SHARE: Final = 0.25
"""So many faults come together with the one before: two nodes and a requester at the same moment."""


class Fault(Struct, frozen=True):
    """``kill``, ``pause`` (stands still) or ``cut`` (no network) for `for_s`, `after_s` after the one before.

    With a `step` it happens when the process comes there for the `visit`-th time since its last start.
    """

    kind: str
    target: str
    after_s: float
    for_s: float
    step: str = ""
    visit: int = 1


def faults(
    seed: int, targets: Sequence[str], *, kinds: Sequence[str] = KINDS, pace_s: float = 1.0
) -> Iterator[Fault]:
    """Faults without end. `targets` are names such as ``requester-0``, ``node-2``, ``nats-1`` and those `BESIDE`, each as
    likely as another; `pace_s` is the mean pause; a kind that stands more than once in `kinds` is so much likelier."""
    random = Random(seed)
    while True:
        target = random.choice(targets)
        role = target.rpartition("-")[0]
        kind = random.choice(kinds)
        if target in BESIDE and kind == "cut":
            kind = "pause"
        for_s = LONG_S + random.random() if random.random() < 0.15 else 1.5 * random.random()
        step, visit = "", 1
        if role in ("node", "requester") and random.random() < STEP_SHARE:
            step = random.choice(NODE if role == "node" else REQUESTER)
            visit = random.randint(1, VISITS_MAX)
        after_s = 0.0 if random.random() < BURST_SHARE else min(random.expovariate(1 / pace_s), 3 * pace_s)
        yield Fault(kind, target, after_s, for_s, step, visit)


def clashes(fault: Fault, current: Sequence[Fault]) -> bool:
    """Whether a fault must wait for one that goes on: the same part, or a second server of a NATS cluster."""
    return any(
        each.target == fault.target or (each.target.startswith("nats") and fault.target.startswith("nats"))
        for each in current
    )
