"""Data beside the log goes when no job names it any more, and not before."""

import sqlite3
from base64 import b64encode
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from protocol.bus import BlobLook, Bus
from protocol.jobs import Input, Job, Spec
from protocol.memory_bus import Blob
from requester.core.retention import blob_goes
from requester.read_model import Store
from requester.read_queries import blobs_named
from requester.retention import Retention
from requester.verbs import JobQuery
from tests.requester.cluster import (
    a_cluster,
    a_job,
    closed,
    happens,
    hold,
    submit,
)
from tests.requester.later import KEEPING, pass_by

GRACE_S = KEEPING.blob_grace_s


def test_which_blob_may_go() -> None:
    """One that no job names and nobody has put for the grace time; with a grace time of 0 none ever does."""
    assert blob_goes(0.0, now=100.0, grace_s=100.0)
    assert not blob_goes(1.0, now=100.0, grace_s=100.0)
    assert not blob_goes(200.0, now=100.0, grace_s=100.0)
    assert not blob_goes(0.0, now=1e9, grace_s=0.0)
    assert 100 * KEEPING.submit_timeout_s < GRACE_S


def a_job_with(data: bytes, name: str) -> Job:
    """A job with so much inline data that it lies in a blob."""
    url = f"data:;base64,{b64encode(data).decode()}"
    job = a_job(name)
    task = replace(job.task, input_sources=[Input(source=Spec("inline", {"URL": url}), target="/in")])
    return replace(job, tasks=[task])


def digest_of(data: bytes) -> str:
    """How a blob is called."""
    return sha256(data).hexdigest()


async def test_inline_data_goes_when_no_job_names_it(tmp_path: Path) -> None:
    """Data of open, closed and updated jobs stays, however old. A deleted job's goes after the grace time, and a job's that
    has left the log; data that two jobs share stays for the other."""
    keep_s = 3 * GRACE_S
    settings = replace(KEEPING, keep_s=keep_s, inline_max_bytes=100, blob_retention_s=0.02)
    shared, own, first, second = (name * 100 for name in (b"shared", b"own", b"first", b"second"))
    async with a_cluster(tmp_path, settings=settings) as cluster:
        one = await cluster.requester("r1")
        node = await cluster.node()
        for name, data in (("a", shared), ("b", shared), ("c", own)):
            await closed(one, await submit(one, a_job_with(data, name)))
        node.script = hold
        await submit(one, a_job_with(first, "open"))
        await submit(one, replace(a_job_with(second, "open"), priority=3))
        node.states = {}
        await node.beat()
        blobs = cluster.hub.blobs
        orphan = await cluster.buses["r1"].put_blob(b"whose submission was refused")
        named = {digest_of(data) for data in (shared, first, second)}
        assert set(blobs) == {*named, digest_of(own), orphan}
        for name in ("a", "c"):
            await one.delete(name, namespace="default", reason="", client="test")

        await pass_by(cluster, GRACE_S + 120)
        await happens(lambda: not {orphan, digest_of(own)} & set(blobs))
        assert set(blobs) == named

        await pass_by(cluster, keep_s + 240)
        await happens(lambda: digest_of(shared) not in blobs)
        assert set(blobs) == {digest_of(first), digest_of(second)}


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("call", ["newest", "list_blobs", "look_blob", "remove_blob", "put_blob"])
async def test_data_that_is_submitted_while_it_is_removed_is_there(
    call: str, before: bool, tmp_path: Path
) -> None:
    """However a submission and the removal of the same old data meet, the job that was taken has its data."""
    settings = replace(KEEPING, inline_max_bytes=100)
    data = b"again and again" * 100
    digest = digest_of(data)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        one = await cluster.requester("r1")
        bus = cluster.buses["r1"]
        met: list[str | int] = []

        async def submitted() -> None:
            met.append(await submit(one, a_job_with(data, "new")))

        async def looked() -> None:
            met.append(await retention.blobs_round())

        meeting = Meeting(bus, call, before=before, what=looked if call == "put_blob" else submitted)
        if call == "put_blob":
            one._changes._bus = meeting
        retention = Retention(
            bus if call == "put_blob" else meeting,
            cluster.hub.clock,
            settings,
            recorder=one._recorder,
            presence=one._presence,
            jobs=one._jobs,
            spoken_of=set,
            vanished=one._orchestrator.applier.vanished,
            ready=lambda: True,
        )
        cluster.hub.blobs[digest] = Blob(data, BlobLook(0.0, 0))

        await (submitted() if call == "put_blob" else looked())

        assert len(met) == 2
        assert (await bus.get_blob(digest, 0, len(data)))[1] == data
        # What was removed before the submission came has been: the other order would prove nothing.
        assert (1 in met) == ((call, before) in {("remove_blob", False), ("put_blob", True)})


async def test_an_older_read_model_knows_what_its_jobs_name(tmp_path: Path) -> None:
    """A file that was written before blobs were looked at is read as it is: what its jobs name stays."""
    settings = replace(KEEPING, inline_max_bytes=100)
    data = b"kept" * 100
    async with a_cluster(tmp_path, settings=settings) as cluster:
        one = await cluster.requester("r1")
        await cluster.node()
        await closed(one, await submit(one, a_job_with(data, "a")))
        await one.jobs(JobQuery())
        path = one._recorder._path
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE blobs")
    store = Store(path)
    assert blobs_named(store.reader()) == {digest_of(data)}
    store.close()


class Meeting:
    """A bus on which something else happens around one call, as the wind of the event loop might have it."""

    def __init__(self, bus: Bus, call: str, *, before: bool, what: Callable[[], Awaitable[None]]) -> None:
        self._bus = bus
        self._call = call
        self._before = before
        self._what = what

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._bus, name)
        if name != self._call:
            return call

        async def met(*words: Any) -> Any:
            if self._before:
                await self._what()
            answer = await call(*words)
            if not self._before:
                await self._what()
            return answer

        return met
