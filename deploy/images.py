"""A container image that needs no network: busybox on an otherwise empty root, imported into a daemon from its bytes.

Knows: the root filesystem and the few calls of the Docker API that import, tag and push an image. Must not know: what is run
with it.
"""

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from deploy.processes import Failed
from deploy.programs import HOW_TO_GET, Missing, need

BUSYBOX: Final = "shoal-test/busybox:1"
REPOSITORY, TAG = BUSYBOX.split(":")
DEADLINE_S: Final = 120.0
ELF_HEAD_BYTES: Final = 4096

FOLDERS: Final = ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "usr/bin", "var")
FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
}


async def busybox_image(docker_host: str) -> str:
    """Make sure that the daemon has the image; returns its name. `docker_host` is written as in ``DOCKER_HOST``.

    Raises `Missing` without busybox on this machine, and `Failed` when the daemon refuses.
    """
    async with _api(docker_host) as (session, base):
        async with session.get(base / "images" / BUSYBOX / "json") as found:
            if found.status == 200:
                return BUSYBOX
        root = await busybox_root()
        query = {"fromSrc": "-", "repo": REPOSITORY, "tag": TAG, "changes": 'CMD ["/bin/sh"]'}
        async with session.post(base / "images/create" % query, data=io.BytesIO(root)) as answer:
            await _done(answer, f"import of {BUSYBOX}")
    return BUSYBOX


async def volume_image(docker_host: str) -> str:
    """Make a busybox image whose containers each have a volume of their own; returns its name. Raises `Failed`."""
    query = {"fromSrc": "-", "repo": f"{REPOSITORY}-volume", "tag": TAG, "changes": "VOLUME /scratch"}
    async with _api(docker_host) as (session, base):
        root = io.BytesIO(await busybox_root())
        async with session.post(base / "images/create" % query, data=root) as answer:
            await _done(answer, f"import of {REPOSITORY}-volume")
    return f"{REPOSITORY}-volume:{TAG}"


async def give_name(docker_host: str, image: str, name: str) -> bool:
    """Give an image of the daemon another name; False if an image has that name already. Raises `Failed`."""
    repository, _, tag = name.rpartition(":")
    async with _api(docker_host) as (session, base):
        async with session.get(base / "images" / name / "json") as found:
            if found.status == 200:
                return False
        async with session.post(base / "images" / image / "tag" % {"repo": repository, "tag": tag}) as answer:
            await _done(answer, f"tag of {image}")
    return True


async def take_name(docker_host: str, name: str) -> None:
    """Take a name from an image that has others; harmless when nothing has that name. Raises `Failed`."""
    async with _api(docker_host) as (session, base), session.delete(base / "images" / name) as answer:
        if answer.status != 404:
            await _done(answer, f"removal of {name}")


async def push(docker_host: str, image: str, registry_host: str) -> str:
    """Push an image of the daemon into a registry (``localhost:PORT``); returns the name under which it can be pulled.

    Raises `Failed`.
    """
    repository, _, tag = image.rpartition(":")
    target = f"{registry_host}/{repository}"
    async with _api(docker_host) as (session, base):
        async with session.post(base / "images" / image / "tag" % {"repo": target, "tag": tag}) as answer:
            await _done(answer, f"tag of {image}")
        # Registries without users still want the header: this is {} in base64.
        headers = {"X-Registry-Auth": "e30="}
        async with session.post(base / "images" / target / "push" % {"tag": tag}, headers=headers) as answer:
            await _done(answer, f"push of {target}:{tag}")
        # What remains on the daemon would let a pull succeed without the registry.
        async with session.delete(base / "images" / f"{target}:{tag}") as answer:
            await _done(answer, f"removal of {target}:{tag}")
    return f"{target}:{tag}"


async def busybox_root() -> bytes:
    """A root filesystem as a tar: busybox, a link for each of its applets, and the files that libraries look for.

    The same bytes for the same busybox, so that its layers have the same digest everywhere. Raises `Missing`.
    """
    program = need("busybox")
    if b"/ld-" in program.read_bytes()[:ELF_HEAD_BYTES]:
        # It names the loader that it wants, and the image has none.
        raise Missing(f"a busybox without shared libraries ({program} has them)", HOW_TO_GET["busybox"])
    listing = await asyncio.create_subprocess_exec(program, "--list", stdout=asyncio.subprocess.PIPE)
    applets, _ = await listing.communicate()
    return _root(program, [name for name in applets.decode().split() if name != "busybox"])


def _root(program: Path, applets: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in FOLDERS:
            folder = _member(name, tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755)
            tar.addfile(folder)
        for name, text in FILES.items():
            tar.addfile(_member(name, size=len(text), mode=0o644), io.BytesIO(text.encode()))
        binary = program.read_bytes()
        tar.addfile(_member("bin/busybox", size=len(binary)), io.BytesIO(binary))
        # A link named busybox would replace the program by a link to itself; the list was cleared of it.
        for applet in sorted(applets):
            tar.addfile(_member(f"bin/{applet}", tarfile.SYMTYPE, link="busybox"))
        tar.addfile(_member("usr/bin/env", tarfile.SYMTYPE, link="/bin/busybox"))
    return buffer.getvalue()


def _member(
    name: str, kind: bytes = tarfile.REGTYPE, *, size: int = 0, mode: int = 0o755, link: str = ""
) -> tarfile.TarInfo:
    """A member that is the same on every machine and every day."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mode, member.linkname, member.mtime = kind, size, mode, link, 0
    return member


@asynccontextmanager
async def _api(docker_host: str) -> AsyncIterator[tuple[aiohttp.ClientSession, URL]]:
    """A session with the daemon, and the address that its paths start from."""
    connector: aiohttp.BaseConnector
    if docker_host.startswith("unix://"):
        connector, base = aiohttp.UnixConnector(docker_host.removeprefix("unix://")), URL("http://docker")
    else:
        connector, base = aiohttp.TCPConnector(), URL(docker_host.replace("tcp://", "http://", 1))
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session, base


async def _done(answer: aiohttp.ClientResponse, what: str) -> None:
    """Read an answer to its end. The API reports faults of long calls inside the body, behind a status of 200."""
    said = await answer.text()
    if answer.status >= 400 or '"errorDetail"' in said:
        raise Failed(f"{what}: {answer.status} {said.strip()[-500:]}")
