"""Which of a job's executions is meant by who asks for output and does not say.

Knows: their order and two questions about each. Must not know: how one is written, for requesters ask about records and the
command line about what a requester of any version answers.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

E = TypeVar("E")


def output_meant(
    executions: Sequence[E], *, is_open: Callable[[E], bool], wrote: Callable[[E], bool]
) -> E | None:
    """Of executions, oldest first: the newest that was not given up before its program ended; None if there are none.

    One that ended and of which nothing is told that it `wrote` was given up. Where all were, the newest is meant.
    """
    meant = [each for each in executions if is_open(each) or wrote(each)] or executions
    return meant[-1] if meant else None
