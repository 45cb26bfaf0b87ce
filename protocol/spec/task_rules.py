"""What a task must be, beyond the types of its fields, and its canonical form.

Knows: the rules of reference section 1.3 and of each engine. Must not know: how a spec was written; every function here
takes typed values, says its faults with their paths, and returns the canonical value.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from protocol.errors import Invalid
from protocol.jobs import Input, Resources, ResultPath, Spec, Task, Timeouts
from protocol.spec import bounds
from protocol.spec.bounds import Path
from protocol.spec.drivers import IN_PLACE, read_publisher, read_source
from protocol.spec.engines import ENGINES, DockerParams, EngineParams, WasmParams, engine_spec
from protocol.spec.faults import Findings, no_such, path_text, quoted
from protocol.spec.images import parse_reference
from protocol.spec.look import Look, unseen
from protocol.spec.network import read_network
from protocol.spec.older import REWRITES, OlderWasm, docker_today, tell_moved, wasm_today
from protocol.spec.quantities import parse_bytes, parse_cpu, parse_gpu
from protocol.spec.shape import Rules, read_struct
from protocol.spelling import near

SYSTEM_ENV: Final = "BACALHAU_"
"""The beginning of the names that the system itself sets."""
HOST_ENV: Final = "env:"
"""A value ``env:NAME`` stands for NAME on the compute node."""
RESULT_FILES: Final = ("stdout", "stderr", "exitCode")
"""Files that every result holds beside its paths."""

_ENV_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_HOST_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PARSERS: Final[Mapping[str, Callable[[str], float]]] = {
    "CPU": parse_cpu,
    "Memory": parse_bytes,
    "Disk": parse_bytes,
    "GPU": parse_gpu,
    "GPUMemory": parse_bytes,
}
_KEPT_MAX_BYTES: Final = 4096
"""A larger task is read each time it comes: those that are kept take some MiB in all."""
_GPU_KIND: Final = ("GPUName", "GPUMemory")


def read_task(task: Task, path: Path, rules: Rules) -> Task:
    """A task in canonical form. What a program sends again and again is read once."""
    text = msgspec.json.encode(task)
    known = _kept(text, rules.look) if not rules.strict and len(text) <= _KEPT_MAX_BYTES else None
    if known is None:
        return _read_task(task, path, rules)
    canonical, warnings = known
    for warning in warnings:
        rules.findings.warn(warning)
    return canonical


@lru_cache(maxsize=256)
def _kept(text: bytes, look: Look) -> tuple[Task, list[str]] | None:
    """A program's task in canonical form, with the warnings about it; None if anything is wrong with it."""
    findings = Findings()
    task = msgspec.json.decode(text, type=Task)
    rules = Rules(findings, strict=False, rewrites=REWRITES, look=look)
    canonical = _read_task(task, ("Tasks", 0), rules)
    return None if findings.any else (canonical, findings.warnings)


def _read_task(task: Task, path: Path, rules: Rules) -> Task:
    findings = rules.findings
    engine, older = _read_engine(task.engine, (*path, "Engine"), rules)
    tell_moved(findings, older, (*path, "Engine", "Params"))
    written = [((*path, "InputSources", index), each) for index, each in enumerate(task.input_sources)]
    written += [(here, each) for here, each in older.inputs if each not in task.input_sources]
    # Pages about Bacalhau name a result by its path, and mean the folder.
    result_paths = [replace(each, name=each.name.strip("/")) for each in task.result_paths]
    if engine.type == "wasm":
        written = [(here, replace(each, target=_from_root(each.target))) for here, each in written]
        result_paths = [replace(each, path=_from_root(each.path)) for each in result_paths]
    inputs = _read_inputs(written, (*path, "InputSources"), rules)
    env = {**task.env, **{name: str(value) for name, value in older.env.items()}}
    name = task.name.strip()
    if not name:
        findings.fault((*path, "Name"), f"{path_text((*path, 'Name'))} is missing")
    check_name(name, (*path, "Name"), findings)
    check_env(env, (*path, "Env"), findings)
    check_texts(task.meta, (*path, "Meta"), findings)
    _check_modules(engine, inputs, (*path, "Engine", "Params"), findings)
    _check_result_paths(result_paths, inputs, (*path, "ResultPaths"), findings)
    _check_timeouts(task.timeouts, (*path, "Timeouts"), findings)
    return replace(
        task,
        name=name,
        engine=engine,
        publisher=read_publisher(task.publisher, (*path, "Publisher"), rules),
        env=env,
        input_sources=inputs,
        result_paths=result_paths,
        resources=_read_resources(task.resources, (*path, "Resources"), findings),
        network=read_network(task.network, (*path, "Network"), findings),
    )


def check_name(name: str, path: Path, findings: Findings) -> None:
    """A name is at most so long."""
    if len(name) > bounds.NAME_MAX_CHARACTERS:
        findings.fault(path, f"{path_text(path)} is longer than {bounds.NAME_MAX_CHARACTERS} characters")


def check_texts(texts: Mapping[str, str], path: Path, findings: Findings) -> None:
    """Labels and meta are free, within a number."""
    if len(texts) > bounds.LABELS_MAX:
        findings.fault(path, f"{path_text(path)} has more than {bounds.LABELS_MAX} entries")


def check_env(env: Mapping[str, str], path: Path, findings: Findings) -> None:
    """Names are upper case, values are there; values never appear in a message, they may be secret."""
    size_bytes = sum(len(name.encode()) + len(value.encode()) for name, value in env.items())
    if len(env) > bounds.ENV_MAX_ENTRIES:
        findings.fault(path, f"{path_text(path)} has more than {bounds.ENV_MAX_ENTRIES} entries")
        return
    if size_bytes > bounds.ENV_MAX_BYTES:
        findings.fault(path, f"{path_text(path)} holds more than {bounds.ENV_MAX_BYTES // 1024} KiB")
    for name, value in env.items():
        wrong = _env_fault(name, value)
        if wrong:
            findings.fault((*path, name), f"{path_text((*path, name))} {wrong}", near=_env_near(name))


def _env_fault(name: str, value: str) -> str:
    if name.upper().startswith(SYSTEM_ENV):
        return f"cannot be set: names that begin with {SYSTEM_ENV} are the system's own"
    if not _ENV_NAME.fullmatch(name):
        return (
            'is no name for a variable: it has upper-case letters, digits and "_", and begins with a letter'
        )
    if not value:
        return "has no value"
    if value.startswith(HOST_ENV) and not _HOST_NAME.fullmatch(value.removeprefix(HOST_ENV)):
        return f'must name a variable of the node after "{HOST_ENV}"'
    return ""


def _env_near(name: str) -> str:
    upper = name.upper()
    return upper if upper != name and not _env_fault(upper, "x") else ""


def _read_engine(engine: Spec, path: Path, rules: Rules) -> tuple[Spec, OlderWasm]:
    """The engine with its parameters in their canonical form, and what an older form kept in them."""
    findings, name = rules.findings, engine.type.strip()
    form = ENGINES.get(name.lower())
    if form is None:
        here = (*path, "Type")
        if name:
            findings.fault(here, no_such("engine", name, ENGINES), near=near(name, ENGINES))
        else:
            findings.fault(here, f"{path_text(here)} is missing")
        return engine, OlderWasm()
    path = (*path, "Params")
    given, older = engine.params, OlderWasm()
    if form is DockerParams:
        given = docker_today(given)
    elif form is WasmParams:
        given, older = wasm_today(given, path, rules)
    params: EngineParams = read_struct(given, form, path, rules)
    if isinstance(params, DockerParams):
        _check_docker(params, path, findings)
    elif isinstance(params, WasmParams):
        if not params.entry_module:
            findings.fault((*path, "EntryModule"), f"{path_text((*path, 'EntryModule'))} is missing")
        params = replace(
            params,
            entry_module=_from_root(params.entry_module),
            import_modules=[_from_root(each) for each in params.import_modules],
        )
    return engine_spec(name.lower(), params), older


def _from_root(place: str) -> str:
    """A path of a WebAssembly program, which has no folder that it works in: in Bacalhau ``main.wasm`` is ``/main.wasm``,
    as the target of an input, as a module, and as a path of results.
    """
    return f"/{place}" if place and not place.startswith("/") else place


def _check_docker(params: DockerParams, path: Path, findings: Findings) -> None:
    _check_image(params.image, (*path, "Image"), findings)
    directory = params.working_directory
    if directory and not directory.startswith("/"):
        here = (*path, "WorkingDirectory")
        findings.fault(here, f"{path_text(here)} must be an absolute path, and is {quoted(directory)}")
    for index, each in enumerate(params.environment_variables):
        here = (*path, "EnvironmentVariables", index)
        name, equals, _ = each.partition("=")
        if not (equals and name):
            findings.fault(here, f"{path_text(here)} must be KEY=value")
        elif name.upper().startswith(SYSTEM_ENV):
            findings.fault(
                here, f"{path_text(here)}: names that begin with {SYSTEM_ENV} are the system's own"
            )
    for field, texts in (("Entrypoint", params.entrypoint), ("Parameters", params.parameters)):
        check_list(texts, bounds.TEXTS_MAX, (*path, field), findings)


def _check_image(image: str, path: Path, findings: Findings) -> None:
    if not image.strip():
        findings.fault(path, f"{path_text(path)} is missing")
        return
    try:
        parse_reference(image)
    except Invalid as wrong:
        # The commonest mistake: a repository has no capital letters.
        meant = image.lower() if image != image.lower() else ""
        findings.fault(path, f"{path_text(path)}: {wrong.message}", near=meant)


def check_list(items: list[Any], limit: int, path: Path, findings: Findings) -> bool:
    """Whether a list is within its bound."""
    if len(items) > limit:
        findings.fault(path, f"{path_text(path)} has more than {limit:,} entries")
    return len(items) <= limit


def _check_modules(engine: Spec, inputs: Iterable[Input], path: Path, findings: Findings) -> None:
    """A WebAssembly program's modules are inputs, or lie in one: an S3 or URL input is a folder."""
    if engine.type != "wasm":
        return
    targets = [each.target for each in inputs]
    params: Mapping[str, Any] = engine.params
    if not check_list(params.get("ImportModules", []), bounds.INPUTS_MAX, (*path, "ImportModules"), findings):
        return
    modules = [((*path, "EntryModule"), params.get("EntryModule", ""))]
    modules += [((*path, "ImportModules", n), each) for n, each in enumerate(params.get("ImportModules", ()))]
    for here, module in modules:
        if module not in targets and not any(
            PurePosixPath(module).is_relative_to(target) for target in targets
        ):
            message = f"{path_text(here)} {quoted(module)} is not the Target of an input, nor below one"
            findings.fault(here, message, near=near(module, targets))


def _read_inputs(written: list[tuple[Path, Input]], path: Path, rules: Rules) -> list[Input]:
    """The inputs in canonical form; each comes with the path where it was written. A person's text may name files of their
    own, which no program's body can.
    """
    findings = rules.findings
    if not check_list(written, bounds.INPUTS_MAX, path, findings):
        return [each for _, each in written]
    targets, aliases = set[str](), set[str]()
    read = []
    for number, (here, each) in enumerate(written):
        _check_place(each.target, (*here, "Target"), targets, findings)
        if each.alias and each.alias in aliases:
            findings.fault(
                (*here, "Alias"), f"{path_text((*here, 'Alias'))} {quoted(each.alias)} is taken already"
            )
        aliases.add(each.alias)
        looking = rules if number < bounds.INPUTS_LOOKED_AT_MAX else rules._replace(look=unseen)
        source = read_source(each.source, (*here, "Source"), looking)
        if each.read_write is True and source.type.lower() in IN_PLACE:
            place = path_text((*here, "ReadWrite"))
            findings.fault(
                (*here, "ReadWrite"),
                f"{place} is for copies, and a {source.type} source is mounted itself: write it into the source's Params",
            )
        read.append(replace(each, source=source))
    return read


def _check_place(place: str, path: Path, taken: set[str], findings: Findings) -> None:
    """A path as the program sees it, where nothing else is."""
    if len(place) > bounds.PATH_MAX_CHARACTERS:
        findings.fault(path, f"{path_text(path)} is longer than {bounds.PATH_MAX_CHARACTERS} characters")
        return
    plain = "/" + "/".join(part for part in place.split("/") if part not in ("", "."))
    if not place:
        findings.fault(path, f"{path_text(path)} is missing")
    elif not place.startswith("/"):
        findings.fault(path, f"{path_text(path)} must be an absolute path, and is {quoted(place)}")
    elif plain == "/" or ".." in place.split("/"):
        findings.fault(path, f"{path_text(path)} cannot be {quoted(place)}: name a folder below /")
    elif plain in taken:
        findings.fault(path, f"{path_text(path)} {quoted(place)} is taken already")
    taken.add(plain)


def _check_result_paths(
    paths: list[ResultPath], inputs: Iterable[Input], path: Path, findings: Findings
) -> None:
    if not check_list(paths, bounds.RESULT_PATHS_MAX, path, findings):
        return
    taken, names = {each.target.rstrip("/") for each in inputs}, set[str]()
    for index, each in enumerate(paths):
        here = (*path, index, "Name")
        _check_place(each.path, (*path, index, "Path"), taken, findings)
        if not each.name.strip():
            findings.fault(here, f"{path_text(here)} is missing")
        elif each.name in names:
            findings.fault(here, f"{path_text(here)} {quoted(each.name)} is taken already")
        elif "/" in each.name or each.name in (".", "..", *RESULT_FILES):
            findings.fault(here, f"{path_text(here)} {quoted(each.name)} cannot be a folder of the result")
        names.add(each.name)


def _read_resources(resources: Resources, path: Path, findings: Findings) -> Resources:
    """Amounts that can be read, without blanks around them."""
    read, wrong = _amounts(resources)
    for name, what in wrong:
        findings.fault((*path, name), f"{path_text((*path, name))}{what}")
    return read


@lru_cache(maxsize=256)
def _amounts(resources: Resources) -> tuple[Resources, list[tuple[str, str]]]:
    """The same, and what is wrong with each field that cannot be read. Kept: most jobs ask for what others ask for too."""
    texts: dict[str, str] = {name: text.strip() for name, text in msgspec.to_builtins(resources).items()}
    wrong: list[tuple[str, str]] = []
    for name, text in texts.items():
        try:
            if text and name in _PARSERS:
                _PARSERS[name](text)
        except Invalid as fault:
            wrong.append((name, f": {fault.message}. {fault.hint}".rstrip()))
    if any(texts.get(name) for name in _GPU_KIND) and texts["GPU"] in ("", "0"):
        wrong.append(("GPU", " is missing: a kind of GPU needs a number"))
    kept = {name: text for name, text in texts.items() if text or name not in _GPU_KIND}
    return msgspec.convert(kept, Resources), wrong


def _check_timeouts(timeouts: Timeouts, path: Path, findings: Findings) -> None:
    execution, queue, total = timeouts.execution_timeout, timeouts.queue_timeout, timeouts.total_timeout
    limits = (("ExecutionTimeout", execution), ("QueueTimeout", queue), ("TotalTimeout", total))
    for name, limit in limits:
        if 0 <= limit <= bounds.SECONDS_MAX:
            continue
        here = (*path, name)
        if limit < 0:
            findings.fault(here, f"{path_text(here)} cannot be negative (0 means no limit)")
        else:
            findings.fault(here, f"{path_text(here)} is longer than ten years (0 means no limit)")
    if total > 0 and execution + queue > total:
        here = (*path, "TotalTimeout")
        findings.fault(
            here,
            f"{path_text(here)} {total} is less than ExecutionTimeout {execution} and QueueTimeout {queue} together",
        )
