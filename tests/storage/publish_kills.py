"""A process that publishes, killed at random moments, and started anew.

``python -m tests.storage.publish_kills --to s3 --kills 100`` does it as often as wanted and prints what it found; `--to` is
one of `KINDS`. After each kill it is looked at what is there already: nothing, or all of it, where a result is one thing.
Then the same execution is published again, as a node does when it finds it in its journal: every byte of what is advertised
is compared, and nothing else may be left, no unfinished upload either.
"""

import argparse
import asyncio
import base64
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from msgspec import Struct
from msgspec.structs import replace

from deploy.servers import kubo, s3_server
from protocol.errors import NotFound
from protocol.ids import ExecutionId, JobId, NodeId
from protocol.jobs import Spec
from storage.archive import SUFFIX, unpack
from storage.contract import Label, Publisher, Share, silent
from storage.ipfs import IpfsPublisher, IpfsSource, Kubo
from storage.ipfs import PublisherParams as IpfsParams
from storage.ipfs import SourceParams as IpfsSourceParams
from storage.local_publisher import (
    LocalPublisher,
    LocalPublisherParams,
    open_local_publisher,
)
from storage.s3 import PublisherParams, S3Client, S3Publisher, S3Settings
from storage.s3.managed import ManagedParams, ManagedPublisher
from storage.s3.results import ManagedBucket, ResultSigner, Signing
from storage.settings import LocalPublishing, StorageSettings
from tests.contracts.trees import Tree, plant, snapshot, with_folders
from tests.storage.s3_world import LOOPBACK

KINDS = ("s3", "plain", "shared", "managed", "ipfs", "local")
"""An archive in S3, one object a file, an archive at a key that does not name the execution, the managed bucket, a Kubo
node, the node's own shelf."""
KEYS = {"s3": "s3/{executionID}", "plain": "plain/{executionID}", "shared": "shared/{nodeID}"}
ENDPOINT = "PUBLISH_KILLS_AT"
BUCKET = "kills"
MIB = 1 << 20
LABEL = Label(JobId("j-1"), ExecutionId("e-0"), NodeId("n-1"), at=1_700_000_000.0)
SETTINGS = S3Settings(addresses=LOOPBACK, upload_part_bytes=5 * MIB, retry_s=0.01)


class Published(Struct):
    """What came of it: kills that hit a publishing half-way, results that were compared, and what was wrong."""

    half_way: int
    compared: int
    wrong: list[str]


def content_of(number: int) -> Tree:
    """The result of that execution: two parts' worth of bytes that do not pack, and small files."""
    noise = hashlib.shake_256(b"result %d" % number)
    return {"data": noise.digest(6 * MIB), "stdout": b"hello %d\n" % number, "outputs/a": noise.digest(3000)}


def label_of(number: int, folder: Path) -> Label:
    """Who publishes it. At a shared key each is a job's newest attempt."""
    notes = folder.with_name(f"notes-{number}")
    notes.mkdir(exist_ok=True)
    return replace(LABEL, execution=ExecutionId(f"e-{number}"), attempt=number + 1, notes=notes)


@asynccontextmanager
async def publishing(kind: str) -> AsyncIterator[tuple[Publisher[Any], Any]]:
    """A publisher of that kind with its params, to the server that the environment names."""
    at = os.environ[ENDPOINT]
    match kind:
        case "ipfs":
            async with Kubo(at) as node:
                yield IpfsPublisher(node), IpfsParams()
        case "local":
            settings = StorageSettings(Path(at), local_publishing=LocalPublishing(Path(at), port=0))
            async with open_local_publisher(settings) as drivers:
                yield drivers.publishers["local"], LocalPublisherParams()
        case "managed":
            grants = ResultSigner(Signing(managed=ManagedBucket(BUCKET, "managed", endpoint=at), endpoint=at))
            publisher = ManagedPublisher(grants, SETTINGS)
            yield publisher, ManagedParams()
            await publisher.close()
            await grants.close()
        case _:
            encoding = "plain" if kind == "plain" else "gzip"
            async with S3Client(SETTINGS) as client:
                params = PublisherParams(BUCKET, KEYS[kind], endpoint=at, encoding=encoding)
                yield S3Publisher(client=client), params


def killed(folder: Path, kind: str, *, kills: int, seed: int) -> Published:
    """Let a process publish, kill it at any moment of that, and publish again, so many times. The environment names the
    server.
    """
    chance = random.Random(seed)
    found = Published(0, 0, [])
    command = [sys.executable, "-m", "tests.storage.publish_kills", "--work", str(folder), "--to", kind]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        takes_s = float(parent.stdout.readline())
        for number in range(1, kills + 1):
            plant(content_of(number), folder / f"{number}")
            print(number, file=parent.stdin, flush=True)
            worker = int(parent.stdout.readline())
            time.sleep(chance.uniform(0, takes_s))
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
            found.half_way += parent.stdout.readline() == f"{signal.SIGKILL}\n"
            asyncio.run(_Look(kind, number, folder).look(found))
        parent.stdin.close()
    return found


class _Look:
    """One look at what is there after a kill, and after the next process."""

    def __init__(self, kind: str, number: int, folder: Path) -> None:
        self._kind = kind
        self._number = number
        self._folder = folder / f"{number}"
        self._scratch = folder / f"look-{number}"
        self._tree = with_folders(content_of(number))

    async def look(self, found: Published) -> None:
        """Note what is wrong."""
        self._scratch.mkdir()
        async with publishing(self._kind) as (publisher, params):
            found.wrong += await self._half(publisher)
            spec = await publisher.publish(self._folder, params, label_of(self._number, self._folder), silent)
            found.wrong += await self._whole(publisher, spec)
            found.compared += 1

    async def _half(self, publisher: Publisher[Any]) -> list[str]:
        """What is there must not look like a result unless it is one."""
        if self._kind in ("plain", "ipfs"):
            # Nobody names a tree before it is whole: an IPFS root is told last, a prefix in the report.
            return []
        archive = await self._archive(publisher)
        if archive is None:
            return []
        tree = await self._tree_of(archive)
        whole = tree == self._tree or (
            self._kind == "shared" and tree == with_folders(content_of(self._number - 1))
        )
        return [] if whole else [f"{self._number}: half a result"]

    async def _whole(self, publisher: Publisher[Any], spec: Spec) -> list[str]:
        wrong = []
        if self._kind == "ipfs":
            tree = await self._of_ipfs(spec)
        elif self._kind == "plain":
            tree = await self._of_objects(spec)
        else:
            archive = await self._archive(publisher)
            assert archive is not None
            tree = await self._tree_of(archive)
            said = spec.params.get("ChecksumSHA256")
            if said and base64.b64encode(hashlib.sha256(archive).digest()).decode() != said:
                wrong.append(f"{self._number}: another checksum")
        if tree != self._tree:
            wrong.append(f"{self._number}: other bytes")
        return wrong + await self._left_over(publisher)

    async def _left_over(self, publisher: Publisher[Any]) -> list[str]:
        """Unfinished uploads, pins on what is no result, and files that nobody knows."""
        if self._kind == "ipfs":
            return await self._left_pinned()
        if isinstance(publisher, LocalPublisher):
            names = {path.name for path in Path(os.environ[ENDPOINT]).iterdir()}
            known = {f"e-{number}{SUFFIX}" for number in range(self._number + 1)} | {".key"}
            return sorted(names - known)
        async with S3Client(SETTINGS) as client:
            raw = (await client.connect(os.environ[ENDPOINT])).raw
            uploads = (await raw.list_multipart_uploads(Bucket=BUCKET)).get("Uploads") or []
            return [
                f"{self._number}: an unfinished upload of {each['Key']}"
                for each in uploads
                if self._kind != "shared" or await _parts_of(raw, each)
            ]

    async def _left_pinned(self) -> list[str]:
        """What is pinned under the execution's name and has the mark that it was added with."""
        execution = f"e-{self._number}"
        asked = {"type": "recursive", "names": "true", "name": execution}
        async with Kubo(os.environ[ENDPOINT]) as node:
            pins = await node.ask("pin/ls", dict[str, Any], asked)
            named = [cid for cid, pin in pins["Keys"].items() if pin["Name"] == execution]
            return [
                f"{self._number}: {cid} is still pinned"
                for cid in named
                if f".shoal-{execution}" in str(await node.ask("ls", dict[str, Any], {"arg": cid}))
            ]

    async def _archive(self, publisher: Publisher[Any]) -> bytes | None:
        """The archive of the execution, wherever it is, if it is."""
        execution = f"e-{self._number}"
        if isinstance(publisher, LocalPublisher):
            path = Path(os.environ[ENDPOINT]) / f"{execution}{SUFFIX}"
            return path.read_bytes() if path.exists() else None
        key = f"managed/j-1/{execution}{SUFFIX}"
        if self._kind in KEYS:
            key = KEYS[self._kind].format(executionID=execution, nodeID="n-1") + SUFFIX
        return await _object(key)

    async def _tree_of(self, archive: bytes) -> Tree:
        packed = self._scratch / "packed"
        packed.write_bytes(archive)
        into = Path(tempfile.mkdtemp(dir=self._scratch)) / "tree"
        await unpack(packed, into, silent)
        return snapshot(into)

    async def _of_objects(self, spec: Spec) -> Tree:
        prefix = str(spec.params["Key"])
        async with S3Client(SETTINGS) as client:
            raw = (await client.connect(os.environ[ENDPOINT])).raw
            listed = (await raw.list_objects_v2(Bucket=BUCKET, Prefix=prefix)).get("Contents") or []
        found: Tree = {}
        for each in listed:
            found[each["Key"].removeprefix(prefix)] = await _object(each["Key"])
        return with_folders(found)

    async def _of_ipfs(self, spec: Spec) -> Tree:
        async with Kubo(os.environ[ENDPOINT]) as node:
            pins = await node.ask("pin/ls", dict[str, Any], {"arg": str(spec.params["CID"])})
            assert spec.params["CID"] in pins["Keys"]
            source, params = IpfsSource(node), IpfsSourceParams(str(spec.params["CID"]))
            resolved = await source.resolve(params, Share())
            fetched = await source.fetch(params, resolved, self._scratch / "ipfs", silent)
        return snapshot(fetched.path)


async def _parts_of(raw: Any, upload: dict[str, Any]) -> int:
    """How many parts an upload has: at a shared key one may stay that was begun when the process was killed, before it could
    note that; it holds no bytes, and nobody can tell whose it is."""
    answer = await raw.list_parts(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    return len(answer.get("Parts") or [])


async def _object(key: str) -> bytes | None:
    async with S3Client(SETTINGS) as client:
        raw = (await client.connect(os.environ[ENDPOINT])).raw
        try:
            answer = await raw.get_object(Bucket=BUCKET, Key=key)
        except (ClientError, NotFound):
            return None
        data: bytes = await answer["Body"].read()
        return data


def _serve(folder: Path, kind: str) -> None:
    """Say how long publishing takes, in seconds. Then for each number read, start a worker that publishes that execution,
    say its process id, and with which signal it ended. Forking spares the imports, those that a driver's first use leads to
    as well.
    """
    plant(content_of(0), folder / "0")
    began = 0.0
    for _ in range(2):
        began = time.monotonic()
        asyncio.run(_publish(kind, folder, 0, -1))
    print(time.monotonic() - began, flush=True)
    for line in sys.stdin:
        ready, told = os.pipe()
        worker = os.fork()
        if not worker:
            asyncio.run(_publish(kind, folder, int(line), told))
            os._exit(0)
        os.close(told)
        os.read(ready, 1)
        os.close(ready)
        print(worker, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) * -1, flush=True)


async def _publish(kind: str, folder: Path, number: int, told: int) -> None:
    async with publishing(kind) as (publisher, params):
        if told >= 0:
            os.write(told, b"!")
        at = folder / f"{number}"
        await publisher.publish(at, params, label_of(number, at), silent)


@asynccontextmanager
async def server_for(kind: str, folder: Path) -> AsyncIterator[Mapping[str, str]]:
    """A server that a publisher of that kind needs; the variables that lead to it."""
    if kind == "local":
        yield {ENDPOINT: str(folder / "shelf")}
    elif kind == "ipfs":
        async with kubo(folder / "kubo", offline=True) as node:
            yield {ENDPOINT: node.multiaddr}
    else:
        async with s3_server(folder / "s3") as server:
            yield {**server.environment, ENDPOINT: server.endpoint}


async def make_bucket() -> None:
    """The bucket, unless it is there."""
    async with S3Client(SETTINGS) as client:
        await (await client.connect(os.environ[ENDPOINT])).raw.create_bucket(Bucket=BUCKET)


async def _killed_with_a_server(folder: Path, kind: str, kills: int, seed: int) -> Published:
    async with server_for(kind, folder) as env:
        os.environ.update(env)
        if kind not in ("local", "ipfs"):
            await make_bucket()
        (folder / "work").mkdir()
        return await asyncio.to_thread(killed, folder / "work", kind, kills=kills, seed=seed)


def main() -> None:
    """Kill as often as asked, and say what came of it."""
    flags = argparse.ArgumentParser()
    flags.add_argument("--to", choices=KINDS, default="s3")
    flags.add_argument("--kills", type=int, default=100)
    flags.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    flags.add_argument("--work", type=Path)
    given = flags.parse_args()
    if given.work:
        _serve(given.work, given.to)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_killed_with_a_server(Path(folder), given.to, given.kills, given.seed))
    print(
        f"seed {given.seed}: {given.kills} kills, {found.half_way} of them in the middle of publishing to {given.to};"
    )
    print(
        f"{found.compared} results were compared after the next start, {len(found.wrong)} were wrong {found.wrong[:5]}"
    )
    sys.exit(bool(found.wrong))


if __name__ == "__main__":
    main()
