"""How often a long-lived process looks for cyclic garbage.

Knows: Python's collector. Must not know: what is in memory.

What we keep (jobs, executions, messages) is freed by reference counts; cycles come from exceptions and clients only, and
are small. With Python's own thresholds a node under load spent a fifth of its time looking through modules and settings
that never change, and a requester with thousands of jobs stood still for a quarter of a second at a time. It also spent
half of its start on that, reading a long log. So what is kept in great numbers, trees of frozen Structs, says `gc=False`: it
is not looked through at all.
"""

import gc
from typing import Final

THRESHOLDS: Final = (20_000, 20, 50)
"""New objects before the youngest are looked at; and how many such looks before the next older ones are."""
READING: Final = (500_000, 20, 50)
"""The same while a long log is read: nearly all that is new is there to stay."""


def settle(*, to_read: bool = False) -> None:
    """Take what is in memory now as there to stay, and look through the rest less often.

    Called before much is read at the start (`to_read`), and again once all is started.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*(READING if to_read else THRESHOLDS))
