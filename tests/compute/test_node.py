"""A node put together from its settings, in this process."""

import asyncio
import contextlib
import hashlib
import multiprocessing
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from compute.engines.noop import NoopEngine
from compute.node import running
from compute.node_name import node_id
from compute.settings import Settings
from protocol import messages, subjects
from protocol.bus import Message
from protocol.errors import Conflict, NotFound
from protocol.jobs import Input, Spec
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.nodes import Offer
from protocol.questions import BlobAnswer, BlobRequest
from protocol.spec.blobs import BlobUrl
from protocol.states import ExecutionState
from tests.compute.twins import NODE, FakeRequester, noop, order
from tests.storage.faulty_http import answering

S = ExecutionState


@contextlib.asynccontextmanager
async def serving_blobs(bus: MemoryBus, blobs: dict[str, bytes]) -> AsyncIterator[None]:
    """Answer requests for blobs as a requester does."""

    async def serve(asked: AsyncIterator[Message]) -> None:
        async for message in asked:
            request = messages.decode(message.data, BlobRequest)
            data = blobs.get(request.digest)
            if data is None:
                answer = BlobAnswer(failure=NotFound("there is no such blob").failure())
            else:
                answer = BlobAnswer(len(data), data[request.offset : request.offset + request.limit_bytes])
            respond: Callable[[bytes], Awaitable[None]] | None = message.respond
            assert respond is not None
            await respond(messages.encode(answer))

    async with bus.subscribe(subjects.BLOB_READ) as asked:
        task = asyncio.create_task(serve(asked))
        yield
        task.cancel()


def settings(folder: Path, **given: Any) -> Settings:
    """A node called n1 with no engine of its own and any free port."""
    return Settings(data_dir=folder, name=NODE, engines=(), publish_port=0, **given)


async def test_inline_data_beside_its_job_is_read_from_a_requester(
    hub: MemoryHub, requester: FakeRequester, tmp_path: Path
) -> None:
    """An input too large for the log is fetched in pieces, checked, and read by the program."""
    data = b"large" * 100_000
    digest = hashlib.sha256(data).hexdigest()
    url = str(BlobUrl(digest, "text/plain", len(data)))
    made = settings(tmp_path / "node")
    engine = NoopEngine(NODE)
    async with (
        serving_blobs(MemoryBus(hub), {digest: data}),
        running(MemoryBus(hub), made, engines={"noop": engine}, host={}),
    ):
        run = order(task=noop({"Reads": ["/in"]}, input_sources=[Input(Spec("inline", {"URL": url}), "/in")]))
        await requester.run(run)
        report = await requester.ended(run)
    assert report.state is S.COMPLETED
    assert report.output is not None
    assert report.output.stdout == data[:2048].decode()
    assert report.inputs[0].size_bytes == len(data)


async def test_disabled_sources_are_not_offered(
    hub: MemoryHub, requester: FakeRequester, tmp_path: Path
) -> None:
    """What the node's owner has switched off is not in its beat, and an order for it is refused."""
    made = settings(tmp_path / "node", sources_disabled=("inline",))
    async with running(MemoryBus(hub), made, engines={"noop": NoopEngine(NODE)}, host={}) as agent:
        run = order(task=noop(input_sources=[Input(Spec("inline", {"URL": "data:,x"}), "/in")]))
        await requester.run(run)
        assert (await requester.ended(run)).state is S.REFUSED
        assert agent.ready.is_set()
    assert requester.beats[-1].node.offers("sources", "inline") is None
    assert requester.beats[-1].node.labels["name"] == NODE


@pytest.mark.parametrize(
    ("head", "state", "told"),
    [
        (b"HTTP/1.1 404 Pas trouv\xe9", S.FAILED, "/?… answers 404 Pas trouvé"),
        (b'HTTP/1.1 200 OK\r\nContent-Disposition: inline; filename="caf\xe9"', S.COMPLETED, "|café"),
        (b'HTTP/1.1 200 OK\r\nETag: "caf\xe9"', S.COMPLETED, "café"),
        (b"HTTP/1.1 200 OK\r\nLast-Modified: f\xe9vrier", S.COMPLETED, "février"),
    ],
)
async def test_a_servers_odd_words_do_a_node_no_harm(
    head: bytes, state: S, told: str, hub: MemoryHub, requester: FakeRequester, tmp_path: Path
) -> None:
    """Bytes beyond UTF-8 in what a web server says end up legible in the report, and the node goes on; signatures do not."""
    made = settings(tmp_path / "node", allowed_addresses=("loopback",))
    engines = {"noop": NoopEngine(NODE)}
    async with answering(head, b"xyz") as url, running(MemoryBus(hub), made, engines=engines, host={}):
        source = Spec("urlDownload", {"URL": f"{url}?signature=hush"})
        run = order(task=noop(input_sources=[Input(source, "/in")]))
        await requester.run(run)
        report = await requester.ended(run)
    assert report.state is state
    assert told in (report.failure.message if report.failure else report.inputs[0].identity)
    assert "hush" not in repr(report)


async def test_an_engine_that_hangs_does_not_hold_up_the_start(
    hub: MemoryHub, requester: FakeRequester, tmp_path: Path
) -> None:
    """The node beats without it, says so, and offers it as soon as it answers."""
    answers = asyncio.Event()

    class Hanging(NoopEngine):
        async def probe(self) -> Offer:
            await answers.wait()
            return await super().probe()

    made = settings(tmp_path / "node")
    async with running(MemoryBus(hub), made, engines={"noop": Hanging(NODE)}, host={}):
        await requester.until(lambda: bool(requester.beats))
        offer = requester.beats[-1].node.offers("engines", "noop")
        assert offer is not None
        assert not offer.available
        assert "did not answer" in offer.reason
        answers.set()
        await requester.until(lambda: _available(requester, "noop"))


async def test_a_part_that_fails_as_nobody_foresaw_does_not_end_the_node(
    hub: MemoryHub, requester: FakeRequester, tmp_path: Path
) -> None:
    """The node goes on without it and says why: its packages may just be being replaced."""

    class Replaced(NoopEngine):
        async def probe(self) -> Offer:
            raise LookupError("no such package")

    made = settings(tmp_path / "node")
    async with running(MemoryBus(hub), made, engines={"noop": Replaced(NODE)}, host={}):
        await requester.until(lambda: bool(requester.beats))
        offer = requester.beats[-1].node.offers("engines", "noop")
        assert offer is not None
        assert offer.reason == "it could not be asked: LookupError: no such package"


def _available(requester: FakeRequester, engine: str) -> bool:
    offer = requester.beats[-1].node.offers("engines", engine)
    return offer is not None and offer.available


async def test_a_folder_is_let_go_of_at_the_end(hub: MemoryHub, tmp_path: Path) -> None:
    """While a node runs nobody else can have its folder; afterwards the next one counts on."""
    made = settings(tmp_path / "node")
    async with running(MemoryBus(hub), made, host={}) as agent:
        first = agent.incarnation
        with pytest.raises(Conflict, match="in use"):
            async with running(MemoryBus(hub), made, host={}):
                pass
    async with running(MemoryBus(hub), made, host={}) as agent:
        assert agent.incarnation > first


def test_a_node_without_a_name_makes_one_and_keeps_it(tmp_path: Path) -> None:
    """The id made for a data folder is the same at every start."""
    made = Settings(data_dir=tmp_path / "node")
    first = node_id(made)
    assert first.startswith("n-")
    assert node_id(made) == first


class Looking(NoopEngine):
    """Notes, when it is first asked whether it works, if botocore is in memory."""

    loaded: bool | None = None

    async def probe(self) -> Offer:
        if self.loaded is None:
            self.loaded = "botocore.session" in sys.modules
        return await super().probe()


def loaded_at_first(folder: Path, told: Connection) -> None:
    """Runs a node in a process that has loaded nothing; tells what its engine noted."""

    async def run() -> None:
        engine = Looking(NODE)
        async with running(MemoryBus(MemoryHub()), settings(folder), engines={"noop": engine}, host={}):
            told.send(engine.loaded)

    asyncio.run(run())


def test_a_node_loads_s3_before_it_serves(tmp_path: Path) -> None:
    """The first job that reads or writes S3 does not hold a node up: all that it imports is there before anything is asked
    whether it works."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=loaded_at_first, args=(tmp_path, theirs))
    process.start()
    theirs.close()

    assert ours.recv() is True

    process.join()


@pytest.mark.parametrize(
    ("given", "sources", "publishers"),
    [
        ({}, ["this node was told of no Kubo and of no gateways"], ["this node was told of no Kubo"]),
        ({"ipfs_gateways": ("http://127.0.0.1:9",)}, [], ["this node was told of no Kubo"]),
        ({"sources_disabled": ("ipfs",), "publishers_disabled": ("ipfs",)}, [], []),
    ],
)
async def test_a_node_without_ipfs_says_what_would_give_it_some(
    hub: MemoryHub, tmp_path: Path, given: dict[str, Any], sources: list[str], publishers: list[str]
) -> None:
    """Whoever wants IPFS of a node that has none is told which setting is missing, unless its owner disabled it."""
    async with running(MemoryBus(hub), settings(tmp_path / "node", **given), engines={}) as agent:
        info = agent._facts.info
    for offers, reasons in ((info.sources, sources), (info.publishers, publishers)):
        lacking = [each for each in offers if each.type == "ipfs" and "was told of no" in each.reason]
        assert [each.reason for each in lacking] == reasons
        assert all("--ipfs-connect" in each.hint and not each.available for each in lacking)
