"""What several executions write, on one screen: whole lines, each with its execution before it.

Knows: how pieces become lines. Must not know: where they come from.
"""

from typing import Final

from protocol.ids import short
from requester.cli.output import put

LINE_MAX_BYTES: Final = 64 * 1024
"""A longer line is printed in parts."""


class Lines:
    """Whole lines of several executions: what comes in pieces is kept until its line is whole."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, int], tuple[str, bytes]] = {}
        """What there is of a line, by execution and stream, with the word before it."""

    def add(self, execution: str, stream: int, data: bytes, at: str, *, whole: bool) -> None:
        """Print the lines that are whole with this piece. `whole`: all that others wrote has come, their last lines too."""
        if whole and any(other != execution for other, _ in self._begun):
            self.end()
        word, begun = self._begun.pop((execution, stream), (f"{short(execution)} | {at}", b""))
        *lines, rest = (begun + data).split(b"\n")
        for line in lines:
            put(stream, word.encode() + line + b"\n")
            word = f"{short(execution)} | {at}"
        if len(rest) > LINE_MAX_BYTES:
            put(stream, word.encode() + rest + b"\n")
        elif rest:
            self._begun[execution, stream] = word, rest

    def end(self) -> None:
        """Print what there is of lines that nobody has ended."""
        for (_, stream), (word, rest) in self._begun.items():
            put(stream, word.encode() + rest + b"\n")
        self._begun.clear()
