"""Images' names, credentials, progress and refusals, without a daemon."""

from base64 import b64encode
from typing import Any

import pytest

from compute.engines.contract import Exit
from compute.engines.docker.faults import create_fault, exit_of, pull_fault, start_fault
from compute.engines.docker.logins import credentials_for, has_credential_program
from compute.engines.docker.progress import Pull, advance
from compute.engines.docker.restarts import EVENTS_KEPT, Actor, Happened, is_remembered
from protocol.errors import Denied, Exhausted, Fault, Invalid, NotFound, Unavailable

DIGEST = "sha256:" + "ab" * 32
HUB_LOGIN = {
    "auths": {"https://index.docker.io/v1/": {"auth": b64encode(b"me:with:colon").decode()}},
}


def test_credentials() -> None:
    """A login is found by its registry, under every spelling that `docker login` uses."""
    config = HUB_LOGIN | {
        "auths": HUB_LOGIN["auths"]
        | {
            "ghcr.io": {"username": "u", "password": "p"},
            "https://reg.example/v2/": {"identitytoken": "t"},
            "broken.example": {"auth": "not base64!"},
            "empty.example": {},
        }
    }

    assert credentials_for("docker.io", config) == {
        "username": "me",
        "password": "with:colon",
        "serveraddress": "docker.io",
    }
    assert credentials_for("ghcr.io", config) == {
        "username": "u",
        "password": "p",
        "serveraddress": "ghcr.io",
    }
    assert credentials_for("reg.example", config) == {"identitytoken": "t", "serveraddress": "reg.example"}
    for other in ("broken.example", "empty.example", "unknown.example"):
        assert credentials_for(other, config) is None


@pytest.mark.parametrize("config", [{}, {"auths": None}, {"auths": []}, {"auths": {"ghcr.io": "x"}}])
def test_odd_configuration_files(config: dict[str, Any]) -> None:
    """A configuration file without logins, or with other things in their place, is as good as none."""
    assert credentials_for("ghcr.io", config) is None


def test_credential_programs_are_noticed() -> None:
    """Credentials that only a program could give are noticed, so that the hint can say so."""
    assert has_credential_program("ghcr.io", {"credsStore": "desktop"})
    assert has_credential_program("ghcr.io", {"credHelpers": {"ghcr.io": "x"}})
    assert not has_credential_program("ghcr.io", {"credHelpers": {"other": "x"}})
    assert "credsStore" in pull_fault("i", "ghcr.io", "unauthorized", program=True).hint


def downloading(layer: str, current: int, total: int | None) -> dict[str, Any]:
    """The daemon's word on a layer."""
    return {"id": layer, "status": "Downloading", "progressDetail": {"current": current, "total": total}}


def test_progress_is_the_sum_over_layers() -> None:
    """What is fetched of an image is summed over its layers, and the whole is known once each layer's size is."""
    told = []
    pull = Pull()
    for event in [
        {"id": "1", "status": "Pulling from library/alpine"},
        {"id": "a", "status": "Pulling fs layer"},
        {"id": "b", "status": "Pulling fs layer"},
        {"id": "c", "status": "Already exists"},
        downloading("a", 10, 100),
        {"id": "b", "status": "Waiting"},
        downloading("b", 5, 50),
        {"id": "a", "status": "Download complete"},
        {"id": "a", "status": "Extracting", "progressDetail": {"current": 3, "total": 100}},
        {"id": "b", "status": "Pull complete"},
        {"status": "Digest: sha256:1"},
    ]:
        pull = advance(pull, event)
        told.append((pull.done_bytes, pull.total_bytes))

    assert told[3:] == [
        (0, None),
        (10, None),
        (10, None),
        (15, 150),
        (105, 150),
        (105, 150),
        (150, 150),
        (150, 150),
    ]


@pytest.mark.parametrize("total", [-1, 0, None])
def test_a_layer_of_unknown_size(total: int | None) -> None:
    """A registry that does not tell a layer's size leaves the whole unknown, until the layer is there."""
    pull = advance(Pull(), downloading("a", 7, total))
    assert (pull.done_bytes, pull.total_bytes) == (7, None)

    pull = advance(pull, {"id": "a", "status": "Pull complete", "progressDetail": {}})
    assert (pull.done_bytes, pull.total_bytes) == (7, 7)


@pytest.mark.parametrize(
    ("message", "kind", "code"),
    [
        (
            "pull access denied for x, repository does not exist or may require 'docker login': denied: requested access",
            NotFound,
            "NotFound.Image",
        ),
        (
            "manifest for localhost:5000/x:9 not found: manifest unknown: manifest unknown",
            NotFound,
            "NotFound.Image",
        ),
        ('Get "http://r/v2/x/manifests/1": no basic auth credentials', Denied, "Denied.Image"),
        ("unauthorized: authentication required", Denied, "Denied.Image"),
        ("toomanyrequests: You have reached your pull rate limit", Unavailable, "Unavailable.Registry"),
        ("no matching manifest for linux/arm64 in the manifest list entries", NotFound, "NotFound.Platform"),
        ("write /var/lib/docker/tmp/x: no space left on device", Exhausted, "Exhausted.Disk"),
        (
            'Get "http://localhost:1/v2/": dial tcp 127.0.0.1:1: connection refused',
            Unavailable,
            "Unavailable.Registry",
        ),
        (
            'Get "https://r/v2/": dial tcp: lookup r on 10.0.0.1:53: no such host',
            Unavailable,
            "Unavailable.Registry",
        ),
        ("invalid reference format", Invalid, "Invalid"),
    ],
)
def test_why_a_pull_failed(message: str, kind: type[Fault], code: str) -> None:
    """Each way in which a pull can fail has its code, and names image and cause."""
    fault = pull_fault("reg/x:1", "reg", message)

    assert isinstance(fault, kind)
    assert fault.failure().code == code
    assert "reg/x:1" in fault.message
    assert message in fault.message


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (404, "No such image: x:1", "NotFound.Image"),
        (400, "No command specified", "Invalid.Command"),
        (400, "Minimum memory limit allowed is 6MB", "Invalid"),
        (400, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", "Invalid"),
        (500, "Cannot mkdir: /etc/passwd is not a directory", "Invalid"),
        (400, 'invalid mount config for type "bind": bind source path does not exist: /x', "Unavailable"),
        (500, "devmapper is on fire", "Unavailable"),
    ],
)
def test_why_a_container_could_not_be_made(status: int, message: str, code: str) -> None:
    """Faults of the job are told from troubles of the daemon."""
    assert create_fault("x:1", status, message).failure().code == code


RUNC = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "


@pytest.mark.parametrize(
    ("message", "code", "named"),
    [
        (RUNC + 'exec: "tool": executable file not found in $PATH: unknown', "NotFound.Entrypoint", "'tool'"),
        (
            RUNC + 'exec: "/a/b": stat /a/b: no such file or directory: unknown',
            "NotFound.Entrypoint",
            "'/a/b'",
        ),
        (RUNC + 'exec: "/bin": permission denied: unknown', "Invalid.Entrypoint", "'/bin'"),
        (RUNC + 'exec: "/x": exec format error: unknown', "Invalid.Entrypoint", "'/x'"),
        ('could not select device driver "" with capabilities: [[gpu]]', "Unavailable.Gpu", "graphics"),
        ("Bind for 0.0.0.0:80 failed: port is already allocated", "Unavailable.Port", "port"),
        (
            RUNC + '"/m/proc/x" cannot be mounted because it is inside /proc: unknown',
            "Invalid.Mount",
            "/proc",
        ),
        (
            RUNC + 'error mounting "/d" to rootfs at "/in/x": open /m/in/x: read-only file system: unknown',
            "Invalid.Mount",
            "below one that is mounted read-only",
        ),
        (f"task {DIGEST}: already exists: unknown", "Unavailable.Docker", "was killed while it made"),
        ("adding interface veth1 to bridge docker0 failed: no such device", "Unavailable", "docker0"),
    ],
)
def test_why_a_container_could_not_be_started(message: str, code: str, named: str) -> None:
    """A program that is missing, or is none, is named; what is the daemon's trouble is for another node to try."""
    fault = start_fault("x:1", message)

    assert fault.failure().code == code
    assert named in fault.message


def test_ends() -> None:
    """A program's own end is no failure; over its memory limit it says so, with the limit and what to do."""
    limited: dict[str, Any] = {"State": {"OOMKilled": True}, "HostConfig": {"Memory": 16 * 1024**2}}

    own = exit_of(3, {"State": {"OOMKilled": False, "Error": ""}})
    killed = exit_of(137, limited)

    assert own == Exit(3)
    assert killed.failure is not None
    assert killed.failure.code == "Exhausted.Memory"
    assert "16 MiB" in killed.failure.message
    assert "Memory" in killed.failure.hint
    assert exit_of(137, None) == Exit(137)


def test_what_a_daemon_remembers() -> None:
    """A daemon that remembers a container's end saw it; one that does not did not, unless it has forgotten so much."""
    second = 1_000_000_000
    others = [Happened("die", Actor("other"), at * second) for at in range(100, 100 + EVENTS_KEPT)]

    assert is_remembered([*others, Happened("die", Actor("this"), 400 * second)], "this", 400.0)
    assert is_remembered([], "this", 400.0) is False
    assert is_remembered([*others[1:], Happened("start", Actor("this"), 90 * second)], "this", 101.5) is False
    assert is_remembered(others, "this", 150.0) is False
    assert is_remembered(others, "this", 50.0) is None
