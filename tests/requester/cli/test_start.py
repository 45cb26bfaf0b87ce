"""How little a command loads before it does its work, and which requester it talks to."""

import subprocess
import sys
from pathlib import Path

import pytest

from requester.__main__ import main
from tests.requester.cli.conftest import Shoal
from tests.requester.twin import Twin

ROOT = Path(__file__).parents[3]


def _loaded(*words: str) -> set[str]:
    """The modules that are there when a command has ended."""
    return _loaded_by(f"from requester.__main__ import main; sys.argv = {['shoal', *words]!r}; main()")


def _loaded_by(code: str) -> set[str]:
    """The modules that are there when that was run in a process of its own."""
    code = f"import sys; {code}; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return {*ran.stdout.splitlines()[-1].split()}


def test_the_version_loads_next_to_nothing() -> None:
    """``--version`` answers before the command line's own libraries are loaded."""
    assert not {"cyclopts", "msgspec", "asyncio", "yaml", "http.client"} & _loaded("--version")


def test_ctrl_c_before_a_command_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who presses Ctrl+C while a command is still loading gets its exit code, 130, and no traceback."""

    class Interrupted:
        """As if the key were pressed just when the command line is looked for."""

        def find_spec(self, name: str, *_: object) -> None:
            if name == "requester.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "requester.cli.app", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.setattr(sys, "argv", ["shoal", "list"])

    assert main() == 130


def test_a_client_does_not_load_the_server() -> None:
    """A command that asks a server loads no event loop, no server, no NATS, no storage, no terminal library, none of the
    rules of specs, and nothing about archives or what else is installed.
    """
    heavy = {
        "csv",
        "importlib.metadata",
        "protocol.spec",
        "shutil",
        "asyncio",
        "aiohttp",
        "nats",
        "structlog",
        "rich",
        "yaml",
        "storage.drivers",
        "aiobotocore",
        "sqlite3",
    }
    assert not heavy & _loaded("job", "list", "--api-port", "1")


def test_who_only_reads_results_loads_no_log() -> None:
    """A command that opens drivers loads no log, and with it no terminal library: what it prints is the file alone."""
    assert not {"structlog", "rich"} & _loaded_by("import storage.drivers, requester.cli.get")


def test_where_the_address_comes_from(
    shoal: Shoal, twin: Twin, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flags win over ``-c Key=Value``, that over SHOAL_, that over BACALHAU_, that over files: named ones before found."""
    (folder / "xdg" / "shoal").mkdir(parents=True)
    (folder / "xdg" / "shoal" / "config.yaml").write_text("API: {Port: 7}\n")

    def asked(*words: str) -> str:
        return shoal("job", "list", *words).err.split("http://")[1].split(" ")[0].rpartition(":")[2]

    monkeypatch.delenv("BACALHAU_API_PORT")
    assert asked() == "7"
    (folder / "shoal.yaml").write_text("api:\n  port: 6\n")
    assert asked() == "6"
    (folder / "other.yaml").write_text("API: {Port: 5}\n")
    assert asked("-c", "other.yaml") == "5"
    monkeypatch.setenv("BACALHAU_API_PORT", "4")
    assert asked() == "4"
    monkeypatch.setenv("SHOAL_API_PORT", "3")
    assert asked() == "3"
    assert asked("-c", "API.Port=2") == "2"
    assert asked("-c", "API.Port=2", "--api-port", "1") == "1"


@pytest.mark.parametrize("port", ["x", "0", "65536", "-1"])
def test_a_port_that_is_none_is_told(shoal: Shoal, monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    """A wrong port is exit code 2, and the variable it came from is named."""
    monkeypatch.setenv("BACALHAU_API_PORT", port)
    ran = shoal("job", "list")
    assert ran.code == 2
    assert "API_PORT" in ran.err


def test_a_listeners_address_is_called_at_home(shoal: Shoal, twin: Twin) -> None:
    """``0.0.0.0``, where a server of a shared configuration listens, is called as 127.0.0.1."""
    assert shoal("job", "list", "--api-host", "0.0.0.0").code == 0
