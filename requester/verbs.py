"""What a requester can be asked to do: the seam between the API and the deciding part.

Knows: the verbs and the values they exchange. Must not know: HTTP, or how a verb is carried out (`requester.service`).

A job is named by `ref`: its name, its whole id, or any unique prefix of its id. Every verb raises `NotFound` for an
unknown ref and `Conflict` with kind ``MultipleJobsFound`` (the candidates in its details) for an ambiguous one.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol

from msgspec import Struct, field

from protocol.errors import Failure
from protocol.ids import JobId, NodeId
from protocol.jobs import Job
from protocol.messages import FileWritten, Progress
from protocol.questions import LogChunk
from requester.core.explanation import NodeStanding
from requester.core.model import ExecutionRecord, HistoryItem, JobRecord, NodeRecord


class Submission(Struct, frozen=True):
    """The job is in the log, durably, under this id and version."""

    job: JobId
    version: int
    warnings: list[str] = field(default_factory=list)


class JobQuery(Struct, frozen=True):
    """Which jobs, in which order. `limit` 0 means all; `offset` counts from the first match."""

    namespace: str = ""
    labels: list[str] = field(default_factory=list)
    state: str = ""
    order_by: str = "created_at"
    reverse: bool = False
    limit: int = 0
    offset: int = 0


class HistoryQuery(Struct, frozen=True):
    """Which items of a job's history: behind the position `after`, not before `since` (unix seconds), of one execution, of
    one version (0: the newest). At most `limit` of them (0: all), the first ones, or the `newest`."""

    after: tuple[int, int] = (0, -1)
    since: float = 0.0
    kind: str = "all"
    execution: str = ""
    version: int = 0
    all_versions: bool = False
    limit: int = 100
    newest: bool = False


class HistoryPage(Struct, frozen=True):
    """Items in order. `ended` says that the job (or the execution asked for) is closed and nothing follows; `more` that
    there are others than those, beyond the limit."""

    items: list[HistoryItem]
    ended: bool
    more: bool = False


class JobUpdate(Struct, frozen=True, omit_defaults=True):
    """One thing that happened to a watched job: its newest record, or progress between two records."""

    job: JobRecord | None = None
    progress: Progress | None = None


class NextAttempt(Struct, frozen=True):
    """An execution that came in the place of one that has ended, for the reason `before` if that is known."""

    number: int
    version: int
    node: NodeId
    before: Failure | None = None


class LogLine(Struct, frozen=True, omit_defaults=True):
    """A piece of an execution's output, or why it cannot be had; or a word before its first piece: of how many `executions`
    of the job nobody said which is meant, for what the job is `waiting` that has none yet, or that it is tried `again`.
    """

    execution: str = ""
    chunk: LogChunk | None = None
    failure: Failure | None = None
    executions: int = 0
    waiting: str = ""
    again: NextAttempt | None = None


class Archive(Struct, frozen=True):
    """A result that its node keeps: `read` brings a piece from an offset on (never empty, `Broken` if it was replaced)."""

    size_bytes: int
    version: str
    read: Callable[[int], Awaitable[bytes]]


class QueuePlace(Struct, frozen=True):
    """Where a job stands in the queue: how many come before it as things are (None: too many wait to count), of how many
    that wait, since when (unix seconds), and the node that is kept for it, if one is."""

    ahead: int | None
    waiting: int
    since: float
    kept: NodeId | None = None


class Explanation(Struct, frozen=True):
    """A job, whose executions carry why they are where they are, and how all nodes stand towards its next one now."""

    job: JobRecord
    nodes: list[NodeStanding]
    place: QueuePlace | None = None


class Verbs(Protocol):
    """All a requester can be asked."""

    async def submit(self, job: Job, *, warnings: list[str], client: str, force: bool = False) -> Submission:
        """Take a validated, canonical job. The answer comes when its entry is in the log.

        Raises `Conflict` (nothing would change and not `force`, or another name has the same hash), `Invalid` (the log takes
        no such entry), `Exhausted` (the log is full, or takes no more of this job) and `Unavailable` (the log does not
        answer, and whether the job was taken is not known).
        """

    async def rerun(self, ref: str, *, namespace: str, version: int, reason: str, client: str) -> Submission:
        """Run a job once more, as it was in `version` (0: the newest): a new version, whose clocks start anew.

        Raises `Conflict` for a job that has not begun to run, `NotFound` for a version that never was, and as `submit`.
        """

    async def changes(self, job: Job) -> str:
        """What submitting this would change in the job of its name, as lines; empty for nothing. Raises `NotFound`."""

    async def versions(self, ref: str, *, namespace: str = "") -> list[JobRecord]:
        """The job as it was at the end of each of its versions, oldest first; the last is its present state."""

    async def put_blob(self, data: bytes) -> str:
        """Store bytes that are too large to travel in a spec; returns their SHA-256 in hexadecimal."""

    async def stop(self, ref: str, *, namespace: str, reason: str, client: str) -> JobRecord:
        """End a job; harmless when it is stopped already. Raises `Conflict` when it has ended otherwise."""

    async def delete(self, ref: str, *, namespace: str, reason: str, client: str) -> JobRecord:
        """Forget a closed job: it is gone from all lists, and its name is free. Raises `Conflict` while it is open."""

    async def job(self, ref: str, *, namespace: str = "", version: int = 0) -> JobRecord:
        """One job's present state, read-your-writes for what this requester committed."""

    def queue_place(self, record: JobRecord) -> QueuePlace | None:
        """Where a job stands in the queue, None if it does not wait."""

    def next_attempt(self, record: JobRecord) -> float | None:
        """When a job that rests after an attempt is tried or started again, in unix seconds; None if it does not rest."""

    def entries_left(self, record: JobRecord) -> int | None:
        """How many more entries an open job may have before it is ended for them, once it has had half; else None."""

    async def explain(self, ref: str, *, namespace: str = "") -> Explanation:
        """Why a job's executions went where they are, and where the next one could go."""

    async def jobs(self, query: JobQuery) -> tuple[list[JobRecord], bool]:
        """Jobs, and whether more follow. Raises `Invalid` for a bad selector or order."""

    async def executions(
        self, ref: str, *, namespace: str = "", version: int = 0, all_versions: bool = False
    ) -> list[ExecutionRecord]:
        """A job's executions, oldest first: those of `version`, of all, or without either what `JobRecord.shown` gives."""

    async def history(self, ref: str, query: HistoryQuery, *, namespace: str = "") -> HistoryPage:
        """A job's history."""

    async def results(self, ref: str, *, namespace: str = "") -> list[ExecutionRecord]:
        """The executions whose published result counts: see `JobRecord.published`. Links to nodes are new ones."""

    async def files(self, record: ExecutionRecord) -> list[FileWritten]:
        """All files that an execution wrote, with their digests, in the order of a walk. The list is the caller's,
        but where it is its record's.

        Raises `NotFound` if nobody has kept them, `Unavailable` if its node cannot be asked, `Exhausted` if they are too
        many, `Broken` if the node tells others.
        """

    async def archive(self, ref: str, execution: str, *, namespace: str = "") -> Archive:
        """A result that its node keeps. Raises `NotFound`, and `Unavailable` if the node cannot be asked."""

    def watch(self, ref: str, *, namespace: str = "") -> AsyncGenerator[JobUpdate, None]:
        """The record now, and after each change, with progress in between; ends after the record that is closed."""

    def logs(
        self,
        ref: str,
        *,
        namespace: str = "",
        execution: str = "",
        every: bool = False,
        follow: bool = False,
        tail: bool = False,
    ) -> AsyncGenerator[LogLine, None]:
        """Output of one execution (default: the job's newest that was not given up), in order, until its end.

        With `follow` and without `execution`, what comes in its place is followed too, until nothing does any more.
        With `every`, of all executions of the job's present version: one after the other, or followed side by side.
        """

    async def nodes(self) -> list[NodeRecord]:
        """All nodes known, by id."""

    async def node(self, ref: str) -> NodeRecord:
        """One node by id or unique prefix."""

    async def set_membership(self, ref: str, membership: str, message: str) -> NodeRecord:
        """Approve or reject a node, or delete what is known of it (``APPROVED REJECTED DELETED``)."""

    async def cordon(self, ref: str, *, reason: str, drain_s: float | None = None) -> NodeRecord:
        """Give a node no new work. With `drain_s` what it has leaves it: services at once and a few at a time, everything
        else when it ends, or in so many seconds at the latest."""

    async def uncordon(self, ref: str) -> NodeRecord:
        """Give a node work again; also one that was set aside for its failures."""

    def facts(self) -> dict[str, Any]:
        """About this requester: id, version, how far it has folded, whether the log can be reached, open jobs."""
