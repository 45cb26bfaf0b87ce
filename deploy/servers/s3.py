"""An S3 server: versitygw where it was built, else SeaweedFS from its wheel.

Knows: both command lines. Must not know: what is stored.
"""

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from deploy.processes import Process, free_ports
from deploy.programs import find, need
from deploy.servers.server import LOOPBACK, Server, answers_at, serving, starter

S3_REGION: Final = "us-east-1"


class S3Server(Server):
    """An S3 server with one account, path-style addresses, signatures version 4 and versioning."""

    def __init__(
        self,
        start: Callable[[], Awaitable[Process]],
        *,
        host: str = LOOPBACK,
        port: int,
        access_key: str,
        secret_key: str,
    ) -> None:
        super().__init__(start)
        self.endpoint = f"http://{host}:{port}"
        self.access_key = access_key
        self.secret_key = secret_key
        self.region = S3_REGION

    @property
    def environment(self) -> dict[str, str]:
        """The variables from which the AWS credential chain takes this server's account."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@asynccontextmanager
async def s3_server(
    folder: Path, *, program: str = "", host: str = LOOPBACK, virtual_domain: str = ""
) -> AsyncIterator[S3Server]:
    """An S3 server, its objects below `folder`: versitygw where it was built, else SeaweedFS from its wheel.

    `program` (``versitygw`` or ``weed``) asks for one of them. With a `virtual_domain` (versitygw alone) a bucket's name may
    stand before it in the host's name. Raises `Missing` and `Failed`.
    """
    name = program or ("versitygw" if find("versitygw") else "weed")
    path = need(name)
    folder.mkdir(parents=True, exist_ok=True)
    access_key = "SHOAL" + secrets.token_hex(6).upper()
    secret_key = secrets.token_hex(20)

    def make() -> S3Server:
        command_of = _versitygw if name == "versitygw" else _weed
        ports = free_ports(1 if name == "versitygw" else 13, host=host)
        command, env = command_of(path, folder, host, ports, access_key, secret_key)
        if virtual_domain:
            command[1:1] = ["--virtual-domain", f"{virtual_domain}:{ports[0]}"]
        return S3Server(
            starter(
                command,
                name=name,
                log=folder / f"{name}.log",
                env=env,
                # Without a signature it refuses; SeaweedFS does so only once all of its parts are there.
                answers=lambda: answers_at(f"http://{host}:{ports[0]}/", refusing=True),
            ),
            host=host,
            port=ports[0],
            access_key=access_key,
            secret_key=secret_key,
        )

    # SeaweedFS takes half a minute to end in order, and nobody reads this data again.
    async with serving(make, Server.stop if name == "versitygw" else Server.kill) as server:
        yield server


def _versitygw(
    program: Path, folder: Path, host: str, ports: list[int], access_key: str, secret_key: str
) -> tuple[list[str | Path], dict[str, str]]:
    # The folder of old versions must not begin with the text of the folder of objects.
    objects, versions, meta = folder / "objects", folder / "versions", folder / "meta"
    for each in (objects, versions, meta):
        each.mkdir(exist_ok=True)
    command: list[str | Path] = [
        *(program, "--port", f"{host}:{ports[0]}", "--region", S3_REGION, "--keep-alive", "--quiet"),
        *("posix", "--versioning-dir", versions),
    ]
    if not _keeps_attributes(objects):
        command += ["--sidecar", meta]
    return [*command, objects], {"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key}


def _weed(
    program: Path, folder: Path, host: str, ports: list[int], access_key: str, secret_key: str
) -> tuple[list[str | Path], dict[str, str]]:
    # Each port is given, or two servers of one machine meet on the defaults.
    flags = [
        *("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "filer.port", "filer.port.grpc"),
        *("volume.port", "volume.port.grpc", "admin.port", "admin.port.grpc", "webdav.port"),
    ]
    command: list[str | Path] = [
        *(program, "mini", f"-dir={folder / 'objects'}", f"-ip={host}", f"-ip.bind={host}"),
        *(f"-{flag}={port}" for flag, port in zip(flags, ports, strict=False)),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
    ]
    (folder / "objects").mkdir(exist_ok=True)
    return command, {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}


def _keeps_attributes(folder: Path) -> bool:
    """Whether files there can have extended attributes, in which versitygw keeps what S3 knows of an object."""
    if not hasattr(os, "setxattr"):
        return False
    try:
        os.setxattr(folder, "user.shoal", b"1")
        os.removexattr(folder, "user.shoal")
    except OSError:
        return False
    return True
