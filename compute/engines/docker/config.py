"""From a run to the container that the daemon is asked for.

Knows: the fields of the API's container configuration and the reason for each value. Must not know: the daemon, or whether
anything exists. Everything here is a plain function; what can be seen to be wrong is said here, before anything is made.
"""

import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any, Final

from compute.engines.contract import Mount, Run
from compute.engines.docker.devices import DeviceFile, device_config
from compute.engines.docker.settings import DockerSettings
from protocol.errors import Denied, Invalid
from protocol.ids import ExecutionId, NodeId
from protocol.jobs import Port
from protocol.spec.engines import DockerParams
from protocol.spec.images import parse_reference

JOB_LABEL: Final = "shoal.job"
EXECUTION_LABEL: Final = "shoal.execution"
NODE_LABEL: Final = "shoal.node"
DOMAINS_LABEL: Final = "shoal.domains"
"""On a container of Network.Type HTTP: the hosts that its program may reach, as JSON."""
SYSTEM_PREFIX: Final = "BACALHAU_"
HOST_ALIAS: Final = "host.docker.internal:host-gateway"
ANY_ADDRESS: Final = "0.0.0.0"
CPU_LEAST: Final = 0.01
"""The API refuses less."""
NANO: Final = 1_000_000_000

_VARIABLE: Final = re.compile(r"[^=\0]+")


def container_name(node: NodeId, execution: ExecutionId) -> str:
    """The one name that an execution's container can have: asking for it twice is a conflict, not a second container."""
    return f"shoal-{node}-{execution}"


def gateway_name(node: NodeId) -> str:
    """The network of containers that may reach named domains alone."""
    return f"shoal-{node}-http"


def check(params: DockerParams) -> None:
    """Raise `Invalid` for params that can never work, naming the field."""
    parse_reference(params.image)
    directory = params.working_directory
    if directory and not directory.startswith("/"):
        raise Invalid(
            f"docker: WorkingDirectory {directory!r} is not absolute",
            hint="Begin it with a slash: it is a path inside.",
        )
    for name, words in (("Entrypoint", params.entrypoint), ("Parameters", params.parameters)):
        if any("\0" in word for word in words):
            raise Invalid(f"docker: {name} contains a NUL character, which no program can be given")
    if params.entrypoint and not params.entrypoint[0]:
        raise Invalid("docker: the first word of Entrypoint is empty", hint="Name the program to start.")
    variables(params)


def variables(params: DockerParams) -> dict[str, str]:
    """The engine's own ``EnvironmentVariables``. Raises `Invalid` for one that is not ``KEY=value``, or the system's."""
    found = {}
    for position, line in enumerate(params.environment_variables):
        name, equals, value = line.partition("=")
        where = f"docker: EnvironmentVariables[{position}]"
        if not equals or not _VARIABLE.fullmatch(name) or "\0" in value:
            raise Invalid(f"{where} {line!r} is not KEY=value", hint="Write each as KEY=value.")
        if name.startswith(SYSTEM_PREFIX):
            raise Invalid(
                f"{where} sets {name}, and names that begin with {SYSTEM_PREFIX} are the system's",
                hint="Choose another name.",
            )
        found[name] = value
    return found


def container_config(
    run: Run[DockerParams],
    settings: DockerSettings,
    volumes: Sequence[str] = (),
    *,
    proxy: str = "",
    devices: Sequence[DeviceFile] = (),
) -> dict[str, Any]:
    """The body of ``POST /containers/create``. `volumes` are paths at which the image wants one, `proxy` is the URL by which
    a program of Network.Type HTTP reaches what it may, `devices` are the files of its GPUs that have some.

    Raises `Invalid`, and `Denied` for what the node's owner does not allow.
    """
    check(run.params)
    network = network_mode(run, settings)
    config: dict[str, Any] = {
        "Image": run.params.image,
        "Env": [f"{name}={value}" for name, value in environment(run, network, proxy).items()],
        "Labels": settings.labels | _labels(run) | _domains(run, network),
        "HostConfig": _limits(run, settings) | _isolation(settings) | _network(run, network),
    }
    config["HostConfig"] |= device_config(run.gpus, devices)
    config["HostConfig"]["Mounts"] = [_mount(mount) for mount in run.mounts] + _volumes(run, volumes)
    if run.params.entrypoint:
        config["Entrypoint"] = run.params.entrypoint
    if run.params.parameters:
        config["Cmd"] = run.params.parameters
    if run.params.working_directory:
        config["WorkingDir"] = run.params.working_directory
    if network == "bridge" and run.ports:
        config["ExposedPorts"] = {each: {} for each in _published(run)}
    return config


def network_mode(run: Run[DockerParams], settings: DockerSettings) -> str:
    """``none``, ``bridge``, ``host`` or ``http``.

    ``Default`` is a network, as with Bacalhau since 1.6.4; on a node that gives none it is none, and only what asks for
    one by name is refused.
    """
    kind = run.network.type.lower()
    if kind == "none" or (kind in ("", "default") and not settings.networking):
        return "none"
    if kind not in ("", "default", "bridge", "host", "full", "http"):
        raise Invalid(
            f"docker: Network.Type {run.network.type!r} is unknown",
            hint="Use Default, None, HTTP, Bridge or Host.",
        )
    if not settings.networking:
        raise Denied(
            f"this node gives no network to jobs, and the job asks for Network.Type {run.network.type}",
            hint="Use Network.Type None, or a node that allows networked jobs.",
        )
    return {"host": "host", "full": "host", "http": "http"}.get(kind, "bridge")


def environment(run: Run[DockerParams], network: str, proxy: str = "") -> dict[str, str]:
    """What the program sees: the task's Env, over it the engine's ``EnvironmentVariables``, over both what is the system's.

    That is the order in which Bacalhau 1.9.3 was seen to do it. `Run.env` holds the first and the last of the three.
    """
    for name, value in run.env.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise Invalid(
                f"the environment variable {name!r} has a name or value that no program can be given"
            )
    system = {name: value for name, value in run.env.items() if name.startswith(SYSTEM_PREFIX)}
    ports = {}
    for name, (outside, inside) in run.ports.items():
        ports[f"{SYSTEM_PREFIX}PORT_{name}"] = str(inside if network == "bridge" else outside)
        ports[f"{SYSTEM_PREFIX}HOST_PORT_{name}"] = str(outside)
    return run.env | variables(run.params) | _proxies(proxy) | ports | system


def _proxies(proxy: str) -> dict[str, str]:
    """What programs look for: some read the one spelling alone, some the other."""
    if not proxy:
        return {}
    told = {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": "localhost,127.0.0.1"}
    return told | {name.upper(): value for name, value in told.items()}


def _domains(run: Run[DockerParams], network: str) -> dict[str, str]:
    return {DOMAINS_LABEL: json.dumps(run.network.domains)} if network == "http" else {}


def _limits(run: Run[DockerParams], settings: DockerSettings) -> dict[str, Any]:
    limits: dict[str, Any] = {"PidsLimit": settings.pids}
    if run.amounts.cpu > 0:
        limits["NanoCpus"] = round(max(run.amounts.cpu, CPU_LEAST) * NANO)
    if run.amounts.memory_bytes:
        # Equal to the memory: no swap. A program over its limit ends; it does not slow the machine down.
        limits["Memory"] = limits["MemorySwap"] = run.amounts.memory_bytes
    return limits


def _isolation(settings: DockerSettings) -> dict[str, Any]:
    # No init process: images that bring their own insist on being the first process, and a program that is missing would
    # become a line of its output. A program that does not heed SIGTERM as the first process is killed after the grace.
    return {
        "CapDrop": ["ALL"],
        "CapAdd": list(settings.capabilities),
        "SecurityOpt": ["no-new-privileges"],
        "AutoRemove": False,
        "LogConfig": {
            "Type": settings.log_driver,
            "Config": {"max-size": str(settings.log_bytes), "max-file": "2"},
        },
    }


def _network(run: Run[DockerParams], mode: str) -> dict[str, Any]:
    network: dict[str, Any] = {"NetworkMode": gateway_name(run.node) if mode == "http" else mode}
    if mode == "host":
        network["ExtraHosts"] = [HOST_ALIAS]
    if mode == "bridge" and run.ports:
        network["PortBindings"] = _published(run)
    return network


def _published(run: Run[DockerParams]) -> dict[str, list[dict[str, str]]]:
    """By port inside (``80/tcp``) where it is reached: one may be at several ports of the host."""
    asked = {port.name: port for port in run.network.ports}
    found: dict[str, list[dict[str, str]]] = {}
    for name, (outside, inside) in run.ports.items():
        port = asked.get(name, Port(name))
        address = {"HostIp": port.host_network or ANY_ADDRESS, "HostPort": str(outside)}
        found.setdefault(f"{inside}/{port.transport}", []).append(address)
    return found


def _labels(run: Run[DockerParams]) -> dict[str, str]:
    return {JOB_LABEL: run.job, EXECUTION_LABEL: run.execution, NODE_LABEL: run.node}


def _volumes(run: Run[DockerParams], paths: Sequence[str]) -> list[dict[str, Any]]:
    """What Docker does by itself where an image wants a volume: an unnamed one. But those would not bear our labels."""
    taken = {normpath(mount.target) for mount in run.mounts}
    return [
        {"Type": "volume", "Target": path, "VolumeOptions": {"Labels": _labels(run)}}
        for path in paths
        if normpath(path) not in taken
    ]


def _mount(mount: Mount) -> dict[str, Any]:
    target = PurePosixPath(mount.target)
    if not target.is_absolute() or target == PurePosixPath("/") or ".." in target.parts:
        raise Invalid(
            f"docker: nothing can be mounted at {mount.target!r}",
            hint="Give an absolute path inside, other than /.",
        )
    return {
        "Type": "bind",
        "Source": str(mount.source),
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }
