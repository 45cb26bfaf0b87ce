"""``shoal docker run IMAGE [CMD ARG...]`` and ``shoal wasm run MODULE [ARG...]``: a job from flags alone.

Knows: Bacalhau's flags for jobs and tasks, and which field of a job each fills. Must not know: a single rule of the spec:
what the flags say is read by `protocol.spec` like any other spec, so the same rules and the same words hold.
"""

import json
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

import msgspec
from cyclopts import Group, Parameter

from protocol.errors import Invalid
from protocol.jobs import Input, Spec
from protocol.spec import Reading, SpecFault, SpecFaults, flags, read_spec
from protocol.spec.selectors import parse_selector
from requester.cli.endpoint import Api
from requester.cli.exits import tell
from requester.cli.reading import read_start
from requester.cli.shipping import shipped
from requester.cli.waiting import Submitting, submit_and_wait
from storage.forms import look

Json = dict[str, Any]

MODULE_TARGET: Final = "/module"
"""Where the modules are that a command brings along; each keeps its own name, which is what imports are linked by."""
MODULE_MAX_BYTES: Final = 7 * 1024 * 1024
"""As base64 it still fits into a request."""
MAGIC: Final = b"\0asm"
"""How each module begins."""

_JOB: Final = Group("About the job")
_TASK: Final = Group("About the program")

_FLAG_OF: Final = {
    "Count": "--count",
    "Name": "--name",
    "Namespace": "--namespace",
    "Priority": "--priority",
    "Labels": "--labels",
    "Constraints": "--constraints",
    "Tasks[0].Name": "--task-name",
    "Tasks[0].Env": "--env",
    "Tasks[0].InputSources": "--input",
    "Tasks[0].ResultPaths": "--output",
    "Tasks[0].Publisher": "--publisher",
    "Tasks[0].Resources.CPU": "--cpu",
    "Tasks[0].Resources.Memory": "--memory",
    "Tasks[0].Resources.Disk": "--disk",
    "Tasks[0].Resources.GPU": "--gpu",
    "Tasks[0].Network.Type": "--network",
    "Tasks[0].Network.Domains": "--domain",
    "Tasks[0].Timeouts.TotalTimeout": "--timeout",
    "Tasks[0].Timeouts.QueueTimeout": "--queue-timeout",
    "Tasks[0].Engine.Params.WorkingDirectory": "--workdir",
    "Tasks[0].Engine.Params.Entrypoint": "--entrypoint",
    "Tasks[0].Engine.Params.Image": "IMAGE",
    "Tasks[0].Engine.Params.EntryModule": "MODULE",
    "Tasks[0].Engine.Params.ImportModules": "--import-modules",
}
"""Which flag filled which part of the job, so that a fault names what was typed."""


@Parameter(name="*", group=_JOB)
@dataclass(frozen=True, kw_only=True)
class JobFlags:
    """Flags about the job as a whole."""

    name: Annotated[
        str, Parameter(help="The job's name; submitting it again makes a new version of the job.")
    ] = ""
    namespace: Annotated[str, Parameter(help="The namespace of the name.")] = ""
    priority: Annotated[int, Parameter(help="Higher goes first.")] = 0
    count: Annotated[int | None, Parameter(help="How many partitions; 1 if not given.")] = None
    concurrency: Annotated[int | None, Parameter(show=False)] = None
    labels: Annotated[list[str] | None, Parameter(alias="-l", help="A label, key=value; repeatable.")] = None
    constraints: Annotated[
        list[str] | None,
        Parameter(help="Which nodes, as a label selector: 'region in (eu,us),env!=prod,gpu'; repeatable."),
    ] = None
    selector: Annotated[list[str] | None, Parameter(alias="-s", show=False)] = None
    target: Annotated[
        Literal["any", "all"], Parameter(help="any: as many nodes as --count; all: every node that fits.")
    ] = "any"


@Parameter(name="*", group=_TASK)
@dataclass(frozen=True, kw_only=True)
class TaskFlags:
    """Flags about the program, its data and its limits."""

    task_name: Annotated[str, Parameter(help="The task's name.")] = "main"
    env: Annotated[
        list[str] | None,
        Parameter(alias="-e", help="A variable, KEY=value, or KEY to pass on your own; repeatable."),
    ] = None
    input: Annotated[
        list[str] | None,
        Parameter(
            alias="-i",
            help="An input: ./my/folder:/in, ipfs://CID:/in or src=s3://bucket/key,dst=/in,opt=region=…; :rw behind it "
            "gives a copy to change; repeatable.",
        ),
    ] = None
    output: Annotated[
        list[str] | None,
        Parameter(alias="-o", help="A folder to keep, name:path, such as outputs:/outputs; repeatable."),
    ] = None
    publisher: Annotated[
        str,
        Parameter(
            alias="-p", help="Where results go: ipfs, local, s3managed, or s3://bucket/key,opt=region=…."
        ),
    ] = ""
    cpu: Annotated[str, Parameter(help="Cores: 500m, 2.")] = ""
    memory: Annotated[str, Parameter(help="Memory: 512Mb, 2Gi.")] = ""
    disk: Annotated[str, Parameter(help="Disk: 10Gb.")] = ""
    gpu: Annotated[str, Parameter(help="How many GPUs.")] = ""
    network: Annotated[str, Parameter(help="Default, None, Host, Bridge or HTTP.")] = ""
    domain: Annotated[
        list[str] | None, Parameter(help="A domain that may be reached, with --network HTTP; repeatable.")
    ] = None
    timeout: Annotated[int | None, Parameter(help="Seconds the job may take in all, retries included.")] = (
        None
    )
    queue_timeout: Annotated[int | None, Parameter(help="Seconds it may wait for a node.")] = None


def docker_run(
    image: Annotated[str, Parameter(help="The container's image.")],
    /,
    *command: Annotated[str, Parameter(help="What it runs, instead of the image's own command.")],
    entrypoint: Annotated[
        list[str] | None, Parameter(help="Instead of the image's own entry point; repeatable.", group=_TASK)
    ] = None,
    workdir: Annotated[str, Parameter(alias="-w", help="The folder it starts in.", group=_TASK)] = "",
    job: JobFlags = JobFlags(),
    task: TaskFlags = TaskFlags(),
    how: Submitting = Submitting(),
    api: Api = Api(),
) -> int:
    """Run a container as a job. Flags stand before IMAGE; all behind it is the program's.

    With --follow it prints what the program prints and ends with its exit code.
    """
    params = _present(
        Image=image,
        Entrypoint=entrypoint or [],
        Parameters=list(command),
        WorkingDirectory=workdir,
    )
    return _run({"Type": "docker", "Params": params}, [], job, task, how, api)


def wasm_run(
    module: Annotated[
        str, Parameter(help="A file of yours, or where it is: ipfs://CID, s3://bucket/key, https://….")
    ],
    /,
    *arguments: Annotated[str, Parameter(help="The program's arguments.")],
    import_modules: Annotated[
        list[str] | None,
        Parameter(alias="-I", help="A module that is linked to it, by file or URI; repeatable.", group=_TASK),
    ] = None,
    entry_point: Annotated[str, Parameter(help="The function to call; default _start.", group=_TASK)] = "",
    job: JobFlags = JobFlags(),
    task: TaskFlags = TaskFlags(),
    how: Submitting = Submitting(),
    api: Api = Api(),
) -> int:
    """Run a WebAssembly module as a job. Flags stand before MODULE; all behind it is the program's."""
    modules = [_module(each) for each in (module, *(import_modules or []))]
    params = _present(
        EntryModule=modules[0].target,
        Entrypoint=entry_point,
        Parameters=list(arguments),
        ImportModules=[each.target for each in modules[1:]],
    )
    return _run({"Type": "wasm", "Params": params}, modules, job, task, how, api)


def _run(
    engine: Json, modules: Sequence[Input], job: JobFlags, task: TaskFlags, how: Submitting, api: Api
) -> int:
    inputs = [shipped(each, api.settings) for each in flags.inputs(task.input or [])]
    reading = read_flags(engine, [*modules, *inputs], job, task, os.environ)
    written = reading.job.task
    if written.publisher.type and not written.result_paths and not how.id_only:
        tell(
            "Hint: no folder of the program is kept, so the result will hold its standard output and error alone; "
            "keep one with -o outputs:/outputs"
        )
    with api.client() as client:
        return submit_and_wait(client, reading, how)


def read_flags(
    engine: Json, inputs: Sequence[Input], job: JobFlags, task: TaskFlags, environ: Mapping[str, str]
) -> Reading:
    """The job that the flags mean, with its inputs. Raises `Invalid`, with the flags at fault."""
    written = {
        **_job(job),
        "Tasks": [
            _present(
                Name=task.task_name,
                Engine=engine,
                Publisher=msgspec.to_builtins(flags.parse_publisher(task.publisher))
                if task.publisher
                else None,
                Env=flags.parse_env(_with_values(task.env or [], environ)),
                InputSources=msgspec.to_builtins(inputs),
                ResultPaths=[
                    msgspec.to_builtins(flags.parse_result_path(each)) for each in task.output or []
                ],
                Resources=_present(CPU=task.cpu, Memory=task.memory, Disk=task.disk, GPU=task.gpu),
                Network=_present(Type=task.network, Domains=task.domain or []),
                Timeouts=_present(TotalTimeout=task.timeout, QueueTimeout=task.queue_timeout),
            )
        ],
    }
    try:
        return read_spec(json.dumps(written), file="the flags", look=look)
    except SpecFaults as faults:
        raise _about_flags(faults.faults) from faults


def _job(job: JobFlags) -> Json:
    count = job.concurrency if job.count is None else job.count
    if job.target == "all" and count not in (None, 1):
        raise Invalid(
            "--count and --target all cannot be given together",
            hint="A job for all nodes has one execution on each.",
        )
    constraints = ",".join(each for each in job.constraints or job.selector or () if each.strip())
    return _present(
        Name=job.name,
        Namespace=job.namespace,
        Type="ops" if job.target == "all" else "batch",
        Priority=job.priority or None,
        Count=None if job.target == "all" else count,
        Constraints=msgspec.to_builtins(parse_selector(constraints)) if constraints else None,
        Labels=flags.parse_labels(job.labels or []),
    )


def _with_values(env: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """``-e KEY`` as ``KEY=value`` with the caller's own value. Raises `Invalid` where there is none."""
    known = []
    for each in env:
        if "=" not in each and each not in environ:
            raise Invalid(
                f"-e {each[:60]!r}: there is no such variable here", hint=f"Write {each[:60]}=value."
            )
        known.append(each if "=" in each else f"{each}={environ[each]}")
    return known


def _module(where: str) -> Input:
    """A module as an input. Raises `NotFound` and `Invalid` for a file that is none."""
    if "://" in where:
        found = flags.parse_input(where)
        if found.target == flags.TARGET_DEFAULT:
            name = PurePosixPath(where.partition("://")[2].partition("?")[0]).name
            found = msgspec.structs.replace(found, target=f"{MODULE_TARGET}/{name or 'main.wasm'}")
        return found
    hint = "Give a file, or ipfs://, s3:// or https://."
    data = read_start(where, "module", at_most_bytes=MODULE_MAX_BYTES, hint=hint)
    if len(data) > MODULE_MAX_BYTES:
        raise Invalid(
            f"the module {where} is larger than {MODULE_MAX_BYTES // 2**20} MiB and does not fit into a request",
            hint="Put it on S3, IPFS or a web server and give its URI.",
        )
    if not data.startswith(MAGIC):
        raise Invalid(f"{where} is not a WebAssembly module: it does not begin with \\0asm", hint=hint)
    url = f"data:application/wasm;base64,{b64encode(data).decode()}"
    return Input(source=Spec("inline", {"URL": url}), target=f"{MODULE_TARGET}/{Path(where).name}")


def _present(**fields: Any) -> Json:
    """The fields that say something; those that don't have the spec's own defaults."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}


def _about_flags(faults: Sequence[SpecFault]) -> Invalid:
    """The spec's faults, each under the flag it came from."""
    lines = [_with_flag(fault) for fault in faults]
    if len(lines) == 1:
        return Invalid(lines[0])
    return Invalid(f"{len(lines)} problems:" + "".join(f"\n  {line}" for line in lines))


def _with_flag(fault: SpecFault) -> str:
    """``--cpu: "2x" cannot be read as CPU`` for ``Tasks[0].Resources.CPU: …``."""
    path = fault.path
    matching = [known for known in _FLAG_OF if path == known or path.startswith((f"{known}.", f"{known}["))]
    if not matching:
        return str(fault)
    known = max(matching, key=len)
    text = str(fault)
    if text.startswith(known):
        return _FLAG_OF[known] + text[len(known) :].replace(".", " ", 1 if text[len(known)] == "." else 0)
    return f"{_FLAG_OF[known]}: {text}"
