"""Profiles: a name for each cluster, in Bacalhau's commands and files."""

import os
from pathlib import Path

import pytest
import yaml

from protocol.errors import Fault, Invalid
from requester.cli.endpoint import Api
from requester.client import Endpoint
from tests.requester.cli.conftest import Shoal
from tests.requester.twin import Twin

SAYING = (
    "SHOAL_PROFILE",
    "BACALHAU_PROFILE",
    "BACALHAU_API_HOST",
    "BACALHAU_API_PORT",
    "BACALHAU_DIR",
    "SHOAL_DIR",
)


@pytest.fixture
def profiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where profiles are, none being there, and nothing said elsewhere about which requester to call."""
    for name in SAYING:
        monkeypatch.delenv(name, raising=False)
    return folder / "xdg" / "shoal" / "profiles"


def test_commands_go_to_the_profile_that_is_selected(
    shoal: Shoal, twin: Twin, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster is named once, and every later command goes to it, until another is selected or it is deleted."""
    address = f"{os.environ['BACALHAU_API_HOST']}:{os.environ['BACALHAU_API_PORT']}"
    for name in SAYING:
        monkeypatch.delenv(name, raising=False)

    saved = shoal("profile", "save", "here", "--endpoint", address, "--select")
    assert saved.out == 'Profile "here" saved\nSwitched to profile "here"\n'
    assert shoal("agent", "alive").code == 0
    shoal("profile", "save", "gone", "--endpoint", "http://127.0.0.1:1")
    assert shoal("agent", "alive", "--profile", "gone").code == 1
    assert shoal("profile", "select", "gone").out == 'Switched to profile "gone"\n'
    assert "http://127.0.0.1:1 " in shoal("agent", "alive").err
    assert shoal("profile", "delete", "gone", "--force").out == 'Profile "gone" deleted\n'
    assert shoal("profile", "list", "--hide-header").out.split() == ["here", address]


def test_which_place_counts(
    shoal: Shoal, profiles: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The strongest place that names an address or a profile counts, the profile that is selected being the weakest; of
    both in one place the address does. A file that says where a requester listens does not stand in the way.
    """
    for name in ("selected", "filed", "set", "typed"):
        shoal("profile", "save", name, "--endpoint", f"https://{name}.example.org")
    shoal("profile", "select", "selected")

    def host(**flags: str | int) -> str:
        return Api(**flags).endpoint().host  # type: ignore[arg-type]

    assert host() == "selected.example.org"
    (folder / "shoal.yaml").write_text("API: {Host: 0.0.0.0, Port: 1234}\n")
    assert host() == "selected.example.org"
    (folder / "shoal.yaml").write_text("Profile: filed\n")
    assert host() == "filed.example.org"
    monkeypatch.setenv("BACALHAU_PROFILE", "set")
    assert host() == "set.example.org"
    monkeypatch.setenv("BACALHAU_API_HOST", "10.0.0.1")
    assert host() == "10.0.0.1"
    assert host(profile="typed") == "typed.example.org"
    assert host(profile="typed", api_host="10.0.0.2") == "10.0.0.2"


def test_files_of_bacalhau(
    shoal: Shoal, profiles: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Profiles that Bacalhau wrote are used where they are, with token, timeout and the link to the selected one."""
    theirs = folder / "theirs" / "profiles"
    theirs.mkdir(parents=True)
    (theirs / "prod.yaml").write_text(
        "endpoint: https://prod.example.org\ntimeout: 1m\n"
        "auth:\n    token: abcd-very-secret-wxyz\ntls:\n    insecure: true\n"
    )
    (theirs / "current").symlink_to("prod.yaml")
    monkeypatch.setenv("BACALHAU_DIR", str(theirs.parent))

    assert Api().endpoint() == Endpoint(
        host="prod.example.org",
        port=443,
        tls=True,
        verify=False,
        answer_s=60.0,
        headers={"Authorization": "Bearer abcd-very-secret-wxyz"},
    )
    shown = shoal("profile", "show").out
    assert "Name:        prod (current)\n" in shown
    assert "Auth:        token (abcd****wxyz)\n" in shown
    assert "secret" not in shown
    assert "abcd-very-secret-wxyz" in shoal("profile", "show", "prod", "--show-token").out


def test_a_profile_is_changed(shoal: Shoal, profiles: Path) -> None:
    """Saving a profile again changes what is given and leaves the rest; nobody else can read the file."""
    shoal("profile", "save", "lab", "--endpoint", "lab:1234", "--description", "the lab's", "--insecure")
    shoal("profile", "save", "lab", "--timeout", "90s")

    file = profiles / "lab.yaml"
    assert yaml.safe_load(file.read_text()) == {
        "endpoint": "lab:1234",
        "description": "the lab's",
        "tls": {"insecure": True},
        "timeout": "90s",
    }
    assert file.stat().st_mode & 0o077 == 0


def test_the_selected_profile_is_not_deleted_unasked(shoal: Shoal, profiles: Path) -> None:
    """Deleting the profile that is selected is asked about first; then none is selected."""
    shoal("profile", "save", "lab", "--endpoint", "lab:1234", "--select")

    assert shoal("profile", "delete", "lab", stdin="n\n").out.endswith("Deletion cancelled\n")
    assert (profiles / "lab.yaml").exists()
    assert shoal("profile", "delete", "lab", stdin="y\n").out.endswith('Profile "lab" deleted\n')
    assert not list(profiles.iterdir())
    assert shoal("profile", "list").out == "No profiles found\n"
    assert shoal("profile", "show").code == 3


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("save", "lab"), 2, "--endpoint"),
        (("save", "../lab", "--endpoint", "lab"), 2, "is no profile's name"),
        (("save", "lab", "--endpoint", "ftp://lab"), 2, "is no requester's address"),
        (("save", "lab", "--endpoint", "http://lab/below"), 2, "more than a host and a port"),
        (("save", "lab", "--endpoint", "lab", "--timeout", "soon"), 2, "soon"),
        (("select", "prd"), 3, "Did you mean 'prod'?"),
        (("delete", "lab"), 3, "`shoal profile save lab --endpoint URL`"),
    ],
)
def test_what_cannot_be_done(
    shoal: Shoal, profiles: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    """A profile that leads nowhere is not kept, and one that is not there is asked after by name."""
    shoal("profile", "save", "prod", "--endpoint", "prod")
    ran = shoal("profile", *words)
    assert ran.code == code
    assert says in ran.err
    assert [each.name for each in profiles.iterdir()] == ["prod.yaml"]


def test_a_profile_that_is_gone(shoal: Shoal, profiles: Path) -> None:
    """A command that is to go to a profile that is not there goes nowhere else."""
    shoal("profile", "save", "prod", "--endpoint", "127.0.0.1:1", "--select")
    (profiles / "prod.yaml").unlink()

    ran = shoal("job", "list")
    assert ran.code == 3
    assert "no profile 'prod'" in ran.err
    with pytest.raises(Fault):
        Api(profile="none").endpoint()


def test_a_profile_that_cannot_be_read(shoal: Shoal, profiles: Path) -> None:
    """What is wrong in a profile is told with its file."""
    profiles.mkdir(parents=True)
    (profiles / "odd.yaml").write_text("endpoint: [a, b]\n")
    with pytest.raises(Invalid, match=r"odd\.yaml: endpoint"):
        Api(profile="odd").endpoint()
