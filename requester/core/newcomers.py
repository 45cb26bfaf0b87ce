"""New jobs that have to wait, as the log brings them: what their turn and their row depend on, without the rest.

Knows: which parts of an entry these are. Must not know: where such a job waits, or who reads its entry in full when its turn
has come.

A requester that joins a cluster with a long queue reads a million of them. To decode one whole, fold it and work out what
it demands takes some four times as long as to read these parts; and where jobs ask for the same, what follows from it is
known already. It is worked out by the rules that hold for any job (`fold`, `demand_of`, `next_deadline`), of the first one.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from protocol.entries import read_entry
from protocol.errors import Broken
from protocol.ids import JobId, JobKey, key_of
from protocol.jobs import NAMESPACE_DEFAULT
from requester.core.deadlines import next_deadline
from requester.core.fold import fold
from requester.core.model import JobRecord
from requester.core.policy import Policy
from requester.core.queue import hopes
from requester.core.standing import Demand, demand_of

KINDS_MAX: Final = 1_024
"""Of so many kinds of jobs it is known what follows; of more it is worked out again."""


class Newcomer(Struct, frozen=True, gc=False):
    """A job of which there is one entry, `data` at `seq`: it was submitted, at `at` (unix seconds), and has to wait.

    `hopes` is as in `Waiting`, `due` when it needs a look without any news, None for never.
    """

    key: JobKey
    id: JobId
    namespace: str
    name: str
    priority: int
    at: float
    demand: Demand
    hopes: bool
    due: float | None
    seq: int
    data: bytes


class _Typed(Struct, frozen=True, gc=False, rename="pascal"):
    type: str = ""


class _Input(Struct, frozen=True, gc=False, rename="pascal"):
    source: _Typed


class _Task(Struct, frozen=True, gc=False, rename="pascal"):
    engine: _Typed = _Typed()
    publisher: _Typed = _Typed()
    input_sources: list[_Input] = []
    resources: Raw = Raw()
    network: Raw = Raw()
    timeouts: Raw = Raw()


class _Job(Struct, frozen=True, gc=False, rename="pascal"):
    tasks: tuple[_Task]
    name: str = ""
    namespace: str = NAMESPACE_DEFAULT
    type: str = "batch"
    priority: int = 0
    count: int = 1
    constraints: Raw = Raw()
    placement: Raw = Raw()


class _Submitted(Struct, frozen=True, gc=False, tag="submitted"):
    spec: _Job
    version: int


class _Reason(Struct, frozen=True, gc=False):
    code: str
    retryable: bool = False


class _Queued(Struct, frozen=True, gc=False, tag="queued"):
    reason: _Reason


class _Entry(Struct, frozen=True, gc=False):
    job: JobId
    at: float
    events: tuple[_Submitted, _Queued]


class _Kind(Struct, frozen=True, gc=False):
    """What jobs have in common that ask for the same: as in `Newcomer`, but for `due_s`, which counts from `at`."""

    demand: Demand
    hopes: bool
    due_s: float | None


_decode = msgspec.json.Decoder(_Entry).decode


class Newcomers:
    """Reads the entries of new jobs under one policy."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._kinds: dict[tuple[Any, ...], _Kind | None] = {}

    def read(self, key: JobKey, seq: int, data: bytes) -> Newcomer | None:
        """The new job whose first entry this is, if it only waits; None for all other entries, whatever they are."""
        try:
            entry = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        submitted, queued = entry.events
        if submitted.version != 1 or key_of(entry.job) != key:
            return None
        spec, reason = submitted.spec, queued.reason
        asked = _asked(spec, reason)
        kind = self._kinds[asked] if asked in self._kinds else self._learn(asked, data, seq)
        if kind is None:
            return None
        return Newcomer(
            key,
            entry.job,
            spec.namespace,
            spec.name or entry.job,
            spec.priority,
            entry.at,
            kind.demand,
            kind.hopes,
            None if kind.due_s is None else entry.at + kind.due_s,
            seq,
            data,
        )

    def _learn(self, asked: tuple[Any, ...], data: bytes, seq: int) -> _Kind | None:
        """What follows for all jobs that ask for this, from one of them; None if they do not only wait."""
        try:
            record = fold(None, replace(read_entry(data), at=0.0), seq)
        except Broken:
            return None
        kind = None
        if record is not None and record.queued is not None and record.untried:
            due_s = next_deadline(record, {}, 0.0, self._policy)
            kind = _Kind(demand_of(record.spec), hopes(record), due_s)
        if len(self._kinds) >= KINDS_MAX:
            self._kinds.clear()
        self._kinds[asked] = kind
        return kind


def _asked(spec: _Job, reason: _Reason) -> tuple[Any, ...]:
    """All that a newcomer's demand, its deadline, and whether it only waits depend on."""
    (task,) = spec.tasks
    return (
        spec.type,
        spec.count,
        task.engine.type,
        task.publisher.type,
        tuple([each.source.type for each in task.input_sources]),
        bytes(task.resources),
        bytes(task.network),
        bytes(task.timeouts),
        bytes(spec.constraints),
        bytes(spec.placement),
        reason.code,
        reason.retryable,
    )


def record_of(data: bytes, seq: int) -> JobRecord | None:
    """The record of a job that has this one entry, at `seq`; None if it cannot be read, and so is passed over."""
    try:
        return fold(None, read_entry(data), seq)
    except Broken:
        return None
