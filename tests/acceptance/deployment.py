"""A running deployment and what a person does with it: type commands, call the API, look at what is on the machine.

Knows the command line, Bacalhau's REST paths, and the labels on containers. It shares no code with what it looks at:
requests are plain HTTP, containers are asked of the daemon, objects and CIDs of their own servers.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, Final

import psutil
from aiodocker import Docker
from msgspec import Struct

from deploy.devstack import Cluster
from deploy.programs import ROOT
from deploy.servers import Kubo, S3Server
from tests.conftest import Background

Json = dict[str, Any]

START_S: Final = 60.0
COMMAND_S: Final = 60.0
END_S: Final = 60.0
CLEAN_S: Final = 60.0
"""So long may these take on a machine that has much else to do: to be ready, to answer, to end, to clear away."""
LOOK_S: Final = 0.05
"""Between two looks at what tells nobody of its changes: folders, containers, processes."""
OPEN_STATES: Final = ("Pending", "Queued", "Running")


class Said(Struct, frozen=True):
    """What a command came to."""

    code: int
    out: str
    err: str


class Program:
    """A command that is still running. Its lines are read as they come."""

    def __init__(self, popen: "subprocess.Popen[str]") -> None:
        self.popen = popen

    @property
    def pid(self) -> int:
        return self.popen.pid

    def line(self) -> str:
        """The next line of standard output, without its end; empty when there is none any more."""
        return _reading(self.popen.stdout).readline().rstrip("\n")

    def line_with(self, text: str) -> str:
        """Read on to the line that contains `text`."""
        seen = []
        for line in _reading(self.popen.stdout):
            if text in line:
                return line.rstrip("\n")
            seen.append(line)
        raise AssertionError(f"no line with {text!r} in:\n{''.join(seen)}")

    def interrupt(self) -> None:
        """Ctrl+C."""
        self.popen.send_signal(signal.SIGINT)

    def ended(self, within_s: float = COMMAND_S) -> Said:
        """Wait for its end; what was not read yet is told."""
        out, err = self.popen.communicate(timeout=within_s)
        return Said(self.popen.returncode, out, err or "")


def shoal(
    *words: str | Path,
    env: Mapping[str, str],
    cwd: Path | None = None,
    given: str = "",
    within_s: float = COMMAND_S,
) -> Said:
    """Type ``python -m requester …`` and wait for its end; `given` is its standard input."""
    done = subprocess.run(
        [sys.executable, "-m", "requester", *map(str, words)],
        input=given,
        capture_output=True,
        text=True,
        env=_environment(env),
        cwd=cwd,
        timeout=within_s,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@contextmanager
def program(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    log: Path | None = None,
) -> Iterator[Program]:
    """Start a command; it has ended when the context is left. With `log` both of its streams go there."""
    with log.open("wb") if log else nullcontext() as file:
        popen = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=file or subprocess.PIPE,
            stderr=subprocess.STDOUT if file else subprocess.PIPE,
            text=True,
            env=_environment(env),
            cwd=cwd,
        )
    try:
        yield Program(popen)
    finally:
        if popen.poll() is None:
            popen.terminate()
            try:
                popen.wait(CLEAN_S)
            except subprocess.TimeoutExpired:
                popen.kill()
        with popen:
            pass


class Api:
    """The REST API of one requester, by plain HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.jobs = f"{url}/api/v1/orchestrator/jobs"
        self.nodes = f"{url}/api/v1/orchestrator/nodes"

    def call(self, method: str, path: str, body: Any = None) -> Json:
        """One call; a refusal is an `AssertionError` that quotes it."""
        status, answer = self.answer(method, path, body)
        assert status == 200, f"{method} {path}: {status} {answer}"
        return answer

    def answer(self, method: str, path: str, body: Any = None) -> tuple[int, Json]:
        """One call with its status, whatever that is."""
        url = path if path.startswith("http") else f"{self.url}{path}"
        request = urllib.request.Request(
            url,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=COMMAND_S) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.loads(refused.read())

    def submit(self, job: Json) -> str:
        """Submit a job; returns its id."""
        return str(self.call("PUT", self.jobs, {"Job": job})["JobID"])

    def views(self, job: str) -> Iterator[Json]:
        """The job with its executions now and after every change, until it is closed; progress in between."""
        with urllib.request.urlopen(f"{self.jobs}/{job}/watch", timeout=END_S) as lines:
            for line in lines:
                view: Json = json.loads(line)
                if "Failure" in view:
                    raise AssertionError(view["Failure"])
                if "Job" in view or "Progress" in view:
                    yield view

    def until(self, job: str, true: Callable[[Json], bool]) -> Json:
        """The job's first view of which something is true."""
        last: Json = {}
        for view in self.views(job):
            if "Job" in view:
                last = view
                if true(view):
                    return view
        raise AssertionError(f"{job} closed before: {last}")

    def ended(self, job: str) -> Json:
        """The job's last view."""
        return self.until(job, lambda view: state(view) not in OPEN_STATES)

    def running(self, job: str, count: int = 1) -> list[Json]:
        """The job's executions as soon as so many of them run."""

        def enough(view: Json) -> bool:
            return len([each for each in view["Executions"] if each["State"] == "running"]) >= count

        return [each for each in self.until(job, enough)["Executions"] if each["State"] == "running"]

    def run(self, job: Json) -> Json:
        """Submit a job and wait for its end; its last view."""
        return self.ended(self.submit(job))

    def completed(self, job: Json) -> list[Json]:
        """Submit a job that has to complete; its executions."""
        view = self.run(job)
        assert state(view) == "Completed", view
        executions: list[Json] = view["Executions"]
        return executions

    def history(self, job: str) -> list[str]:
        """What happened to it, a message each."""
        items = self.call("GET", f"{self.jobs}/{job}/history")["Items"]
        return [item["Event"]["Message"] for item in items]

    def open_jobs(self) -> list[str]:
        """All jobs that are not closed."""
        items = self.call("GET", f"{self.jobs}?namespace=*&limit=1000")["Items"] or []
        return [item["ID"] for item in items if item["State"]["StateType"] in OPEN_STATES]


def state(view: Json) -> str:
    """The job's state in one of its views."""
    return str(view["Job"]["State"]["StateType"])


class Deployment:
    """A cluster with an S3 server, a Kubo node and a Docker daemon. `shared` is a folder that its nodes may mount.

    `image` is a busybox that the daemon has. `env` are the variables by which a person's commands find everything.
    """

    def __init__(
        self,
        cluster: Cluster,
        s3: S3Server,
        kubo: Kubo,
        docker: "Containers",
        image: str,
        shared: Path,
    ) -> None:
        self.cluster = cluster
        self.s3 = s3
        self.kubo = kubo
        self.docker = docker
        self.image = image
        self.shared = shared
        self.api = Api(cluster.api.url)
        self.nodes = [part.name for part in cluster.computes]
        self.env = {
            **cluster.environment,
            **s3.environment,
            "SHOAL_NODE_IPFS_CONNECT": kubo.multiaddr_with_peer,
            "DOCKER_HOST": docker.host,
        }

    def shoal(
        self, *words: str | Path, cwd: Path | None = None, given: str = "", within_s: float = COMMAND_S
    ) -> Said:
        """Type a command and wait for its end."""
        return shoal(*words, env=self.env, cwd=cwd, given=given, within_s=within_s)

    @contextmanager
    def following(self, *words: str | Path) -> Iterator[Program]:
        """Type a command that goes on while the test does other things."""
        with program([sys.executable, "-u", "-m", "requester", *words], env=self.env) as running:
            yield running

    def end_all(self) -> None:
        """End all open jobs and wait until nothing of any job is on the machine."""
        for job in self.api.open_jobs():
            status, answer = self.api.answer("DELETE", f"{self.api.jobs}/{job}")
            # One that ends by itself just now has ended.
            assert status in (200, 409), answer
        wait_until_empty(self.leftovers)

    def leftovers(self) -> list[str]:
        """Containers of our nodes and folders of executions."""
        folders = [
            str(path) for part in self.cluster.computes for path in (part.folder / "executions").glob("*")
        ]
        return folders + [name for node in self.nodes for name in self.docker.names(f"shoal.node={node}")]


class Containers:
    """What the Docker daemon has."""

    def __init__(self, background: Background, host: str) -> None:
        self.host = host
        self._background = background

    def names(self, *labels: str) -> list[str]:
        """The names of the containers with all of these labels, whatever their state."""
        return [found["Name"].lstrip("/") for found in self.inspect(*labels)]

    def inspect(self, *labels: str) -> list[Json]:
        """All that the daemon knows of the containers with these labels."""
        return self._background.run(self._inspect(list(labels)))

    async def _inspect(self, labels: list[str]) -> list[Json]:
        async with Docker(self.host) as docker:
            found = await docker.containers.list(all=True, filters=json.dumps({"label": labels}))
            shown = []
            for each in found:
                # One that goes just now is gone.
                with suppress(Exception):
                    shown.append(await each.show())
            return shown


def wait_until_empty(look: Callable[[], list[str]]) -> None:
    """Wait until nothing is found any more; what is still there after `CLEAN_S` is the fault."""
    deadline = time.monotonic() + CLEAN_S
    while found := look():
        assert time.monotonic() < deadline, f"left behind: {found}"
        time.sleep(LOOK_S)


def wait_until_ready(api: Api, nodes: int, process: Program | None = None) -> None:
    """Wait until a requester takes jobs and so many compute nodes are connected; `process` must not end meanwhile."""
    deadline = time.monotonic() + START_S
    while not _ready(api, nodes):
        assert process is None or process.popen.poll() is None, f"ended with code {process.popen.returncode}"
        assert time.monotonic() < deadline, f"{api.url} with {nodes} node(s) is not ready after {START_S:g} s"
        time.sleep(LOOK_S)


def _ready(api: Api, nodes: int) -> bool:
    try:
        with urllib.request.urlopen(f"{api.url}/readyz", timeout=COMMAND_S):
            pass
    except (OSError, http.client.HTTPException):
        return False
    return len(api.call("GET", f"{api.nodes}?filter-status=CONNECTED")["Nodes"] or []) >= nodes


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that name a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if process.pid != os.getpid() and any(str(folder) in word for word in words):
                found.append(f"{process.pid}: {' '.join(words)}")
    return found


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    # Commands are typed in any folder; they find the packages as if they were installed.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONUNBUFFERED": "1", **env, "PYTHONPATH": path}


def _reading(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
