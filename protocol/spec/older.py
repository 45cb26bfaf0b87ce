"""Forms that earlier versions of Bacalhau wrote, turned into today's.

Knows: the forms before 1.4, which are refused with a clear text, and those of 1.4 to 1.7, which are read. Must not know: the
rules that today's form obeys.
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct, field

from protocol.errors import Invalid
from protocol.jobs import Input, Spec
from protocol.spec.bounds import INPUTS_MAX, Path
from protocol.spec.faults import Findings, path_text
from protocol.spec.network import type_from_number
from protocol.spec.quantities import parse_duration_s
from protocol.spec.shape import Rewrite, Rules, read_struct

MODULES: Final = "/modules"
"""Where a WebAssembly module is put whose older form names no target."""


class OlderModule(Struct, rename="pascal"):
    """A WebAssembly module as 1.4 to 1.7 gave it inside the engine's parameters."""

    source: Spec
    alias: str = ""
    target: str = ""


class OlderWasm(Struct):
    """What the older form of a wasm engine held beside its parameters; each input with the path where it was written."""

    inputs: list[tuple[Path, Input]] = field(default_factory=list)
    env: dict[str, Any] = field(default_factory=dict)


def before_1_4(data: Mapping[str, Any]) -> bool:
    """Whether this is a job of the versions before 1.4 (``APIVersion``, ``Spec``)."""
    keys = {key.lower() for key in data}
    return "tasks" not in keys and bool(keys & {"apiversion", "spec"})


def _number_as_text(value: Any) -> Any:
    """``CPU: 2`` means ``"2"``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{value:.9f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _duration_as_seconds(value: Any) -> Any:
    """``5m`` means 300. A text that is no duration in whole seconds stays, and is then not a number."""
    if not isinstance(value, str):
        return value
    try:
        seconds = parse_duration_s(value)
    except Invalid:
        return value
    return int(seconds) if seconds.is_integer() else value


REWRITES: Final[Mapping[tuple[str, str], Rewrite]] = {
    **{("Resources", name): _number_as_text for name in ("CPU", "Memory", "Disk", "GPU")},
    **{
        ("Timeouts", name): _duration_as_seconds
        for name in ("ExecutionTimeout", "QueueTimeout", "TotalTimeout")
    },
    ("Network", "Type"): type_from_number,
}
"""Other forms of single values."""


def docker_today(params: dict[str, Any]) -> dict[str, Any]:
    """A docker engine's parameters with ``EnvironmentVariables`` as a list, where they were an object."""
    key, value = _find(params, _keys(params), "environmentvariables")
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        return params
    return {**params, key: [f"{name}={each}" for name, each in value.items()]}


def wasm_today(params: dict[str, Any], path: Path, rules: Rules) -> tuple[dict[str, Any], OlderWasm]:
    """A wasm engine's parameters with modules named by their targets, and what belongs elsewhere in the task.

    Faults inside a module are told where it was written, `path` being that of the parameters.
    """
    today, older = dict(params), OlderWasm()
    keys = _keys(params)
    key, value = _find(params, keys, "entrymodule")
    if isinstance(value, dict):
        today[key] = _moved(value, (*path, "EntryModule"), f"{MODULES}/entry.wasm", older, rules)
    key, value = _find(params, keys, "importmodules")
    if isinstance(value, list) and len(value) > INPUTS_MAX:
        here = (*path, "ImportModules")
        rules.findings.fault(here, f"{path_text(here)} has more than {INPUTS_MAX} entries")
    elif isinstance(value, list):
        today[key] = [
            _moved(each, (*path, "ImportModules", index), f"{MODULES}/import-{index}.wasm", older, rules)
            if isinstance(each, dict)
            else each
            for index, each in enumerate(value)
        ]
    key, value = _find(params, keys, "environmentvariables")
    if key and (value is None or isinstance(value, dict)):
        older.env = today.pop(key) or {}
    return today, older


def tell_moved(findings: Findings, older: OlderWasm, path: Path) -> None:
    """Warn that an older form was read."""
    if older.inputs:
        findings.warn(
            f"{path_text(path)}: modules are now inputs; EntryModule and ImportModules name their targets"
        )
    if older.env:
        findings.warn(f"{path_text(path)}.EnvironmentVariables is now the task's Env")


def _moved(value: dict[str, Any], path: Path, target: str, older: OlderWasm, rules: Rules) -> str:
    module = read_struct(value, OlderModule, path, rules)
    target = module.target or target
    as_input = Input(source=module.source, target=target, alias=module.alias)
    if all(as_input != each for _, each in older.inputs):
        older.inputs.append((path, as_input))
    return target


def _keys(params: Mapping[str, Any]) -> dict[str, str]:
    """The keys as they were written, by their lower case; the first of those that differ in case only."""
    keys: dict[str, str] = {}
    for key in params:
        keys.setdefault(key.lower(), key)
    return keys


def _find(params: Mapping[str, Any], keys: Mapping[str, str], lower: str) -> tuple[str, Any]:
    """A parameter in any key case: the key as it was written (empty if it is not there), and its value."""
    key = keys.get(lower, "")
    return (key, params[key]) if key else ("", None)
