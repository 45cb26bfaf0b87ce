"""The log's own words: one entry holds all events of one decision about one job.

Knows: the events and their fields, and how an entry is written. Must not know: what they add up to (`requester.core` folds
them). Fields are only ever added, with defaults: an entry is read for as long as its job is kept.
"""

import zlib
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from protocol.bus import ENTRY_MAX_BYTES
from protocol.errors import Broken, Failure
from protocol.ids import ExecutionId, JobId, NodeId
from protocol.jobs import Amounts, Job
from protocol.messages import Report, decode, encode
from protocol.ranking import Ranking
from protocol.states import JobState

PLAIN_MAX_BYTES: Final = ENTRY_MAX_BYTES - 1_024
"""A snapshot that takes more is packed; the rest is room for an entry's own fields."""
UNPACKED_MAX_BYTES: Final = 16 << 20
"""What is packed takes no more than that: the 3,900 executions that fit take 2.4 MB."""


class Submitted(Struct, frozen=True, gc=False, tag="submitted", omit_defaults=True):
    """A job came to be, or a new version of it: the log's first event, and whenever its name is submitted again.

    `rerun_of` is the version that a person wants to see run once more, and `reason` why; 0 for a spec of its own. `anew`
    says that the log had nothing of the job any more: whoever still remembers earlier versions begins with this one.
    """

    spec: Job
    version: int
    warnings: list[str] = field(default_factory=list)
    client: str = ""
    rerun_of: int = 0
    reason: str = ""
    anew: bool = False


class Queued(Struct, frozen=True, gc=False, tag="queued", omit_defaults=True):
    """Some partitions cannot be placed now; the reason names what each node lacks."""

    reason: Failure


class Assigned(Struct, frozen=True, gc=False, tag="assigned", omit_defaults=True):
    """A partition's next attempt goes to a node. `why` is the ranking's reason in a few words, `ranking` the whole of it.

    `partitions` is among how many the inputs are shared out, 0 for as many as the job's count says.
    """

    execution: ExecutionId
    partition: int
    attempt: int
    node: NodeId
    amounts: Amounts
    why: str = ""
    ranking: Ranking | None = None
    partitions: int = 0


class StopRequested(Struct, frozen=True, gc=False, tag="stop", omit_defaults=True):
    """A person wants the job to end."""

    reason: str = ""
    client: str = ""


class Reported(Struct, frozen=True, gc=False, tag="reported", omit_defaults=True):
    """A node's report of a current execution: from here on it is a fact."""

    report: Report


class Cancelled(Struct, frozen=True, gc=False, tag="cancelled", omit_defaults=True):
    """The requester gave this execution up (stop, timeout, new version); the node is told to end it."""

    execution: ExecutionId
    failure: Failure


class Lost(Struct, frozen=True, gc=False, tag="lost", omit_defaults=True):
    """The execution's node is silent for too long; whatever it reports afterwards is dropped."""

    execution: ExecutionId
    node: NodeId
    failure: Failure


class Closed(Struct, frozen=True, gc=False, tag="closed", omit_defaults=True):
    """The job's (this version's) final state; `failure` is the root cause where there is one."""

    state: JobState
    message: str = ""
    failure: Failure | None = None


class Deleted(Struct, frozen=True, gc=False, tag="deleted", omit_defaults=True):
    """A person wants a closed job forgotten: what was known of it goes, and its name is free. (Since version 0.2.)"""

    reason: str = ""
    client: str = ""


Event = Submitted | Queued | Assigned | StopRequested | Reported | Cancelled | Lost | Closed | Deleted


class Snapshot(Struct, frozen=True, gc=False, omit_defaults=True):
    """What makes an entry a snapshot: its events were all written before, and add up to the job as it is. (Since version
    0.2.)

    `moments` are the sequence and the time (unix seconds) of each event as it was written first. `created_at` is when the
    job was submitted first, `forgotten` how many of its executions are not told. Of the job's entries the log has `count`
    with this one; the first of them is at `since`, 0 as long as none was taken out for a snapshot.

    Where events and moments would be too large as they are, `packed` has both, and their own places are empty in the log.
    """

    moments: list[tuple[int, float]]
    created_at: float
    forgotten: int
    count: int
    since: int = 0
    packed: bytes = b""


class Entry(Struct, frozen=True, gc=False, omit_defaults=True):
    """All events of one decision about one job; or, with a `snapshot`, those of many that still matter.

    `job` must agree with the subject's key, `op` is unique to the attempt to append (it settles appends whose answer was
    lost), `by` the requester, `at` its clock in unix seconds. To a version that knows no snapshots one says the same events.
    """

    job: JobId
    op: str
    by: str
    at: float
    events: list[Event]
    snapshot: Snapshot | None = None

    @property
    def first(self) -> Event | None:
        """The first event; None in an entry that says nothing, which is passed over."""
        return self.events[0] if self.events else None


class Packed(Struct, frozen=True):
    """What a snapshot has packed: deflated JSON."""

    events: list[Event]
    moments: list[tuple[int, float]]


def write_entry(entry: Entry) -> bytes:
    """An entry as the log has it; a snapshot that is too large for that is packed."""
    data = encode(entry)
    snapshot = entry.snapshot
    if snapshot is None or len(data) <= PLAIN_MAX_BYTES:
        return data
    packed = zlib.compress(encode(Packed(entry.events, snapshot.moments)))
    return encode(replace(entry, events=[], snapshot=replace(snapshot, moments=[], packed=packed)))


def read_entry(data: bytes) -> Entry:
    """An entry of the log, with all that was packed. Raises `Broken`."""
    entry = decode(data, Entry)
    snapshot = entry.snapshot
    if snapshot is None or not snapshot.packed:
        return entry
    inflating = zlib.decompressobj()
    try:
        plain = inflating.decompress(snapshot.packed, UNPACKED_MAX_BYTES)
    except zlib.error as error:
        raise Broken(f"what a snapshot has packed cannot be read: {error}") from error
    if not inflating.eof:
        raise Broken(f"what a snapshot has packed is cut off, or has more than {UNPACKED_MAX_BYTES} bytes")
    told = decode(plain, Packed)
    return replace(entry, events=told.events, snapshot=replace(snapshot, moments=told.moments, packed=b""))
