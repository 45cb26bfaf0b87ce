"""Exit codes, and how an error reads.

Knows: which outcome has which code (documented in ``docs/exit-codes.md``). Must not know: what a command did.
"""

import sys
from enum import IntEnum
from typing import Any, Final

from protocol.errors import (
    NO_SUITABLE_NODE,
    PROGRAM_FAILED,
    Conflict,
    Denied,
    Fault,
    Invalid,
    NotFound,
    TimedOut,
)
from protocol.jobs import EVERYWHERE
from requester.cli.output import clean_text

CLOSED: Final = ("Completed", "Failed", "Stopped")
"""The states of a job of which no more is to come, as REST names them."""


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
        case Conflict() if fault.kind.startswith("Multiple"):
            return Exit.USAGE
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
    if failure_code(job).startswith(NO_SUITABLE_NODE):
        return Exit.NO_NODE
    return Exit.JOB_FAILED


def code_of_followed(job: dict[str, Any], executions: list[dict[str, Any]]) -> int:
    """The exit code after following a job: its program's own, as ``docker run`` has it, of a job of one partition.

    125 says that the program never ran to an end of its own.
    """
    code = code_of_job(job)
    if code is Exit.JOB_FAILED and not failure_code(job).startswith(PROGRAM_FAILED):
        return Exit.ENGINE_FAILED
    places = {
        (each["PartitionIndex"], each["NodeID"] if job["Type"] in EVERYWHERE else "") for each in executions
    }
    if len(places) != 1 or code not in (Exit.OK, Exit.JOB_FAILED):
        return code
    output = executions[-1].get("RunOutput") or {}
    # The shell sees eight bits; a code that is not 0 must not become 0 there.
    program = int(output.get("ExitCode", 0))
    return (program & 0xFF or Exit.ERROR) if program else code


def failure_code(job: dict[str, Any]) -> str:
    """The code of a job's failure, or an empty text."""
    return str((job.get("Failure") or {}).get("Code", ""))


def tell(text: str = "") -> None:
    """A line for the person, on standard error."""
    print(text, file=sys.stderr, flush=True)


def complain(message: str, hint: str = "") -> None:
    """An error as a person reads it; what it quotes cannot steer the terminal."""
    tell(f"Error: {clean_text(message)}")
    if hint:
        tell(f"Hint: {clean_text(hint)}")


def complain_of(fault: Fault) -> None:
    """A fault as a person reads it, with the candidates where one name meant several."""
    complain(fault.message, fault.hint)
    if isinstance(fault, Conflict) and fault.kind.startswith("Multiple"):
        for name, about in fault.details.items():
            tell(f"  {clean_text(name)}  {clean_text(about)}")
