"""What a node reaches S3 with is the node's alone: it shows nowhere that a job, its owner or a reader of logs looks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

import nats
import pytest
from nats.js.errors import NotFoundError

from deploy.devstack import Part
from deploy.servers import NatsServer
from tests.acceptance.data import Bucket
from tests.acceptance.fragile import Fragile, constraint, state
from tests.acceptance.jobs import Gate, Json, job, publish, shell
from tests.conftest import Background

NODE: Final = "keyholder"
TOKEN: Final = "CANARY/SESSION+TOKEN=="
"""versitygw knows no sessions: who has a token is denied."""
STRANGER: Final = "CANARYACCESSKEYNOBODYHAS"
WRONG: Final = "CANARY-SECRET-THAT-IS-WRONG"
COPY: Final = "cp /in/word /outputs"


@pytest.fixture
def gate(fragile: Fragile) -> Iterator[Gate]:
    """Where programs of this test stand until they are let through."""
    gate = Gate(fragile.shared / uuid4().hex)
    yield gate
    gate.open()


@pytest.fixture(scope="module")
def secrets(_fragile: Fragile) -> list[str]:
    """All that must not be seen."""
    s3 = _fragile.s3
    return [s3.access_key, s3.secret_key, TOKEN, STRANGER, WRONG]


@pytest.fixture
def node(fragile: Fragile, tmp_path: Path) -> Iterator[Part]:
    """A node that logs all it can, with an account of its own and some profiles, of which one is right."""
    s3 = fragile.s3
    accounts = {
        "canary": (s3.access_key, s3.secret_key, ""),
        "canary-wrong": (s3.access_key, WRONG, ""),
        "canary-stranger": (STRANGER, s3.secret_key, ""),
        "canary-session": (s3.access_key, s3.secret_key, TOKEN),
    }
    file = tmp_path / "credentials"
    with file.open("w") as lines:
        for name, (access, secret, token) in accounts.items():
            lines.write(f"[{name}]\naws_access_key_id={access}\naws_secret_access_key={secret}\n")
            lines.write(f"aws_session_token={token}\n" if token else "")
    env = {"AWS_SHARED_CREDENTIALS_FILE": str(file)}
    flags = ["--cpu", "1", "--memory", "1Gb", "--log-level", "debug"]
    flags += ["--allow-local", f"{fragile.shared}/**:rw"]
    flags += ["-c", "InputSources.Types.S3.AllowedProfiles=canary*"]
    with fragile.extra_node(NODE, tmp_path / NODE, env, *flags) as node:
        yield node


class Stream:
    """The entries of all streams as the NATS server keeps them, from now on."""

    def __init__(self, background: Background, server: NatsServer) -> None:
        self._background = background
        self._server = server
        self._before = {name: last for name, (_, last) in background.run(self._bounds()).items()}

    def entries(self) -> list[bytes]:
        """Subject, headers and bytes of each that came since."""
        return self._background.run(self._entries())

    async def _bounds(self) -> dict[str, tuple[int, int]]:
        async with await nats.connect(self._server.url, user_credentials=self._server.admin()) as client:
            infos = await client.jetstream().streams_info()
        return {info.config.name or "": (info.state.first_seq, info.state.last_seq) for info in infos}

    async def _entries(self) -> list[bytes]:
        found = []
        bounds = await self._bounds()
        async with await nats.connect(self._server.url, user_credentials=self._server.admin()) as client:
            context = client.jetstream()
            for name, (first, last) in bounds.items():
                for number in range(max(first, self._before.get(name, 0) + 1), last + 1):
                    try:
                        entry = await context.get_msg(name, number)
                    except NotFoundError:
                        continue
                    found.append(f"{entry.subject} {entry.headers} ".encode() + (entry.data or b""))
        return found


def told(fragile: Fragile, job_id: str) -> dict[str, str]:
    """All that each requester says of a job, by what was asked."""
    found = {}
    for api in fragile.apis:
        for what in ("", "/executions", "/history", "/results", "?include=executions,history"):
            found[f"{api.url} {what}"] = json.dumps(api.answer("GET", f"{api.jobs}/{job_id}{what}"))
    return found


def logs(fragile: Fragile, node: Part) -> dict[str, str]:
    """All that the processes wrote: their logs, and whatever the node keeps on its disk."""
    ours = [*fragile.cluster.folder.glob("*.log"), node.folder.with_suffix(".log")]
    kept = [path for path in node.folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes().decode(errors="replace") for path in [*ours, *kept]}


def test_what_opens_s3_is_seen_nowhere(
    fragile: Fragile,
    node: Part,
    store: Bucket,
    gate: Gate,
    secrets: list[str],
    background: Background,
) -> None:
    """Access key, secret key and session token of a node, and of the profiles that it lets jobs use, stand neither in what
    REST tells of a job (its results, its history, the error of one that is denied), nor in an entry of the log, nor in a
    file of any process, nor in what the Docker daemon knows of its container, nor in the program's environment."""
    store.put("word", b"bytes")
    stream = Stream(background, fragile.cluster.nats)

    def spec(read: Json, write: Json, script: str, *sources: Json) -> Json:
        """A job of that node; `read` and `write` are more of its input's and its publisher's params."""
        task = shell(
            fragile.image,
            script,
            InputSources=[store.source("word", "/in", **read), *sources],
            **publish(store.publisher("out/{executionID}", **write)),
        )
        return job(task, Constraints=[constraint("kind", NODE)])

    good: list[Json] = [{}, {"Profile": "canary"}]
    held = [
        fragile.api.submit(spec(more, more, f"env; cat /proc/self/environ; {gate.wait}; {COPY}", gate.source))
        for more in good
    ]
    for each in held:
        fragile.api.running(each)
    seen = {each["Name"]: json.dumps(each) for each in fragile.docker.inspect(f"shoal.node={NODE}")}
    assert len(seen) == len(held)
    gate.open()
    views = [fragile.api.ended(each) for each in held]
    denied = []
    for profile in ("canary-wrong", "canary-stranger", "canary-session"):
        for read, write in (({"Profile": profile}, {}), ({}, {"Profile": profile})):
            denied.append(fragile.api.submit(spec(read, write, COPY)))
    failures = [fragile.failed(each) for each in denied]

    assert [state(view) for view in views] == ["Completed"] * len(held), views
    assert len(store.keys("out/")) == len(held)
    assert {each["Failure"]["Code"].partition(".")[0] for each in failures} == {"Denied"}, failures
    entries = {f"entry {number}": str(entry) for number, entry in enumerate(stream.entries())}
    rest = {where: text for each in [*held, *denied] for where, text in told(fragile, each).items()}
    files = logs(fragile, node)
    # Each of these places tells of the jobs: what is not in it could have been.
    for place in (entries, rest, files):
        assert store.name in "".join(place.values())
    for where, text in {**seen, **entries, **rest, **files}.items():
        assert [each for each in secrets if each in text] == [], where
