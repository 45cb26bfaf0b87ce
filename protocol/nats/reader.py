"""Reading the log in order, from a position, for ever.

Knows: pull consumers, their sequences and status messages. Must not know: what an entry says.

Each reading has a consumer of its own, in the server's memory, without acknowledgements, and keeps pulls open on an inbox
of its own; what arrives is taken as one batch. A `_Feed` is one consumer's life. It is over when anything is not as it
should be: the consumer's own count has a gap, the connection was lost, the server says that the consumer is gone, or says
nothing although it promised to. The next feed then begins behind the last entry that was given out, so nothing is lost
and nothing comes twice. (The consumer's count is what shows a gap: the stream's has holes where jobs were purged.)
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from typing import Final

import structlog

from protocol.bus import SHORT_S, Record, ShortLog
from protocol.errors import Broken, Unavailable
from protocol.ids import JobKey
from protocol.nats.api import AGAIN_S, API, Done, call
from protocol.nats.frames import PENDING_MESSAGES, frame, header_value, positions_in, status_of, status_text
from protocol.nats.log import log_state
from protocol.nats.wire import Wire
from protocol.subjects import LOG_STREAM

_log = structlog.get_logger(__name__)

PULL: Final = 4_000
"""Messages asked for ahead."""
PULL_BYTES: Final = 8 << 20
"""Bytes asked for ahead by one pull; a pull that reaches it ends, and the next one goes on."""
EXPIRES_S: Final = 30
HEARTBEAT_S: Final = 1
SILENCE_S: Final = 3.0
"""Without a message or a heartbeat for that long, the feed is over. Its server may have died, though this connection is to
another one: it is noticed before the log has its next leader."""
LINGER_S: Final = 30
"""How long the server keeps a consumer that nobody pulls from."""
RETRY_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

_KEY_FROM: Final = len("job.")


async def read(wire: Wire, after: int, short_s: float = SHORT_S) -> AsyncGenerator[list[Record], None]:
    """See `protocol.bus.Bus.read`. `short_s`: see `protocol.bus.ShortLog`."""
    created = ""
    position = after
    failures = 0
    short = ShortLog(short_s)
    while await wire.until_connected():
        if failures:
            await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S)) - 1])
        failures += 1
        try:
            state = await log_state(wire)
            if created and state.created != created:
                raise Broken(f"the log was made anew at {state.created}; what was read is of {created}")
            created = state.created
            if short.may_pass(state.last, position, asyncio.get_running_loop().time()):
                continue
            if state.last < position:
                raise Broken(
                    f"the log ends at {state.last}, before the position {position}: it is another log"
                )
            feed = await _Feed.open(wire, position)
        except Unavailable as error:
            if wire.connected:
                _log.warning("the log cannot be read just now", reason=error.message)
            continue
        try:
            while batch := await feed.take():
                failures = 0
                position = batch[-1].seq
                yield batch
        finally:
            feed.close()


class _Feed:
    """One consumer and its open pulls."""

    def __init__(self, wire: Wire, name: str) -> None:
        self._wire = wire
        self._name = name
        self._inbox = wire.new_inbox()
        self._listening = 0
        self._records: list[Record] = []
        self._expected = 1
        self._outstanding = 0
        self._over = ""
        self._waiter: asyncio.Future[bool] | None = None
        self._forget = wire.on_loss(self._on_loss)

    @classmethod
    async def open(cls, wire: Wire, after: int) -> "_Feed":
        """A feed of everything behind `after`. Raises `Unavailable`."""
        feed = cls(wire, secrets.token_hex(8))
        try:
            feed._listening = await wire.listen(feed._inbox, feed._on_message)
            await feed._make_consumer(after)
        except BaseException:
            feed.close()
            raise
        return feed

    async def _make_consumer(self, after: int) -> None:
        config = {
            "name": self._name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": LINGER_S * 10**9,
        }
        body = {"stream_name": LOG_STREAM, "config": config, "action": "create"}
        # Twice the same is one consumer.
        await call(self._wire, f"CONSUMER.CREATE.{LOG_STREAM}.{self._name}", Done, body, again_s=AGAIN_S)

    async def take(self) -> list[Record]:
        """All entries that have arrived, at least one; an empty list when the feed is over."""
        while not self._records and not self._over:
            self._pull()
            self._waiter = asyncio.get_running_loop().create_future()
            alarm = asyncio.get_running_loop().call_later(SILENCE_S, self._wake, False)
            try:
                if not await self._waiter:
                    self._end("the server is silent")
            finally:
                alarm.cancel()
                self._waiter = None
        records, self._records = self._records, []
        if records:
            self._pull()
        elif self._over and self._wire.connected:
            _log.warning("the log's consumer is opened again", reason=self._over)
        return records

    def close(self) -> None:
        """Let go of the consumer. Harmless twice."""
        self._forget()
        if self._listening:
            self._wire.unlisten(self._listening)
            self._listening = 0
            self._wire.send(frame(f"{API}.CONSUMER.DELETE.{LOG_STREAM}.{self._name}", b""))

    def _pull(self) -> None:
        """Ask for more when less than half of what may be on its way still is."""
        if self._over or self._outstanding > PULL // 2:
            return
        count = PULL - self._outstanding
        self._outstanding = PULL
        body = (
            b'{"batch":%d,"max_bytes":%d,"expires":%d,"idle_heartbeat":%d}'
            % (count, PULL_BYTES, EXPIRES_S * 10**9, HEARTBEAT_S * 10**9)
        )  # fmt: skip
        self._wire.send(frame(f"{API}.CONSUMER.MSG.NEXT.{LOG_STREAM}.{self._name}", body, reply=self._inbox))

    def _on_message(self, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if status_of(headers):
            self._on_status(headers)
            return
        if self._over:
            return
        seq, count = positions_in(reply)
        if count != self._expected:
            self._end(f"delivery {count} came where {self._expected} was due")
            return
        self._expected += 1
        self._outstanding -= 1
        self._records.append(Record(JobKey(subject[_KEY_FROM:].decode()), seq, data))
        self._wake(True)

    def _on_status(self, headers: bytes) -> None:
        """A heartbeat; the end of a pull, with how many messages it did not bring; or the end of the consumer."""
        status = status_of(headers)
        unfilled = header_value(headers, PENDING_MESSAGES)
        if status in (404, 408, 409) and unfilled.isdigit():
            self._outstanding -= int(unfilled)
        elif status != 100:
            self._end(f"{status} {status_text(headers)}")
        self._wake(True)

    def _on_loss(self) -> None:
        self._end("the connection was lost")

    def _end(self, reason: str) -> None:
        self._over = self._over or reason
        self._wake(True)

    def _wake(self, heard: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(heard)
