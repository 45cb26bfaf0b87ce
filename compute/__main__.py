"""``python -m compute``: one compute node, from the command line to its end.

Knows: flags, signals, and what the process prints. Must not know: how a node works (`compute.node` puts it together).

It ends on SIGINT or SIGTERM: it says that it is leaving, takes no more commands and exits at once. Containers go on, and the
next node on the same data folder adopts them; WebAssembly modules live in the node's own processes, end with it, and are
run once more.
"""

import asyncio
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from protocol.errors import Fault

EXIT_FAULT = 1
EXIT_USAGE = 2

app = App(
    name="python -m compute",
    help="Run a compute node: it takes jobs from requesters over NATS, fetches their inputs, runs them in Docker or "
    "WebAssembly and publishes what they wrote.",
    version_flags=[],
    result_action="return_value",
)


@app.default
def compute(
    *,
    nats: Annotated[list[str] | None, Parameter(help="NATS servers, nats://host:4222.", negative="")] = None,
    name: Annotated[
        str | None, Parameter(help="The node's name; else one is made for its data folder.")
    ] = None,
    data_dir: Annotated[
        Path | None, Parameter(help="The node's own folder: journal, executions, results.")
    ] = None,
    ipfs_connect: Annotated[str | None, Parameter(help="Kubo's RPC API, as a multiaddress or URL.")] = None,
    label: Annotated[list[str] | None, Parameter(help="A label, key=value; repeatable.", negative="")] = None,
    allow_local: Annotated[
        list[str] | None,
        Parameter(help="Paths jobs may mount: a glob with :ro or :rw; repeatable.", negative=""),
    ] = None,
    allow_env: Annotated[
        list[str] | None,
        Parameter(help="Variables jobs may read by env:NAME: a glob; repeatable.", negative=""),
    ] = None,
    cpu: Annotated[str | None, Parameter(help="Cores for jobs: 80% or 3.5.")] = None,
    memory: Annotated[str | None, Parameter(help="Memory for jobs: 80% or 8Gi.")] = None,
    disk: Annotated[str | None, Parameter(help="Disk for jobs: 80% or 100Gi.")] = None,
    gpu: Annotated[str | None, Parameter(help="GPUs for jobs: 100% or 1.")] = None,
    engines: Annotated[str | None, Parameter(help="Engines to offer, with commas: docker,wasm.")] = None,
    publish_address: Annotated[
        str | None, Parameter(help="Address others reach the local publisher at.")
    ] = None,
    publish_port: Annotated[
        int | None, Parameter(help="Port of the local publisher; 0 is any free one.")
    ] = None,
    config: Annotated[
        list[str] | None,
        Parameter(
            name=["--config", "-c"],
            help="A YAML file, or Key=Value with Bacalhau's keys; repeatable.",
            negative="",
        ),
    ] = None,
    log_format: Annotated[
        Literal["auto", "console", "json"] | None,
        Parameter(help="auto: console on a terminal, else JSON lines."),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, Parameter(help="From this on.")
    ] = None,
) -> int:
    """Run a compute node until it is interrupted."""
    flags: dict[str, Any] = {
        "Compute.Orchestrators": nats,
        "Name": name,
        "DataDir": data_dir,
        "Node.IPFS.Connect": ipfs_connect,
        "Labels": label,
        "Compute.AllowListedLocalPaths": allow_local,
        "Compute.Env.AllowList": allow_env,
        "Compute.AllocatedCapacity.CPU": cpu,
        "Compute.AllocatedCapacity.Memory": memory,
        "Compute.AllocatedCapacity.Disk": disk,
        "Compute.AllocatedCapacity.GPU": gpu,
        "Compute.Engines": engines,
        "Publishers.Types.Local.Address": publish_address,
        "Publishers.Types.Local.Port": publish_port,
        "Logging.Mode": log_format,
        "Logging.Level": log_level,
    }
    return _run(config or [], {key: value for key, value in flags.items() if value is not None})


def _run(configs: list[str], flags: dict[str, Any]) -> int:
    from platformdirs import user_data_path

    from compute import settings
    from compute.log_output import set_up

    try:
        default = settings.Settings(data_dir=user_data_path("shoal") / "compute")
        made = settings.settings(default, configs=configs, environ=os.environ, flags=flags)
        set_up(made.log_format, made.log_level)
    except Fault as fault:
        return _complain(fault, EXIT_USAGE)
    try:
        return _loop()(_serve(made))
    except Fault as fault:
        return _complain(fault, EXIT_FAULT)
    except BaseExceptionGroup as group:
        faults = group.subgroup(Fault)
        if faults is None or len(faults.exceptions) != len(group.exceptions):
            raise
        return _complain(faults.exceptions[0], EXIT_FAULT)


async def _serve(made: Any) -> int:
    import structlog

    from compute.node import node_id, running
    from protocol import heap
    from protocol.nats_bus import connect

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    node = node_id(made)
    bus = await connect(",".join(made.nats), name=node, role="node", password=made.nats_password)
    try:
        async with running(bus, made, node=node) as agent:
            log = structlog.get_logger("compute")
            heap.settle()
            log.info("ready", node=node, incarnation=agent.incarnation, nats=list(made.nats))
            await stop.wait()
            log.info("leaving", node=node)
            await agent.leave()
    finally:
        await bus.close()
    return 0


def _loop() -> Callable[[Coroutine[Any, Any, int]], int]:
    """What runs the event loop: uvloop if it is installed."""
    with contextlib.suppress(ImportError):
        run: Callable[[Coroutine[Any, Any, int]], int] = importlib.import_module("uvloop").run
        return run
    return asyncio.run


def _complain(fault: BaseException, code: int) -> int:
    message = fault.message if isinstance(fault, Fault) else str(fault)
    hint = f"\n  {fault.hint}" if isinstance(fault, Fault) and fault.hint else ""
    print(f"error: {message}{hint}", file=sys.stderr)
    return code


def main() -> int:
    """Run the command line; the exit code."""
    try:
        code = app()
    except SystemExit as end:
        return EXIT_USAGE if end.code else 0
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
