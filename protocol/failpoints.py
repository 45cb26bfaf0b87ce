"""Places at which a test may end or stop this process: between two steps, where a crash would hurt most.

Knows: the names of the places, and what the variable ``SHOAL_FAILPOINTS`` asks for. Must not know: what the steps do.
Without the variable a place costs a look into an empty dictionary. (The idea is etcd's gofail.)

``SHOAL_FAILPOINTS="requester.append.answered=kill@3,node.start.done=stop"``: ``kill`` ends the process as ``kill -9`` does,
``stop`` lets it stand still until somebody lets it go on (``kill -CONT``); ``@3`` is the third time that it comes there,
else the first. Each is done once.
"""

import os
import signal
from typing import Final

from protocol.errors import Invalid

VARIABLE: Final = "SHOAL_FAILPOINTS"

REQUESTER: Final = (
    "requester.submit.received",
    "requester.append.begun",
    "requester.append.answered",
    "requester.entry.folded",
    "requester.command.begun",
    "requester.command.answered",
    "requester.report.received",
    "requester.report.settled",
    "requester.model.written",
)
NODE: Final = (
    "node.command.received",
    "node.command.kept",
    "node.admitted",
    "node.staged",
    "node.start.begun",
    "node.start.done",
    "node.program.ended",
    "node.publish.begun",
    "node.publish.done",
    "node.report.begun",
    "node.report.answered",
    "node.cleaned",
    "node.forgotten",
)
POINTS: Final = REQUESTER + NODE

_ACTIONS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def read(text: str) -> dict[str, tuple[signal.Signals, int]]:
    """What each named place does, and at which visit. Raises `Invalid` for a place or an action that there is not."""
    armed: dict[str, tuple[signal.Signals, int]] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, _, rest = part.partition("=")
        action, _, visit = rest.partition("@")
        if name not in POINTS:
            raise Invalid(f"{VARIABLE}: there is no failpoint {name!r}", hint=f"One of: {', '.join(POINTS)}.")
        if action not in _ACTIONS or not (visit or "1").isdecimal() or visit == "0":
            raise Invalid(f"{VARIABLE}: {part!r} is not NAME=kill, NAME=stop or NAME=kill@VISIT")
        armed[name] = (_ACTIONS[action], int(visit or "1"))
    return armed


_armed: Final = read(os.environ.get(VARIABLE, ""))


def reached(name: str) -> None:
    """This process has come to that place: end it or stop it, if that was asked for."""
    if not _armed:
        return
    found = _armed.get(name)
    if found is None:
        return
    action, visits = found
    if visits > 1:
        _armed[name] = (action, visits - 1)
        return
    del _armed[name]
    os.kill(os.getpid(), action)
