"""What a node's owner decides, and where it may be written: flags, ``-c Key=Value``, a file, the environment.

Knows: every setting with its default, the keys of Bacalhau's configuration (1.4 and 1.9) that mean the same, and which place
wins: default < file < environment < ``-c`` < flag. Must not know: what a setting does.

In the environment a key is written with underscores behind ``SHOAL_`` or ``BACALHAU_``: ``SHOAL_COMPUTE_ORCHESTRATORS``.
Keys are read in any case. Other keys of Bacalhau's are passed over in a file, which may be meant for several programs.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from compute.admission import Policy
from compute.facts import Share
from compute.logs import LogSettings
from compute.shop import Limits
from protocol.errors import Fault, Invalid, NotFound
from protocol.spec.quantities import parse_bytes, parse_duration_s
from storage.allow_list import read_allow_list
from storage.multiaddr import parse_endpoint
from storage.settings import LocalPublishing, StorageSettings

NATS_DEFAULT: Final = "nats://127.0.0.1:4222"
FILE_MAX_BYTES: Final = 1 << 20


class Settings(Struct, frozen=True, kw_only=True):
    """One node. `name` empty: one is made for the data folder. Times in seconds."""

    data_dir: Path
    name: str = ""
    nats: tuple[str, ...] = (NATS_DEFAULT,)
    nats_password: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    share: Share = field(default_factory=Share)
    engines: tuple[str, ...] = ("docker", "wasm")
    sources_disabled: tuple[str, ...] = ()
    publishers_disabled: tuple[str, ...] = ()
    ipfs_connect: str = ""
    allowed_paths: tuple[str, ...] = ()
    publish_address: str = "127.0.0.1"
    publish_port: int = 6001
    env_allowed: tuple[str, ...] = ()
    reject_stateless: bool = False
    reject_networked: bool = False
    beat_s: float = 0.5
    silence_s: float = 60.0
    limits: Limits = field(default_factory=Limits)
    logs: LogSettings = field(default_factory=LogSettings)
    port_first: int = 20_000
    port_last: int = 32_000
    end_work_at_exit: bool = False
    log_level: str = "info"
    log_format: str = "auto"

    def policy(self) -> Policy:
        """What jobs may do here."""
        return Policy(self.env_allowed, self.reject_stateless, self.reject_networked)

    def storage(self) -> StorageSettings:
        """What the storage drivers are told."""
        return StorageSettings(
            self.data_dir / "storage",
            ipfs_connect=self.ipfs_connect,
            allowed_paths=self.allowed_paths,
            local_publishing=LocalPublishing(
                self.data_dir / "published", address=self.publish_address, port=self.publish_port
            ),
            silence_s=self.silence_s,
        )


Change = Callable[[Settings, Any], Settings]


def _set(name: str, read: Callable[[Any], Any]) -> Change:
    return lambda settings, value: msgspec.structs.replace(settings, **{name: read(value)})


def _set_in(part: str, name: str, read: Callable[[Any], Any]) -> Change:
    def change(settings: Settings, value: Any) -> Settings:
        inner = msgspec.structs.replace(getattr(settings, part), **{name: read(value)})
        return msgspec.structs.replace(settings, **{part: inner})

    return change


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        raise Invalid("a text is expected here")
    return str(value).strip()


def _texts(value: Any) -> tuple[str, ...]:
    """A list, or a text with commas in it."""
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    return tuple(text for part in parts if (text := _text(part)))


def _servers(value: Any) -> tuple[str, ...]:
    """NATS servers; one without a scheme is taken as ``nats://``."""
    made = [text if "://" in text else f"nats://{text}" for text in _texts(value)]
    wrong = next((text for text in made if text.partition("://")[0].lower() not in ("nats", "tls")), None)
    if wrong is not None or not made:
        raise Invalid(
            f"{wrong or 'nothing'} is no NATS server",
            hint=f"Write it like {NATS_DEFAULT} or tls://host:4222.",
        )
    return tuple(made)


def _types(value: Any) -> tuple[str, ...]:
    return tuple(text.lower() for text in _texts(value))


def _flag(value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in ("true", "1", "yes", "false", "0", "no"):
        raise Invalid(f"{value!r} is neither true nor false")
    return text in ("true", "1", "yes")


def _number(value: Any) -> int:
    text = _text(value)
    if not text.isdecimal():
        raise Invalid(f"{value!r} is not a whole number")
    return int(text)


def _port(value: Any) -> int:
    port = _number(value)
    if port > 65_535:
        raise Invalid(f"{port} is not a port", hint="Ports go from 1 to 65535; 0 is any free one.")
    return port


def _seconds(value: Any) -> float:
    return parse_duration_s(_text(value))


def _bytes(value: Any) -> int:
    return parse_bytes(_text(value))


def _path(value: Any) -> Path:
    return Path(_text(value)).expanduser().absolute()


def _endpoint(value: Any) -> str:
    text = _text(value)
    if text:
        parse_endpoint(text)
    return text


def _allowed(value: Any) -> tuple[str, ...]:
    lines = _texts(value)
    read_allow_list(lines)
    return lines


def _map(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(name): _text(each) for name, each in value.items()}
    pairs = [text.partition("=") for text in _texts(value)]
    wrong = next((name for name, equals, _ in pairs if not equals or not name), None)
    if wrong is not None:
        raise Invalid(f"{wrong!r} is no label", hint="Write labels like region=eu.")
    return {name.strip(): label.strip() for name, _, label in pairs}


def _without(settings: Settings, value: Any) -> Settings:
    disabled = _types(value)
    kept = tuple(name for name in settings.engines if name not in disabled)
    return msgspec.structs.replace(settings, engines=kept)


def _labelled(settings: Settings, value: Any) -> Settings:
    return msgspec.structs.replace(settings, labels=settings.labels | _map(value))


KEYS: Final[Mapping[str, Change]] = {
    "Name": _set("name", _text),
    "DataDir": _set("data_dir", _path),
    "Labels": _labelled,
    "Compute.Orchestrators": _set("nats", _servers),
    "Compute.Auth.Token": _set("nats_password", _text),
    "Compute.AllocatedCapacity.CPU": _set_in("share", "cpu", _text),
    "Compute.AllocatedCapacity.Memory": _set_in("share", "memory", _text),
    "Compute.AllocatedCapacity.Disk": _set_in("share", "disk", _text),
    "Compute.AllocatedCapacity.GPU": _set_in("share", "gpu", _text),
    "Compute.AllowListedLocalPaths": _set("allowed_paths", _allowed),
    "Compute.Env.AllowList": _set("env_allowed", _texts),
    "Compute.Network.PortRangeStart": _set("port_first", _port),
    "Compute.Network.PortRangeEnd": _set("port_last", _port),
    "Compute.Engines": _set("engines", _types),
    "Compute.StagingTimeout": _set_in("limits", "staging_s", _seconds),
    "Compute.PublishingTimeout": _set_in("limits", "publishing_s", _seconds),
    "Compute.StopGrace": _set_in("limits", "stop_grace_s", _seconds),
    "Compute.EndWorkAtExit": _set("end_work_at_exit", _flag),
    "Compute.BeatInterval": _set("beat_s", _seconds),
    "Compute.Logs.MaxBytes": _set_in("logs", "file_bytes", _bytes),
    "Compute.Logs.KeepFor": _set_in("logs", "keep_s", _seconds),
    "Compute.Logs.KeepBytes": _set_in("logs", "keep_bytes", _bytes),
    "Engines.Disabled": _without,
    "InputSources.Disabled": _set("sources_disabled", _types),
    "InputSources.ReadTimeout": _set("silence_s", _seconds),
    "InputSources.Types.IPFS.Endpoint": _set("ipfs_connect", _endpoint),
    "Publishers.Disabled": _set("publishers_disabled", _types),
    "Publishers.Types.IPFS.Endpoint": _set("ipfs_connect", _endpoint),
    "Publishers.Types.Local.Address": _set("publish_address", _text),
    "Publishers.Types.Local.Port": _set("publish_port", _port),
    "JobAdmissionControl.RejectStatelessJobs": _set("reject_stateless", _flag),
    "JobAdmissionControl.RejectNetworkedJobs": _set("reject_networked", _flag),
    "Logging.Level": _set("log_level", _text),
    "Logging.Mode": _set("log_format", _text),
    # The same in 1.4.
    "Node.Name": _set("name", _text),
    "Node.Labels": _labelled,
    "Node.Network.Orchestrators": _set("nats", _servers),
    "Node.Network.AuthSecret": _set("nats_password", _text),
    "Node.IPFS.Connect": _set("ipfs_connect", _endpoint),
    "Node.AllowListedLocalPaths": _set("allowed_paths", _allowed),
    "Node.Compute.Capacity.TotalResourceLimits.CPU": _set_in("share", "cpu", _text),
    "Node.Compute.Capacity.TotalResourceLimits.Memory": _set_in("share", "memory", _text),
    "Node.Compute.Capacity.TotalResourceLimits.Disk": _set_in("share", "disk", _text),
    "Node.Compute.Capacity.TotalResourceLimits.GPU": _set_in("share", "gpu", _text),
    "Node.Compute.JobSelection.RejectStatelessJobs": _set("reject_stateless", _flag),
    "Node.Compute.JobSelection.AcceptNetworkedJobs": _set("reject_networked", lambda value: not _flag(value)),
    "Node.DisabledFeatures.Engines": _without,
    "Node.DisabledFeatures.Storages": _set("sources_disabled", _types),
    "Node.DisabledFeatures.Publishers": _set("publishers_disabled", _types),
    "Node.LocalPublisher.Address": _set("publish_address", _text),
    "Node.LocalPublisher.Port": _set("publish_port", _port),
}
"""Every key and what it changes."""

_BY_LOWER: Final = {key.lower(): key for key in KEYS}
_MAPS: Final = ("labels.", "node.labels.")
VARIABLES: Final = {
    "SHOAL_NATS": "Compute.Orchestrators",
    "SHOAL_DIR": "DataDir",
    "BACALHAU_DIR": "DataDir",
} | {prefix + key.upper().replace(".", "_"): key for key in KEYS for prefix in ("BACALHAU_", "SHOAL_")}
"""Environment variables and the keys they stand for."""


def settings(
    default: Settings,
    *,
    configs: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Put the places together. `configs` are the values of ``-c``: files and ``Key=Value``; `flags` are keys that were given
    a flag of their own. Raises `Invalid` and `NotFound`, naming the place and the key.
    """
    made = default
    files = [each for each in configs if "=" not in each]
    pairs = [each.partition("=") for each in configs if "=" in each]
    for path in files:
        for key, value in read_file(Path(path)).items():
            made = apply(made, key, value, path, strict=False)
    for variable, key in VARIABLES.items():
        value = (environ or {}).get(variable)
        if value:
            made = apply(made, key, value, variable)
    for key, _, value in pairs:
        made = apply(made, key.strip(), value, f"-c {key.strip()}")
    for key, value in (flags or {}).items():
        made = apply(made, key, value, "the command line")
    if made.port_first > made.port_last:
        raise Invalid(f"the port range {made.port_first} to {made.port_last} is empty")
    return made


def apply(made: Settings, key: str, value: Any, place: str, *, strict: bool = True) -> Settings:
    """One key's change. Raises `Invalid` for a value that cannot be read, and if `strict` for a key that is not known."""
    lower = key.lower()
    for prefix in _MAPS:
        if lower.startswith(prefix):
            return _labelled(made, {key[len(prefix) :]: value})
    known = _BY_LOWER.get(lower)
    if known is None:
        if strict:
            near = get_close_matches(lower, _BY_LOWER, n=1)
            hint = (
                f"Did you mean {_BY_LOWER[near[0]]}?"
                if near
                else "See python -m compute --help for the keys."
            )
            raise Invalid(f"{place}: unknown key {key}", hint=hint)
        return made
    try:
        return KEYS[known](made, value)
    except Fault as fault:
        raise Invalid(f"{place}: {known}: {fault.message}", hint=fault.hint) from fault


def read_file(path: Path) -> dict[str, Any]:
    """The keys of a YAML or JSON file, the nested ones with dots. Raises `NotFound`, `Invalid` (with the line)."""
    import yaml

    try:
        data = path.read_bytes()
    except OSError as error:
        hint = "A value of -c is a file, or Key=Value."
        raise NotFound(f"the configuration {path} cannot be read: {error.strerror}", hint=hint) from error
    if len(data) > FILE_MAX_BYTES:
        raise Invalid(f"the configuration {path} is larger than {FILE_MAX_BYTES} bytes")
    try:
        document = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the configuration {path} is not YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise Invalid(f"the configuration {path} has no keys at its top")
    return _flat(document, "")


def _flat(document: dict[Any, Any], above: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in document.items():
        key = f"{above}{name}"
        if isinstance(value, dict) and key.lower() not in _BY_LOWER:
            found |= _flat(value, f"{key}.")
        elif value is not None:
            found[key] = value
    return found
