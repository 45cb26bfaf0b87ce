"""Settings in layers: the command line, ``-c``, the environment, files; the first layer that says something wins.

Knows: how each place writes a setting, and how a value is read as text, number, yes or no, list or map. Must not know: which
settings there are, or what they mean: a program names the keys it asks for.

A **key** is dotted and read in any case: ``API.Port``. Programs ask with all spellings that mean the same, newest first
(``config.text("InputSources.Types.IPFS.Endpoint", "Node.IPFS.Connect")``); the layer decides before the spelling does.

    -c API.Port=1235    -c WebUI.Enabled (= true)    one layer; later ones win
    SHOAL_API_PORT, BACALHAU_API_PORT                underscores for dots; SHOAL_ wins
    API: {Port: 1235}                                a YAML or JSON file, each a layer: -c FILE, later ones first, then
                                                     those that are found (`config_files`)

These are Bacalhau's places in Bacalhau's order.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import Struct

from protocol.errors import Fault, Invalid, NotFound
from protocol.spelling import nearest

FILE_NAME: Final = "shoal.yaml"
FILE_MAX_BYTES: Final = 1 << 20
PREFIXES: Final = ("SHOAL_", "BACALHAU_")

_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_TYPED: Final = "-c"
_SECRET: Final = re.compile("credential|password|token|secret|key", re.IGNORECASE)
"""Values of keys with such names appear in no message: they may be passwords."""
_SLIP: Final = 0.85
"""How similar (0 to 1) an unknown key is to a known one that was surely meant."""

_MEANT: Final = 0.8
"""The same where it is only a warning. Settings of the peer that mean nothing here are less like any than that."""

T = TypeVar("T")
V = TypeVar("V")


class Setting(Struct, frozen=True):
    """A value as it was written, its key as it was spelled, and where: ``SHOAL_API_PORT``, ``shoal.yaml``."""

    value: Any
    key: str
    where: str


class Layer(Struct, frozen=True):
    """What one place says, by lower-case key."""

    settings: dict[str, Setting]


class Config:
    """What all places say together. `layers` are in order of weight, the strongest first."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)

    def find(self, *keys: str) -> Setting | None:
        """The strongest setting under any of these keys; a text that is empty says nothing."""
        for layer in self._layers:
            for key in keys:
                found = layer.settings.get(key.lower())
                if found is not None and found.value not in (None, ""):
                    return found
        return None

    def in_force(self) -> list[Setting]:
        """All that is said anywhere, by key; of what several places say, the strongest."""
        said: dict[str, Setting] = {}
        for layer in self._layers:
            for lower, setting in layer.settings.items():
                if setting.value not in (None, ""):
                    said.setdefault(lower, setting)
        return [said[lower] for lower in sorted(said)]

    def text(self, *keys: str, default: str = "") -> str:
        """One text. Raises `Invalid` for a list or map."""
        found = self.find(*keys)
        if found is None:
            return default
        if isinstance(found.value, list):
            raise _unfit(found, "one value")
        return str(found.value).strip()

    def number(self, *keys: str, default: int = 0, most: int = 2**31 - 1) -> int:
        """A whole number from 0 to `most`. Raises `Invalid`."""
        found = self.find(*keys)
        if found is None:
            return default
        text = str(found.value).strip()
        if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) > most:
            raise _unfit(found, f"a whole number from 0 to {most}")
        return int(text)

    def flag(self, *keys: str, default: bool = False) -> bool:
        """Yes or no. Raises `Invalid`."""
        found = self.find(*keys)
        if found is None:
            return default
        text = str(found.value).strip().lower()
        if text not in _TRUE | _FALSE:
            raise _unfit(found, "true or false")
        return text in _TRUE

    def seconds(self, *keys: str, default: float = 0.0) -> float:
        """A duration: ``90``, ``1m30s``. Raises `Invalid`."""
        from protocol.spec.quantities import parse_duration_s

        return self.parsed(parse_duration_s, *keys, default=default)

    def parsed(self, parse: Callable[[str], T], *keys: str, default: T) -> T:
        """What `parse` makes of one text. Its faults become `Invalid`, with the place and the key."""
        found = self.find(*keys)
        return default if found is None else _placed(found, parse, self.text(found.key))

    def texts(self, *keys: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        """A list, or a text with commas between its parts, or a list of such texts."""
        found = self.find(*keys)
        if found is None:
            return tuple(default)
        given = found.value if isinstance(found.value, list | tuple) else [found.value]
        return tuple(text for each in given for part in str(each).split(",") if (text := part.strip()))

    def lines(self, *keys: str, check: Callable[[Sequence[str]], object] | None = None) -> tuple[str, ...]:
        """A list whose texts may have commas in them; only a text alone is split. What `check` raises is placed."""
        found = self.find(*keys)
        if found is None:
            return ()
        if not isinstance(found.value, list | tuple):
            lines = self.texts(*keys)
        else:
            lines = tuple(text for each in found.value if (text := str(each).strip()))
        if check is not None:
            _placed(found, check, lines)
        return lines

    def pairs(self, *keys: str) -> dict[str, str]:
        """A map, joined over all layers: ``{a: 1}`` in a file, ``Labels.a=1`` or ``Labels=a=1,b=2`` elsewhere.

        Raises `Invalid` for a part that is no pair.
        """
        joined: dict[str, str] = {}
        for layer in reversed(self._layers):
            for key in reversed(keys):
                joined |= _pairs(layer, key)
        return joined

    def unknown(self, known: Iterable[str], *, others: Sequence[str] = ()) -> list[str]:
        """A warning for each setting that is neither `known` nor below one of `others`, with a near spelling.

        `known` may hold maps: everything below ``Labels`` is known with it. Raises `Invalid` for a slip in a key of ``-c``;
        one that is like nothing known is a warning there too: the peer's commands have keys that do nothing here.
        """
        by_lower = {key.lower(): key for key in known}
        passed = tuple(f"{key.lower()}." for key in others) + tuple(f"{key}." for key in by_lower)
        passed_whole = {key.lower() for key in others}
        warnings: dict[str, str] = {}
        for layer in self._layers:
            for lower, setting in layer.settings.items():
                if lower not in by_lower and lower not in passed_whole and not lower.startswith(passed):
                    warnings.setdefault(lower, _unknown(setting, by_lower.values()))
        return list(warnings.values())


def read_config(
    *,
    flags: Mapping[str, Any] | None = None,
    given: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    files: Sequence[Path] = (),
    keys: Iterable[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Config:
    """Put the layers together. `flags` are keys that had a flag of their own, None and empty meaning that it was not given;
    `given` the values of ``-c``; `keys` those looked for in `environ`, `variables` further names for some of them.

    Reads `files` (which exist, the strongest first) and those that ``-c`` names. Raises `Invalid`, `NotFound`.
    """
    named = [Path(each) for each in reversed(given) if is_file(each)]
    return Config(
        [
            Layer({key.lower(): Setting(value, key, "the command line") for key, value in _set(flags or {})}),
            _given(each for each in given if not is_file(each)),
            _environment(environ or {}, keys, variables or {}),
            *(read_file(path) for path in (*named, *files)),
        ]
    )


def config_files(environ: Mapping[str, str], folder: Path) -> list[Path]:
    """The configuration files that are there when nobody names one, the strongest first.

    ``./shoal.yaml`` in `folder`, then ``shoal/config.yaml`` in the person's configuration folder (XDG), then in ``/etc``.
    """
    places = (folder / FILE_NAME, own_file(environ), Path("/etc/shoal/config.yaml"))
    return [path for path in places if path.is_file()]


def own_file(environ: Mapping[str, str]) -> Path:
    """The person's own configuration file, there or not."""
    home = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '/nonexistent')}/.config"
    return Path(home) / "shoal" / "config.yaml"


def secret(key: str) -> bool:
    """Whether the value of a key is one that nobody is shown."""
    return _SECRET.search(key) is not None


def is_file(given: str) -> bool:
    """Whether a value of ``-c`` names a file, and not a key."""
    return "=" not in given and (given.lower().endswith((".yaml", ".yml", ".json")) or Path(given).is_file())


def read_file(path: Path) -> Layer:
    """One file's layer. Raises `NotFound` or `Invalid`, with the line."""
    from protocol.spec.documents import read_document
    from protocol.spec.tree import Unreadable

    try:
        data = path.read_bytes()[: FILE_MAX_BYTES + 1]
        text = data.decode("utf-8-sig")
    except OSError as error:
        hint = "A value of -c is a file, or Key=Value."
        raise NotFound(f"the configuration {path} cannot be read: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise Invalid(f"the configuration {path} is not UTF-8 text (byte {error.start})") from error
    if len(data) > FILE_MAX_BYTES:
        raise Invalid(f"the configuration {path} is larger than {FILE_MAX_BYTES} bytes")
    if not text.strip():
        return Layer({})
    try:
        document = read_document(text, file=str(path)).data()
    except Unreadable as error:
        line, column = error.mark
        raise Invalid(f"{path}:{line}:{column}: {error.message}") from error
    if document is None:
        return Layer({})
    if not isinstance(document, dict):
        raise Invalid(f"the configuration {path} has no keys at its top")
    return Layer({setting.key.lower(): setting for setting in _flat(document, "", str(path))})


def _given(pairs: Iterable[str]) -> Layer:
    settings: dict[str, Setting] = {}
    for each in pairs:
        key, equals, value = each.partition("=")
        key = key.strip()
        if not key:
            raise Invalid("-c has a value without a key", hint="Write it like -c Key=Value, or name a file.")
        settings[key.lower()] = Setting(value.strip() if equals else "true", key, _TYPED)
    return Layer(settings)


def _environment(environ: Mapping[str, str], keys: Iterable[str], variables: Mapping[str, str]) -> Layer:
    names = {**variables}
    for key in keys:
        for prefix in PREFIXES:
            names.setdefault(prefix + key.upper().replace(".", "_"), key)
    # The strongest prefix is written last.
    weakest_first = sorted(names, key=lambda name: name.startswith(PREFIXES[0]))
    settings = {
        names[name].lower(): Setting(environ[name], names[name], name)
        for name in weakest_first
        if environ.get(name)
    }
    return Layer(settings)


def _set(flags: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((key, value) for key, value in flags.items() if value not in (None, "", [], ()))


def _flat(document: Mapping[str, Any], above: str, where: str) -> Iterable[Setting]:
    for name, value in document.items():
        key = f"{above}{name}"
        if isinstance(value, dict):
            yield from _flat(value, f"{key}.", where)
        elif value is not None:
            yield Setting(value, key, where)


def _pairs(layer: Layer, key: str) -> dict[str, str]:
    found: dict[str, str] = {}
    whole = layer.settings.get(key.lower())
    if whole is not None:
        parts = whole.value if isinstance(whole.value, list | tuple) else str(whole.value).split(",")
        for part in parts:
            name, equals, value = str(part).partition("=")
            if not equals or not name.strip():
                raise _unfit(whole, "a pair like name=value")
            found[name.strip()] = value.strip()
    below = f"{key.lower()}."
    for lower, setting in layer.settings.items():
        if lower.startswith(below):
            found[setting.key[len(below) :]] = str(setting.value)
    return found


def _placed(setting: Setting, read: Callable[[V], T], value: V) -> T:
    """What `read` makes of the value; its faults say where the value stands."""
    try:
        return read(value)
    except Fault as fault:
        raise Invalid(f"{setting.where}: {setting.key}: {fault.message}", hint=fault.hint) from fault


def _unfit(setting: Setting, wanted: str) -> Invalid:
    written = "" if secret(setting.key) else f" {str(setting.value)[:60]!r}"
    return Invalid(
        f"{setting.where}: {setting.key} is{written or ' something else'} where {wanted} is expected"
    )


def _unknown(setting: Setting, known: Iterable[str]) -> str:
    if setting.where == _TYPED and (near := nearest(setting.key, known, likeness=_SLIP)):
        raise Invalid(
            f"{setting.where}: {setting.key} is not a setting of this program",
            hint=f"Did you mean {near[0]}?",
        )
    near = nearest(setting.key, known, likeness=_MEANT)
    meant = f'; did you mean "{near[0]}"?' if near else ""
    return f"{setting.where}: {setting.key} is not a setting of this program and does nothing{meant}"
