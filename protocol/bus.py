"""What everything above asks of the bus, small enough to have an in-memory twin.

Knows: the contract. Must not know: NATS. `protocol.nats_bus` and `protocol.memory_bus` implement it and pass one suite
(``tests/contracts/bus.py``).

Three things travel: **messages** (at most once, in order per sender), the **log** (guarded appends, read in order from a
position) and **cells** (small named values changed by compare-and-set). **Blobs** are bytes too large for a message,
stored in pieces under their SHA-256 and never changed.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from msgspec import Struct

from protocol.errors import Invalid
from protocol.ids import JobKey, is_token

MESSAGE_MAX_BYTES: Final = 1_000_000
ENTRY_MAX_BYTES: Final = 524_288
BATCH_MAX: Final = 256
SHORT_S: Final = 30.0

_SUBJECT: Final = re.compile(r"[^\s.*>]+(?:\.[^\s.*>]+)*")
_PATTERN: Final = re.compile(r"(?:(?:\*|[^\s.*>]+)\.)*(?:[*>]|[^\s.*>]+)")
_GROUP: Final = re.compile(r"[^\s]*")


class Message(Struct, frozen=True):
    """A message that came. `respond` answers its sender, or is None when no answer is wanted."""

    subject: str
    data: bytes
    respond: Callable[[bytes], Awaitable[None]] | None = None


class Append(Struct, frozen=True, gc=False):
    """One entry to be appended: "I decided knowing entry `guard` of this job", 0 for a job that is not there yet.

    `op` is unique to this entry; it settles appends whose answer was lost. `log` is which log it was decided by
    (`LogState.created`), empty for any: a restored one gives the same sequences again.
    """

    key: JobKey
    guard: int
    op: str
    data: bytes
    log: str = ""


class Stored(Struct, frozen=True, gc=False, tag=True):
    """The entry is in the log, durably, at this sequence."""

    seq: int


class Stale(Struct, frozen=True, tag=True):
    """The guard no longer holds (or another append is in flight): read on to `last` if known, and decide again."""

    last: int = 0


class BlobLook(Struct, frozen=True):
    """When a blob was put last (unix seconds, by the server's clock), and a number that grows with each time."""

    at: float
    revision: int


class Refused(Struct, frozen=True, tag=True):
    """The log will not take this entry: it is full, or the entry is too large. Nothing was stored."""

    reason: str
    full: bool = False


Outcome = Stored | Stale | Refused


class Record(Struct, frozen=True, gc=False):
    """An entry as read from the log."""

    key: JobKey
    seq: int
    data: bytes


class LogState(Struct, frozen=True):
    """The log as a whole. `created` tells one log from another that was made anew under the same name; `entries_max` is how
    many entries it takes of one job, 0 for any number.
    """

    created: str
    first: int
    last: int
    size_bytes: int
    limit_bytes: int
    entries_max: int = 0


class ShortLog:
    """Whether a log that seems to end before a position that was read is to be asked again.

    So it may seem for `patience_s`: a server that stood still answers with what it knew. After that it is another log.
    """

    def __init__(self, patience_s: float = SHORT_S) -> None:
        self._patience_s = patience_s
        self._since: float | None = None

    def may_pass(self, last: int, position: int, now: float) -> bool:
        """Whether its end at `last`, told at `now` (elapsed seconds), is before the position and may yet be behind it."""
        if last >= position:
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        return now - self._since < self._patience_s


class Cell(Struct, frozen=True):
    """A named value with the revision to compare when changing it."""

    name: str
    data: bytes
    revision: int


class Listening(Protocol):
    """The messages that come on a subscription, in order: an async iterator. It ends when the subscription was left or the
    bus closed, and what waited then has been read."""

    def __aiter__(self) -> AsyncIterator[Message]: ...

    async def __anext__(self) -> Message: ...

    async def several(self) -> Sequence[Message]:
        """All messages that wait, as soon as there is one; none at the end. Cheaper than one by one where many come."""


class Messages(Protocol):
    """The part of the bus that compute nodes have."""

    @property
    def connected(self) -> bool:
        """Whether the bus can be reached just now."""

    async def publish(self, subject: str, data: bytes) -> None:
        """Send to whoever listens. Raises `Invalid` if too large; while not connected the message may be lost."""

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        """Send and wait for one answer. Raises `Unavailable` if nobody listens (at once) and `TimedOut`."""

    def subscribe(
        self, subject: str, *, group: str = "", pending: int = 65_536
    ) -> AbstractAsyncContextManager[Listening]:
        """Listen, from the moment the context is entered. Within a `group` each message goes to one member.

        At most `pending` messages wait; beyond that the newest are dropped and the loss is logged: whoever sends what
        may not be lost asks for an answer.
        """


class Bus(Messages, Protocol):
    """The whole bus, as requesters have it."""

    async def append(self, entries: Sequence[Append]) -> list[Outcome]:
        """Append entries of different jobs, each under its own guard; one outcome each, in order.

        Small groups go as single messages side by side, larger ones as one atomic batch of at most `BATCH_MAX`; a
        batch that is refused is tried again as singles, so one stale entry never holds up another.

        An append whose answer was lost is settled before this returns: the log is read, and an entry with our `op` since
        the guard is `Stored`. Raises `Unavailable` only while the log cannot be reached at all; the caller then does not
        know, and must ask again with the same `op` and guard: it can succeed once only.

        What was decided by another log is `Stale`.
        """

    def read(self, after: int) -> AsyncGenerator[list[Record], None]:
        """All entries behind sequence `after`, in order, without gaps, for ever; in batches as they come.

        Survives reconnects. Raises `Broken` when the log was made anew or is shorter than `after`: start over. Close the
        generator (``contextlib.aclosing``) to let go of what it holds at the server.
        """

    async def last(self, key: JobKey) -> Record | None:
        """The newest entry of a job, read from the leader. Raises `Unavailable`."""

    async def newest(self) -> int:
        """The sequence of the newest entry that is still in the log, 0 if there is none. Raises `Unavailable`.

        Readers get no further than this: what was purged behind it never comes.
        """

    async def log_state(self) -> LogState:
        """The log as a whole. Raises `Unavailable`."""

    async def purge(self, key: JobKey, upto: int, *, log: str = "") -> None:
        """Remove a job's entries up to and including sequence `upto`; one that came after stays. Raises `Unavailable`, and
        `Broken` if that was decided by another log (see `Append`).
        """

    async def get_cell(self, name: str) -> Cell | None:
        """A cell, or None if there is none of that name (a token)."""

    async def put_cell(self, name: str, data: bytes, *, revision: int) -> int | None:
        """Change a cell known at `revision` (0: it does not exist). Returns the new revision, or None if it moved on."""

    async def list_cells(self) -> list[Cell]:
        """All cells."""

    async def remove_cell(self, name: str, revision: int) -> None:
        """Remove a cell, unless it was changed after that revision. Twice is harmless. Raises `Unavailable`, and `Denied`
        where a server was not told yet that requesters may.
        """

    async def put_blob(self, data: bytes) -> str:
        """Store bytes; returns their SHA-256 in hexadecimal. Storing the same bytes again is harmless, and makes them new.

        Raises `Exhausted` if there is no room left, and `Unavailable`.
        """

    async def get_blob(self, digest: str, offset: int, limit_bytes: int) -> tuple[int, bytes]:
        """The whole's size and at most `limit_bytes` from `offset` on. Raises `NotFound`."""

    async def list_blobs(self) -> list[str]:
        """The digests of all blobs, also of those that were begun and never ended. Raises `Unavailable`."""

    async def look_blob(self, digest: str) -> BlobLook | None:
        """When a blob was put last; None if there is none. Raises `Unavailable`."""

    async def remove_blob(self, digest: str, seen: BlobLook) -> bool:
        """Remove a blob, unless it was put again since it was `seen`; whether it is gone. Raises `Unavailable`.

        Whoever puts the same bytes at that moment has them stored when `put_blob` returns.
        """

    async def close(self) -> None:
        """Let go of the connection; listeners and readers end."""


def check_message(subject: str, data: bytes) -> None:
    """Raise `Invalid` if this cannot be sent: no literal subject, or too large."""
    if _SUBJECT.fullmatch(subject) is None:
        raise Invalid(
            f"{subject!r} is not a subject", hint="A subject is tokens without spaces, joined by single dots."
        )
    if len(data) > MESSAGE_MAX_BYTES:
        raise Invalid(
            f"a message on {subject} has {len(data)} bytes; at most {MESSAGE_MAX_BYTES} can be sent"
        )


def check_pattern(subject: str, group: str = "") -> None:
    """Raise `Invalid` if this cannot be listened to."""
    if _PATTERN.fullmatch(subject) is None or _GROUP.fullmatch(group) is None:
        raise Invalid(
            f"one cannot listen on {subject!r} in the group {group!r}",
            hint="A subject is tokens joined by single dots; '*' stands for one token, a last '>' for one or more.",
        )


def check_cell_name(name: str) -> None:
    """Raise `Invalid` unless `name` is one token."""
    if not is_token(name):
        raise Invalid(f"{name!r} cannot name a cell", hint="Use 1 to 64 letters, digits, '_' or '-'.")
