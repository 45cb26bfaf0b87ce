"""What a person asks for: a job and its parts, under Bacalhau's names.

Knows: the fields of a job spec in their one canonical form. Must not know: how a spec was written (`protocol.spec` reads
YAML, JSON, any key case and the older forms into this one) or which drivers exist: a `Spec` carries its driver's
parameters as a plain object, which the driver's own Struct reads.

The same Structs serve the bus, the log, the read model, REST and the command line.
"""

from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType, field

NAMESPACE_DEFAULT: Final = "default"
LONG_RUNNING: Final = frozenset({"service", "daemon"})
"""Types of jobs that are not meant to end: their programs are started again whenever they do."""
EVERYWHERE: Final = frozenset({"ops", "daemon"})
"""Types of jobs that run once on each node that fits, instead of in partitions, and so have no Count."""

TCP: Final = "tcp"
UDP: Final = "udp"


class Spec(Struct, frozen=True, gc=False, rename="pascal", omit_defaults=False):
    """A driver or engine by its type, and the parameters that are its own business."""

    type: str = ""
    params: dict[str, Any] = field(default_factory=dict)


class Constraint(Struct, frozen=True, gc=False, rename="pascal"):
    """A condition on a node's labels. Operators: ``= == in != notin exists ! gt lt``.

    A key that begins with ``favour_`` is a preference instead: it ranks and does not filter.
    """

    key: str
    operator: str
    values: list[str] = field(default_factory=list)


class Input(Struct, frozen=True, gc=False, rename="pascal"):
    """One input: where it comes from and where the program finds it (absolute path).

    With `read_write` the program has a copy of its own, which it may change and which goes with it. A `local` source has
    a parameter of that name instead, which means the path itself.
    """

    source: Spec
    target: str
    alias: str = ""
    read_write: bool | UnsetType = UNSET


class ResultPath(Struct, frozen=True, gc=False, rename="pascal"):
    """A folder that is kept: `path` as the program sees it, `name` as its folder in the result."""

    name: str
    path: str


class Resources(Struct, frozen=True, gc=False):
    """What a task wants, as people write it: ``500m``, ``512Mb``, ``1Gi``, ``1``; empty means the default.

    `gpu_name` is a part of the devices' name in any case (``A100``), `gpu_memory` the least each of them must have; both
    are left out where a spec says nothing.
    """

    cpu: str = field(default="", name="CPU")
    memory: str = field(default="", name="Memory")
    disk: str = field(default="", name="Disk")
    gpu: str = field(default="", name="GPU")
    gpu_name: str | UnsetType = field(default=UNSET, name="GPUName")
    gpu_memory: str | UnsetType = field(default=UNSET, name="GPUMemory")


CPU_TOLERANCE: Final = 1e-9
"""In cores: sums of fractions are a little more or less than they should be."""


class Amounts(Struct, frozen=True, gc=False, omit_defaults=True):
    """Resources as numbers: cores, bytes, bytes, devices. Wire names are those of Bacalhau's AllocatedResources.

    `dynamic_ports` are ports of the host, whichever are free; a node that gives none does not count them.
    """

    cpu: float = field(default=0.0, name="CPU")
    memory_bytes: int = field(default=0, name="Memory")
    disk_bytes: int = field(default=0, name="Disk")
    gpu: int = field(default=0, name="GPU")
    dynamic_ports: int = field(default=0, name="DynamicPorts")

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.cpu + other.cpu,
            self.memory_bytes + other.memory_bytes,
            self.disk_bytes + other.disk_bytes,
            self.gpu + other.gpu,
            self.dynamic_ports + other.dynamic_ports,
        )

    def __sub__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.cpu - other.cpu,
            self.memory_bytes - other.memory_bytes,
            self.disk_bytes - other.disk_bytes,
            self.gpu - other.gpu,
            self.dynamic_ports - other.dynamic_ports,
        )

    def fits(self, room: "Amounts") -> bool:
        """Whether this much fits into `room`."""
        return (
            self.cpu <= room.cpu + CPU_TOLERANCE
            and self.memory_bytes <= room.memory_bytes
            and self.disk_bytes <= room.disk_bytes
            and self.gpu <= room.gpu
            and self.dynamic_ports <= room.dynamic_ports
        )


NOTHING: Final = Amounts()


class Port(Struct, frozen=True, gc=False, rename="pascal"):
    """A published port: `static` on the host (0 = any free one), `target` in the container (0 = the same).

    `protocol` is ``udp`` or, where nothing is said, ``tcp``. It is not Bacalhau's, and left out where a spec has none.
    """

    name: str
    static: int = 0
    target: int = 0
    host_network: str = ""
    protocol: str | UnsetType = UNSET

    @property
    def transport(self) -> str:
        """``tcp`` or ``udp``."""
        return self.protocol or TCP


class Network(Struct, frozen=True, gc=False, rename="pascal"):
    """Network access: Type is ``Default``, ``None``, ``Host``, ``Full`` (= Host), ``HTTP`` or ``Bridge``."""

    type: str = "Default"
    domains: list[str] = field(default_factory=list)
    ports: list[Port] = field(default_factory=list)

    @property
    def static_ports(self) -> tuple[int, ...]:
        """The ports of the host that are named, each once: one may be named for both protocols."""
        return tuple(dict.fromkeys(port.static for port in self.ports if port.static))


class Timeouts(Struct, frozen=True, gc=False, rename="pascal"):
    """Limits in whole seconds; 0 means none."""

    execution_timeout: int = 0
    queue_timeout: int = 0
    total_timeout: int = 0


class Task(Struct, frozen=True, gc=False, rename="pascal"):
    """The one program of a job, with everything it needs."""

    name: str = "main"
    engine: Spec = field(default_factory=Spec)
    publisher: Spec = field(default_factory=Spec)
    env: dict[str, str] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)
    input_sources: list[Input] = field(default_factory=list)
    result_paths: list[ResultPath] = field(default_factory=list)
    resources: Resources = field(default_factory=Resources)
    network: Network = field(default_factory=Network)
    timeouts: Timeouts = field(default_factory=Timeouts)


class Retry(Struct, frozen=True, gc=False, rename="pascal", omit_defaults=True):
    """When a failed attempt is made again. Times in seconds; what is 0 or empty is left to the requester.

    `attempts` is how many failed attempts a partition gets, the first one included; work that was lost with its node does
    not count. `causes` are those that another attempt may mend: ``program`` (it ended with another code than 0, or was
    killed for its memory), ``timeout`` (of the execution), ``system`` (anything around the program), ``node`` (lost). With
    `exit_codes` the cause ``program`` means these codes alone. What cannot be mended (no such image, key or CID, bad
    parameters) is never tried again.

    The rest before an attempt begins at `backoff` and doubles up to `backoff_max`; up to the share `jitter` of it is left
    out, another one for each attempt, so that jobs that failed together do not come back together.
    """

    attempts: int = 0
    backoff: float = 0.0
    backoff_max: float = 0.0
    jitter: float = 0.2
    causes: list[str] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)


class Placement(Struct, frozen=True, gc=False, rename="pascal", omit_defaults=True):
    """How a node is chosen among those that fit: `policy` is ``spread`` (the emptiest one) or ``pack`` (the fullest)."""

    policy: str = "spread"


class Disconnect(Struct, frozen=True, gc=False, rename="pascal", omit_defaults=True):
    """What a silent node means to the job: its work is given up after `lost_after` seconds of silence.

    Less than what the requester waits anyway (five seconds, if nobody changed it) counts as that. A node that comes back
    before goes on as if nothing had been.
    """

    lost_after: float = 0.0


class Update(Struct, frozen=True, gc=False, rename="pascal", omit_defaults=True):
    """How a service or daemon goes from one version to the next, and off a node that is drained: a few at a time.

    At most `max_parallel` partitions (or nodes, of a daemon) are without a healthy execution because of it; one is healthy
    when it has been running for `min_healthy` seconds, 0 for the requester's own idea.
    """

    max_parallel: int = 1
    min_healthy: float = 0.0


class Job(Struct, frozen=True, gc=False, rename="pascal"):
    """A whole job spec in canonical form: defaults filled in, one task, `count` as it will be run.

    `name` empty means the job has no name of its own; its id then serves as its name. `count` is the number of partitions
    of a batch or service job, and 0 for ops and daemon jobs, which run on every node that fits.

    The fields behind `tasks` are not Bacalhau's. Each is left out where a spec says nothing, so that its programs see the
    jobs they know.
    """

    name: str = ""
    namespace: str = NAMESPACE_DEFAULT
    type: str = "batch"
    priority: int = 0
    count: int = 1
    constraints: list[Constraint] = field(default_factory=list)
    meta: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    retry: Retry | UnsetType = UNSET
    placement: Placement | UnsetType = UNSET
    update: Update | UnsetType = UNSET
    disconnect: Disconnect | UnsetType = UNSET

    def shares_out(self) -> bool:
        """Whether an input is to be shared out among the executions (``Partition``), instead of each reading it all."""
        for each in self.task.input_sources:
            for name, value in each.source.params.items():
                if name.lower() == "partition" and isinstance(value, dict):
                    kind = next((kind for key, kind in value.items() if key.lower() == "type"), "")
                    if str(kind).lower() not in ("", "none"):
                        return True
        return False

    @property
    def task(self) -> Task:
        """The job's task; reading a spec guarantees that there is exactly one."""
        return self.tasks[0]
