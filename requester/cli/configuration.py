"""A requester's settings from flags, ``-c``, environment and files, under Bacalhau's keys of 1.4 and 1.9.

Knows: which key means which setting. Must not know: how layers are read (`protocol.config`) or what a setting does.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from protocol import server_settings as shared
from protocol.config import Config, config_files, is_file, read_config
from protocol.errors import Invalid
from protocol.ids import RequesterId, is_token
from protocol.jobs import Resources, Spec, Timeouts
from protocol.nats.credentials import name_of
from protocol.spec import Defaults, TypeDefaults
from protocol.spec.quantities import parse_bytes, parse_cpu, parse_duration_s, parse_gpu
from requester.settings import Settings
from storage.multiaddr import parse_endpoint
from storage.s3.results import ManagedBucket, Signing

CREDENTIALS: Final = "Orchestrator.Credentials"
PASSWORD: Final = ("NATS.Password", "Orchestrator.Auth.Token", "Node.Network.AuthSecret")
HOST: Final = ("API.Host", "Node.ServerAPI.Host")
PORT: Final = ("API.Port", "Node.ServerAPI.Port")
SILENCE: Final = "Orchestrator.NodeManager.DisconnectTimeout"
FORGET: Final = "Orchestrator.NodeManager.ForgetAfter"
KEEP: Final = "Orchestrator.KeepFor"
HISTORY: Final = "Orchestrator.HistoryFor"
NATS_HOST: Final = ("Orchestrator.Host", "Node.Network.Host")
NATS_PORT: Final = ("Orchestrator.Port", "Node.Network.Port")
APPROVAL: Final = ("Orchestrator.NodeManager.ManualApproval", "Node.Requester.ManualNodeApproval")
LINK_MAX_S: Final = 7 * 86_400
OWN: Final = (
    *shared.NATS,
    CREDENTIALS,
    shared.CREDENTIALS,
    *PASSWORD,
    *HOST,
    *PORT,
    *APPROVAL,
    *NATS_HOST,
    *NATS_PORT,
    SILENCE,
    FORGET,
    KEEP,
    HISTORY,
    "NATS.Replicas",
    "NATS.LogMaxBytes",
    "Name",
    shared.DATA_DIR,
    "Orchestrator.Enabled",
    "Compute.Enabled",
    "Node.Type",
    shared.LOG_FORMAT,
    shared.LOG_LEVEL,
    "JobDefaults",
)
COMPUTE_NODES: Final = (
    "Compute",
    "Engines",
    "InputSources",
    "JobAdmissionControl",
    "Labels",
    "Logging",
    "Node.AllowListedLocalPaths",
    "Node.Compute",
    "Node.DisabledFeatures",
    "Node.IPFS",
    "Node.Labels",
    "Node.LocalPublisher",
    "Publishers",
)
"""Where the settings of compute nodes are: passed over here, and given to one that is started beside."""
S3: Final = "Publishers.Types.S3"
MANAGED: Final = "Publishers.Types.S3Managed"
SIGNING: Final = (
    f"{S3}.PreSignedURLExpiration",
    f"{S3}.PreSignedURLDisabled",
    f"{S3}.Endpoint",
    f"{S3}.Region",
    f"{S3}.Profile",
    f"{S3}.AllowedProfiles",
    f"{MANAGED}.Bucket",
    f"{MANAGED}.Key",
    f"{MANAGED}.Region",
    f"{MANAGED}.Endpoint",
    f"{MANAGED}.PreSignedURLExpiration",
)
"""What concerns links to results; some of it is the nodes' too."""
PROTECTING: Final = (
    "API.Auth.AccessPolicyPath",
    "API.Auth.Oauth2",
    "API.Auth.Users",
    "API.TLS.AutoCert",
    "API.TLS.CertFile",
    "API.TLS.KeyFile",
    "API.TLS.SelfSigned",
    "Node.ServerAPI.TLS",
)
"""What keeps others out of Bacalhau's API. Nothing here does, so who says it is not served an open one."""
CLIENTS: Final = ("Node.ClientAPI", "ResultDownloaders", "API.TLS", "Uploads")


class Plan(Struct, frozen=True, kw_only=True):
    """What `serve` is to run. `node` are the arguments of ``python -m compute``, empty for none.

    `own_nats` is where a NATS server of our own may listen (address, port) because none was named; None if one was.
    """

    settings: Settings
    orchestrator: bool
    own_nats: tuple[str, int] | None = None
    node: list[str] = field(default_factory=list)
    defaults: Defaults = field(default_factory=Defaults)
    signing: Signing = field(default_factory=Signing)
    log_format: str = "auto"
    log_level: str = "info"
    warnings: list[str] = field(default_factory=list)


def plan(
    flags: Mapping[str, Any], given: Sequence[str], *, environ: Mapping[str, str], folder: Path, data: Path
) -> Plan:
    """Read everything. `folder` is where a ``shoal.yaml`` may be, `data` the person's data folder.

    Raises `Invalid` and `NotFound`, which name the place.
    """
    config = read_config(
        flags=flags,
        given=given,
        environ=environ,
        files=config_files(environ, folder),
        keys=(*OWN, *SIGNING, *shared.IPFS),
        variables=shared.VARIABLES,
    )
    orchestrator, compute = roles(config)
    if orchestrator:
        _refuse_protection(config)
    own_nats = _own_nats(config, environ)
    servers = (f"nats://{own_nats[0]}:{own_nats[1]}",) if own_nats else shared.nats_servers(config, environ)
    settings = _settings(config, servers, data / "requester")
    log_format, log_level = shared.log_format(config), shared.log_level(config)
    node: list[str] = []
    if compute:
        node = ["--log-format", log_format, "--log-level", log_level]
        if config.find(shared.DATA_DIR):
            node += ["--data-dir", str(settings.data_dir / "compute")]
        node += _node_arguments(config, settings, given)
    return Plan(
        settings=settings,
        orchestrator=orchestrator,
        own_nats=own_nats,
        node=node,
        defaults=_defaults(config),
        signing=_signing(config),
        log_format=log_format,
        log_level=log_level,
        warnings=config.unknown(OWN, others=(*COMPUTE_NODES, *CLIENTS)),
    )


def _refuse_protection(config: Config) -> None:
    """Raise `Invalid` for a setting that would keep others out of the API of a Bacalhau."""
    prefixes = tuple(key.lower() for key in PROTECTING)
    for each in config.in_force():
        is_on = each.value not in (False, [], 0) and str(each.value).lower() not in (
            "false",
            "0",
            "no",
            "off",
        )
        if is_on and each.key.lower().startswith(prefixes):
            raise Invalid(
                f"{each.where}: {each.key} would protect the API of a Bacalhau, and protects nothing here: this API knows "
                "no users and no TLS",
                hint="Put a proxy that does before it (docs/api.md), and take the setting away.",
            )


def in_force(wanted: Plan, port: int) -> dict[str, Any]:
    """A requester's settings as the API tells them: under Bacalhau's keys of 1.9, nested, and without what is secret.

    `port` is that of the API as it was got.
    """
    settings = wanted.settings
    said: dict[str, Any] = {
        shared.DATA_DIR: str(settings.data_dir),
        HOST[0]: settings.api_host,
        PORT[0]: port,
        "Orchestrator.Enabled": wanted.orchestrator,
        "Compute.Enabled": bool(wanted.node),
        APPROVAL[0]: settings.manual_approval,
        SILENCE: _duration(settings.silence_s),
        FORGET: _duration(settings.forget_s),
        KEEP: _duration(settings.keep_s),
        HISTORY: _duration(settings.history_s),
        "NATS.Replicas": settings.replicas,
        shared.LOG_LEVEL: wanted.log_level,
    }
    for kind, default in msgspec.structs.asdict(wanted.defaults).items():
        task = f"JobDefaults.{kind.title()}.Task"
        said[f"JobDefaults.{kind.title()}.Priority"] = default.priority
        said[f"{task}.Publisher"] = {"Type": default.publisher.type, "Params": default.publisher.params}
        said[f"{task}.Timeouts.ExecutionTimeout"] = _duration(default.timeouts.execution_timeout)
        said[f"{task}.Timeouts.TotalTimeout"] = _duration(default.timeouts.total_timeout)
        resources = {name: text for name, text in msgspec.to_builtins(default.resources).items() if text}
        said |= {f"{task}.Resources.{name}": text for name, text in resources.items()}
    return _nested(said)


def _duration(seconds: float) -> str:
    """A duration as Go reads it."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as objects in each other."""
    root: dict[str, Any] = {}
    for key, value in flat.items():
        *above, last = key.split(".")
        at = root
        for part in above:
            at = at.setdefault(part, {})
        at[last] = value
    return root


def roles(config: Config) -> tuple[bool, bool]:
    """Whether to be a requester, and whether to run a compute node. Raises `Invalid` for a role there is none of.

    Nothing said means a requester alone; but an IPFS connection is of use only where jobs run, so naming one and no role
    means both.
    """
    types = [each.lower() for each in config.texts("Node.Type")]
    wrong = [each for each in types if each not in ("requester", "orchestrator", "compute")]
    if wrong:
        raise Invalid(f"the node type {wrong[0]!r} is neither requester nor compute")
    said = bool(types) or any(config.find(key) for key in ("Orchestrator.Enabled", "Compute.Enabled"))
    if not said:
        return True, bool(config.find(*shared.IPFS))
    orchestrator = config.flag("Orchestrator.Enabled") or bool({"requester", "orchestrator"} & {*types})
    compute = config.flag("Compute.Enabled") or "compute" in types
    if not orchestrator and not compute:
        raise Invalid(
            "neither a requester nor a compute node is wanted", hint="Give --orchestrator or --compute."
        )
    return orchestrator, compute


def _own_nats(config: Config, environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Where Bacalhau's `serve` would have its embedded server, if no other was named."""
    if config.find(*shared.NATS) or environ.get("NATS_URL"):
        return None
    return config.text(*NATS_HOST, default="127.0.0.1"), config.number(*NATS_PORT, default=4222, most=65_535)


def _settings(config: Config, servers: tuple[str, ...], data_dir: Path) -> Settings:
    credentials = shared.credentials(config, CREDENTIALS)
    name = name_of(credentials, config.text("Name"))
    if name and not is_token(name):
        raise Invalid(f"{name!r} is no name", hint="Use 1 to 64 letters, digits, '_' or '-'.")
    default = Settings()
    return Settings(
        id=RequesterId(name),
        data_dir=shared.data_dir(config, data_dir),
        nats_servers=servers,
        nats_credentials=credentials,
        nats_password=config.text(*PASSWORD),
        replicas=config.number("NATS.Replicas", default=default.replicas, most=5),
        log_max_bytes=config.number("NATS.LogMaxBytes", default=default.log_max_bytes, most=2**62),
        api_host=config.text(*HOST, default=default.api_host),
        api_port=config.number(*PORT, default=default.api_port, most=65_535),
        manual_approval=config.flag(*APPROVAL),
        silence_s=config.seconds(SILENCE, default=default.silence_s),
        forget_s=config.seconds(FORGET, default=default.forget_s),
        keep_s=config.seconds(KEEP, default=default.keep_s),
        history_s=config.seconds(HISTORY, default=default.history_s),
    )


def _signing(config: Config) -> Signing:
    default = Signing()
    bucket = config.text(f"{MANAGED}.Bucket")
    managed = ManagedBucket(
        bucket,
        config.text(f"{MANAGED}.Key"),
        config.text(f"{MANAGED}.Region"),
        config.text(f"{MANAGED}.Endpoint"),
    )
    lasts = f"{S3}.PreSignedURLExpiration", f"{MANAGED}.PreSignedURLExpiration"
    return Signing(
        expires_s=config.parsed(_link_s, lasts[0], default=default.expires_s),
        disabled=config.flag(f"{S3}.PreSignedURLDisabled"),
        managed=managed if bucket else None,
        managed_expires_s=config.parsed(_link_s, lasts[1], default=default.managed_expires_s),
        endpoint=config.text(f"{S3}.Endpoint"),
        region=config.text(f"{S3}.Region"),
        profile=config.text(f"{S3}.Profile"),
        profiles=config.texts(f"{S3}.AllowedProfiles"),
    )


def _link_s(text: str) -> int:
    seconds = int(parse_duration_s(text))
    if not 0 < seconds <= LINK_MAX_S:
        raise Invalid(f"{text} is not between 1 second and 7 days, which S3 takes")
    return seconds


def _node_arguments(config: Config, settings: Settings, given: Sequence[str]) -> list[str]:
    """What is passed on to a compute node beside us; files and variables it finds by itself."""
    arguments = [f"--nats={server}" for server in settings.nats_servers]
    # Not the name that credentials gave to the requester: the node's have one of their own.
    if name := config.text("Name"):
        arguments += ["--name", name]
    if endpoint := config.text(*shared.IPFS):
        parse_endpoint(endpoint)
        arguments += ["--ipfs-connect", endpoint]
    prefixes = tuple(f"{each.lower()}." for each in COMPUTE_NODES)
    own = {key.lower() for key in (*OWN, *shared.IPFS)}
    for each in given:
        key = each.partition("=")[0].strip().lower()
        if is_file(each):
            arguments += ["-c", each]
        elif key not in own and (key == "labels" or key.startswith(prefixes)):
            arguments += ["-c", each if "=" in each else f"{each}=true"]
    return arguments


def _defaults(config: Config) -> Defaults:
    return Defaults(
        batch=_type_defaults(config, "JobDefaults.Batch"),
        ops=_type_defaults(config, "JobDefaults.Ops"),
        service=_type_defaults(config, "JobDefaults.Service"),
        daemon=_type_defaults(config, "JobDefaults.Daemon"),
    )


def _type_defaults(config: Config, key: str) -> TypeDefaults:
    publisher = Spec(
        config.text(f"{key}.Task.Publisher.Type"), dict(config.pairs(f"{key}.Task.Publisher.Params"))
    )
    return TypeDefaults(
        priority=config.number(f"{key}.Priority"),
        publisher=publisher,
        timeouts=Timeouts(
            execution_timeout=int(config.seconds(f"{key}.Task.Timeouts.ExecutionTimeout")),
            total_timeout=int(config.seconds(f"{key}.Task.Timeouts.TotalTimeout")),
        ),
        resources=Resources(
            cpu=_amount(config, parse_cpu, f"{key}.Task.Resources.CPU"),
            memory=_amount(config, parse_bytes, f"{key}.Task.Resources.Memory"),
            disk=_amount(config, parse_bytes, f"{key}.Task.Resources.Disk"),
            gpu=_amount(config, parse_gpu, f"{key}.Task.Resources.GPU"),
        ),
    )


def _amount(config: Config, parse: Callable[[str], object], key: str) -> str:
    """An amount as it is written, which `parse` can read."""

    def read(text: str) -> str:
        parse(text)
        return text

    return config.parsed(read, key, default="")
