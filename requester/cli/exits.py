"""Exit codes, and how an error reads.

Knows: which outcome has which code (documented in ``docs/exit-codes.md``). Must not know: what a command did.
"""

import sys
from enum import IntEnum
from typing import Any, NoReturn

from protocol.errors import Denied, Fault, Invalid, NotFound, TimedOut


class Exit(IntEnum):
    """What a command tells the shell. A followed single execution gives its program's own code instead."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    JOB_FAILED = 10
    JOB_STOPPED = 11
    NO_NODE = 12
    WAIT_TIMED_OUT = 124
    ENGINE_FAILED = 125
    INTERRUPTED = 130


def code_of(fault: Fault) -> Exit:
    """The exit code of a fault."""
    match fault:
        case Invalid():
            return Exit.USAGE
        case NotFound():
            return Exit.NOT_FOUND
        case Denied():
            return Exit.DENIED
        case TimedOut(kind="Wait"):
            return Exit.WAIT_TIMED_OUT
    return Exit.ERROR


def code_of_job(job: dict[str, Any]) -> Exit:
    """The exit code of a closed job, as REST shows it."""
    state = job["State"]["StateType"]
    if state == "Completed":
        return Exit.OK
    if state == "Stopped":
        return Exit.JOB_STOPPED
    code = (job.get("Failure") or {}).get("Code", "")
    if code.endswith("NoSuitableNode"):
        return Exit.NO_NODE
    return Exit.JOB_FAILED


def tell(text: str = "") -> None:
    """A line for the person, on standard error."""
    print(text, file=sys.stderr, flush=True)


def complain(message: str, hint: str = "", code: str = "") -> None:
    """An error as a person reads it."""
    tell(f"Error{f' [{code}]' if code else ''}: {message}")
    if hint:
        tell(f"Hint: {hint}")


def fail(fault: Fault) -> NoReturn:
    """Tell a fault and end."""
    complain(fault.message, fault.hint)
    raise SystemExit(code_of(fault))
