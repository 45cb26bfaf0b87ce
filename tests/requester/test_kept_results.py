"""Results and lists that nodes keep, asked for over the bus: a node's answers and a requester's questions together."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from compute.provenance import Manifests
from compute.result_answers import ResultAnswers
from protocol import subjects
from protocol.clock import ManualClock
from protocol.errors import Broken, Exhausted, NotFound, Unavailable
from protocol.ids import ExecutionId, JobId, NodeId
from protocol.jobs import Amounts, Spec
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.messages import Written, encode
from protocol.questions import ResultAnswer
from protocol.states import ExecutionState
from requester.core.model import ExecutionRecord
from requester.results import PIECE_BYTES, PIECE_S, KeptResults
from storage.contract import Label, silent
from storage.local_publisher import LocalPublisher, LocalPublisherParams, open_local_publisher
from storage.settings import LocalPublishing, StorageSettings
from storage.tree import text_of
from tests.contracts.trees import Link, Tree, plant

NODE = NodeId("n-1")
E = ExecutionId("e-1")
LABEL = Label(JobId("j-1"), E, NODE, 0.0)


def record(id_: str = "e-1", node: str = "n-1", type: str = "urlDownload") -> ExecutionRecord:
    """An execution with a result; its link has expired."""
    done = ExecutionState.COMPLETED
    result = Spec(type, {"URL": "http://old"})
    return ExecutionRecord(
        ExecutionId(id_), JobId("j-1"), 1, 0, 1, NodeId(node), Amounts(), done, 0, 0, 1, 1, result=result
    )


@pytest.fixture
async def publisher(tmp_path: Path) -> AsyncIterator[LocalPublisher]:
    """A node's publisher that keeps two megabytes of noise."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "noise").write_bytes(Random(1).randbytes(2_000_000))
    settings = StorageSettings(tmp_path / "own", local_publishing=LocalPublishing(tmp_path / "kept", port=0))
    async with open_local_publisher(settings) as drivers:
        made = drivers.publishers["local"]
        assert isinstance(made, LocalPublisher)
        await made.publish(tmp_path / "r", LocalPublisherParams(), LABEL, silent)
        yield made


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    """The lists that the node keeps."""
    return Manifests(tmp_path / "manifests", 60)


@pytest.fixture
async def kept(publisher: LocalPublisher, manifests: Manifests) -> AsyncIterator[KeptResults]:
    """A requester's side of a bus with that node on it."""
    hub = MemoryHub()
    bus = MemoryBus(hub)
    async with bus.subscribe(subjects.results(NODE)) as asked, asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(ResultAnswers(publisher, manifests).serve(asked, tasks))
        yield KeptResults(MemoryBus(hub))
        serving.cancel()


async def test_an_archive_comes_in_pieces(
    kept: KeptResults, publisher: LocalPublisher, tmp_path: Path
) -> None:
    """All pieces together are the archive, and none is larger than a message takes."""
    archive = await kept.archive(record())
    pieces, at = [], 0
    while at < archive.size_bytes:
        pieces.append(await archive.read(at))
        at += len(pieces[-1])

    assert b"".join(pieces) == (tmp_path / "kept" / f"{E}.tar.gz").read_bytes()
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert len(pieces) > 2


async def test_pieces_of_two_versions_are_not_mixed(
    kept: KeptResults, publisher: LocalPublisher, tmp_path: Path
) -> None:
    """A result that is replaced while it is read is an error."""
    archive = await kept.archive(record())
    await archive.read(0)
    (tmp_path / "r" / "noise").write_bytes(b"other")
    await publisher.publish(tmp_path / "r", LocalPublisherParams(), LABEL, silent)

    with pytest.raises(Broken, match="was replaced"):
        await archive.read(0)


async def test_links_are_new_where_the_node_answers(kept: KeptResults) -> None:
    """A node's own results get a link that is good from now on; what lies elsewhere or cannot be asked keeps its own."""
    asked = [record(), record("e-2"), record("e-3", node="n-away"), record("e-4", type="s3")]

    made = await kept.linked(asked)

    urls = [each.result.params["URL"] for each in made if each.result]
    assert urls[0].startswith("http://127.0.0.1:")
    assert urls[0].endswith("/e-1.tar.gz")
    assert urls[1:] == ["http://old"] * 3
    assert [msgspec.structs.replace(each, result=None) for each in made] == [
        msgspec.structs.replace(each, result=None) for each in asked
    ]


@pytest.mark.parametrize(
    ("which", "kind"),
    [
        (record("e-2"), NotFound),
        (record("../e-1"), Exception),
        (record(node="n-away"), Unavailable),
        (record(type="s3"), NotFound),
    ],
)
async def test_what_is_not_kept_is_told(
    kept: KeptResults, which: ExecutionRecord, kind: type[Exception]
) -> None:
    """No such archive, no such node, a result elsewhere: each is told for what it is, and nothing else is read."""
    with pytest.raises(kind):
        await kept.archive(which)


ODD: Tree = {
    "stdout": b"out\n",
    "o/back\\slash": b"1",
    "o/line\nbreak\r": b"22",
    "o/ two  blanks ": b"333",
    "o/\\begins": b"4444",
    "o/link": Link("back"),
    os.fsdecode(b"o/caf\xe9"): b"55555",
    **{f"many/{'n' * 240}{number:04}": b"x" * (number % 7) for number in range(30)},
}


def recorded(manifests: Manifests, folder: Path) -> ExecutionRecord:
    """An execution that wrote more files, with odd names, than its record names."""
    plant(ODD, folder)
    return msgspec.structs.replace(record(), written=manifests.record(E, folder, lambda: None))


async def test_a_long_list_is_brought_whole(
    kept: KeptResults, manifests: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file by its own name, with its size and digest, in the order of a walk, however many pieces the list takes."""
    monkeypatch.setattr("requester.results.PIECE_BYTES", 1000)
    of = recorded(manifests, tmp_path / "many")

    found = await kept.files(of)

    assert (tmp_path / "manifests" / E).stat().st_size > 5_000
    assert {each.path: (each.size_bytes, each.sha256) for each in found} == {
        text_of(path): (len(data), hashlib.sha256(data).hexdigest())
        for path, data in ODD.items()
        if isinstance(data, bytes)
    }
    assert [each.path.split("/") for each in found] == sorted(each.path.split("/") for each in found)
    few = Written(1, 1, "0" * 64, found[:1])
    assert await kept.files(msgspec.structs.replace(of, written=few, node=NodeId("n-away"))) == found[:1]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ("pruned", NotFound),
        ("forged", Broken),
        ("sizes", Broken),
        ("away", Unavailable),
        ("older", Broken),
        ("huge", Exhausted),
    ],
)
async def test_a_list_that_is_not_what_was_recorded_is_none(
    kept: KeptResults,
    manifests: Manifests,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
    kind: type[Exception],
) -> None:
    """A list that was pruned, changed, is too long, or is no list (a node of an earlier version brings the archive instead)
    is told for what it is and never shown."""
    of = recorded(manifests, tmp_path / "many")
    folder = tmp_path / "manifests"
    match wrong:
        case "pruned":
            manifests.prune((folder / E).stat().st_mtime + 61)
        case "forged":
            (folder / E).write_bytes((folder / E).read_bytes().replace(b"n0007", b"forge"))
        case "sizes":
            (folder / f"{E}.sizes").write_text("1\n" * len(ODD))
        case "away":
            of = msgspec.structs.replace(of, node=NodeId("n-away"))
        case "older":
            asked = kept._list

            async def without_part(record: ExecutionRecord, part: str) -> bytes:
                return await asked(record, "")

            monkeypatch.setattr(kept, "_list", without_part)
        case "huge":
            monkeypatch.setattr("requester.results.LIST_MAX_BYTES", 1000)

    with pytest.raises(kind):
        await kept.files(of)


async def test_a_question_that_gets_lost_is_asked_again() -> None:
    """One message that is lost between a requester and a node, as while accounts change, costs seconds and no download."""
    clock = ManualClock()
    hub = MemoryHub(clock=clock)
    kept = KeptResults(MemoryBus(hub))
    async with MemoryBus(hub).subscribe(subjects.results(NODE)) as asked:
        reading = asyncio.ensure_future(kept.archive(record()))
        await anext(asked)
        await clock.advance(PIECE_S)
        question = await anext(asked)
        assert question.respond is not None
        await question.respond(encode(ResultAnswer(3, "v1")))

        assert (await reading).size_bytes == 3
