"""The command line in this process, over HTTP to a twin of the verbs that lives in the background."""

import hashlib
import io
import socket
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web

from protocol.errors import Failure
from protocol.ids import ExecutionId, JobId
from protocol.jobs import Job, Spec, Task
from protocol.messages import FileWritten, Written
from protocol.states import ExecutionState, JobState
from requester.api.app import application, listening
from requester.cli.app import main
from requester.verbs import Verbs
from tests.conftest import Background
from tests.requester.twin import Twin


class Ran(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


Shoal = Callable[..., Ran]

SPEC = """\
Name: words
Type: batch
Tasks:
  - Name: main
    Engine: {Type: noop}
"""


@asynccontextmanager
async def served(verbs: Verbs) -> AsyncIterator[tuple[str, int]]:
    """The API over these verbs, at an address of its own while the context is open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with listening(application(verbs, "0.1.0"), listener) as port:
            yield "127.0.0.1", port


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with a spec, and no configuration from elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    (tmp_path / "job.yaml").write_text(SPEC)
    return tmp_path


@pytest.fixture
def twin(background: Background, monkeypatch: pytest.MonkeyPatch) -> Iterator[Twin]:
    """The verbs behind the API that the environment names."""

    async def made() -> Twin:
        return Twin()

    twin = background.run(made())
    serving = served(twin)
    host, port = background.run(serving.__aenter__())
    monkeypatch.setenv("BACALHAU_API_HOST", host)
    monkeypatch.setenv("BACALHAU_API_PORT", str(port))
    yield twin
    background.run(serving.__aexit__(None, None, None))


@pytest.fixture
def shoal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shoal:
    """Run one command: its words, and what it finds on standard input."""

    def run(*words: str, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        code = main(list(words))
        out, err = capsys.readouterr()
        return Ran(int(code), out, err)

    return run


JOB = Job(name="words", count=2, tasks=[Task(engine=Spec("noop"), publisher=Spec("local"))])


def archive_of(**files: str) -> bytes:
    """A result as the local publisher packs it."""
    data = BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(text)
            archive.addfile(member, BytesIO(text.encode()))
    return data.getvalue()


def written(**files: str) -> Written:
    """What a node reports of such files."""
    found = [
        FileWritten(name.replace("__", "/"), len(text), hashlib.sha256(text.encode()).hexdigest())
        for name, text in sorted(files.items())
    ]
    return Written(len(found), sum(each.size_bytes for each in found), "0" * 64, found, 0)


class Shelf:
    """A web server with archives on it, as a node's local publisher serves them."""

    def __init__(self) -> None:
        self.archives: dict[str, bytes] = {}
        self.url = ""
        self.expired = False
        self.ill = False
        self.asked = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        data = self.archives.get(request.path)
        if self.expired or self.ill:
            return web.Response(status=403 if self.expired else 503)
        return web.Response(body=data) if data is not None else web.Response(status=404)


@pytest.fixture
def shelf(background: Background) -> Iterator[Shelf]:
    """A shelf for the length of a test."""
    shelf = Shelf()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{name}", shelf.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    runner = background.run(start())
    shelf.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield shelf
    background.run(runner.cleanup())


class Finished:
    """A job of two partitions whose results lie on the shelf."""

    def __init__(self, twin: Twin, shelf: Shelf, background: Background) -> None:
        self._twin = twin
        self._shelf = shelf
        self._run = background.run
        self.job: JobId = self._run(twin.submitted(JOB))

    def publish(
        self,
        partition: int,
        archive: bytes | None,
        *,
        attempt: int = 1,
        failed: bool = False,
        written: Written | None = None,
    ) -> ExecutionId:
        """One execution, with that archive as its result; None advertises one that is not there."""
        execution: ExecutionId = self._run(self._twin.assign(self.job, partition=partition, attempt=attempt))
        name = f"/{execution}.tar.gz"
        if archive is not None:
            self._shelf.archives[name] = archive
        failure = Failure("ProgramFailed", "program exited with code 1") if failed else None
        result = Spec("urlDownload", {"URL": self._shelf.url + name})
        state = ExecutionState.FAILED if failed else ExecutionState.COMPLETED
        self._run(self._twin.report(execution, state, failure=failure, result=result, written=written))
        return execution

    def close(self, state: JobState = JobState.COMPLETED) -> None:
        """End the job."""
        self._run(self._twin.close(self.job, state))


@pytest.fixture
def finished(twin: Twin, shelf: Shelf, background: Background) -> Finished:
    """A job to publish results of."""
    return Finished(twin, shelf, background)
