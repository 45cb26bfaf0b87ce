"""Requesters a while later, and how long jobs are kept then: what the tests of retention share."""

from msgspec.structs import replace

from requester.service import Service
from requester.verbs import JobQuery
from tests.requester.cluster import (
    QUICK,
    Cluster,
)

KEEP_S = 3_600.0
KEEPING = replace(QUICK, keep_s=KEEP_S, retention_s=0.02)


class Later:
    """A clock that runs as the hub's does, a while ahead once it is told to."""

    def __init__(self, clock: object) -> None:
        self._clock = clock
        self.ahead_s = 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._clock, name)

    def now(self) -> float:
        """Unix seconds."""
        return self._clock.now() + self.ahead_s  # type: ignore[attr-defined, no-any-return]


def later(cluster: Cluster, seconds: float) -> None:
    """Let so much time have passed for the requesters started from now on."""
    clock = Later(cluster.hub.clock)
    clock.ahead_s = seconds
    cluster.clock = clock  # type: ignore[assignment]


async def pass_by(cluster: Cluster, seconds: float) -> list[Service]:
    """Two requesters with the jobs in their read models, that much later."""
    await (await cluster.requester("r2")).jobs(JobQuery())
    for name in ("r1", "r2"):
        await cluster.kill(name)
    later(cluster, seconds)
    return [await cluster.requester(name) for name in ("r1", "r2")]
