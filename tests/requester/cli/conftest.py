"""The command line in this process, over HTTP to a twin of the verbs that lives in the background."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from requester.api.app import serve_api
from requester.cli.app import main
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
    serving = serve_api(twin, "127.0.0.1", 0, version="0.1.0")
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
