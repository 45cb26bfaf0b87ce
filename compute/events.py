"""What can happen to an execution on its node, and what follows that a shell is asked to do.

Knows: the shape of each event and effect. Must not know: which effect follows which event (`compute.execution`), or how one
is carried out (`compute.runner`).
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct, field

from protocol.errors import Failure
from protocol.jobs import Spec
from protocol.messages import InputRead, RunOutput, Written


class Phase(StrEnum):
    """What the node is doing about an execution."""

    WAITING = "waiting"
    STAGING = "staging"
    STARTING = "starting"
    RUNNING = "running"
    PUBLISHING = "publishing"
    ENDING = "ending"


class Admitted(Struct, frozen=True):
    """There is room for it, and it is reserved; `gpus` are the indexes of the devices it was given."""

    gpus: list[int] = field(default_factory=list)


class Staged(Struct, frozen=True):
    """Inputs and whatever the engine prepares are there; `ports` maps names to ports of this host."""

    inputs: list[InputRead] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)


class PortTaken(Struct, frozen=True):
    """Somebody else took one of its ports before its program could have it: it was given these instead."""

    ports: dict[str, int]


class Started(Struct, frozen=True):
    """The engine has started the program."""


class ProgramEnded(Struct, frozen=True):
    """The program ended by itself, or its engine ended it (`failure`)."""

    output: RunOutput
    failure: Failure | None = None


class Published(Struct, frozen=True):
    """The result is where others can get it; `written` is what was found in it."""

    result: Spec
    written: Written | None = None


class Failed(Struct, frozen=True):
    """A step could not be done. `refused`: for a reason that lasts on this node, whose version is `read_by`."""

    failure: Failure
    refused: bool = False
    read_by: str = ""


class CancelOrdered(Struct, frozen=True):
    """The requester does not want it any more."""

    reason: str = ""


class DeadlinePassed(Struct, frozen=True):
    """The time for this phase is over: the execution's own (`RUNNING`) or the one for staging.

    `outstanding` names what was still awaited, as a person is told.
    """

    phase: Phase
    limit_s: float
    outstanding: str = ""


class ReportStored(Struct, frozen=True):
    """The report of its end is in the log."""


class ReportDropped(Struct, frozen=True):
    """The requester says that this execution is not current."""


class Abandoned(Struct, frozen=True):
    """It may be current, but not in this process: that was replaced, or ends its work before it leaves."""


class Cleaned(Struct, frozen=True):
    """Its program is removed and its folder is gone. `output` is what was kept of a program that was stopped."""

    output: RunOutput | None = None


class CleanUpDelayed(Struct, frozen=True):
    """It cannot be cleaned yet: its engine does not answer, for instance, and it is not known whether its program runs."""


class Restarted(Struct, frozen=True):
    """The node's process was started anew and found this in its journal."""


class Recovered(Struct, frozen=True):
    """The engine was asked for the program after a restart; `found`: it is there, running or ended."""

    found: bool


Event = (
    Admitted
    | Staged
    | PortTaken
    | Started
    | ProgramEnded
    | Published
    | Failed
    | CancelOrdered
    | DeadlinePassed
    | ReportStored
    | ReportDropped
    | Abandoned
    | Cleaned
    | CleanUpDelayed
    | Restarted
    | Recovered
)


class Effect(StrEnum):
    """What a shell is asked to do. Work, one at a time: from `ADMIT` to `CLEAN_UP`. At once: the others."""

    ADMIT = "admit"
    RECOVER = "recover"
    STAGE = "stage"
    START = "start"
    FOLLOW = "follow"
    PUBLISH = "publish"
    CLEAN_UP = "clean up"
    INTERRUPT = "interrupt"
    RELEASE = "release"
    SEND_REPORT = "send report"
    FORGET = "forget"


WORK: Final = frozenset(
    {
        Effect.ADMIT,
        Effect.RECOVER,
        Effect.STAGE,
        Effect.START,
        Effect.FOLLOW,
        Effect.PUBLISH,
        Effect.CLEAN_UP,
    }
)
"""The effects that take time; a runner does one after the other."""
