"""Guarded writes to a stream, and how one whose answer was lost is settled.

Knows: expected sequences, atomic batches, the server's refusals, operation ids. Must not know: jobs, cells or blobs.

A write carries "the newest message of this subject is `guard`" and an operation id of its own. So it can succeed once only,
however often it is sent, and afterwards anyone can see in the stream whether it did. It is in doubt when the connection was
lost, when the stream's leader is another one before it was answered (what the old one was sent it does not answer), and when
one and the same leader does not answer for long. Then the leader is asked for the subject's newest message. There are
four cases, and `examine` tells them apart:

- it carries our operation: stored;
- it is the guard itself: not stored, or not yet; send again under the same guard;
- it is newer and another's: look at those in between for our operation, which then was stored and overtaken, else stale;
- it is older than the guard, or gone: the guard never holds again; stale.

Whoever is told "stale" by the server is looked up too, for it may have been stale against itself: sent before, by us
without an answer, or by the caller who asks again after `Unavailable`.
"""

import asyncio
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import Enum
from itertools import count
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from protocol.bus import BATCH_MAX, Outcome, Refused, Stale, Stored
from protocol.errors import Broken, Unavailable
from protocol.nats.api import (
    IN_FLIGHT,
    STALE,
    Error,
    Kept,
    StreamInfo,
    get_request,
    read_get,
    stream_info,
)
from protocol.nats.frames import (
    BATCH_COMMIT,
    BATCH_ID,
    BATCH_SEQUENCE,
    EXPECTED_SEQUENCE,
    NO_RESPONDERS,
    OP,
    Answer,
    Request,
    frame,
    header,
)
from protocol.nats.volley import Volley
from protocol.nats.wire import Wire
from protocol.together import together

_log = structlog.get_logger(__name__)

BATCH_FROM: Final = 10
"""Below this many, single writes side by side are stored sooner than one batch: a batch costs the disk four syncs."""
BATCH_BYTES: Final = 4 << 20
LATE_S: Final = 0.5
"""After which an answer is late: it is looked whether the stream has another leader."""
DOUBT_S: Final = 5.0
"""How long one and the same leader may take to answer."""
GIVE_UP_S: Final = 30.0
"""How long a write is pursued before `Unavailable`: longer than a cluster needs for a new leader (4 to 7 s, measured)."""
RETRY_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Pauses between attempts; the last one repeats."""


class Put(Struct, frozen=True, gc=False):
    """One guarded write; `headers` are further header lines."""

    subject: str
    guard: int
    op: str
    data: bytes
    headers: bytes = b""


class Doubt(Enum):
    """What we know of a write that has no outcome yet."""

    UNANSWERED = "it may be stored"
    NOT_TAKEN = "the server said that it did not take it just now"


class Finding(Enum):
    """What the newest message of the subject says of a write."""

    OURS = "it is our own"
    ABSENT = "it is the guard: ours is not there"
    OVERTAKEN = "it is another's, newer than the guard"
    PASSED = "the guard will not hold again"


class _Ack(Struct, frozen=True, gc=False):
    seq: int = 0
    error: Error | None = None


_ack = msgspec.json.Decoder(_Ack)
_NUMBER: Final = re.compile(r"\d+")
_FULL: Final = ("maximum bytes", "maximum messages exceeded", "insufficient", "resources", "no space")


def judge(answer: Answer | None) -> Outcome | Doubt:
    """What the server's answer to one write means."""
    if answer is None:
        return Doubt.UNANSWERED
    if answer.status == NO_RESPONDERS:
        return Doubt.NOT_TAKEN
    try:
        ack = _ack.decode(answer.data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Doubt.UNANSWERED
    if ack.error is None:
        return Stored(ack.seq)
    return _refusal(ack.error)


def _refusal(error: Error) -> Outcome | Doubt:
    if error.err_code == STALE:
        last = _NUMBER.search(error.description)
        return Stale(int(last.group()) if last else 0)
    if error.err_code == IN_FLIGHT:
        return Doubt.NOT_TAKEN
    text = error.description.lower()
    if any(word in text for word in _FULL):
        return Refused(error.description, full=True)
    if error.code == 503 and "per subject" not in text:
        return Doubt.NOT_TAKEN
    return Refused(error.description)


def examine(put: Put, newest: Kept | None) -> Finding:
    """What the newest message of its subject says of a write that is in doubt."""
    if newest is None:
        return Finding.PASSED if put.guard else Finding.ABSENT
    if newest.seq == put.guard:
        return Finding.ABSENT
    if newest.seq < put.guard:
        return Finding.PASSED
    return Finding.OURS if newest.op == put.op else Finding.OVERTAKEN


def commits(puts: Sequence[Put]) -> Iterator[list[Put]]:
    """Cut a group into what is written at once: at most `BATCH_MAX` writes, and `BATCH_BYTES` unless one alone is larger."""
    together: list[Put] = []
    size_bytes = 0
    for put in puts:
        size_bytes += len(put.data)
        if together and (len(together) == BATCH_MAX or size_bytes > BATCH_BYTES):
            yield together
            together, size_bytes = [], len(put.data)
        together.append(put)
    if together:
        yield together


_TAKES_NO_WRITES: Final = (
    "it is read and takes no writes; if a NATS server's own log says `no space left on device`, "
    "make room on its disk and restart it"
)
"""What a server whose disk is full looks like from outside: nats-server 2.15 answers no write until it is restarted, also if
there is room again."""


class GuardedStream:
    """Guarded writes to one stream, and reads from its leader."""

    def __init__(self, wire: Wire, stream: str) -> None:
        self._wire = wire
        self._stream = stream
        self._looks = 0
        self._asking = asyncio.Lock()
        self._info: StreamInfo | None = None
        """How the stream was,"""
        self._asked_at = 0.0
        """asked for at this time of the event loop"""
        self._losses = -1
        """on this connection."""

    async def info(self) -> StreamInfo:
        """How the stream is now, told by its leader as soon as it has one. Raises `Unavailable`.

        Those who ask while the same question is on its way share the next one.
        """
        now = asyncio.get_running_loop().time
        came_at = now()
        async with self._asking:
            if self._info is None or self._asked_at < came_at:
                asked_at, losses = now(), self._wire.losses
                self._info = await stream_info(self._wire, self._stream)
                self._asked_at, self._losses = asked_at, losses
            return self._info

    async def info_once(self) -> StreamInfo:
        """How the stream was when this connection asked first, or later; waits for a connection. Raises `Unavailable`."""
        if self._info is None or self._losses != self._wire.losses:
            with suppress(TimeoutError):
                async with asyncio.timeout(GIVE_UP_S):
                    await self._wire.until_connected()
            return await self.info()
        return self._info

    async def put(self, puts: Sequence[Put], *, created: str = "") -> list[Outcome]:
        """Write, each under its own guard; one outcome each, in order. Raises `Unavailable`: then ask again.

        What is in doubt is not sent once more if the stream is not the one that was `created` then (empty: any), but stale.
        """
        outcomes: list[Outcome] = []
        for commit in commits(puts):
            outcomes += await self._put(commit, created)
        return outcomes

    async def newest(self, subjects: Sequence[str]) -> list[Kept | None]:
        """The newest message of each subject. Raises `Unavailable`."""
        answers = await self._ask([get_request(self._stream, last_by_subj=subject) for subject in subjects])
        return [read_get(answer) for answer in answers]

    async def _ask(self, requests: Sequence[Request], *, ahead: bytes = b"") -> list[Answer | None]:
        """Ask the stream's leader, after the frames `ahead`. None stands for what is not answered any more: in doubt."""
        leader = self._info.leader if self._info is not None else ""
        with self._wire.asking(requests, ahead=ahead) as volley:
            if not await volley.within(LATE_S):
                await self._wait_on(volley, leader)
        return volley.told()

    async def _wait_on(self, volley: Volley, leader: str) -> None:
        """Wait for answers that are late, until they are in doubt."""
        now = asyncio.get_running_loop().time
        until = now() + DOUBT_S
        while not volley.ended and now() < until:
            try:
                if (await self.info()).leader != leader:
                    break
            except Unavailable as error:
                _log.debug("the stream has no leader", stream=self._stream, reason=error.message)
            await volley.within(LATE_S)

    async def _put(self, puts: Sequence[Put], created: str) -> list[Outcome]:
        verdicts: list[Outcome | Doubt]
        try:
            batch = await self._send_batch(puts) if len(puts) >= BATCH_FROM else None
            if isinstance(batch, Stored):
                first = batch.seq - len(puts) + 1
                return [Stored(first + index) for index in range(len(puts))]
            if batch is Doubt.UNANSWERED:
                verdicts = [batch] * len(puts)
            else:
                verdicts = await self._send_singles(puts)
        except Unavailable:
            # No connection: nothing was sent.
            verdicts = [Doubt.NOT_TAKEN] * len(puts)
        outcomes = [verdict for verdict in verdicts if isinstance(verdict, Stored)]
        if len(outcomes) == len(puts):
            return list(outcomes)
        return await self._settle(puts, verdicts, created)

    async def _send_singles(self, puts: Sequence[Put]) -> list[Outcome | Doubt]:
        requests = [Request(put.subject, put.data, _headers(put)) for put in puts]
        return [judge(answer) for answer in await self._ask(requests)]

    async def _send_batch(self, puts: Sequence[Put]) -> Outcome | Doubt:
        name = secrets.token_hex(16)
        headers = [
            _headers(put) + header(BATCH_ID, name) + header(BATCH_SEQUENCE, number)
            for number, put in enumerate(puts, 1)
        ]
        ahead = b"".join(
            frame(put.subject, put.data, lines) for put, lines in zip(puts[:-1], headers[:-1], strict=True)
        )
        commit = Request(puts[-1].subject, puts[-1].data, headers[-1] + header(BATCH_COMMIT, 1))
        (answer,) = await self._ask([commit], ahead=ahead)
        return judge(answer)

    async def _settle(
        self, puts: Sequence[Put], verdicts: Sequence[Outcome | Doubt], created: str
    ) -> list[Outcome]:
        """Find an outcome for every write, each on its own."""
        outcomes: dict[int, Outcome] = {}
        looks = self._looks

        async def settle(number: int) -> None:
            outcomes[number] = await self._settle_one(puts[number], verdicts[number], created)

        try:
            async with asyncio.timeout(GIVE_UP_S):
                await together(map(settle, range(len(puts))))
        except TimeoutError as error:
            if not self._wire.connected:
                reason = "there is no connection to NATS"
            elif self._looks > looks:
                reason = _TAKES_NO_WRITES
            else:
                reason = "it does not answer"
            raise Unavailable(
                f"writes to {self._stream} are in doubt after {GIVE_UP_S:g} s: {reason}",
                hint="Ask again with the same operation id and guard: it can succeed once only.",
            ) from error
        return [outcomes[number] for number in range(len(puts))]

    async def _settle_one(self, put: Put, verdict: Outcome | Doubt, created: str) -> Outcome:
        """Look and send again until there is an outcome. Raises `Unavailable` if the connection was shut, and `Denied`."""
        doubted = False
        for attempt in count():
            doubted = doubted or verdict is Doubt.UNANSWERED
            if isinstance(verdict, Stored) or (isinstance(verdict, Refused) and not doubted):
                return verdict
            if attempt or verdict is Doubt.NOT_TAKEN:
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            if not await self._wire.until_connected():
                break
            try:
                await self.info()
                found = await self._look_for(put)
                if found is not None:
                    return verdict if isinstance(found, Stale) and isinstance(verdict, Refused) else found
                if isinstance(verdict, Refused):
                    return verdict
                if created and (await self.info()).created != created:
                    return Stale()
                (verdict,) = await self._send_singles([put])
            except (Unavailable, Broken) as error:
                _log.debug("a write is in doubt", subject=put.subject, reason=error.message)
        raise Unavailable("the bus is closed")

    async def _look_for(self, put: Put) -> Stored | Stale | None:
        """What the stream says of a write; None if it is not there and its guard still holds."""
        (newest,) = await self.newest([put.subject])
        self._looks += 1
        finding = examine(put, newest)
        if finding is Finding.ABSENT:
            return None
        last = newest.seq if newest else 0
        if finding is Finding.OURS:
            return Stored(last)
        seq = await self._look_between(put, last) if finding is Finding.OVERTAKEN else 0
        return Stored(seq) if seq else Stale(last)

    async def _look_between(self, put: Put, last: int) -> int:
        """The sequence of our operation among the subject's messages behind the guard and before `last`, or 0."""
        seq = put.guard + 1
        while seq < last:
            request = get_request(self._stream, next_by_subj=put.subject, seq=seq)
            (answer,) = await self._ask([request])
            found = read_get(answer)
            if found is None:
                return 0
            if found.op == put.op:
                return found.seq
            seq = found.seq + 1
        return 0


def _headers(put: Put) -> bytes:
    return b"%b: %d\r\n%b: %b\r\n%b" % (_EXPECTED, put.guard, _OP, put.op.encode(), put.headers)


_EXPECTED: Final = EXPECTED_SEQUENCE.encode()
_OP: Final = OP.encode()
