"""``shoal devstack``: a whole cluster on this machine, until interrupted.

Knows: flags, signals, and what a person is told. Must not know: how a cluster is started (`deploy.devstack`).
"""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from protocol.config import is_file
from protocol.errors import Unavailable
from requester.cli.exits import Exit, tell

CONTAINER: Final = "shoal submit examples/hello.yaml"
MODULE: Final = 'shoal wasm run --follow examples/modules/probe.wasm print "hello, world"'
"""Works wherever the nodes' own Python does."""


def devstack(
    *,
    requesters: Annotated[
        int, Parameter(alias=["--orchestrators", "--requester-nodes"], help="How many requesters.")
    ] = 1,
    computes: Annotated[int, Parameter(alias="--compute-nodes", help="How many compute nodes.")] = 3,
    hybrids: Annotated[int, Parameter(alias="--hybrid-nodes", help="How many of both at once.")] = 0,
    api_port: Annotated[int, Parameter(help="Port of the first requester's API; 0: any free one.")] = 1234,
    data_dir: Annotated[
        Path | None, Parameter(help="Keep all data here; default a folder that is removed.")
    ] = None,
    ipfs_connect: Annotated[str, Parameter(help="Multiaddress of the Kubo RPC API for the nodes.")] = "",
    config: Annotated[
        list[str] | None,
        Parameter(
            alias="-c", help="A YAML file, or Key=Value, for nodes and requesters; repeatable.", negative=""
        ),
    ] = None,
    random_ports: Annotated[bool, Parameter(help="Any free port (= --api-port 0).")] = False,
) -> int:
    """Run a NATS server, requesters and compute nodes on this machine until Ctrl+C; then nothing is left of them.

    Prints the two export lines by which clients find it once all nodes are ready.
    """
    settings = settings_of(config or [])
    flags = ["--ipfs-connect", ipfs_connect] if ipfs_connect else []
    return asyncio.run(
        _run(
            data_dir,
            requesters=requesters,
            computes=computes,
            hybrids=hybrids,
            api_port=0 if random_ports else api_port,
            requester_flags=settings,
            compute_flags=[*flags, *settings],
        )
    )


def settings_of(given: Sequence[str]) -> list[str]:
    """The values of ``-c`` for processes that run in a folder of their own."""
    return [word for each in given for word in ("-c", str(Path(each).absolute()) if is_file(each) else each)]


async def _run(
    folder: Path | None,
    *,
    requesters: int,
    computes: int,
    hybrids: int,
    api_port: int,
    requester_flags: list[str],
    compute_flags: list[str],
) -> int:
    from deploy.devstack import cluster
    from deploy.processes import Failed
    from deploy.programs import Missing

    asked = _cancel_on_signal()
    tell(
        f"Starting a NATS server, {requesters + hybrids} requester(s) and {computes + hybrids} compute node(s)..."
    )
    starting = cluster(
        folder,
        requesters=requesters,
        computes=computes,
        hybrids=hybrids,
        api_port=api_port,
        requester_flags=requester_flags,
        compute_flags=compute_flags,
    )
    try:
        async with starting as stack:
            for name, value in stack.environment.items():
                print(f"export {name}={value}", flush=True)
            tell(
                f"\nReady, with its data in {stack.folder}. {example(await stack.engines())} End with Ctrl+C."
            )
            # Set already if what was under way did not heed the signal.
            await asked.wait()
    except asyncio.CancelledError:
        pass
    except (Missing, Failed, TimeoutError) as error:
        raise Unavailable(f"the cluster did not start: {error}") from error
    tell("\nEnded; nothing is left running.")
    return Exit.OK


def example(engines: dict[str, str]) -> str:
    """What to try on nodes that have these engines, each with why it is not there (empty: it is)."""
    container = engines.get("docker", "")
    if not container:
        return f"Try: {CONTAINER}."
    missing = f"No node here can run containers: {container}."
    return missing if engines.get("wasm", "no node has it") else f"{missing} Try: {MODULE}."


def _cancel_on_signal() -> asyncio.Event:
    """The first signal unwinds whatever is under way, and sets the event; further ones must not disturb the clearing up."""
    task, loop, asked = asyncio.current_task(), asyncio.get_running_loop(), asyncio.Event()
    assert task is not None

    def end() -> None:
        if not asked.is_set():
            asked.set()
            task.cancel()

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(each, end)
    return asked
