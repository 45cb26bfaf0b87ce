"""How long an event loop stands still, and how much of that its process can do anything about.

Knows: how late a timer of a millisecond comes. Must not know: what the loop is busy with.
"""

import asyncio
import time
from typing import Final

from msgspec import Struct

TICK_S: Final = 0.001
_NS: Final = 1e-9


class Delay(Struct, frozen=True):
    """One tick's lateness, in seconds; for `queued_s` of it the loop could have run, and no processor was free.

    That is the kernel's run delay: other processes' turns, on a machine that has more to do than processors. What the loop
    itself does and what it waits for other threads of its process (the interpreter's lock) is not in it.
    """

    late_s: float
    queued_s: float

    @property
    def own_s(self) -> float:
        """The lateness that is our process's."""
        return max(self.late_s - self.queued_s, 0.0)


async def delay() -> Delay:
    """Let one tick pass; to be awaited on the loop's own thread."""
    began, queued = time.perf_counter(), _queued_s()
    await asyncio.sleep(TICK_S)
    late = time.perf_counter() - began - TICK_S
    return Delay(max(late, 0.0), _queued_s() - queued)


def _queued_s() -> float:
    """Seconds that this thread has ever waited for a processor (Linux, Documentation/scheduler/sched-stats.rst)."""
    with open("/proc/thread-self/schedstat", encoding="ascii") as counters:
        return int(counters.read().split()[1]) * _NS
