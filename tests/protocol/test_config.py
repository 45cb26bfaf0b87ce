"""Settings in layers: which place wins, how each writes a value, and what a slip is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.config import Config, config_files, is_file, read_config
from protocol.errors import Invalid, NotFound
from protocol.spec.quantities import parse_bytes

KEYS = ("API.Port", "API.Host", "Labels", "Node.IPFS.Connect", "Node.Wait")


def test_the_strongest_layer_wins(tmp_path: Path) -> None:
    """Flags, then ``-c Key=Value`` (later ones over earlier), then SHOAL_, then BACALHAU_, then the files of ``-c`` (later
    ones over earlier), then those that were found.
    """
    near, far = tmp_path / "near.yaml", tmp_path / "far.yaml"
    near.write_text("API: {Port: 6}\n")
    far.write_text("API: {Port: 7, Host: h}\n")
    early, late = tmp_path / "early.yaml", tmp_path / "late.yaml"
    early.write_text("API: {Port: 9}\n")
    late.write_text("API: {Port: 5}\n")
    layers: list[dict[str, Any]] = [
        {"flags": {"API.Port": 1}},
        {"given": ["API.Port=9", "API.Port=2", str(early), str(late)]},
        {"environ": {"SHOAL_API_PORT": "3", "BACALHAU_API_PORT": "9"}},
        {"environ": {"BACALHAU_API_PORT": "4"}},
        {"given": [str(early), str(late)]},
        {"files": [near, far]},
        {"files": [far]},
    ]
    for number in range(len(layers)):
        merged: dict[str, Any] = {}
        for layer in reversed(layers[number:]):
            merged |= layer
        config = read_config(keys=KEYS, **merged)
        assert config.number("API.Port") == number + 1
        assert config.text("API.Host") == "h"


def test_a_layer_beats_a_spelling() -> None:
    """Of two keys that mean the same, the one from the stronger place counts; within a place the one asked for first."""
    config = read_config(given=["New=1", "Old=2"], environ={"SHOAL_NEW": "3"}, keys=("New", "Old"))
    assert config.text("New", "Old") == "1"
    config = read_config(given=["Old=2"], environ={"SHOAL_NEW": "3"}, keys=("New", "Old"))
    assert config.text("New", "Old") == "2"


def test_keys_are_read_in_any_case(tmp_path: Path) -> None:
    """``api.port``, ``API.Port`` and a file's ``Api: {port: …}`` are one key."""
    path = tmp_path / "c.yaml"
    path.write_text("Api:\n  port: 7\n")
    assert read_config(files=[path]).number("API.Port") == 7
    assert read_config(given=["api.PORT=8"]).number("API.Port") == 8


def test_what_was_not_given_says_nothing() -> None:
    """Flags and variables that are empty leave the word to weaker places."""
    config = read_config(
        flags={"API.Port": None, "API.Host": ""},
        environ={"SHOAL_API_HOST": "", "BACALHAU_API_HOST": "x"},
        keys=KEYS,
    )
    assert config.text("API.Host") == "x"
    assert config.number("API.Port", default=1) == 1


def test_a_list_keeps_its_commas(tmp_path: Path) -> None:
    """What may have commas in it is taken from a list as it is; only a text alone is split."""
    path = tmp_path / "c.yaml"
    path.write_text("A: ['/a,b', /c]\n")
    assert read_config(files=[path]).lines("A") == ("/a,b", "/c")
    assert read_config(given=["A=/a,/b"]).lines("A") == ("/a", "/b")
    assert read_config().lines("A") == ()


def test_kinds_of_values(tmp_path: Path) -> None:
    """Texts, numbers, yes and no, durations and lists, from text as from a file."""
    path = tmp_path / "c.yaml"
    path.write_text("A: [x, y]\nB: true\nC: 90\n")
    for config in (read_config(files=[path]), read_config(given=["A=x,y", "B", "C=1m30s"])):
        assert config.texts("A") == ("x", "y")
        assert config.flag("B") is True
        assert config.seconds("C") == 90
    assert config.texts("D", default=("z",)) == ("z",)
    assert config.find("D") is None


def test_maps_are_joined(tmp_path: Path) -> None:
    """A map's entries may stand in several places; for each name the strongest counts, and its case is kept."""
    path = tmp_path / "c.yaml"
    path.write_text("Labels: {Region: eu, disk: ssd}\n")
    config = read_config(given=["Labels.Region=us", "Labels=owner=me,x=a=b"], files=[path])
    assert config.pairs("Labels") == {"Region": "us", "disk": "ssd", "owner": "me", "x": "a=b"}


def test_what_is_not_known_is_told_with_a_near_spelling(tmp_path: Path) -> None:
    """An unknown key is a warning that names its place; sections of other programs and maps are passed over."""
    path = tmp_path / "c.yaml"
    path.write_text("API: {Prot: 1}\nLabels: {a: b}\nWebUI: {Enabled: true}\n")
    (warning,) = read_config(files=[path]).unknown(KEYS, others=("WebUI",))
    assert str(path) in warning
    assert "API.Prot" in warning
    assert 'did you mean "API.Port"' in warning
    path.write_text("API: {Auth: {Users: none}}\nOrchestrator: {Scheduler: {QueueBackoff: 1m}}\n")
    assert not any(
        "did you mean" in each
        for each in read_config(files=[path]).unknown([*KEYS, "Orchestrator.Credentials"])
    )


def test_a_slip_on_the_command_line_is_an_error() -> None:
    """Of what was typed a slip is refused with what was meant; a key that is like none of ours only warns."""
    with pytest.raises(Invalid, match=r"-c: API\.Prot") as raised:
        read_config(given=["API.Prot=1"]).unknown(KEYS)
    assert raised.value.hint == "Did you mean API.Port?"
    assert len(read_config(given=["WebUI.Enabled"]).unknown(KEYS)) == 1
    assert read_config(given=["Web.Port=1"]).unknown(KEYS, others=("Web",)) == []


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("API.Port=x", lambda config: config.number("API.Port")),
        ("API.Port=99999", lambda config: config.number("API.Port", most=65_535)),
        ("API.Port=" + "9" * 5_000, lambda config: config.number("API.Port")),
        ("B=maybe", lambda config: config.flag("B")),
        ("C=soon", lambda config: config.seconds("C")),
        ("Labels=a", lambda config: config.pairs("Labels")),
        ("D=a", lambda config: config.parsed(parse_bytes, "D", default=0)),
        ("E=a", lambda config: config.lines("E", check=lambda lines: parse_bytes(lines[0]))),
    ],
)
def test_values_that_cannot_be_read_name_their_place(given: str, read: Callable[[Config], object]) -> None:
    """A wrong value is `Invalid`, with the place and the key it came from."""
    config = read_config(given=[given])
    with pytest.raises(Invalid) as raised:
        read(config)
    assert raised.value.message.startswith("-c: ")
    assert given.partition("=")[0] in raised.value.message


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("URL.Credentials=lab CANARY", lambda config: config.pairs("URL.Credentials")),
        ("Auth.Token=CANARY", lambda config: config.number("Auth.Token")),
        ("NATS.Password=CANARY", lambda config: config.flag("NATS.Password")),
        ("S3.SecretKey=CANARY", lambda config: config.pairs("S3.SecretKey")),
        ("=CANARY", lambda config: config.pairs("x")),
    ],
)
def test_what_may_be_secret_is_in_no_message(given: str, read: Callable[[Config], object]) -> None:
    """A wrong value under a key for secrets is told by its place and key alone."""
    with pytest.raises(Invalid) as raised:
        read(read_config(given=[given]))
    assert raised.value.message.startswith("-c")
    assert given.partition("=")[0] in raised.value.message
    assert "CANARY" not in f"{raised.value.message} {raised.value.hint}"


def test_a_file_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """A file that is missing, no YAML, too large, or holds no keys is told by its name, and its line where there is one."""
    with pytest.raises(NotFound, match=r"nope\.yaml"):
        read_config(given=[str(tmp_path / "nope.yaml")])
    path = tmp_path / "c.yaml"
    for data in (b"a: [\n", b"- x\n", b"\xff\xfe\x00", b"a: " + b"x" * (1 << 20)):
        path.write_bytes(data)
        with pytest.raises(Invalid, match=r"c\.yaml"):
            read_config(files=[path])
    path.write_text("")
    assert read_config(files=[path]).find("a") is None
    path.write_text("a: 1\nb: [\n")
    with pytest.raises(Invalid, match=r"c\.yaml:3:1"):
        read_config(files=[path])


def test_c_is_a_file_or_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``-c`` names a file if it looks like one or is one; with ``=`` it never does; else it is a key that is true."""
    monkeypatch.chdir(tmp_path)
    Path("plain").write_text("")
    assert [is_file(each) for each in ("x.yaml", "x.json", "plain", "A=x.yaml", "WebUI.Enabled")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(Invalid):
        read_config(given=["=x"])


def test_files_nobody_named(tmp_path: Path) -> None:
    """``./shoal.yaml`` and the person's own configuration are found where they are, the near one first."""
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert str(tmp_path) not in str(config_files(environ, tmp_path))
    own = tmp_path / "xdg" / "shoal" / "config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("")
    near = tmp_path / "shoal.yaml"
    near.write_text("")
    assert config_files(environ, tmp_path)[:2] == [near, own]
