"""Whether this node takes an execution at all, and with which parameters read.

Knows: what a node offers, its size and its owner's rules. Must not know: who else runs or waits here. Lack of room is no
reason: the execution waits (`compute.capacity`). What is refused is refused for a lasting reason, with what to do about it.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from compute.engines.contract import Engine
from protocol.errors import Denied, Exhausted, Failure, Fault, Invalid, Unavailable
from protocol.jobs import Amounts, Task
from protocol.messages import Run
from protocol.nodes import NodeInfo, Offer
from protocol.spec.quantities import format_bytes
from storage.contract import Drivers
from storage.params import read_params

RESERVED: Final = frozenset({"stdout", "stderr", "exitCode"})
"""What is in every published result, beside the folders of the result paths."""
HOST_VALUE: Final = "env:"
"""A value of the task's environment that begins with this names a variable of the node's own."""


class Policy(Struct, frozen=True):
    """What the node's owner allows. `env_allowed`: globs over the names of its variables that jobs may read."""

    env_allowed: tuple[str, ...] = ()
    reject_stateless: bool = False
    reject_networked: bool = False


class Plan(Struct, frozen=True):
    """An execution's drivers with their parameters read; `sources` in the order of the inputs."""

    engine: Engine[Any]
    engine_params: Any
    sources: list[tuple[Any, Any]] = field(default_factory=list)
    publisher: tuple[Any, Any] | None = None


def plan(run: Run, engines: Mapping[str, Engine[Any]], drivers: Drivers) -> Plan:
    """Read all parameters. Raises `Invalid` for those that cannot be read, `Unavailable` for a driver that is not here."""
    task = run.task
    _check_result_paths(task)
    engine = engines.get(task.engine.type.lower())
    if engine is None:
        raise Unavailable(f"this node has no engine {task.engine.type!r}", kind="Engine")
    sources = []
    for index, each in enumerate(task.input_sources):
        source = drivers.sources.get(each.source.type.lower())
        if source is None:
            raise Unavailable(f"this node has no source {each.source.type!r}", kind="Source")
        where = f"input {index} ({each.target}): source {each.source.type}"
        sources.append((source, read_params(each.source.params, source.params, where)))
    publisher = None
    if task.publisher.type.lower() not in ("", "noop"):
        driver = drivers.publishers.get(task.publisher.type.lower())
        if driver is None:
            raise Unavailable(f"this node has no publisher {task.publisher.type!r}", kind="Publisher")
        params = read_params(task.publisher.params, driver.params, f"publisher {task.publisher.type}")
        publisher = (driver, params)
    engine_params: Any = read_params(task.engine.params, engine.params, f"engine {task.engine.type}")
    return Plan(engine, engine_params, sources, publisher)


def refusal(run: Run, info: NodeInfo, policy: Policy, environment: Mapping[str, str]) -> Failure | None:
    """The lasting reason why this node does not take `run`, or None. `environment` is the node's own."""
    try:
        _check_offers(run.task, info)
        _check_size(run.amounts, info)
        _check_policy(run.task, policy)
        host_values(run.task, policy, environment)
    except Fault as fault:
        return fault.failure()
    return None


def host_values(task: Task, policy: Policy, environment: Mapping[str, str]) -> dict[str, str]:
    """The task's environment with ``env:NAME`` replaced by the node's own value. Raises `Denied`."""
    values = {}
    for name, value in task.env.items():
        if value.startswith(HOST_VALUE):
            value = _host_value(name, value.removeprefix(HOST_VALUE), policy, environment)
        values[name] = value
    return values


def with_disk(amounts: Amounts, own_bytes: int, shared_bytes: int = 0) -> Amounts:
    """The amounts with room for inputs of its own, if that is more than was asked for.

    Its Disk is for all it reads and writes together: what is there for several counts, but takes no room of its own.
    """
    disk_bytes = max(amounts.disk_bytes - shared_bytes, own_bytes)
    return replace(amounts, disk_bytes=disk_bytes)


def over_disk(limit_bytes: int, taken_bytes: int, what: str) -> Exhausted | None:
    """The fault of taking more disk than the task's ``Disk``, which 0 leaves open. `what` takes it."""
    if not limit_bytes or taken_bytes <= limit_bytes:
        return None
    return Exhausted(
        f"{what} {format_bytes(taken_bytes)}, and the task's Disk is {format_bytes(limit_bytes)}",
        hint="Raise Resources.Disk: inputs, what the program writes anywhere, its outputs and its log count together.",
        kind="DiskLimit",
    )


def too_large(amounts: Amounts, capacity: Amounts) -> Exhausted | None:
    """The fault of wanting more than the whole node gives, naming what and how much."""
    lacks = []
    if amounts.cpu > capacity.cpu + 1e-9:
        lacks.append(f"{amounts.cpu:g} of {capacity.cpu:g} cores")
    if amounts.memory_bytes > capacity.memory_bytes:
        wanted, there = format_bytes(amounts.memory_bytes), format_bytes(capacity.memory_bytes)
        lacks.append(f"{wanted} of {there} memory")
    if amounts.disk_bytes > capacity.disk_bytes:
        wanted, there = format_bytes(amounts.disk_bytes), format_bytes(capacity.disk_bytes)
        lacks.append(f"{wanted} of {there} disk")
    if amounts.gpu > capacity.gpu:
        lacks.append(f"{amounts.gpu} of {capacity.gpu} GPUs")
    if amounts.dynamic_ports > capacity.dynamic_ports:
        lacks.append(f"{amounts.dynamic_ports} of {capacity.dynamic_ports} dynamic ports")
    if not lacks:
        return None
    hint = "Lower the task's Resources (known sizes of inputs count as disk), or use a larger node."
    return Exhausted(f"it wants {' and '.join(lacks)} of this node", hint=hint, kind="Capacity")


def _check_result_paths(task: Task) -> None:
    """A result's name becomes a folder beside the files that we put there."""
    for result in task.result_paths:
        name = result.name
        if (
            name in RESERVED
            or name in ("", ".", "..")
            or "/" in name
            or "\0" in name
            or len(name.encode()) > 255
        ):
            raise Invalid(
                f"the result {result.name!r} cannot be a folder's name", hint="Use a plain name.", kind="Name"
            )


def _check_offers(task: Task, info: NodeInfo) -> None:
    _check_offer("engine", task.engine.type, info.offers("engines", task.engine.type), info.engines)
    for index, each in enumerate(task.input_sources):
        offer = info.offers("sources", each.source.type)
        _check_offer("source", each.source.type, offer, info.sources, f"input {index} ({each.target}): ")
    publisher = task.publisher.type
    if publisher.lower() not in ("", "noop"):
        _check_offer("publisher", publisher, info.offers("publishers", publisher), info.publishers)


def _check_offer(kind: str, type: str, offer: Offer | None, offers: list[Offer], where: str = "") -> None:
    if offer is None:
        there = ", ".join(sorted(each.type for each in offers if each.available)) or "none"
        raise Unavailable(
            f"{where}this node has no {kind} {type!r}", hint=f"It has: {there}.", kind=kind.capitalize()
        )
    # What it has lost it may have again: work for it waits in its engine, as what runs there does.
    if not offer.available and not offer.lost:
        raise Unavailable(
            f"{where}{kind} {offer.type} does not work on this node: {offer.reason}",
            hint=offer.hint,
            kind=kind.capitalize(),
        )


def _check_size(amounts: Amounts, info: NodeInfo) -> None:
    if min(amounts.cpu, amounts.memory_bytes, amounts.disk_bytes, amounts.gpu, amounts.dynamic_ports) < 0:
        raise Invalid(
            "an amount of its resources is below zero", hint="Ask for nothing, or for more.", kind="Amounts"
        )
    fault = too_large(amounts, info.largest)
    if fault:
        raise fault


def _check_policy(task: Task, policy: Policy) -> None:
    if policy.reject_stateless and not task.input_sources:
        raise Denied("this node takes no jobs without inputs", hint="Its owner has set RejectStatelessJobs.")
    if policy.reject_networked and task.network.type not in ("None", "Default"):
        raise Denied(
            f"this node takes no jobs with network {task.network.type}",
            hint="Its owner has set RejectNetworkedJobs; use Network.Type None.",
        )


def _host_value(name: str, wanted: str, policy: Policy, environment: Mapping[str, str]) -> str:
    if not any(fnmatchcase(wanted, pattern) for pattern in policy.env_allowed):
        raise Denied(
            f"Env {name}: this node does not let jobs read its variable {wanted!r}",
            hint="Its owner can add it to Compute.Env.AllowList.",
            kind="Env",
        )
    if wanted not in environment:
        raise Denied(
            f"Env {name}: this node has no variable {wanted!r}",
            hint="Set it where the node is started.",
            kind="Env",
        )
    return environment[wanted]
