"""Commands, or reports, that travel together: how many, and in how many messages.

Knows: the bounds of a batch. Must not know: what is in it, or how it is sent.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

TOGETHER_MAX: Final = 64
TOGETHER_MAX_BYTES: Final = 262_144
"""What one batch carries; what is larger travels alone."""


def batched(items: Sequence[T], encoded: Callable[[Sequence[T]], bytes]) -> list[tuple[Sequence[T], bytes]]:
    """Items in their order, in as few batches as their sizes allow, each with the message that carries it."""
    data = encoded(items)
    if len(items) == 1 or len(data) <= TOGETHER_MAX_BYTES:
        return [(items, data)]
    half = len(items) // 2
    return [*batched(items[:half], encoded), *batched(items[half:], encoded)]
