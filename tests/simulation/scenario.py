"""What happens in one simulation, drawn from its seed before it begins: who is there, what people ask, what goes wrong.

Knows: plain data. Must not know: how it is drawn (`draw`), or carried out.
"""

from typing import Final

from msgspec import Struct, field

from protocol.jobs import Job

ENDLESS: Final = "endless"
"""Jobs whose names begin so are never ended for their number of entries."""


class Action(Struct, frozen=True):
    """Something that a person does or that goes wrong, at `at` seconds. `who` is a process where that matters.

    A person asks `who` first, hangs up after `seconds` where there are any, and asks no second time if `once`.
    """

    at: float
    what: str
    who: str = ""
    seconds: float = 0.0
    number: float = 0.0
    text: str = ""
    once: bool = False
    job: Job | None = None


class Scenario(Struct):
    """Everything that one seed decides beforehand."""

    seed: int
    requesters: int
    nodes: int
    latency_s: tuple[float, float]
    chaos_s: float
    keep_s: float = 0.0
    """How long closed jobs stay in the log, 0 for ever. Some are away for longer."""
    manual: bool = False
    """Whether people approve each node."""
    forget_s: float = 0.0
    """How long nodes are remembered that are away, 0 for longer than the story."""
    entries_max: int = 0
    """How many entries the log takes of one job, 0 for any number."""
    snapshot_after: int = 6
    """After how many more entries a snapshot of a service or daemon is written, 0 for never."""
    older: list[str] = field(default_factory=list)
    """The processes that are of the version before this one."""
    actions: list[Action] = field(default_factory=list)

    @property
    def requester_names(self) -> list[str]:
        return [f"r{number}" for number in range(1, self.requesters + 1)]

    @property
    def node_names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]
