"""Settings at the command line, and what a requester says of itself."""

import json
from pathlib import Path

import pytest
import yaml

from tests.requester.cli.conftest import Shoal
from tests.requester.twin import Twin


@pytest.fixture
def own_file(folder: Path) -> Path:
    return folder / "xdg" / "shoal" / "config.yaml"


def test_a_setting_is_kept(shoal: Shoal, own_file: Path) -> None:
    """``config set`` writes a setting where the next command finds it, under the key as it is spelled there; an empty value
    takes it away again. What else the file has stays.
    """
    own_file.parent.mkdir(parents=True)
    own_file.write_text("Labels: {a: b}\nCompute: {AllowListedLocalPaths: [/data, /more]}\n")

    assert shoal("config", "set", "api.port=1299").out == f"API.Port = 1299, in {own_file}\n"
    assert shoal("config", "set", "API.Host", "10.1.2.3").code == 0
    listed = json.loads(shoal("config", "list", "-o", "json").out)
    assert {"Key": "API.Port", "Value": "1299", "From": str(own_file)} in listed
    assert shoal("config", "set", "API.Port", "").code == 0

    assert yaml.safe_load(own_file.read_text()) == {
        "Labels": {"a": "b"},
        "Compute": {"AllowListedLocalPaths": ["/data", "/more"]},
        "API": {"Host": "10.1.2.3"},
    }
    assert own_file.stat().st_mode & 0o077 == 0


def test_a_file_with_comments_is_left_alone(shoal: Shoal, own_file: Path) -> None:
    """A file that a person has commented is not written: the comments would be lost."""
    own_file.parent.mkdir(parents=True)
    own_file.write_text("API:\n  Port: 1299  # the old one\n")

    ran = shoal("config", "set", "API.Port=1300")

    assert (ran.code, ran.out) == (1, "")
    assert str(own_file) in ran.err
    assert "1299" in own_file.read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("API.Prt=1",), "Did you mean 'API.Port'?"),
        (("API.Port",), "has no value"),
        (("API.Port=1", "2"), "has no value"),
    ],
)
def test_what_is_no_setting(shoal: Shoal, own_file: Path, words: tuple[str, ...], says: str) -> None:
    """A key that nobody reads is not written, and neither is one without a value."""
    ran = shoal("config", "set", *words)
    assert ran.code == 2
    assert says in ran.err
    assert not own_file.exists()


def test_where_a_setting_comes_from(
    shoal: Shoal, folder: Path, own_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``config list`` shows of each setting the value that counts and the place that makes it; no secret is shown."""
    monkeypatch.setenv("SHOAL_API_PORT", "1301")
    own_file.parent.mkdir(parents=True)
    own_file.write_text("API: {Port: 1299}\nNATS: {Password: hush}\n")
    (folder / "shoal.yaml").write_text("API: {Host: here}\n")

    rows = shoal("config", "list", "-c", "Uploads.To=ipfs").out.splitlines()

    assert [row.split() for row in rows] == [
        ["KEY", "VALUE", "FROM"],
        ["API.Host", "here", str(folder / "shoal.yaml")],
        ["API.Port", "1301", "SHOAL_API_PORT"],
        ["NATS.Password", "********", str(own_file)],
        ["Uploads.To", "ipfs", "-c"],
    ]


def test_what_a_requester_says_of_itself(shoal: Shoal, twin: Twin) -> None:
    """``agent`` has Bacalhau's four questions."""
    assert yaml.safe_load(shoal("agent", "alive").out) == {"Status": "OK"}
    assert json.loads(shoal("agent", "version", "-o", "json").out)["Shoal"] == "0.1.0"
    assert yaml.safe_load(shoal("agent", "node").out)["NodeType"] == "Requester"
    assert "config" in yaml.safe_load(shoal("agent", "config").out)
