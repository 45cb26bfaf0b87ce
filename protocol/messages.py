"""What requesters and nodes say to each other beside the log: commands down, reports, beats and progress up.

Knows: the shape of each message and the encoding of all (JSON; one golden file each in ``tests/protocol/golden``). Must not
know: subjects (`protocol.subjects`), what is asked for bytes (`protocol.questions`), or what anyone does on receiving one.

Fields are only ever added, with defaults: a message of an older version is read by every newer one, and a newer one's
extra fields are ignored by an older reader.

A command is a level, not an edge: it says what should be, carries the sequence of the log entry that ordered it if one did,
and may be repeated at will.
"""

import re
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, field

from protocol.errors import Broken, Failure
from protocol.ids import ExecutionId, JobId, NodeId, RequesterId
from protocol.jobs import Amounts, Spec, Task
from protocol.nodes import NodeInfo
from protocol.states import ExecutionState


class Run(Struct, frozen=True, gc=False, tag="run", omit_defaults=True):
    """Run this execution. The task travels inside, complete.

    `seq` is the sequence of the entry that assigned it, `ordered_at` its time in unix seconds (0 from a version that does
    not say): together they tell two entries apart of which one is of a log that is gone. `execution_timeout_s` counts from
    the program's start, 0 is none; `staging_timeout_s` bounds image pull and input fetch together, 0 leaves it to the node.
    """

    seq: int
    node: NodeId
    job: JobId
    job_name: str
    namespace: str
    job_type: str
    version: int
    execution: ExecutionId
    partition: int
    partitions: int
    attempt: int
    task: Task
    amounts: Amounts
    priority: int = 0
    execution_timeout_s: float = 0
    staging_timeout_s: float = 0
    ordered_at: float = 0


class Cancel(Struct, frozen=True, gc=False, tag="cancel", omit_defaults=True):
    """This execution is given up: stop it if it runs, throw away what is left, and never report a result."""

    seq: int
    node: NodeId
    execution: ExecutionId
    reason: str = ""


class FullList(Struct, frozen=True, gc=False, tag="list", omit_defaults=True):
    """All that this node should have, as of sequence `upto` of the log whose stream was made at `created`.

    The node ends what is not listed and was ordered at or before `upto`. It refuses a list that is older than its newest
    command. If `created` is another log's, it ends what that log does not know only after a minute of such lists, and goes
    by the new log from then on (docs/adr/0027).
    """

    upto: int
    created: str
    node: NodeId
    executions: list[ExecutionId] = field(default_factory=list)


class Replaced(Struct, frozen=True, gc=False, tag="replaced"):
    """A process that was started later speaks as this node too, and it is the node: that is `incarnation`.

    A process of an earlier one ends what it runs and speaks as the node no more. All others, and those of a version that
    does not know this form, go on.
    """

    node: NodeId
    incarnation: int


class KeptOut(Struct, frozen=True, gc=False, tag="kept_out", omit_defaults=True):
    """This node gets no work, and why: people rejected or removed it, or have not approved it yet. For its own log; that it
    gets work again it learns by an order. A node of a version that does not know this form goes on without a word.
    """

    node: NodeId
    reason: str
    hint: str = ""


APART: Final = "start it as another node: shoal node enroll NAME, and a data folder of its own."
"""What to do about such a process, if it is not to be ended."""

Command = Run | Cancel | FullList | Replaced | KeptOut


class CommandBatch(Struct, frozen=True, gc=False, tag="batch"):
    """Several commands for one node, to be obeyed in their order, each as if it had come alone.

    A node of a version that does not know this form does not take it: each is then sent alone.
    """

    commands: list[Command]


class CommandAnswer(Struct, frozen=True, gc=False, omit_defaults=True):
    """The node has the command in its journal, or why not.

    To a `CommandBatch`: all were taken, or `each` says of each, in their order.
    """

    taken: bool
    failure: Failure | None = None
    each: "list[CommandAnswer]" = field(default_factory=list)


class Stage(Struct, frozen=True, gc=False, omit_defaults=True):
    """A stage that an execution has reached: when (node's clock, unix seconds) and what a person is told."""

    state: ExecutionState
    at: float
    message: str = ""


class RunOutput(Struct, frozen=True, gc=False):
    """The program's exit code and the first 2,048 bytes of what it wrote; wire names are Bacalhau's."""

    stdout: str = field(default="", name="Stdout")
    stdout_truncated: bool = field(default=False, name="StdoutTruncated")
    stderr: str = field(default="", name="stderr")
    stderr_truncated: bool = field(default=False, name="StderrTruncated")
    exit_code: int = field(default=0, name="ExitCode")
    error_message: str = field(default="", name="ErrorMsg")


class InputRead(Struct, frozen=True, gc=False, omit_defaults=True):
    """Which bytes an execution read: the identity that `resolve` gave the input before it was fetched.

    `size_bytes` is what the source said, or else what came. `cached`: they were on the node already, and nothing was
    fetched.
    """

    target: str
    type: str
    identity: str
    size_bytes: int | None = None
    cached: bool = False


class FileWritten(Struct, frozen=True, gc=False, omit_defaults=True):
    """One file of a published result: its path in the result, and the SHA-256 of its bytes in hexadecimal."""

    path: str
    size_bytes: int
    sha256: str


class LinkWritten(Struct, frozen=True, gc=False):
    """One symbolic link of a published result."""

    path: str
    target: str


class Written(Struct, frozen=True, gc=False, omit_defaults=True):
    """What an execution wrote, as it was published: `count` files of `size_bytes` together.

    `files` are the first of them in the order of their paths, as many as a report may carry. `sha256` is that of the whole
    list as ``sha256sum`` prints it (digest, two blanks, path, line feed), which the node keeps as long as the logs. `links`
    and `folders` (the empty ones) are the first of `others` in all; None is what a node says that does not look at them.
    """

    count: int
    size_bytes: int
    sha256: str
    files: list[FileWritten] = field(default_factory=list)
    others: int | None = None
    links: list[LinkWritten] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


class Report(Struct, frozen=True, gc=False, omit_defaults=True):
    """The newest state of one execution, with all stages passed so far. A later report replaces an earlier one.

    `seq` is the sequence of the entry that ordered the execution: a requester that has not folded it yet waits for it.
    `ordered_at` is its time, as the order had it. `output` and `result` come with an end. A program that exits with another
    code than 0 is `FAILED` with the failure code ``ProgramFailed``; what it wrote is published all the same. `read_by`
    comes with `REFUSED`: the version of the node that refused, which a later process of another version may be the first
    to tell; empty from a node that does not say.
    """

    node: NodeId
    incarnation: int
    seq: int
    job: JobId
    version: int
    execution: ExecutionId
    state: ExecutionState
    stages: list[Stage] = field(default_factory=list)
    failure: Failure | None = None
    output: RunOutput | None = None
    result: Spec | None = None
    inputs: list[InputRead] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    written: Written | None = None
    read_by: str = ""
    ordered_at: float = 0


class ReportBatch(Struct, frozen=True, gc=False):
    """Several reports of one node, each to be judged as if it had come alone.

    A requester of a version that does not know this form answers `LATER`: each is then sent alone.
    """

    reports: list[Report]


STORED: Final = "stored"
"""An entry contains the report."""
NOTED: Final = "noted"
"""It is kept in memory only, for it changes no decision."""
DROP: Final = "drop"
"""The execution is not current: forget it and end it."""
LATER: Final = "later"
"""It is not decided yet: report again."""
EACH: Final = "each"
"""There were several, and each has a verdict of its own."""


class Verdict(Struct, frozen=True, gc=False, omit_defaults=True):
    """The answer to a report: one of the words above, with the sequence `seq` of the entry if it is `STORED`.

    `replaced` is why it is to `DROP`: it may be current, but another process is the node, or another order has its name
    since the log was restored. To a `ReportBatch` it is `EACH`, with the verdicts in their order.
    """

    verdict: str
    seq: int = 0
    each: "list[Verdict]" = field(default_factory=list)
    replaced: bool = False


class Beat(Struct, frozen=True, gc=False, omit_defaults=True):
    """A node is alive. `incarnation` grows with each start of its process, and is its time if clocks are right: of two that
    speak as one node the highest is the node. `upto` is the newest sequence it obeyed.

    `held`: the inputs whose bytes are on the node, by `protocol.held.input_token`, with their sizes in bytes; the
    `HELD_MAX` used last. None is what the last beat that had any said: it is told when it changes, and now and then.
    `ports_taken`: the ports of its host that a job cannot have though no order names them: executions were given them, or
    other programs listen there. `ports_lost` of those that it gives to jobs are such others'.
    """

    node: NodeInfo
    incarnation: int
    at: float
    upto: int = 0
    leaving: bool = False
    executions: dict[ExecutionId, ExecutionState] = field(default_factory=dict)
    held: dict[str, int] | None = None
    ports_taken: list[int] = field(default_factory=list)
    ports_lost: int = 0


class RequesterBeat(Struct, frozen=True, gc=False, omit_defaults=True):
    """A requester is alive, has folded the log up to `folded`, and has it in its read model up to `recorded`.

    `decided` is the revision of the cell with the last word about a node that a person said to this requester. `snapshots`:
    it is of a version that reads them.
    """

    requester: RequesterId
    at: float
    folded: int
    version: str
    address: str = ""
    leaving: bool = False
    recorded: int = 0
    decided: int = 0
    snapshots: bool = False


class Progress(Struct, frozen=True, gc=False, omit_defaults=True):
    """What an execution is busy with, a few times a second, never stored: ``image``, ``input /in``, ``result``.

    `total_bytes` None means unknown.
    """

    job: JobId
    execution: ExecutionId
    node: NodeId
    state: ExecutionState
    what: str
    done_bytes: int = 0
    total_bytes: int | None = None


T = TypeVar("T")

_HALF: Final = re.compile("[\ud800-\udfff]")
_encoder = msgspec.json.Encoder()
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def encode(message: Any) -> bytes:
    """The JSON form of a message or entry.

    What a file system or a server told in bytes that are no UTF-8 stands as ``\\xff``: no foreign word keeps a message back.
    """
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError:
        return _encoder.encode(_as_text(msgspec.to_builtins(message)))


def _as_text(value: Any) -> Any:
    """The same with halves of surrogate pairs, as Python keeps such bytes, written out."""
    match value:
        case str():
            return _HALF.sub(lambda half: f"\\x{ord(half[0]) & 0xFF:02x}", value)
        case dict():
            return {_as_text(key): _as_text(each) for key, each in value.items()}
        case list():
            return [_as_text(each) for each in value]
    return value


def decode(data: bytes, form: type[T]) -> T:
    """Read a message of type `form` (a Struct, or a union such as `Command`). Raises `Broken` with the path of the fault."""
    decoder = _decoders.get(form)
    if decoder is None:
        decoder = _decoders[form] = msgspec.json.Decoder(form)
    try:
        message: T = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Broken(f"a message cannot be read: {error}") from error
    return message
