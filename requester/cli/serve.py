"""``shoal serve`` (= ``python -m requester serve``): a requester, a compute node, or both, until interrupted.

Knows: flags, and what must be had before anything starts: the data folder, the port, NATS. Must not know: how a requester
works (`requester.serve`) or what a compute node is made of: that is a program of its own, started beside.
"""

import asyncio
import contextlib
import errno
import os
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import NAMESPACE_URL, uuid5

from cyclopts import Parameter
from msgspec.structs import replace

from protocol import flags
from protocol.errors import Conflict, Fault, Invalid, Unavailable
from protocol.ids import RequesterId
from protocol.process import held, run_loop, stop_signal
from requester.cli.configuration import Plan, in_force, plan
from requester.cli.exits import Exit, tell
from requester.version import installed_version

if TYPE_CHECKING:
    from deploy.servers import NatsServer
    from protocol.nats_bus import NatsBus
    from requester.settings import Settings
    from storage.s3.results import ResultSigner

CONNECT_S: Final = 2.0
LOG_WAIT_S: Final = 60.0
"""How long JetStream may need at the start: servers and requesters of a site often start together."""
NODE_STOP_S: Final = 30.0
"""How long a compute node beside us may take to leave in order."""


def serve(
    *,
    orchestrator: Annotated[
        bool | None, Parameter(help="Be a requester; the default if no role is named.")
    ] = None,
    compute: Annotated[
        bool | None, Parameter(help="Run a compute node; with --orchestrator both, in two processes.")
    ] = None,
    node_type: Annotated[str, Parameter(help="The roles in one flag: requester,compute.")] = "",
    nats: flags.Nats = None,
    credentials: flags.Credentials = "",
    api_host: Annotated[str, Parameter(help="Address the API listens on; default 0.0.0.0.")] = "",
    api_port: Annotated[
        int | None, Parameter(help="Port of the API, 0 for any free one; default 1234.")
    ] = None,
    data_dir: Annotated[
        str, Parameter(help="Folder for what is kept here (a read model, the node's work).")
    ] = "",
    name: Annotated[
        str, Parameter(help="This requester's name; by default one is made up at its start.")
    ] = "",
    ipfs_connect: Annotated[
        str,
        Parameter(help="Kubo's RPC API as a multiaddress, for the compute node; alone it means both roles."),
    ] = "",
    replicas: Annotated[
        int | None, Parameter(help="Copies of the log among the NATS servers: 3 on a cluster; default 1.")
    ] = None,
    config: flags.Settings = None,
    log_format: flags.Logs = None,
    log_level: flags.Level = None,
) -> int:
    """Run a requester until it is interrupted; --compute adds a compute node on this machine."""
    from platformdirs import user_data_path

    given: dict[str, Any] = {
        "Orchestrator.Enabled": orchestrator,
        "Compute.Enabled": compute,
        "Node.Type": node_type,
        "NATS.URL": nats,
        "Orchestrator.Credentials": credentials,
        "API.Host": api_host,
        "API.Port": api_port,
        "DataDir": data_dir,
        "Name": name,
        "Node.IPFS.Connect": ipfs_connect,
        "NATS.Replicas": replicas,
        "Logging.Mode": log_format,
        "Logging.Level": log_level,
    }
    wanted = plan(given, config or [], environ=os.environ, folder=Path.cwd(), data=user_data_path("shoal"))
    for warning in wanted.warnings:
        tell(f"Warning: {warning}")
    if not wanted.orchestrator:
        os.execv(sys.executable, [sys.executable, "-m", "compute", *wanted.node])
    return run_loop(_serve(wanted))


async def _serve(wanted: Plan) -> int:
    from protocol import heap
    from protocol.joining import join
    from protocol.log_output import set_up
    from requester.serve import serve as serve_requester
    from storage import s3
    from storage.s3.results import ResultSigner

    set_up(wanted.log_format, wanted.log_level)
    settings = wanted.settings
    stopped = stop_signal()
    with _listener(settings.api_host, settings.api_port) as listener, held(settings.data_dir, "requester"):
        async with _nats(wanted) as wanted:
            settings = wanted.settings
            if wanted.signing.makes_links:
                # Before anything is served: the loop would stand still while it is imported.
                await asyncio.to_thread(s3.load)
            bus = await join(partial(_connected, settings), stopped, known=settings.read_model.exists())
            if bus is None:
                return Exit.OK
            signer = ResultSigner(wanted.signing)
            heap.settle(to_read=True)
            try:
                api = _api(wanted, listener, signer)
                work = [serve_requester(bus, settings, api, version=installed_version(), bucket=signer)]
                if wanted.node:
                    work.append(_beside(["compute", *wanted.node]))
                await _until(stopped, work)
            finally:
                await signer.close()
                await bus.close()
    return Exit.OK


async def _connected(settings: "Settings") -> "NatsBus":
    from protocol.nats_bus import StreamSettings, connect

    return await connect(
        ",".join(settings.nats_servers),
        name=f"requester {settings.id}".strip(),
        role="requester",
        credentials=settings.nats_credentials,
        password=settings.nats_password,
        log_wait_s=LOG_WAIT_S,
        streams=StreamSettings(replicas=settings.replicas, log_bytes=settings.log_max_bytes),
    )


@asynccontextmanager
async def _nats(wanted: Plan) -> AsyncIterator[Plan]:
    """The NATS server that was named; where none was and nobody listens at the usual place, one beside this requester, with
    keys of its own, and credentials for us and the node beside us.

    So that one command makes a cluster, as with Bacalhau, whose server is built in. Its data is in our data folder.
    """
    if wanted.own_nats is None or await _listens(*wanted.own_nats):
        yield wanted
        return
    from deploy.programs import Missing
    from deploy.servers import Failed, nats_server

    host, port = wanted.own_nats
    try:
        async with nats_server(wanted.settings.data_dir / "nats", host=host, port=port) as server:
            tell(
                f"No NATS server was named and none listens at {host}:{port}: started one, data in {server.log.parent}; "
                f"more nodes join it with credentials from: shoal node enroll NAME --keys {server.keys}"
            )
            yield _enrolled(wanted, server)
    except (Missing, Failed) as error:
        raise Unavailable(
            f"no NATS server listens at {host}:{port}, and none could be started: {error}",
            hint="Start one with `nats-server -c nats.conf`, or name one with --nats.",
        ) from error


def _enrolled(wanted: Plan, server: "NatsServer") -> Plan:
    """The plan with credentials of the server's own keys. Names that nobody gave stay the same for this data folder."""
    given = wanted.settings.id
    mark = uuid5(NAMESPACE_URL, f"{gethostname()} {wanted.settings.data_dir}")
    name = given or RequesterId(f"r-{mark}")
    settings = replace(wanted.settings, id=name, nats_credentials=server.requester(name))
    node = wanted.node and [*wanted.node, "--credentials", str(server.node(given or f"n-{mark}"))]
    return replace(wanted, settings=settings, node=node)


async def _listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _api(wanted: Plan, listener: socket.socket, signer: "ResultSigner") -> Any:
    """The API on a port that is ours already."""
    from protocol import heap
    from requester.api.app import application, listening
    from requester.verbs import Verbs

    @asynccontextmanager
    async def api(verbs: Verbs, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
        config = in_force(wanted, listener.getsockname()[1])
        app = application(verbs, installed_version(), wanted.defaults, signer, config)
        async with listening(app, listener) as bound:
            heap.settle()
            yield host, bound

    return api


async def _until(stopped: asyncio.Event, work: list[Coroutine[Any, Any, None]]) -> None:
    """Do all of it until told to stop. The first that fails, or ends by itself, ends the rest; its fault is raised."""
    tasks = [asyncio.create_task(each) for each in work]
    stop = asyncio.create_task(stopped.wait())
    try:
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (*tasks, stop):
            task.cancel()
        await asyncio.gather(*tasks, stop, return_exceptions=True)


async def _beside(arguments: list[str]) -> None:
    """Run a program of ours beside this one; it never outlives us. Raises `Unavailable` when it ends by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "requester.cli.beside", *arguments, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        code = await process.wait()
        raise Unavailable(
            f"the compute node beside this requester ended with code {code}",
            hint="What it printed is above this line.",
        )
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NODE_STOP_S):
                    await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextmanager
def _listener(host: str, port: int) -> Iterator[socket.socket]:
    """The API's port, taken before anything starts. Raises `Conflict` if it is another's, `Invalid` for no address here."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Invalid(
            f"{host!r} is no address to listen on: {error.strerror}", hint="Give --api-host."
        ) from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            # Without this a second requester could bind the same port before either listens.
            listener.listen(1_024)
        except OSError as error:
            raise _not_bound(host, port, error) from error
        yield listener


def _not_bound(host: str, port: int, error: OSError) -> Fault:
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"port {port} on {host} is taken by another program",
            hint="End it, or choose another with --api-port (0: any free one).",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return Invalid(f"port {port} needs more rights than this process has", hint="Choose one above 1023.")
    return Invalid(f"the API cannot listen on {host} port {port}: {error.strerror}", hint="Give --api-host.")
