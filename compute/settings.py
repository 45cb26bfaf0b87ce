"""What a node's owner decides, under Bacalhau's keys of 1.4 and 1.9 and our own.

Knows: which key means which setting. Must not know: how layers are read (`protocol.config`) or what a setting does.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from compute.admission import Policy
from compute.engines.docker.settings import DockerSettings
from compute.engines.table import EngineSettings
from compute.limits import Limits
from compute.logs import LogSettings
from compute.machine import Share
from protocol import server_settings as shared
from protocol.config import Config, config_files, read_config
from protocol.errors import Invalid
from protocol.ids import NodeId
from protocol.spec.quantities import parse_bytes, parse_duration_s
from storage.addresses import ALLOW_KEY, read_policy, read_rules
from storage.allow_list import read_allow_list
from storage.credentials import Credential, read_credentials
from storage.multiaddr import parse_endpoint
from storage.settings import LocalPublishing, StorageSettings

PORT_MAX: Final = 65_535


class Settings(Struct, frozen=True, kw_only=True):
    """One node. `name` empty: one is made for the data folder. Times in seconds.

    `silence_s` is how long a source or publisher may say nothing, `connect_s` how long it may take to accept; `input_bytes`
    the most that one input may have (None: as much as there is room for). `cache` is how much of the disk for jobs may be
    inputs that nobody uses just now, `disk_reserve` how much of the whole disk stays free: a percentage or an amount.
    """

    data_dir: Path
    name: str = ""
    nats: tuple[str, ...] = (shared.NATS_DEFAULT,)
    nats_credentials: Path | None = None
    nats_password: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    share: Share = field(default_factory=Share)
    engines: tuple[str, ...] = ("docker", "wasm")
    docker: DockerSettings = field(default_factory=DockerSettings)
    sources_disabled: tuple[str, ...] = ()
    publishers_disabled: tuple[str, ...] = ()
    ipfs_connect: str = ""
    ipfs_gateways: tuple[str, ...] = ()
    local_only: bool = False
    s3_endpoint: str = ""
    s3_region: str = ""
    s3_profile: str = ""
    s3_profiles: tuple[str, ...] = ()
    s3_requester_pays: bool = False
    s3_addressing: str = ""
    s3_etags_are_md5: bool = True
    allowed_paths: tuple[str, ...] = ()
    allowed_addresses: tuple[str, ...] = ()
    denied_addresses: tuple[str, ...] = ()
    url_credentials: dict[str, Credential] = field(default_factory=dict)
    publish_address: str = "127.0.0.1"
    publish_port: int = 6001
    publish_link_s: float = 3600.0
    publish_keep_s: float = 30 * 86_400.0
    env_allowed: tuple[str, ...] = ()
    reject_stateless: bool = False
    reject_networked: bool = False
    beat_s: float = 0.5
    connect_s: float = 10.0
    silence_s: float = 60.0
    input_bytes: int | None = None
    cache: str = "50%"
    disk_reserve: str = ""
    limits: Limits = field(default_factory=Limits)
    logs: LogSettings = field(default_factory=LogSettings)
    port_first: int = 20_000
    port_last: int = 32_000
    end_work_at_exit: bool = False
    log_level: shared.LogLevel = "info"
    log_format: shared.LogFormat = "auto"

    def policy(self) -> Policy:
        """What jobs may do here."""
        return Policy(self.env_allowed, self.reject_stateless, self.reject_networked)

    def engine_settings(self, node: NodeId) -> EngineSettings:
        """What the engines are told."""
        addresses = read_policy(self.allowed_addresses, self.denied_addresses)
        docker = msgspec.structs.replace(
            self.docker, networking=not self.reject_networked, addresses=addresses
        )
        return EngineSettings(node, self.data_dir / "engines", self.engines, docker)

    def storage(self) -> StorageSettings:
        """What the storage drivers are told."""
        return StorageSettings(
            self.data_dir / "storage",
            s3_endpoint=self.s3_endpoint,
            s3_region=self.s3_region,
            s3_profile=self.s3_profile,
            s3_profiles=self.s3_profiles,
            s3_addressing=self.s3_addressing,
            s3_requester_pays=self.s3_requester_pays,
            s3_etags_are_md5=self.s3_etags_are_md5,
            ipfs_connect=self.ipfs_connect,
            ipfs_gateways=self.ipfs_gateways,
            local_only=self.local_only,
            allowed_paths=self.allowed_paths,
            local_publishing=LocalPublishing(
                self.data_dir / "published",
                address=self.publish_address,
                port=self.publish_port,
                link_s=self.publish_link_s,
                keep_s=self.publish_keep_s,
            ),
            connect_s=self.connect_s,
            silence_s=self.silence_s,
            max_bytes=self.input_bytes,
            url_credentials=self.url_credentials,
            addresses=read_policy(self.allowed_addresses, self.denied_addresses),
        )


REJECT_NETWORKED: Final = "JobAdmissionControl.RejectNetworkedJobs"
ACCEPT_NETWORKED: Final = (
    "JobAdmissionControl.AcceptNetworkedJobs",
    "Node.Compute.JobSelection.AcceptNetworkedJobs",
)
_CAPACITY: Final = "Compute.AllocatedCapacity"
_LIMITS: Final = "Node.Compute.Capacity.TotalResourceLimits"
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "name": ("Name", "Node.Name"),
    "data_dir": (shared.DATA_DIR,),
    "nats": shared.NATS,
    "nats_credentials": ("Compute.Credentials", shared.CREDENTIALS),
    "nats_password": ("Compute.Auth.Token", "Node.Network.AuthSecret", "NATS.Password"),
    "labels": ("Labels", "Node.Labels"),
    "cpu": (f"{_CAPACITY}.CPU", f"{_LIMITS}.CPU"),
    "memory": (f"{_CAPACITY}.Memory", f"{_LIMITS}.Memory"),
    "disk": (f"{_CAPACITY}.Disk", f"{_LIMITS}.Disk"),
    "gpu": (f"{_CAPACITY}.GPU", f"{_LIMITS}.GPU"),
    "engines": ("Compute.Engines",),
    "engines_disabled": ("Engines.Disabled", "Node.DisabledFeatures.Engines"),
    "docker_host": ("Engines.Types.Docker.Host",),
    "docker_pids": ("Engines.Types.Docker.PidsLimit",),
    "docker_log_bytes": ("Engines.Types.Docker.LogMaxBytes",),
    "docker_labels": ("Engines.Types.Docker.Labels",),
    "sources_disabled": ("InputSources.Disabled", "Node.DisabledFeatures.Storages"),
    "publishers_disabled": ("Publishers.Disabled", "Node.DisabledFeatures.Publishers"),
    "ipfs_connect": shared.IPFS,
    "ipfs_gateways": ("InputSources.Types.IPFS.Gateways",),
    "s3_endpoint": ("InputSources.Types.S3.Endpoint", "Publishers.Types.S3.Endpoint"),
    "s3_region": ("InputSources.Types.S3.Region", "Publishers.Types.S3.Region"),
    "s3_profile": ("InputSources.Types.S3.Profile", "Publishers.Types.S3.Profile"),
    "s3_profiles": ("InputSources.Types.S3.AllowedProfiles", "Publishers.Types.S3.AllowedProfiles"),
    "s3_requester_pays": ("InputSources.Types.S3.RequesterPays",),
    "s3_addressing": ("InputSources.Types.S3.AddressingStyle", "Publishers.Types.S3.AddressingStyle"),
    "s3_etags_are_md5": ("InputSources.Types.S3.ETagsAreMD5",),
    "allowed_paths": ("Compute.AllowListedLocalPaths", "Node.AllowListedLocalPaths"),
    "allowed_addresses": (ALLOW_KEY,),
    "denied_addresses": ("Compute.Addresses.Deny",),
    "url_credentials": ("InputSources.Types.URL.Credentials",),
    "publish_address": ("Publishers.Types.Local.Address", "Node.LocalPublisher.Address"),
    "publish_port": ("Publishers.Types.Local.Port", "Node.LocalPublisher.Port"),
    "publish_link_s": ("Publishers.Types.Local.LinkExpiration",),
    "publish_keep_s": ("Publishers.Types.Local.KeepFor",),
    "env_allowed": ("Compute.Env.AllowList",),
    "local_only": ("JobAdmissionControl.Locality", "Node.Compute.JobSelection.Locality"),
    "reject_stateless": (
        "JobAdmissionControl.RejectStatelessJobs",
        "Node.Compute.JobSelection.RejectStatelessJobs",
    ),
    "reject_networked": (REJECT_NETWORKED, *ACCEPT_NETWORKED),
    "beat_s": ("Compute.BeatInterval",),
    "connect_s": ("InputSources.ConnectTimeout",),
    "silence_s": ("InputSources.ReadTimeout",),
    "input_bytes": ("InputSources.MaxBytes",),
    "cache": ("Compute.Cache.Size",),
    "disk_reserve": ("Compute.DiskReserve",),
    "staging_s": ("Compute.StagingTimeout",),
    "resolving_s": ("Compute.ResolvingTimeout",),
    "publishing_s": ("Compute.PublishingTimeout",),
    "stop_grace_s": ("Compute.StopGrace",),
    "log_file_bytes": ("Compute.Logs.MaxBytes",),
    "log_keep_s": ("Compute.Logs.KeepFor",),
    "log_keep_bytes": ("Compute.Logs.KeepBytes",),
    "port_first": ("Compute.Network.PortRangeStart",),
    "port_last": ("Compute.Network.PortRangeEnd",),
    "end_work_at_exit": ("Compute.EndWorkAtExit",),
    "log_level": (shared.LOG_LEVEL,),
    "log_format": (shared.LOG_FORMAT,),
}
"""Every setting and the keys that mean it, the newest spelling first."""

REQUIRE_TLS: Final = "Compute.TLS.RequireTLS"
"""The peer's word that nothing goes to its NATS servers unencrypted."""

OTHERS: Final = (
    "API",
    "Compute.Enabled",
    "JobDefaults",
    "NATS",
    "Node.ClientAPI",
    "Node.IPFS.SwarmAddresses",
    "Node.IPFS.SwarmKeyPath",
    "Node.Requester",
    "Node.ServerAPI",
    "Node.Type",
    "Orchestrator",
    "Publishers.Types.S3.PreSignedURLDisabled",
    "Publishers.Types.S3.PreSignedURLExpiration",
    "Publishers.Types.S3Managed",
    "ResultDownloaders",
    "Uploads",
    "WebUI",
    # The peer's nodes know these; they are too like some above to be told from slips.
    "Compute.Heartbeat",
    "Node.Compute.Capacity.DefaultJobResourceLimits",
    "Node.Compute.Capacity.JobResourceLimits",
    "Node.Compute.Capacity.QueueResourceLimits",
)
"""Keys that mean nothing here and are ignored: one file may be for requesters and clients too."""


def read_settings(
    flags: Mapping[str, Any],
    given: Sequence[str],
    *,
    environ: Mapping[str, str],
    folder: Path,
    data: Path,
) -> tuple[Settings, list[str]]:
    """Read everything; the texts are warnings. `flags` are keys that had a flag of their own, `given` the values of ``-c``,
    `folder` is where a ``shoal.yaml`` may be, `data` the person's data folder.

    Raises `Invalid` and `NotFound`, which name the place.
    """
    known = (*chain.from_iterable(KEYS.values()), REQUIRE_TLS)
    config = read_config(
        flags=flags,
        given=given,
        environ=environ,
        files=config_files(environ, folder),
        keys=known,
        variables=shared.VARIABLES,
    )
    default = Settings(data_dir=data / "compute", nats=shared.nats_servers(config, environ))
    plain = [each for each in default.nats if not each.lower().startswith("tls://")]
    if plain and config.flag(REQUIRE_TLS):
        raise Invalid(
            f"{REQUIRE_TLS} is set, and {plain[0]} would be spoken to without TLS",
            hint="Write it as tls://HOST:PORT; the server needs a certificate that this machine trusts.",
        )
    return _settings(config, default), config.unknown(known, others=OTHERS)


def _settings(config: Config, default: Settings) -> Settings:
    first = config.number(*KEYS["port_first"], default=default.port_first, most=PORT_MAX)
    last = config.number(*KEYS["port_last"], default=default.port_last, most=PORT_MAX)
    if first > last:
        raise Invalid(f"the port range {first} to {last} is empty")
    return Settings(
        data_dir=shared.data_dir(config, default.data_dir),
        name=config.text(*KEYS["name"]),
        nats=default.nats,
        nats_credentials=shared.credentials(config, *KEYS["nats_credentials"]),
        nats_password=config.text(*KEYS["nats_password"]),
        labels=config.pairs(*KEYS["labels"]),
        share=_share(config, default.share),
        engines=_engines(config, default.engines),
        docker=_docker(config, default.docker),
        sources_disabled=_types(config, "sources_disabled"),
        publishers_disabled=_types(config, "publishers_disabled"),
        ipfs_connect=config.parsed(_endpoint, *KEYS["ipfs_connect"], default=""),
        local_only=config.parsed(_local_only, *KEYS["local_only"], default=False),
        ipfs_gateways=config.lines(*KEYS["ipfs_gateways"], check=_endpoints),
        s3_endpoint=config.parsed(_url, *KEYS["s3_endpoint"], default=""),
        s3_region=config.text(*KEYS["s3_region"]),
        s3_profile=config.text(*KEYS["s3_profile"]),
        s3_profiles=config.texts(*KEYS["s3_profiles"]),
        s3_requester_pays=config.flag(*KEYS["s3_requester_pays"]),
        s3_addressing=config.text(*KEYS["s3_addressing"]),
        s3_etags_are_md5=config.flag(*KEYS["s3_etags_are_md5"], default=True),
        allowed_paths=config.lines(*KEYS["allowed_paths"], check=read_allow_list),
        allowed_addresses=config.lines(*KEYS["allowed_addresses"], check=read_rules),
        denied_addresses=config.lines(*KEYS["denied_addresses"], check=read_rules),
        url_credentials=read_credentials(config.pairs(*KEYS["url_credentials"])),
        publish_address=config.text(*KEYS["publish_address"], default=default.publish_address),
        publish_port=config.number(*KEYS["publish_port"], default=default.publish_port, most=PORT_MAX),
        publish_link_s=_interval(config, "publish_link_s", default.publish_link_s),
        publish_keep_s=config.seconds(*KEYS["publish_keep_s"], default=default.publish_keep_s),
        env_allowed=config.lines(*KEYS["env_allowed"]),
        reject_stateless=config.flag(*KEYS["reject_stateless"]),
        reject_networked=_reject_networked(config),
        beat_s=_interval(config, "beat_s", default.beat_s),
        connect_s=_interval(config, "connect_s", default.connect_s),
        silence_s=_interval(config, "silence_s", default.silence_s),
        input_bytes=config.parsed(parse_bytes, *KEYS["input_bytes"], default=default.input_bytes),
        cache=config.text(*KEYS["cache"], default=default.cache),
        disk_reserve=config.text(*KEYS["disk_reserve"], default=default.disk_reserve),
        limits=_limits(config, default.limits),
        logs=_logs(config, default.logs),
        port_first=first,
        port_last=last,
        end_work_at_exit=config.flag(*KEYS["end_work_at_exit"]),
        log_level=shared.log_level(config),
        log_format=shared.log_format(config),
    )


def _share(config: Config, default: Share) -> Share:
    return Share(
        cpu=config.text(*KEYS["cpu"], default=default.cpu),
        memory=config.text(*KEYS["memory"], default=default.memory),
        disk=config.text(*KEYS["disk"], default=default.disk),
        gpu=config.text(*KEYS["gpu"], default=default.gpu),
    )


def _limits(config: Config, default: Limits) -> Limits:
    return Limits(
        staging_s=config.seconds(*KEYS["staging_s"], default=default.staging_s),
        resolving_s=config.seconds(*KEYS["resolving_s"], default=default.resolving_s),
        publishing_s=config.seconds(*KEYS["publishing_s"], default=default.publishing_s),
        stop_grace_s=config.seconds(*KEYS["stop_grace_s"], default=default.stop_grace_s),
    )


def _logs(config: Config, default: LogSettings) -> LogSettings:
    return LogSettings(
        file_bytes=config.parsed(parse_bytes, *KEYS["log_file_bytes"], default=default.file_bytes),
        keep_s=config.seconds(*KEYS["log_keep_s"], default=default.keep_s),
        keep_bytes=config.parsed(parse_bytes, *KEYS["log_keep_bytes"], default=default.keep_bytes),
    )


def _docker(config: Config, default: DockerSettings) -> DockerSettings:
    return DockerSettings(
        host=config.text(*KEYS["docker_host"], default=default.host),
        pids=config.number(*KEYS["docker_pids"], default=default.pids),
        log_bytes=config.parsed(parse_bytes, *KEYS["docker_log_bytes"], default=default.log_bytes),
        labels=config.pairs(*KEYS["docker_labels"]),
    )


def _engines(config: Config, default: tuple[str, ...]) -> tuple[str, ...]:
    disabled = _types(config, "engines_disabled")
    return tuple(name for name in _types(config, "engines") or default if name not in disabled)


def _types(config: Config, setting: str) -> tuple[str, ...]:
    return tuple(text.lower() for text in config.texts(*KEYS[setting]))


def _reject_networked(config: Config) -> bool:
    """The peer has asked both ways round; what stands in the stronger place counts."""
    found = config.find(*KEYS["reject_networked"])
    if found is None or found.key.lower() == REJECT_NETWORKED.lower():
        return config.flag(REJECT_NETWORKED)
    return not config.flag(*ACCEPT_NETWORKED)


def _interval(config: Config, setting: str, default: float) -> float:
    return config.parsed(_time, *KEYS[setting], default=default)


def _time(text: str) -> float:
    made = parse_duration_s(text)
    if made <= 0:
        raise Invalid(f"{text} is not longer than 0 seconds")
    return made


def _endpoint(text: str) -> str:
    parse_endpoint(text)
    return text


def _local_only(text: str) -> bool:
    if text.lower() not in ("anywhere", "local"):
        raise Invalid(f"Locality {text!r} is neither anywhere nor local")
    return text.lower() == "local"


def _endpoints(texts: Sequence[str]) -> None:
    for text in texts:
        parse_endpoint(text)


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise Invalid(f"{text!r} is not an http URL", hint="Write it like http://s3.example.com:9000.")
    return _endpoint(text)
