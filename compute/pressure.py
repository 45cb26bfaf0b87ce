"""Keeps the reserve of a node's disk, whatever its programs do.

Knows: how much is spare, and who could give some. Must not know: how an execution is ended.

Looked at every second. When the reserve is touched, inputs go that nobody reads, then the oldest results that the node keeps
(`compute.inputs`); if that is not enough, the program that takes most ends, one at a time, with time to clean up after
each: its node has no room for it, another may. One that takes next to nothing is never blamed for what others have written
there.
"""

from collections.abc import Callable, Iterable
from typing import Final

import structlog

from compute.disk import Disk
from compute.disk_guard import DiskGuard
from compute.events import Event, Failed
from compute.inputs import Inputs
from protocol.clock import Clock
from protocol.errors import Exhausted, Fault
from protocol.spec.quantities import format_bytes

LOOK_S: Final = 1.0
SETTLE_S: Final = 5.0
BLAMED_BYTES: Final = 1 << 16
Program = tuple[DiskGuard, Callable[[Event], None]]
"""A running program's guard, and how it is told what happens to it."""
_log = structlog.get_logger(__name__)


async def keep_reserve(
    disk: Disk, inputs: Inputs, clock: Clock, programs: Callable[[], Iterable[Program]]
) -> None:
    """Look for ever."""
    while True:
        await clock.sleep(LOOK_S)
        if disk.spare_bytes() < 0:
            await inputs.make_room(0)
            if disk.spare_bytes() < 0:
                await _end_largest(programs())
                await clock.sleep(SETTLE_S)


async def _end_largest(programs: Iterable[Program]) -> None:
    largest: tuple[int, Callable[[Event], None]] | None = None
    for guard, tell in programs:
        try:
            taken_bytes = await guard.taken_bytes()
        except Fault:
            continue
        if taken_bytes >= BLAMED_BYTES and (largest is None or taken_bytes > largest[0]):
            largest = taken_bytes, tell
    if largest is None:
        _log.warning("the disk's reserve is touched, and no program takes much of it")
        return
    fault = Exhausted(
        f"the node's disk is full, and of its programs this one takes most: {format_bytes(largest[0])}",
        hint="Say how much it needs (Resources.Disk), so that it is placed where there is room.",
        kind="Disk",
    )
    failure = fault.failure()
    largest[1](Failed(type(failure)(failure.code, failure.message, failure.hint, retryable=True)))
