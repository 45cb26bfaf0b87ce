"""The log of all jobs in its stream: appending, looking, purging.

Knows: how entries and jobs are laid out in the stream. Must not know: what an entry says.
"""

from collections.abc import Sequence

from protocol.bus import ENTRY_MAX_BYTES, Append, LogState, Outcome, Record, Refused, Stale
from protocol.errors import Broken, Invalid
from protocol.ids import JobKey, is_token
from protocol.nats.api import Done, StreamInfo, call, stream_info
from protocol.nats.guarded import GuardedStream, Put
from protocol.nats.streams import entries_of_one_job
from protocol.nats.wire import Wire
from protocol.subjects import LOG_STREAM, LOG_SUBJECTS, entries


class Log:
    """The writing half of the log; see `protocol.nats.reader` for the other."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._stream = GuardedStream(wire, LOG_STREAM)

    async def append(self, appends: Sequence[Append]) -> list[Outcome]:
        """See `protocol.bus.Bus.append`."""
        outcomes: dict[int, Outcome] = {}
        puts: dict[int, Put] = {}
        # Asked once for each connection, since servers that are lost and restored end it.
        log = (await self._stream.info_once()).created if any(one.log for one in appends) else ""
        for index, one in enumerate(appends):
            if one.log and one.log != log:
                outcomes[index] = Stale()
            elif len(one.data) > ENTRY_MAX_BYTES:
                outcomes[index] = Refused(
                    f"the entry has {len(one.data)} bytes, the log takes at most {ENTRY_MAX_BYTES}"
                )
            else:
                _check(one)
                puts[index] = Put(entries(one.key), one.guard, one.op, one.data)
        stored = await self._stream.put(list(puts.values()), created=log)
        if not outcomes:
            return stored
        outcomes.update(zip(puts, stored, strict=True))
        return [outcomes[index] for index in range(len(appends))]

    async def last(self, key: JobKey) -> Record | None:
        """See `protocol.bus.Bus.last`."""
        (newest,) = await self._stream.newest([entries(key)])
        return Record(key, newest.seq, newest.data) if newest else None

    async def newest(self) -> int:
        """See `protocol.bus.Bus.newest`."""
        (newest,) = await self._stream.newest([LOG_SUBJECTS])
        return newest.seq if newest else 0

    async def purge(self, key: JobKey, upto: int, log: str) -> None:
        """See `protocol.bus.Bus.purge`. The literal subject matters: a wildcard costs the server a hundred times as much."""
        if not is_token(key):
            raise Invalid(f"{key!r} is not a job key")
        if log and (await self._stream.info()).created != log:
            raise Broken(f"the log was made anew; what was to be taken out is of {log}")
        # The server purges what stands before the sequence that it is told; 0 would be everything.
        what = {"filter": entries(key), "seq": max(upto, 0) + 1}
        await call(self._wire, f"STREAM.PURGE.{LOG_STREAM}", Done, what)

    async def state(self) -> LogState:
        """See `protocol.bus.Bus.log_state`."""
        return _state(await self._stream.info())


async def log_state(wire: Wire) -> LogState:
    """The log as a whole, from its leader. Raises `Unavailable`."""
    return _state(await stream_info(wire, LOG_STREAM))


def _state(info: StreamInfo) -> LogState:
    state, config = info.state, info.config
    return LogState(
        info.created,
        state.first_seq,
        state.last_seq,
        state.bytes,
        limit_bytes=int(config["max_bytes"]),
        entries_max=entries_of_one_job(config),
    )


def _check(one: Append) -> None:
    """Raise `Invalid` for what must not come near a header or a subject."""
    if not is_token(one.op) or not is_token(one.key) or one.guard < 0:
        raise Invalid(
            f"an append needs a job key, an op of 1 to 64 letters and digits, and a guard from 0 on: {one.key!r}"
        )
