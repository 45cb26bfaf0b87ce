"""``make demo``: the main job on an embedded cluster, from the submission of real specs to downloaded results.

Knows: what the examples need and how to say what is missing. Must not know: how anything works that it starts. It puts the
data into S3 and IPFS, then does what a person would do, with the commands that a person would type; every process it starts
is gone at the end.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from deploy import images
from deploy.devstack import Cluster, cluster
from deploy.docker import docker_daemon
from deploy.processes import Failed
from deploy.programs import ROOT, Missing
from deploy.servers import Kubo, S3Server, kubo, s3_server

EXAMPLES: Final = ROOT / "examples"
BUCKET: Final = "examples"
IMAGE: Final = "busybox:1.36"
COMMAND_S: Final = 300.0


class Parts:
    """What there is besides the cluster itself; None is what is missing."""

    def __init__(self) -> None:
        self.s3: S3Server | None = None
        self.kubo: Kubo | None = None
        self.docker: str | None = None

    def missing_for(self, spec: str) -> list[str]:
        """What an example needs and does not find."""
        text = (EXAMPLES / spec).read_text()
        wanted = {"S3": "Type: s3" in text, "Kubo": "Type: ipfs" in text, "Docker": "Type: docker" in text}
        there = {"S3": self.s3, "Kubo": self.kubo, "Docker": self.docker}
        return [name for name, needed in wanted.items() if needed and there[name] is None]

    def environment(self) -> dict[str, str]:
        """How nodes and clients find the servers."""
        env: dict[str, str] = {}
        if self.s3 is not None:
            env |= {**self.s3.environment, "AWS_ENDPOINT_URL_S3": self.s3.endpoint}
        if self.kubo is not None:
            env["SHOAL_NODE_IPFS_CONNECT"] = self.kubo.multiaddr_with_peer
        if self.docker is not None:
            env["DOCKER_HOST"] = self.docker
        return env


async def main() -> int:
    """Run the demo; the exit code is that of the first command that failed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="shoal-demo-") as scratch:
        folder = Path(scratch)
        async with _parts(folder) as parts:
            say("Starting a NATS server, a requester and three compute nodes")
            async with cluster(folder / "cluster", env=parts.environment()) as ours:
                told(f"ready after {time.monotonic() - began:.1f} s, API at {ours.api.url}")
                code = await _run_all(ours, parts, folder)
    told(f"\nEverything is ended and removed; that took {time.monotonic() - began:.1f} s.")
    return code


async def _run_all(ours: Cluster, parts: Parts, folder: Path) -> int:
    env = {**parts.environment(), **ours.environment}
    done = 0
    for spec in ("s3-to-ipfs.yaml", "ipfs-to-s3.yaml", "hello.yaml", "partitions.yaml"):
        missing = parts.missing_for(spec)
        if missing:
            say(f"Left out: examples/{spec} needs {' and '.join(missing)}")
            continue
        publishes = "Publisher" in (EXAMPLES / spec).read_text()
        code = await _run_one(spec, env, folder / spec.removesuffix(".yaml"), publishes=publishes)
        if code:
            return code
        done += 1
    if not done:
        say("No example could run: neither S3, nor Kubo, nor Docker is there")
        return 1
    return 0


async def _run_one(spec: str, env: Mapping[str, str], results: Path, *, publishes: bool) -> int:
    say(f"examples/{spec}")
    name = spec.removesuffix(".yaml")
    if code := await _shoal(["submit", f"examples/{spec}"], env):
        return code
    if not publishes:
        return await _shoal(["logs", name], env)
    if code := await _shoal(["get", name, "--output-dir", str(results)], env):
        return code
    for path in sorted(results.rglob("*")):
        if path.is_file() and path.stat().st_size:
            told(f"--- {path.relative_to(results)}")
            told(path.read_text().rstrip())
    return 0


async def _shoal(words: list[str], env: Mapping[str, str]) -> int:
    """Type a command: show it, run it, and return its exit code."""
    told(f"\n$ shoal {' '.join(words)}")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "requester", *words, cwd=ROOT, env={**os.environ, **env}
    )
    try:
        async with asyncio.timeout(COMMAND_S):
            return await process.wait()
    except TimeoutError as error:
        raise Failed(f"`shoal {' '.join(words)}` did not end within {COMMAND_S:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def _parts(folder: Path) -> AsyncIterator[Parts]:
    """Start the servers that can be had and put the examples' data into them; tell which are missing."""
    say("Looking for an S3 server, Kubo and Docker")
    parts = Parts()
    async with AsyncExitStack() as stack:
        try:
            parts.s3 = await stack.enter_async_context(s3_server(folder / "s3"))
            await _fill_bucket(parts.s3)
            told(f"S3 at {parts.s3.endpoint}: s3://{BUCKET}/texts/ and s3://{BUCKET}/modules/")
        except (Missing, Failed) as missing:
            told(f"No S3: {missing}")
        try:
            parts.kubo = await stack.enter_async_context(kubo(folder / "kubo"))
            for path in ("data/texts", "modules/wordcount.wasm"):
                told(f"IPFS at {parts.kubo.multiaddr}: {path} is {await _add(parts.kubo, EXAMPLES / path)}")
        except (Missing, Failed) as missing:
            told(f"No IPFS: {missing}")
        parts.docker = await _docker(stack)
        yield parts


async def _docker(stack: AsyncExitStack) -> str | None:
    try:
        host = (await stack.enter_async_context(docker_daemon())).host
    except (Missing, Failed) as missing:
        told(f"No Docker: {missing} (jobs in WebAssembly go on without)")
        return None
    try:
        if await images.give_name(host, await images.busybox_image(host), IMAGE):
            # It is busybox, but not the one that a registry has under this name: it must not stay.
            stack.push_async_callback(images.take_name, host, IMAGE)
    except Missing:
        told(f"Docker at {host}: {IMAGE} will be pulled")
    except Failed as failed:
        told(f"No Docker: {failed}")
        return None
    else:
        told(f"Docker at {host}: {IMAGE} is there, made from this machine's busybox")
    return host


async def _fill_bucket(s3: S3Server) -> None:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    client = get_session().create_client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        config=AioConfig(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    async with client as bucket:
        await bucket.create_bucket(Bucket=BUCKET)
        for path in sorted((EXAMPLES / "data" / "texts").iterdir()):
            await bucket.put_object(Bucket=BUCKET, Key=f"texts/{path.name}", Body=path.read_bytes())
        module = (EXAMPLES / "modules" / "wordcount.wasm").read_bytes()
        await bucket.put_object(Bucket=BUCKET, Key="modules/wordcount.wasm", Body=module)


async def _add(node: Kubo, path: Path) -> str:
    """Add a file or a folder to IPFS; returns its CID."""
    form = aiohttp.FormData()
    for each in sorted(path.iterdir()) if path.is_dir() else [path]:
        name = str(each.relative_to(path.parent))
        form.add_field("file", each.read_bytes(), filename=name, content_type="application/octet-stream")
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        url = f"{node.api_url}/api/v0/add?cid-version=1&pin=true&progress=false"
        async with session.post(url, data=form) as answer:
            answer.raise_for_status()
            # One line of JSON for each file and folder; what was named comes last.
            last: dict[str, Any] = json.loads((await answer.text()).splitlines()[-1])
    return str(last["Hash"])


def say(text: str) -> None:
    """A heading."""
    print(f"\n=== {text}", flush=True)


def told(text: str) -> None:
    """A line."""
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
    except (Missing, Failed, TimeoutError) as error:
        sys.exit(f"The demo cannot go on: {error}")
