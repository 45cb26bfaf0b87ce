"""``python -m compute``: one compute node, from the command line to its end.

Knows: flags, signals, and what the process prints. Must not know: how a node works (`compute.node` puts it together).

It ends on SIGINT or SIGTERM: it says that it is leaving, takes no more commands and exits at once. Containers go on, and the
next node on the same data folder adopts them; WebAssembly modules live in the node's own processes, end with it, and are
run once more.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from protocol import flags
from protocol.errors import Denied, Fault, NotFound
from protocol.process import FULL, run_loop, stop_signal, unusable

if TYPE_CHECKING:
    from collections.abc import Callable

    from compute.settings import Settings
    from protocol.ids import NodeId
    from protocol.nats_bus import NatsMessages

EXIT_FAULT: Final = 1
EXIT_USAGE: Final = 2

app = App(
    name="python -m compute",
    version_flags=[],
    default_parameter=Parameter(show_default=False),
    result_action="return_value",
)

cache = App(name="cache", help="Look at the inputs that a node keeps.", result_action="return_value")
app.command(cache)


@app.default
def compute(
    *,
    nats: flags.Nats = None,
    credentials: flags.Credentials = "",
    name: Annotated[
        str, Parameter(help="The node's name; by default one is made for its data folder, once.")
    ] = "",
    data_dir: Annotated[str, Parameter(help="The node's own folder: journal, executions, results.")] = "",
    ipfs_connect: Annotated[
        str, Parameter(help="Kubo's RPC API, as a multiaddress or URL; without it no IPFS.")
    ] = "",
    label: Annotated[list[str] | None, Parameter(help="A label, key=value; repeatable.", negative="")] = None,
    allow_local: Annotated[
        list[str] | None,
        Parameter(help="Paths jobs may mount: a glob with :ro or :rw; repeatable.", negative=""),
    ] = None,
    allow_address: Annotated[
        list[str] | None,
        Parameter(
            help="Where else jobs' URLs and endpoints may lead: loopback, private, 10.0.0.0/8, HOST:PORT; repeatable.",
            negative="",
        ),
    ] = None,
    allow_env: Annotated[
        list[str] | None,
        Parameter(help="Variables jobs may read by env:NAME: a glob; repeatable.", negative=""),
    ] = None,
    cpu: Annotated[str, Parameter(help="Cores for jobs: 80% (the default) or 3.5.")] = "",
    memory: Annotated[str, Parameter(help="Memory for jobs: 80% (the default) or 8Gi.")] = "",
    disk: Annotated[str, Parameter(help="Disk for jobs: 80% (the default) or 100Gi.")] = "",
    gpu: Annotated[str, Parameter(help="GPUs for jobs: 100% (the default) or 1.")] = "",
    engines: Annotated[str, Parameter(help="Engines to offer, with commas; default docker,wasm.")] = "",
    publish_address: Annotated[
        str, Parameter(help="Address others reach the local publisher at; default 127.0.0.1.")
    ] = "",
    publish_port: Annotated[
        int | None, Parameter(help="Port of the local publisher, 0 for any free one; default 6001.")
    ] = None,
    config: flags.Settings = None,
    log_format: flags.Logs = None,
    log_level: flags.Level = None,
) -> int:
    """Run a compute node until it is interrupted.

    It takes jobs from requesters over NATS, fetches their inputs, runs them in Docker or WebAssembly and publishes what
    they wrote.

    Settings come from flags, then -c Key=Value, then variables (SHOAL_NAME, BACALHAU_NAME), then files: -c FILE,
    ./shoal.yaml and ~/.config/shoal/config.yaml.
    """
    given: dict[str, Any] = {
        "Compute.Orchestrators": nats,
        "Compute.Credentials": credentials,
        "Name": name,
        "DataDir": data_dir,
        "Node.IPFS.Connect": ipfs_connect,
        "Labels": label,
        "Compute.AllowListedLocalPaths": allow_local,
        "Compute.Addresses.Allow": allow_address,
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
    return _run(given, config or [])


DataDir = Annotated[str, Parameter(help="The node's own folder; default as for the node.")]


@cache.command(name="list")
def list_(*, data_dir: DataDir = "", config: flags.Settings = None) -> int:
    """List the inputs that the node keeps, the one used longest ago first."""
    from compute.cache_command import list_entries

    return _look(list_entries, data_dir, config)


@cache.command
def verify(*, data_dir: DataDir = "", config: flags.Settings = None) -> int:
    """Compare each input with the digests that were taken when it came; exit code 1 if one is wrong.

    The node may run meanwhile. It serves no input that was found to be wrong: it fetches it anew.
    """
    from compute.cache_command import verify_entries

    return _look(verify_entries, data_dir, config)


def _look(command: "Callable[[Path], int]", data_dir: str, config: list[str] | None) -> int:
    try:
        settings = _settings({"DataDir": data_dir}, config or [])
    except Fault as fault:
        return _complain(fault, EXIT_USAGE)
    folder = settings.data_dir / "cache"
    try:
        # A slip in its name would else pass for a cache in which all is well.
        os.listdir(folder)
    except OSError as error:
        hint = "Name the node's own folder with --data-dir, as a user that may read it."
        missing = NotFound(f"there are no inputs of a node in {folder}: {error.strerror}", hint=hint)
        return _complain(missing, EXIT_USAGE)
    return command(folder)


def _settings(given: dict[str, Any], config: list[str]) -> "Settings":
    """Read all settings, and print warnings. Raises as `read_settings`."""
    from platformdirs import user_data_path

    from compute.settings import read_settings

    settings, warnings = read_settings(
        given, config, environ=os.environ, folder=Path.cwd(), data=user_data_path("shoal")
    )
    for warning in warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    return settings


def _run(given: dict[str, Any], config: list[str]) -> int:
    from protocol.log_output import set_up

    try:
        settings = _settings(given, config)
    except Fault as fault:
        return _complain(fault, EXIT_USAGE)
    set_up(settings.log_format, settings.log_level)
    try:
        return run_loop(_serve(settings))
    except Fault as fault:
        return _complain(fault, EXIT_FAULT)
    except OSError as error:
        if error.errno not in FULL:
            raise
        return _complain(unusable(settings.data_dir, error), EXIT_FAULT)


async def _serve(settings: "Settings") -> int:
    import structlog

    from compute import early_beat, journal
    from compute.node_name import node_id
    from protocol import heap
    from protocol.clock import SystemClock
    from protocol.joining import join

    stopped = stop_signal()
    known = (settings.data_dir / journal.FILE).exists()
    node = node_id(settings)
    bus = await join(partial(_connected, settings, node), stopped, known=known)
    if bus is None:
        return 0
    try:
        await early_beat.tell(bus, settings.data_dir, node, SystemClock())
        # Not sooner: this loads engines and drivers.
        from compute.node import running

        async with running(bus, settings, node=node) as agent:
            log = structlog.get_logger("compute")
            heap.settle()
            log.info("ready", node=node, incarnation=agent.incarnation, nats=list(settings.nats))
            await stopped.wait()
            log.info("leaving", node=node)
            await agent.leave()
        await agent.say_leaving()
    finally:
        await bus.close()
    return 0


async def _connected(settings: "Settings", node: "NodeId") -> "NatsMessages":
    """The bus, for one that may hear orders there. Raises `Denied`, and as `connect`."""
    from protocol import subjects
    from protocol.nats_bus import connect

    bus = await connect(
        ",".join(settings.nats),
        name=node,
        role="node",
        credentials=settings.nats_credentials,
        password=settings.nats_password,
    )
    if await bus.may_listen(subjects.commands(node)):
        return bus
    await bus.close()
    raise Denied(
        f"the NATS servers let {node} hear no orders: these are not a node's credentials",
        hint="They may be a requester's. `shoal node enroll NAME` makes a node's; give them with --credentials FILE.",
    )


def _complain(fault: Fault, code: int) -> int:
    hint = f"\nHint: {fault.hint}" if fault.hint else ""
    print(f"Error: {fault.message}{hint}", file=sys.stderr)
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
