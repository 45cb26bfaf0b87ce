"""The faults of the whole system, and the form in which they travel.

    Fault
    ├── Invalid       the caller's words are wrong: change them
    ├── Denied        not allowed: ask for access, or give credentials
    ├── NotFound      it is not there: look elsewhere
    ├── Conflict      decided on old knowledge: read again
    ├── Exhausted     a limit is reached: wait, or raise the limit
    ├── TimedOut      a deadline passed: try again, or allow more time
    ├── Unavailable   the other side is not there or is ill: try again
    └── Broken        what was received is not what was promised: report it

Knows: the kinds of fault and what each asks a person or a program to do. Must not know: which library a fault came from.
Foreign errors become one of these where they enter, chained to their cause.
"""

from typing import ClassVar, Final

from msgspec import Struct, field

# Codes that one process writes and another acts on. All others are written and read in one place each.
NEVER_RAN: Final = "NotFound.NeverRan"
"""There is no output of an execution, for it ended before its program began."""
DONE_WITH: Final = "Conflict.Gone"
"""A node was ordered to run what was there before and is done with; `details` name the `log` whose names it remembers."""
PROGRAM_FAILED: Final = "ProgramFailed"
"""The program ended with another code than 0."""
OUT_OF_MEMORY: Final = "Exhausted.Memory"
OVER_TIME: Final = "TimedOut.Execution"
"""The program ran longer than its ExecutionTimeout."""
TAKEN: Final = "Conflict.Taken"
"""Where the result was to go there is another's."""
NO_SUITABLE_NODE: Final = "NoSuitableNode"
"""No node that there is could ever run the job."""


class Failure(Struct, frozen=True, gc=False, omit_defaults=True):
    """A fault as it travels and is kept: on the bus, in the log, over REST.

    `code` is one of the codes below or a more exact one that begins with it (``NotFound.Image``). `message` says what is
    wrong with which part, `hint` what to do about it. `retryable` says that the same work may succeed at another time or
    on another node.
    """

    code: str
    message: str
    hint: str = ""
    retryable: bool = False
    details: dict[str, str] = field(default_factory=dict)


class Fault(Exception):
    """The root: never raised itself."""

    code: ClassVar[str] = "Fault"
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, hint: str = "", kind: str = "", details: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.kind = kind
        self.details = details or {}

    def failure(self) -> Failure:
        """The wire form of this fault."""
        code = f"{self.code}.{self.kind}" if self.kind else self.code
        return Failure(
            code=code, message=self.message, hint=self.hint, retryable=self.retryable, details=self.details
        )


class Invalid(Fault):
    """The caller's words are wrong; the same words will never do."""

    code = "Invalid"


class Denied(Fault):
    """Not allowed with these credentials, or by this node's policy."""

    code = "Denied"


class NotFound(Fault):
    """The thing that was named is not there."""

    code = "NotFound"


class Conflict(Fault):
    """Decided on knowledge that is no longer the newest."""

    code = "Conflict"
    retryable = True


class Exhausted(Fault):
    """A limit (bytes, count, memory, disk) is reached."""

    code = "Exhausted"


class TimedOut(Fault):
    """A deadline passed before the answer came."""

    code = "TimedOut"
    retryable = True


class Unavailable(Fault):
    """The other side cannot be reached or says it cannot serve now."""

    code = "Unavailable"
    retryable = True


class Broken(Fault):
    """The other side answered something that is not what was named: wrong bytes, half a body, an undecodable message."""

    code = "Broken"
    retryable = True


KINDS: Final[dict[str, type[Fault]]] = {
    kind.code: kind
    for kind in (Invalid, Denied, NotFound, Conflict, Exhausted, TimedOut, Unavailable, Broken)
}


def kind_of(code: str) -> str:
    """What a code adds to that of its fault, empty if nothing: the `kind` that the fault is raised with."""
    return code.partition(".")[2]


def fault_of(failure: Failure) -> Fault:
    """The exception for a failure that came over the wire; an unknown code becomes `Broken`."""
    base, _, kind = failure.code.partition(".")
    return KINDS.get(base, Broken)(
        failure.message, hint=failure.hint, kind=kind, details=dict(failure.details)
    )
