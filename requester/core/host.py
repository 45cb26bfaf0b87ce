"""One node as a host of executions: what it gives in all, what is promised to whom, and what is left.

Knows: how promises add up. Must not know: the node's facts, jobs, or the log. What is left is kept, and not worked out when
it is asked for: a node is looked at much more often than it changes. The numbers are fields of the node itself, since among
ten thousand nodes the way to each number costs more than to compare it.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from protocol.ids import ExecutionId, NodeId
from protocol.jobs import CPU_TOLERANCE, NOTHING, Amounts

_ROOMY: Final = 1 / 8
"""A node of which so much is free, in every respect but ports, is roomy."""
_PORTS: Final = 65_535
"""Of a node that does not count its ports it is not known how many it has."""


class Promise(Struct, frozen=True, gc=False):
    """What an execution of a namespace holds. `stays`: it is a service's or daemon's, which is not meant to end."""

    amounts: Amounts
    ports: tuple[int, ...] = ()
    namespace: str = ""
    stays: bool = False


class Host(Struct, eq=False):
    """A node: `cpu`, `memory_bytes`, `disk_bytes`, `gpu` and `dynamic_ports` are what is not promised, as in `Amounts`.

    `share` is that as a share of the whole: of cores or of memory, whichever is scarcer. `roomy`: it has room for
    whatever `is_small` for it. `gpus`: it has such devices at all. `passing` is what it has for work that ends: all but
    what services and daemons hold. `ports` are those of the host that are promised, `taken` those that it says others
    use, `inputs` those whose bytes it has, by token, with their sizes.
    """

    id: NodeId
    cpu: float = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpu: int = 0
    dynamic_ports: int = 0
    share: float = 1.0
    roomy: bool = False
    gpus: bool = False
    inputs: Mapping[str, int] = {}
    ports: frozenset[int] = frozenset()
    taken: frozenset[int] = frozenset()
    held: dict[ExecutionId, Promise] = field(default_factory=dict)
    capacity: Amounts = NOTHING
    passing: Amounts = NOTHING

    @property
    def free(self) -> Amounts:
        """What is not promised."""
        return Amounts(self.cpu, self.memory_bytes, self.disk_bytes, self.gpu, self.dynamic_ports)

    def has(self, amounts: Amounts, ports: Collection[int]) -> bool:
        """Whether there is so much room (as in `Amounts.fits`), and nobody has these ports."""
        return (
            amounts.cpu <= self.cpu + CPU_TOLERANCE
            and amounts.memory_bytes <= self.memory_bytes
            and amounts.disk_bytes <= self.disk_bytes
            and amounts.gpu <= self.gpu
            and amounts.dynamic_ports <= self.dynamic_ports
            and (not ports or (self.ports.isdisjoint(ports) and self.taken.isdisjoint(ports)))
        )

    @property
    def unavailable(self) -> frozenset[int]:
        """The ports that nobody can have just now."""
        return self.ports | self.taken

    def is_small(self, amounts: Amounts) -> bool:
        """Whether a node like this, as long as it is roomy, has that much free."""
        whole = self.capacity
        return (
            amounts.cpu <= whole.cpu * _ROOMY
            and amounts.memory_bytes <= whole.memory_bytes * _ROOMY
            and amounts.disk_bytes <= whole.disk_bytes * _ROOMY
            and amounts.gpu <= whole.gpu * _ROOMY
        )

    def resize(self, capacity: Amounts) -> None:
        """Give that much in all from now on."""
        self.capacity = capacity
        self.gpus = capacity.gpu > 0
        self.leave(self._without(self.held.values()))
        self.passing = self._without_staying()

    def hold(self, execution: ExecutionId, promise: Promise) -> None:
        """Promise an execution that holds nothing yet what it needs."""
        self.held[execution] = promise
        self._give(promise.amounts, -1)
        if promise.ports:
            self.ports = self.ports.union(promise.ports)
        if promise.stays:
            self.passing = self.passing - promise.amounts

    def release(self, execution: ExecutionId) -> Promise | None:
        """Give back what an execution held; None if it held nothing."""
        promise = self.held.pop(execution, None)
        if promise is None:
            return None
        if self.held:
            self._give(promise.amounts, 1)
        else:
            # From the beginning, so that sums of fractions never drift.
            self.leave(self.capacity)
        if promise.ports:
            # Two requesters at once may have promised the same one.
            self.ports = frozenset(port for each in self.held.values() for port in each.ports)
        if promise.stays:
            self.passing = self._without_staying()
        return promise

    def left(self, free: Amounts, ports: frozenset[int]) -> "Host":
        """This node with something else left on it."""
        other = replace(self, ports=ports)
        other.leave(free)
        return other

    def leave(self, free: Amounts) -> None:
        """Have that much left, whatever is held."""
        self.cpu, self.memory_bytes = free.cpu, free.memory_bytes
        self.disk_bytes, self.gpu = free.disk_bytes, free.gpu
        self.dynamic_ports = free.dynamic_ports
        self._weigh()

    def _give(self, amounts: Amounts, sign: int) -> None:
        self.cpu += sign * amounts.cpu
        self.memory_bytes += sign * amounts.memory_bytes
        self.disk_bytes += sign * amounts.disk_bytes
        self.gpu += sign * amounts.gpu
        self.dynamic_ports += sign * amounts.dynamic_ports
        self._weigh()

    def _weigh(self) -> None:
        whole = self.capacity
        of_cpu = self.cpu / whole.cpu if whole.cpu else 1.0
        of_memory = self.memory_bytes / whole.memory_bytes if whole.memory_bytes else 1.0
        self.share = min(of_memory, of_cpu)
        self.roomy = (
            self.cpu >= whole.cpu * _ROOMY
            and self.memory_bytes >= whole.memory_bytes * _ROOMY
            and self.disk_bytes >= whole.disk_bytes * _ROOMY
            and self.gpu >= whole.gpu * _ROOMY
        )

    def _without(self, promises: Iterable[Promise]) -> Amounts:
        room = self.capacity
        for promise in promises:
            room = room - promise.amounts
        return room

    def _without_staying(self) -> Amounts:
        return self._without(each for each in self.held.values() if each.stays)


def told(capacity: Amounts, ports_lost: int = 0) -> Amounts:
    """What a node gives in all, but for `ports_lost` to other programs of its machine. One that does not count its ports
    gives all that a machine can have.
    """
    if capacity.dynamic_ports and not ports_lost:
        return capacity
    return replace(capacity, dynamic_ports=max((capacity.dynamic_ports or _PORTS) - ports_lost, 0))
