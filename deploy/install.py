"""Gets what the tests and the demo need: `deploy/setup NAME…`. Each name ends in a line: what was done, or what is missing.

Knows: the virtual environment, the Go builds and Debian's packages. Must not know: what is done with what it gets. Standard
library only, and any Python from 3.11 on: it runs before anything is installed. Everything is idempotent; what is there
already costs a look.

Files are written to the repository's ``.venv`` and to the cache folder only. System packages are installed only by root, on
Debian or its kin, when ``CI=true`` or ``SETUP=system`` asks for it; with ``CI=true`` whatever is missing is a failure.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final, NamedTuple

from deploy.programs import CLIENTS, HOW_TO_GET, ROOT, Missing, cache_folder, clients_folder, find

VENV: Final = ROOT / ".venv"
LOCK: Final = ROOT / "requirements-dev.txt"
STAMP: Final = VENV / "installed.sha256"
IN_CI: Final = os.environ.get("CI") == "true"
MAY_INSTALL_PACKAGES: Final = IN_CI or os.environ.get("SETUP") == "system"
KUBO_OLDEST: Final = (0, 30)
TRIES: Final = 3
GO_ENV: Final = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
"""Without cgo no C compiler is needed, and a program runs wherever it is copied."""


def python() -> str:
    """The virtual environment, holding exactly what the lock names, and shoal itself as an editable install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    # The settings of linters and tests are in the same file, and change nothing here.
    installs = repr([project["project"], project["build-system"], project["tool"]["hatch"]]).encode()
    wanted = (
        f"{_digest(LOCK.read_bytes(), installs)} for Python {sys.version_info.major}.{sys.version_info.minor}"
    )
    if STAMP.exists() and STAMP.read_text() == wanted:
        return f"{VENV} is up to date"
    if not _works(VENV / "bin" / "python"):
        _make_venv()
    _install_lock()
    STAMP.write_text(wanted)
    return f"{VENV} holds what {LOCK.name} names"


def kubo() -> str:
    """Kubo, as `ipfs`: what PATH has if it is recent, else built from the Go module pinned in ``deploy/kubo``."""
    system = shutil.which("ipfs")
    if system:
        said = re.search(r"(\d+)\.(\d+)", _output([system, "version"]))
        if said and (int(said[1]), int(said[2])) >= KUBO_OLDEST:
            return f"{system} is {said[0]}"
    return _go_build("ipfs", "kubo", _dependency("github.com/ipfs/kubo/cmd/ipfs"))


def s3() -> str:
    """The S3 server versitygw, built from the Go module pinned in ``deploy/versitygw``."""
    try:
        return _go_build("versitygw", "versitygw", _dependency("github.com/versity/versitygw/cmd/versitygw"))
    except Missing:
        if not IN_CI and find("weed"):
            return "no Go to build versitygw with: SeaweedFS from its wheel serves instead"
        raise


def s5cmd() -> str:
    """The S3 client that the benchmark compares with, built from the Go module pinned in ``deploy/s5cmd``."""
    return _go_build("s5cmd", "s5cmd", _dependency("github.com/peak/s5cmd/v2"))


def peer() -> str:
    """Bacalhau itself, pinned in ``deploy/bacalhau``, that the part `peer` of the benchmark runs beside us.

    No test needs it: two slow cores build it in six minutes, too long for a run of CI.
    """
    return _go_build("bacalhau", "bacalhau", _peer_sources)


def docker() -> str:
    """A Docker daemon that answers, or one that root can start."""
    if _docker_answers():
        return "its daemon answers"
    _package("dockerd", "docker.io", "iptables")
    # A daemon of an earlier installation may lack what it makes its bridge with.
    _package("iptables", "iptables")
    if os.geteuid() != 0:
        raise Missing("a Docker daemon that answers", HOW_TO_GET["dockerd"])
    return f"{find('dockerd')} is started when it is needed"


def registry() -> str:
    """Debian's container registry."""
    _package("docker-registry", "docker-registry")
    return f"{find('docker-registry')} is there"


def images() -> str:
    """The busybox without shared libraries that the test image is made of."""
    _package("busybox", "busybox-static")
    return f"{find('busybox')} is there"


def filesystems() -> str:
    """What makes the file systems that copies are tested on: XFS and btrfs."""
    _package("mkfs.xfs", "xfsprogs")
    _package("mkfs.btrfs", "btrfs-progs")
    return f"{find('mkfs.xfs')} and {find('mkfs.btrfs')} are there"


def clients() -> str:
    """Bacalhau's Python clients, pinned in ``deploy/clients.txt``, in a folder of the cache."""
    folder = clients_folder()
    if folder.exists():
        return f"{folder} is up to date"
    uv = find("uv")
    if uv is None:
        raise Missing("uv", "run `make setup`")
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    # They say that they need a Python before 3.12, and run on later ones.
    what: list[str | Path] = ["--target", fresh, "--python-version", "3.11", "--no-deps", "--require-hashes"]
    _run([uv, "pip", "install", "--quiet", *what, "--requirements", CLIENTS], env=_uv_env())
    try:
        fresh.rename(folder)
    except OSError:
        # Another run was quicker.
        shutil.rmtree(fresh, ignore_errors=True)
    return f"{folder} holds what {CLIENTS.name} names"


PARTS: Final[dict[str, Callable[[], str]]] = {
    each.__name__: each
    for each in (python, kubo, s3, docker, registry, images, filesystems, clients, s5cmd, peer)
}


def main(names: Sequence[str]) -> int:
    """Set up the named parts; the exit code is 1 if one failed, or is missing where that counts."""
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        print(f"usage: deploy/setup NAME…, where NAME is one of: {' '.join(PARTS)}", file=sys.stderr)
        return 2
    failed = False
    for name in names:
        try:
            print(f"{name}: {PARTS[name]()}", flush=True)
        except Missing as missing:
            print(f"{name}: {missing}", flush=True)
            failed |= IN_CI or name == "python"
        except subprocess.CalledProcessError as error:
            print(f"{name}: `{' '.join(map(str, error.cmd))}` ended with code {error.returncode}", flush=True)
            failed |= IN_CI or name == "python"
    return int(failed)


def _make_venv() -> None:
    """An empty virtual environment, by whichever way this machine has. Raises `Missing`."""
    if VENV.exists():
        shutil.rmtree(VENV)
    ways: list[list[str]] = [[sys.executable, "-m", "venv", str(VENV)]]
    if shutil.which("uv"):
        ways.append(["uv", "venv", "--quiet", "--python", sys.executable, str(VENV)])
    ways.append([sys.executable, "-m", "virtualenv", "--quiet", str(VENV)])
    for way in ways:
        if _tried(way):
            return
        shutil.rmtree(VENV, ignore_errors=True)
    # Debian splits ensurepip from Python; a pip outside can fill an environment that has none.
    if _tried([sys.executable, "-m", "pip", "--version"]) and _tried([*ways[0], "--without-pip"]):
        return
    if _may_install():
        _apt("python3-venv")
        _run(ways[0])
        return
    raise Missing("Python's venv module", "install it (on Debian and Ubuntu: `apt-get install python3-venv`)")


def _install_lock() -> None:
    """Install what the lock names, and nothing else, each file checked against its hash."""
    interpreter = VENV / "bin" / "python"
    version = re.search(r"^uv==(\S+)", LOCK.read_text(), re.MULTILINE)
    uv = VENV / "bin" / "uv"
    if not _works(uv) and version:
        pip: list[str | Path] = (
            [interpreter, "-m", "pip"] if _tried([interpreter, "-m", "pip", "--version"]) else []
        )
        pip = pip or [sys.executable, "-m", "pip", "--python", interpreter]
        _run([*pip, "install", "--quiet", "--disable-pip-version-check", f"uv=={version[1]}"])
    env = _uv_env()
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", interpreter, "--no-deps"]
    # Else each start compiles all libraries anew where Python may not, or must not, write into the environment.
    compiled: list[str | Path] = ["--compile-bytecode", "--require-hashes", LOCK]
    _run([uv, "pip", "sync", "--quiet", "--python", interpreter, *compiled], env=env)
    _run([*install, "--no-build-isolation", "--editable", ROOT], env=env)


def _uv_env() -> dict[str, str]:
    env = {"UV_LINK_MODE": "copy"}
    # uv does not read what pip was told about certificates and indexes.
    for theirs, ours in (("PIP_CERT", "SSL_CERT_FILE"), ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")):
        if os.environ.get(theirs) and not os.environ.get(ours):
            env[ours] = os.environ[theirs]
    return env


class Sources(NamedTuple):
    """What `go build` is given: the folder it runs in, the package it builds, and flags for the linker."""

    folder: Path
    package: str
    link_flags: str = "-s -w"


def _dependency(package: str) -> Callable[[str, Path], AbstractContextManager[Sources]]:
    """A program of a module that our own module names as its tool, with all that it depends on."""
    return lambda _, module: nullcontext(Sources(module, package))


@contextmanager
def _peer_sources(go: str, module: Path) -> Iterator[Sources]:
    """Bacalhau unpacked, with a page in the place of its web page: that is built by its releases and is not in its module.

    What it depends on is pinned by its own go.sum, and that by ours. The linker is told the version as its Makefile does.
    """
    download = [go, "mod", "download", "-json"]
    env = {**os.environ, **GO_ENV}
    got = json.loads(subprocess.run(download, cwd=module, env=env, stdout=subprocess.PIPE, check=True).stdout)
    with tempfile.TemporaryDirectory(prefix="bacalhau-", dir=cache_folder()) as scratch:
        with zipfile.ZipFile(got["Zip"]) as packed:
            packed.extractall(scratch)
        folder = Path(scratch, f"{got['Path']}@{got['Version']}")
        page = folder / "webui" / "build" / "index.html"
        page.parent.mkdir()
        page.write_text("<!doctype html><title>Bacalhau</title>\n")
        yield Sources(folder, ".", f"-s -w -X {got['Path']}/pkg/version.GITVERSION={got['Version']}")


def _go_build(name: str, folder: str, prepare: Callable[[str, Path], AbstractContextManager[Sources]]) -> str:
    """Build a pinned Go program into the cache; raises `Missing` without Go."""
    module = ROOT / "deploy" / folder
    target = cache_folder() / "bin" / name
    stamp = target.with_name(f".{name}.sha256")
    wanted = _digest((module / "go.mod").read_bytes(), (module / "go.sum").read_bytes())
    if target.exists() and stamp.exists() and stamp.read_text() == wanted:
        return f"{target} is up to date"
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if go is None:
        raise Missing(
            f"Go, to build {name} with", "install Go 1.21 or later (it fetches the version it needs)"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"building {name} (once for this machine) …", flush=True)
    fresh = target.with_name(f".{name}.{os.getpid()}")
    for attempt in range(TRIES):
        try:
            with prepare(go, module) as sources:
                flags = ["-trimpath", f"-ldflags={sources.link_flags}"]
                _run([go, "build", *flags, "-o", fresh, sources.package], cwd=sources.folder, env=GO_ENV)
            break
        except subprocess.CalledProcessError:
            # Hundreds of modules come over the network; what has arrived is kept between tries.
            if attempt == TRIES - 1:
                raise
    fresh.replace(target)
    stamp.write_text(wanted)
    return f"built {target}"


def _package(program: str, *packages: str) -> None:
    """Install Debian packages unless `program` is there; raises `Missing` where that is not ours to do."""
    if find(program):
        return
    if not _may_install():
        raise Missing(program, HOW_TO_GET[program])
    _apt(*packages)
    if not find(program):
        raise Missing(program, f"the packages {' '.join(packages)} did not bring it")


def _may_install() -> bool:
    return MAY_INSTALL_PACKAGES and os.geteuid() == 0 and shutil.which("apt-get") is not None


def _apt(*packages: str) -> None:
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *packages]
    if not _tried(install, env=env):
        # The lists are missing or old.
        _run(["apt-get", "update", "--quiet"], env=env, quiet=True)
        _run(install, env=env, quiet=True)


def _docker_answers() -> bool:
    """Whether a daemon answers at ``DOCKER_HOST`` (if that is a socket) or at the system's socket."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not host.startswith("unix://"):
        return True
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(host.removeprefix("unix://"))
        connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
        return b" 200 " in connection.recv(64)
    return False


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _works(program: Path) -> bool:
    return program.exists() and _tried([program, "--version"])


def _run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    quiet: bool = False,
) -> None:
    """Run a command; raises `subprocess.CalledProcessError`."""
    out = subprocess.DEVNULL if quiet else None
    subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**os.environ, **(env or {})}, stdout=out, check=True
    )


def _tried(command: Sequence[str | Path], *, env: dict[str, str] | None = None) -> bool:
    """Whether a command could be run and ended well; what it says is nobody's concern."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, env={**os.environ, **(env or {})}, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
