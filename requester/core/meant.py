"""Which of a job's executions is meant by who asks for output and does not say, and which are attempts at the same.

Knows: their order and a few questions about each. Must not know: how one is written, for requesters ask about records and
the command line about what a requester of any version answers.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from protocol.jobs import EVERYWHERE

E = TypeVar("E")


def output_meant(
    executions: Sequence[E], *, is_open: Callable[[E], bool], wrote: Callable[[E], bool]
) -> E | None:
    """Of executions, oldest first: the newest that was not given up before its program ended; None if there are none.

    One that ended and of which nothing is told that it `wrote` was given up. Where all were, the newest is meant.
    """
    meant = [each for each in executions if is_open(each) or wrote(each)] or executions
    return meant[-1] if meant else None


def place_of(type_: str, node: str, partition: int) -> str | int:
    """What executions of a job of this type have in common that are attempts at the same: their partition; or their node, of
    a job that runs on every node.
    """
    return node if type_ in EVERYWHERE else partition
