"""What a waiting person sees: the stages of a job as they pass.

Knows: how two views of a job differ in words. Must not know: where views come from. `Stages` decides what is new;
`Screen` puts it on standard error: one line per change, and on a terminal the bytes of the moment below them.
"""

import sys
import time
from typing import Any, Final

from protocol.ids import short
from requester.cli.exits import CLOSED, tell
from requester.cli.output import clean, size

Json = dict[str, Any]
Line = tuple[str, str, str]
"""Execution, topic, text."""

PLAIN_EVERY_S: Final = 5.0
"""Without a terminal, bytes are told this often at most."""
_WORDS: Final = {
    "assigned": "Assigned",
    "staging": "Preparing",
    "running": "Running",
    "publishing": "Publishing",
    "completed": "Completed",
    "refused": "Refused",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "lost": "Lost",
}


class Stages:
    """Remembers what was told; `lines` gives what is new in a view."""

    def __init__(self) -> None:
        self._told: set[Line] = set()

    def lines(self, view: Json) -> list[Line]:
        """The news in a watch's view of a job."""
        job, found = view["Job"], list[Line]()
        state = job["State"]
        if state["StateType"] == "Queued":
            found.append(("", "Queued", state["Message"] or "waiting for a node with room"))
        elif state["StateType"] == "Running" and "Failure" in job:
            # Of a job that goes on, this is why a part of it waits.
            found.append(("", "Queued", f"not all of it runs yet: {job['Failure']['Message']}"))
        if held_up := held_up_update(job, view.get("Executions", [])):
            found.append(("", "Updating", held_up))
        for execution in view.get("Executions", []):
            found += self._not_passed([(execution["ID"], *event) for event in _events(execution)])
        if state["StateType"] in CLOSED:
            # Why is told once, as the command's error.
            found.append(("", state["StateType"], ""))
        return [line for line in found if self._new(line)]

    def _not_passed(self, lines: list[Line]) -> list[Line]:
        """What comes behind the last line that was told: that a program runs may be heard before what led to it."""
        told = [number for number, line in enumerate(lines) if line in self._told]
        return lines[told[-1] + 1 :] if told else lines

    def _new(self, line: Line) -> bool:
        if line in self._told:
            return False
        self._told.add(line)
        return True


def held_up_update(job: Json, executions: list[Json]) -> str:
    """That a version has found no place yet, while what runs is of the one before; else an empty text."""
    if job["State"]["StateType"] != "Running" or executions:
        return ""
    why = f"shoal job explain {short(job['ID'])}"
    return f"nothing of version {job['Version']} runs yet, an earlier one goes on; why: {why}"


def _events(execution: Json) -> list[tuple[str, str]]:
    """What an execution has been through, in words."""
    failure = execution.get("Failure") or {}
    events: list[tuple[str, str]] = [("Assigned", f"to {short(execution['NodeID'])}{_attempt(execution)}")]
    # That the node has it too is no news to a person; how it ended is told below, with its cause.
    untold = ("assigned", execution["State"] if failure else "")
    stages = execution.get("Stages", [])
    events += [(_word(each["State"]), each["Message"]) for each in stages if each["State"] not in untold]
    if failure:
        events.append((_word(execution["State"]), failure["Message"]))
        if failure["Hint"]:
            events.append(("Hint", failure["Hint"]))
    elif execution["State"] not in ("assigned", *(each["State"] for each in stages)):
        events.append((_word(execution["State"]), ""))
    return events


def _word(state: str) -> str:
    return _WORDS.get(state, state)


def _attempt(execution: Json) -> str:
    return f", attempt {execution['Attempt']}" if execution.get("Attempt", 1) > 1 else ""


class Screen:
    """Standard error as a list of lines with one passing line at its end."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._passing = False
        self._spoken_at = 0.0
        self._heading = False

    def line(self, execution: str, topic: str, text: str) -> None:
        """One thing that happened, with the time of day."""
        if self.quiet:
            return
        self.clear()
        if not self._heading:
            tell(" TIME          EXEC. ID    TOPIC        EVENT")
            self._heading = True
        now = time.time()
        clock = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"
        first, *more = text.split("\n")
        tell(f" {clock}  {short(execution):<10}  {topic:<11}  {clean(first)}".rstrip())
        for each in more:
            tell(f"{' ' * 39}{clean(each)}".rstrip())

    def bytes(self, progress: Json) -> None:
        """How far a transfer is."""
        now = time.monotonic()
        if (
            self.quiet
            or not progress["Done"]
            or (not self._terminal and now - self._spoken_at < PLAIN_EVERY_S)
        ):
            return
        self._spoken_at = now
        done, total = progress["Done"], progress["Total"]
        share = f"{size(done)} of {size(total)} ({done * 100 // total} %)" if total else size(done)
        text = f"{' ' * 15}{short(progress['ExecutionID']):<10}  {clean(progress['What'])}: {share}"
        if self._terminal:
            self.clear()
            print(text, end="", file=sys.stderr, flush=True)
            self._passing = True
        else:
            tell(text)

    def clear(self) -> None:
        """Take the passing line away."""
        if self._passing:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._passing = False
