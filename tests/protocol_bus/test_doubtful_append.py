"""An append whose answer is lost is settled: stored exactly once, and answered so.

Between the bus and a real server stands a proxy that loses either the append or its answer, and cuts the connection. A
second bus, without the proxy, sees what is really in the log.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import pytest

from deploy.servers import NatsServer
from protocol.bus import Append, Bus, Outcome, Record, Stale, Stored
from protocol.errors import Unavailable
from protocol.nats import api, guarded
from protocol.nats.frames import Answer, Request
from protocol.nats.volley import Volley
from protocol.nats.wire import Wire
from tests.contracts.bus import LIMIT_S, append_one, collect, entry, fresh_key, stored
from tests.protocol_bus.connections import requester
from tests.protocol_bus.cutting_proxy import CuttingProxy, cutting_proxy

SIZES = pytest.mark.parametrize("size", [1, 3, 40, 300])
"""Single writes side by side, one batch, and two."""


class Scene(NamedTuple):
    """A bus behind the proxy, and one that sees the server directly."""

    bus: Bus
    witness: Bus
    proxy: CuttingProxy


@pytest.fixture
async def scene(nats_server: NatsServer) -> AsyncIterator[Scene]:
    async with (
        cutting_proxy(nats_server.port) as proxy,
        requester(nats_server, proxy.url) as bus,
        requester(nats_server) as witness,
    ):
        yield Scene(bus, witness, proxy)


def group_of(size: int) -> list[Append]:
    return [entry(fresh_key(), data=b"%d" % number) for number in range(size)]


async def finish(appending: "asyncio.Task[list[Outcome]]") -> list[Outcome]:
    async with asyncio.timeout(LIMIT_S):
        return await appending


async def check_stored_once(witness: Bus, start: int, group: list[Append], outcomes: list[Outcome]) -> None:
    """The log holds each entry of the group once, where its outcome says, and nothing else since `start`."""
    state = await witness.log_state()
    read = await collect(witness, start, state.last - start)
    wanted = [
        Record(one.key, outcome.seq, one.data)
        for one, outcome in zip(group, outcomes, strict=True)
        if isinstance(outcome, Stored)
    ]
    assert len(wanted) == len(group)
    assert read == sorted(wanted, key=lambda record: record.seq)


async def held_back(scene: Scene, size: int) -> tuple[int, list[Append], "asyncio.Task[list[Outcome]]"]:
    """An append that has not arrived: where the log ended before it, its entries, and who waits for its outcome."""
    start = (await scene.witness.log_state()).last
    group = group_of(size)
    scene.proxy.hold_requests()
    appending = asyncio.create_task(scene.bus.append(group))
    await scene.proxy.until_requested()
    return start, group, appending


@SIZES
async def test_an_append_whose_answer_is_lost_is_stored_once(scene: Scene, size: int) -> None:
    """The server stored it, the connection broke before the answer: the outcome is `Stored`, and the log has it once."""
    start = (await scene.witness.log_state()).last
    group = group_of(size)
    scene.proxy.hold_answers()
    appending = asyncio.create_task(scene.bus.append(group))
    first_batch = min(size, 256)
    await collect(scene.witness, start, first_batch)
    assert not appending.done()

    await scene.proxy.cut()

    await check_stored_once(scene.witness, start, group, await finish(appending))


@SIZES
async def test_an_append_that_never_reached_the_server_is_stored_once(scene: Scene, size: int) -> None:
    """The connection broke before the append arrived: it is sent again, and the log has it once."""
    start, group, appending = await held_back(scene, size)

    await scene.proxy.cut()

    await check_stored_once(scene.witness, start, group, await finish(appending))


@SIZES
async def test_an_append_that_arrives_late_is_stored_once(scene: Scene, size: int) -> None:
    """The first copy arrives after the second was stored: the guard refuses it, and the log has the entry once."""
    start, group, appending = await held_back(scene, size)
    await scene.proxy.cut()
    outcomes = await finish(appending)

    async with asyncio.timeout(LIMIT_S):
        await scene.proxy.deliver_late(refusals=size if size < guarded.BATCH_FROM else 1)

    await check_stored_once(scene.witness, start, group, outcomes)


@SIZES
async def test_an_append_of_which_half_arrived_is_stored_once(scene: Scene, size: int) -> None:
    """The connection broke in the middle of the append, or of a batch: nothing is half stored, and nothing twice."""
    start, group, appending = await held_back(scene, size)
    await scene.proxy.deliver_half()

    await scene.proxy.cut()

    await check_stored_once(scene.witness, start, group, await finish(appending))


async def test_an_append_whose_answer_is_lost_and_that_was_overtaken_is_stored(scene: Scene) -> None:
    """Others append behind our entry before we can look: it is found among the entries since the guard."""
    key = fresh_key()
    start = await stored(scene.witness, key)
    one = entry(key, start)
    scene.proxy.hold_answers()
    appending = asyncio.create_task(scene.bus.append([one]))
    (ours,) = await collect(scene.witness, start, 1)
    last = ours.seq
    for _ in range(3):
        last = await stored(scene.witness, key, last)

    await scene.proxy.cut()

    assert await finish(appending) == [Stored(ours.seq)]


async def test_an_append_that_never_arrived_and_lost_the_race_is_stale(scene: Scene) -> None:
    """Another's entry was stored under the same guard meanwhile: the outcome is `Stale`, and ours is not in the log."""
    key = fresh_key()
    guard = await stored(scene.witness, key)
    scene.proxy.hold_requests()
    appending = asyncio.create_task(scene.bus.append([entry(key, guard, b"ours")]))
    await scene.proxy.until_requested()
    theirs = await stored(scene.witness, key, guard, b"theirs")

    await scene.proxy.cut()

    assert await finish(appending) == [Stale(theirs)]
    async with asyncio.timeout(LIMIT_S):
        await scene.proxy.deliver_late(refusals=1)
    assert await scene.witness.last(key) == Record(key, theirs, b"theirs")


async def test_each_entry_of_a_doubtful_group_is_settled_on_its_own(scene: Scene) -> None:
    """A batch that never arrived, one of whose jobs moved on: that entry is stale, all others are stored."""
    group = group_of(30)
    scene.proxy.hold_requests()
    appending = asyncio.create_task(scene.bus.append(group))
    await scene.proxy.until_requested()
    theirs = await stored(scene.witness, group[7].key)

    await scene.proxy.cut()

    outcomes = await finish(appending)
    assert outcomes[7] == Stale(theirs)
    assert all(isinstance(outcome, Stored) for outcome in outcomes[:7] + outcomes[8:])


async def test_an_append_that_is_only_slow_is_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer within the deadline, though the connection holds: the log is asked, and nothing is stored twice."""
    monkeypatch.setattr(guarded, "DOUBT_S", 0.1)
    start = (await scene.witness.log_state()).last
    group = group_of(3)
    scene.proxy.hold_answers()
    appending = asyncio.create_task(scene.bus.append(group))
    await collect(scene.witness, start, 3)
    await asyncio.sleep(0.3)  # Longer than the deadline: the bus asks, and gets no answer to that either.

    await scene.proxy.cut()

    await check_stored_once(scene.witness, start, group, await finish(appending))


async def test_asking_again_after_unavailable_is_answered_stored(
    own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the log cannot be reached the append raises `Unavailable`; the same append later is stored, once."""
    monkeypatch.setattr(guarded, "GIVE_UP_S", 0.3)
    async with requester(own_nats_server) as bus, requester(own_nats_server) as witness:
        one = entry(fresh_key())
        await own_nats_server.kill()
        with pytest.raises(Unavailable):
            await bus.append([one])
        await own_nats_server.start()
        monkeypatch.undo()

        outcome = await append_one(bus, one)

        assert outcome == await append_one(bus, one) == Stored(1)
        assert await collect(witness, 0, 1) == [Record(one.key, 1, one.data)]


async def test_a_question_that_was_lost_is_asked_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server was asked that died meanwhile is asked again, though the connection to another one holds."""
    monkeypatch.setattr(api, "CALL_S", 1_000.0)
    scene.proxy.hold_requests()
    asking = asyncio.create_task(scene.bus.log_state())
    await scene.proxy.until_requested()

    scene.proxy.lose()

    async with asyncio.timeout(LIMIT_S):
        assert await asking == await scene.witness.log_state()


class FullDisk:
    """The wire to a server whose disk is full: it answers reads, and no writes."""

    connected = True
    losses = 0
    leader = "nats-1"

    async def until_connected(self) -> bool:
        return True

    @contextmanager
    def asking(self, requests: Sequence[Request], *, ahead: bytes = b"") -> Iterator[Volley]:
        volley = Volley(requests, range(len(requests)))
        for index, request in enumerate(requests):
            if (said := self.answer(request.subject)) is not None:
                volley.take(index, Answer(b"", said))
        yield volley

    async def ask(
        self, requests: Sequence[Request], *, timeout_s: float, again_s: float
    ) -> list[Answer | None]:
        with self.asking(requests) as volley:
            return volley.told()

    def answer(self, subject: str) -> bytes | None:
        if ".STREAM.INFO." in subject:
            return b'{"cluster":{"leader":"%b"}}' % self.leader.encode()
        if ".STREAM.MSG.GET." in subject:
            return b'{"error":{"code":404,"err_code":10037,"description":"no message found"}}'
        return None


async def test_a_log_that_takes_no_writes_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is read and takes no writes is not called silent: a disk may be full, and the fault says what to do."""
    for name in ("GIVE_UP_S", "DOUBT_S", "LATE_S"):
        monkeypatch.setattr(guarded, name, 0.1)
    stream = guarded.GuardedStream(cast(Wire, FullDisk()), "JOBS")

    with pytest.raises(Unavailable, match=r"no space left on device.*restart it"):
        await stream.put([guarded.Put("job.x", 0, "op-1", b"entry")])


class DeadLeader(FullDisk):
    """The wire to a cluster whose leader dies when it is given its first write."""

    def __init__(self) -> None:
        self.writes = 0

    def answer(self, subject: str) -> bytes | None:
        if subject.startswith("$JS"):
            return super().answer(subject)
        self.writes += 1
        if self.writes > 1:
            return b'{"seq":7}'
        self.leader = "nats-2"
        return None


async def test_a_write_is_in_doubt_as_soon_as_there_is_another_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the old leader was sent and has not answered is settled at once with the next one, however long a slow leader may
    take, though the connection holds."""
    monkeypatch.setattr(guarded, "DOUBT_S", 1_000.0)
    stream = guarded.GuardedStream(cast(Wire, DeadLeader()), "JOBS")
    await stream.info_once()

    async with asyncio.timeout(LIMIT_S):
        assert await stream.put([guarded.Put("job.x", 0, "op-1", b"entry")]) == [Stored(7)]
