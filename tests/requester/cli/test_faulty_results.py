"""``cat``, ``ls`` and ``get`` over connections that go wrong: the right bytes, or an error and another exit code."""

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web

import storage.stream
from deploy.servers import S3Server
from protocol.states import ExecutionState
from storage.ranged import Limits
from tests.conftest import Background
from tests.requester.cli.conftest import Finished, Shelf, Shoal, archive_of, written
from tests.requester.cli.test_get import made_bucket, published
from tests.requester.twin import Twin
from tests.storage.fault_proxy import FaultProxy, fault_proxy

TEXT = random.Random(1).randbytes(400_000).hex()
SILENT = ("stall", "trickle", "mute", "drip")
FILES = {"outputs__data": TEXT, "stdout": "hello\n"}

Before = Callable[[str], FaultProxy]


@pytest.fixture(autouse=True)
def impatient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test can wait for: short where the fault is a silence, and only there."""
    callspec = getattr(request.node, "callspec", None)
    silent = callspec is not None and callspec.params.get("fault") in SILENT
    silence_s = 0.5 if silent else 20.0
    monkeypatch.setattr(
        storage.stream, "LIMITS", Limits(silence_s=silence_s, retry_s=0.01, tries=3, silent_tries=2)
    )
    monkeypatch.setattr(storage.stream, "HASTY", Limits(silence_s=silence_s, tries=1))


@pytest.fixture
def before(background: Background) -> Iterator[Before]:
    """Puts a proxy before a server."""
    opened = []

    def put(url: str) -> FaultProxy:
        context = fault_proxy(url)
        opened.append(context)
        return background.run(context.__aenter__())

    yield put
    for context in opened:
        background.run(context.__aexit__(None, None, None))


def on(path: str, fault: str, first: int = 0, last: int = 10_000) -> Callable[[web.Request, int], str]:
    """That fault at requests of a path, by their number."""
    numbers = itertools.count(1)

    def plan(request: web.Request, number: int) -> str:
        return fault if path in request.path and first < next(numbers) <= last else ""

    return plan


class Relayed:
    """A result whose node is away: the requester brings it, through a proxy."""

    def __init__(self, finished: Finished, twin: Twin, shelf: Shelf, proxy: FaultProxy) -> None:
        shelf.url = "http://127.0.0.1:1"
        execution = finished.publish(0, None, written=None)
        twin.archives[execution] = archive_of(**FILES)
        finished.close()
        self.proxy = proxy


@pytest.fixture
def relayed(
    finished: Finished,
    twin: Twin,
    shelf: Shelf,
    before: Before,
    monkeypatch: pytest.MonkeyPatch,
) -> Relayed:
    import os

    proxy = before(f"http://127.0.0.1:{os.environ['BACALHAU_API_PORT']}")
    monkeypatch.setenv("BACALHAU_API_PORT", proxy.endpoint.rpartition(":")[2])
    return Relayed(finished, twin, shelf, proxy)


@pytest.mark.parametrize(
    ("fault", "last"),
    [("cut", 2), ("stall", 1), ("500", 1), ("503", 2), ("mute", 1), ("drip", 1)],
)
def test_cat_goes_on_where_the_relay_broke_off(fault: str, last: int, shoal: Shoal, relayed: Relayed) -> None:
    """A relay that is cut, stands still or is ill for a moment costs a try: every byte comes, each once."""
    relayed.proxy.plan = on(".tar.gz", fault, last=last)

    ran = shoal("cat", "words", "outputs/data")

    assert (ran.code, ran.err) == (0, "")
    assert ran.out == TEXT
    assert fault != "cut" or relayed.proxy.ranges[-1].startswith("bytes=")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("cut", "ended early"),
        ("stall", "was silent"),
        ("trickle", "was silent"),
        ("mute", "was silent"),
        ("drip", "was silent"),
        ("short", "cut short"),
        ("flip", "has the SHA-256|damaged"),
        ("ended", "cut short"),
        ("500", "answers 500"),
        ("204", "answers 204"),
        ("xml", "damaged|not an archive"),
        ("garbage", "damaged|not an archive"),
    ],
)
def test_a_relay_that_stays_broken_is_told(
    fault: str,
    said: str,
    shoal: Shoal,
    finished: Finished,
    twin: Twin,
    shelf: Shelf,
    before: Before,
    relayed: Relayed,
) -> None:
    """What does not get better ends with another exit code and with what is wrong; nothing else is printed for the data."""
    relayed.proxy.plan = on(".tar.gz", fault)

    ran = shoal("cat", "words", "outputs/data")

    assert ran.code != 0
    assert any(each in ran.err for each in said.split("|")), ran.err


@pytest.mark.parametrize(("fault", "last"), [("cut", 1), ("503", 1), ("500", 2)])
def test_get_goes_on_where_the_relay_broke_off(
    fault: str, last: int, shoal: Shoal, relayed: Relayed, folder: Path
) -> None:
    """A download that a requester broke off, or failed to begin, is gone on with and is whole in the end."""
    relayed.proxy.plan = on(".tar.gz", fault, last=last)

    ran = shoal("get", "words")

    assert ran.code == 0, ran.err
    assert (folder / "job-words" / "outputs" / "data").read_text() == TEXT


@pytest.mark.parametrize("fault", ["cut", "short", "flip", "ended", "500", "204", "xml", "range"])
def test_a_download_through_a_broken_relay_leaves_nothing(
    fault: str, shoal: Shoal, relayed: Relayed, folder: Path
) -> None:
    """Half a result, or another one, is no result."""
    relayed.proxy.plan = on(".tar.gz", fault)
    if fault == "range":
        relayed.proxy.plan = lambda request, number: (
            "" if ".tar.gz" not in request.path else "range" if "Range" in request.headers else "cut"
        )

    ran = shoal("get", "words")

    assert ran.code != 0
    assert {path.name for path in folder.iterdir()} <= {"job.yaml", "drivers"}


@pytest.mark.parametrize(("fault", "whole"), [("cut", True), ("cut", False), ("short", False)])
def test_cat_of_an_object_is_all_of_it_or_an_error(
    fault: str,
    whole: bool,
    shoal: Shoal,
    finished: Finished,
    twin: Twin,
    folder: Path,
    s3: S3Server,
    background: Background,
    before: Before,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plain object has no checksum of its own: its length is what tells that some of it is missing."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    proxy = before(s3.endpoint)
    bucket = f"cat-{uuid4().hex[:12]}"
    (folder / "result").mkdir()
    (folder / "result" / "data").write_text(TEXT)
    background.run(made_bucket(s3, bucket))
    params = {"Bucket": bucket, "Key": "out/{executionID}", "Endpoint": proxy.endpoint, "Encoding": "plain"}
    spec = background.run(published(folder / "result", "s3", params))
    execution = background.run(twin.assign(finished.job))
    kept = written(data=TEXT) if fault == "short" else None
    background.run(twin.report(execution, ExecutionState.COMPLETED, result=spec, written=kept))
    finished.close()
    proxy.plan = on("/data", fault, last=1 if whole else 10_000)

    ran = shoal("cat", "words", "data")

    assert (ran.code == 0) is whole, ran.err
    assert (ran.out == TEXT) is whole
