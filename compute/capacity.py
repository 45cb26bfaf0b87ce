"""What a node has to give, who holds how much of it, and who is next.

Knows: amounts, GPU devices by index, host ports, and the order of those who wait. Must not know: what an execution is, or
any clock: it is a value that changes by calls alone, so laws can be tried on it.

Who is next: higher priority first, then the order of asking. If the first in line does not fit, it **reserves**: others may
pass it only while all that passed it leave it room beside them. So small jobs use what a waiting big one cannot use yet,
and cannot starve it: once those who were there before it are gone, it fits.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from msgspec import Struct

from protocol.ids import ExecutionId
from protocol.jobs import NOTHING, Amounts

LOOKAHEAD: Final = 64
"""How many behind a waiting head are looked at: so a long line costs no more than a short one."""
PORTS_TOLD_MAX: Final = 1_000
"""Ports in use that a beat tells, the lowest ones: a job that names one of the others may be sent here and back."""


class Held(Struct, frozen=True):
    """What one execution holds. `passed`: it was let past a waiting head."""

    amounts: Amounts
    gpus: tuple[int, ...] = ()
    passed: bool = False


class Wish(Struct, frozen=True, order=True):
    """A place in the line: compared by `rank` (minus the priority), then `number`, the order of asking."""

    rank: int
    number: int
    execution: ExecutionId
    amounts: Amounts


class Ledger:
    """Who holds what, and who waits. `capacity.gpu` is the number of `gpus` (device indexes).

    `aside_bytes` is disk that several hold together, and nobody by himself: inputs that they share.
    """

    def __init__(self, capacity: Amounts, gpus: Sequence[int] = ()) -> None:
        self.capacity = capacity
        self.aside_bytes = 0
        self._devices = sorted(gpus)
        self.held: dict[ExecutionId, Held] = {}
        self.used = NOTHING
        self._passed = NOTHING
        self._line: list[Wish] = []
        self._wishes: dict[ExecutionId, Wish] = {}
        self._number = 0

    @property
    def free(self) -> Amounts:
        """What nobody holds; below zero where more was held than there is (see `hold`)."""
        return self.capacity - self.used - Amounts(disk_bytes=self.aside_bytes)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    def ask(self, execution: ExecutionId, amounts: Amounts, priority: int = 0) -> None:
        """Stand in line. Harmless if it stands there already or holds something."""
        if execution in self.held or execution in self._wishes:
            return
        self._number += 1
        wish = self._wishes[execution] = Wish(-priority, self._number, execution, amounts)
        insort(self._line, wish)

    def hold(self, execution: ExecutionId, amounts: Amounts, gpus: Sequence[int] = ()) -> None:
        """Note what a program found after a restart holds, whether there is room or not."""
        if execution not in self.held:
            self._give(execution, Held(amounts, tuple(gpus)))

    def could_grow(self, execution: ExecutionId, amounts: Amounts) -> bool:
        """Whether there is room for a holder to have this much instead."""
        held = self.held[execution].amounts
        return amounts == held or _fits(amounts - held, self.free)

    def grow(self, execution: ExecutionId, amounts: Amounts) -> bool:
        """Let a holder have this much instead, if there is room; else nothing changes."""
        held = self.held[execution]
        if amounts == held.amounts:
            return True
        if not self.could_grow(execution, amounts):
            return False
        gpus, passed = held.gpus, held.passed
        self._take_back(execution)
        self._give(execution, Held(amounts, gpus, passed))
        return True

    def release(self, execution: ExecutionId) -> None:
        """It holds nothing any more and does not wait. Harmless when repeated."""
        if execution in self.held:
            self._take_back(execution)
        elif wish := self._wishes.pop(execution, None):
            del self._line[bisect_left(self._line, wish)]

    def admit(self) -> list[tuple[ExecutionId, tuple[int, ...]]]:
        """All who have room now, with the GPU devices each is given; they hold it from here on."""
        admitted = []
        while self._line:
            found = self._next()
            if found is None:
                break
            place, passes = found
            wish = self._line.pop(place)
            del self._wishes[wish.execution]
            if not passes:
                self._forget_passed()
            gpus = self._free_devices()[: wish.amounts.gpu]
            self._give(wish.execution, Held(wish.amounts, gpus, passes))
            admitted.append((wish.execution, gpus))
        return admitted

    def _next(self) -> tuple[int, bool] | None:
        """The place in the line of the next to be admitted, and whether it passes a waiting head."""
        head, free = self._line[0], self.free
        if _fits(head.amounts, free):
            return 0, False
        beside = self.capacity - head.amounts - self._passed - Amounts(disk_bytes=self.aside_bytes)
        for place in range(1, min(len(self._line), LOOKAHEAD)):
            amounts = self._line[place].amounts
            if _fits(amounts, free) and _fits(amounts, beside):
                return place, True
        return None

    def _forget_passed(self) -> None:
        """A head was admitted: those who passed it are like everybody else to the next one."""
        if self._passed != NOTHING:
            self.held = {name: Held(held.amounts, held.gpus) for name, held in self.held.items()}
            self._passed = NOTHING

    def _free_devices(self) -> tuple[int, ...]:
        taken = {index for held in self.held.values() for index in held.gpus} if self._devices else set()
        return tuple(index for index in self._devices if index not in taken)

    def _give(self, execution: ExecutionId, held: Held) -> None:
        self.held[execution] = held
        self.used += held.amounts
        if held.passed:
            self._passed += held.amounts

    def _take_back(self, execution: ExecutionId) -> None:
        held = self.held.pop(execution)
        self.used -= held.amounts
        if held.passed:
            self._passed -= held.amounts
        if not self.held:
            # What adding and subtracting fractions of cores leaves behind must not grow with the years.
            self.used = self._passed = NOTHING


def _fits(amounts: Amounts, room: Amounts) -> bool:
    """Whether it fits; who wants nothing of a kind is not held up because that kind is overdrawn."""
    return (
        (amounts.cpu <= 0 or amounts.cpu <= room.cpu + 1e-9)
        and (amounts.memory_bytes <= 0 or amounts.memory_bytes <= room.memory_bytes)
        and (amounts.disk_bytes <= 0 or amounts.disk_bytes <= room.disk_bytes)
        and (amounts.gpu <= 0 or amounts.gpu <= room.gpu)
        and (amounts.dynamic_ports <= 0 or amounts.dynamic_ports <= room.dynamic_ports)
    )


class Ports:
    """Ports of this host that programs may be given, each to one execution at a time.

    Those of the range are given in turn, from the one `begin` behind the first: several nodes of one machine with the same
    range begin at different ones.
    """

    def __init__(self, first: int, last: int, *, begin: int = 0) -> None:
        self._range = range(first, last + 1)
        self._next = first + begin % len(self._range)
        self.held: dict[int, ExecutionId] = {}
        self._static: dict[int, ExecutionId] = {}
        """Those that orders name, from when they are under way: nobody else is given one of them by chance."""
        self._resting: set[int] = set()
        """Let go of since others' use was last looked at: what listened there may still be on its way out."""

    def reserve(self, execution: ExecutionId, static: Collection[int]) -> None:
        """An execution will want these ports, and no others in their place."""
        for port in static:
            self._static.setdefault(port, execution)

    def take(self, execution: ExecutionId, static: int, usable: Callable[[int], bool]) -> int | None:
        """That port (`static`), or with 0 any of the range; None if there is none. `usable` asks about others' use of it."""
        if static and self.held.get(static) == execution:
            return static
        wanted = (static,) if static else self._from_next()
        for port in wanted:
            if self._is_free(port, execution, static) and usable(port):
                self.held[port] = execution
                self._resting.discard(port)
                if static:
                    self._static[port] = execution
                else:
                    self._next = port + 1
                return port
        return None

    def hold(self, execution: ExecutionId, ports: Collection[int], static: Collection[int] = ()) -> None:
        """After a restart: a program that a former process started has its ports, whether it listens there yet or not."""
        self.held.update(dict.fromkeys(ports, execution))
        self._static.update(dict.fromkeys(static, execution))

    def release(self, execution: ExecutionId) -> None:
        """It has no ports any more."""
        for port in [port for port, holder in self.held.items() if holder == execution]:
            del self.held[port]
            self._resting.add(port)
        for port in [port for port, holder in self._static.items() if holder == execution]:
            del self._static[port]

    def in_use(self, listening: Collection[int]) -> tuple[list[int], int]:
        """What nobody who places work can know of, where programs are `listening` just now: the ports that executions were
        given or that others use, and how many of the range others use.
        """
        others = set(listening).difference(self.held, self._resting)
        self._resting.clear()
        given = self.held.keys() - self._static.keys()
        return sorted(others | given)[:PORTS_TOLD_MAX], sum(port in self._range for port in others)

    def _is_free(self, port: int, execution: ExecutionId, static: int) -> bool:
        if port in self.held:
            return False
        return port not in self._static or (bool(static) and self._static[port] == execution)

    def _from_next(self) -> Iterator[int]:
        """The whole range, beginning behind the port given last: one just let go of rests for a while."""
        start = self._next - self._range.start
        return (self._range[(start + offset) % len(self._range)] for offset in range(len(self._range)))
