"""From what people and programs write to a canonical job, or to all that is wrong with it.

Knows: the order of the steps, and what people and programs may do differently. Must not know: a single rule; each has its
own module.

    text ─▶ document (values and places) ─┐
    API body (values) ────────────────────┴▶ bounds ─▶ fields and types ─▶ older forms and rules ─▶ Job

A person's text is read strictly: a key that is not known is a slip. A program's body is read as Bacalhau's server reads
it: keys that are not known do nothing, and fields that are the server's own are dropped with a warning.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from protocol.jobs import Job
from protocol.spec.bounds import unfit
from protocol.spec.defaults import NO_DEFAULTS, Defaults, apply_defaults
from protocol.spec.documents import read_document
from protocol.spec.drivers import OWN
from protocol.spec.faults import Findings, SpecFault, SpecFaults, path_text, quoted
from protocol.spec.job_rules import read_job
from protocol.spec.look import Look, unseen
from protocol.spec.older import REWRITES, before_1_4
from protocol.spec.shape import Rules, is_exact, kind, read_struct
from protocol.spec.tree import Document, Unreadable

SERVER_FIELDS: Final = ("ID", "State", "Version", "Revision", "CreateTime", "ModifyTime", "SubmitTime")
"""Fields of a job that only the server sets."""
_SERVER_FIELDS: Final = {name.lower(): name for name in SERVER_FIELDS}
_BEFORE_1_4: Final = "this is a job in the form from before Bacalhau 1.4 (APIVersion, Spec)"
_BEFORE_1_4_HINT: Final = (
    "Write it with Type and Tasks; Engine, Publisher, InputSources and Resources belong to a task."
)
_ANSWER: Final = "this is an answer or a request of the API, which holds a job in its member Job"
_ANSWER_HINT: Final = (
    "Give that job alone, without the fields that the server sets; `job describe JOB --spec` prints it so."
)
_NO_PUBLISHER: Final = (
    "ResultPaths need a Publisher: the job will be refused unless the requester has a default one"
)


class Place(Struct, frozen=True):
    """Where something stands in a person's text: its path in canonical names, the file, line and column (from 1)."""

    path: str
    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def fault(self, message: str) -> SpecFault:
        """What is wrong there."""
        return SpecFault(self.path, message, file=self.file, line=self.line, column=self.column)


class Reading(Struct, frozen=True):
    """A canonical job, and what a person should hear about it.

    `own` has the place in the text of each input of type `OWN`, by its target: what the person has to put somewhere before
    a requester can take the job.
    """

    job: Job
    warnings: list[str] = field(default_factory=list)
    own: dict[str, Place] = field(default_factory=dict)


class _Submitted(Job, frozen=True, rename="pascal"):
    """A job as it is written: here Type has no default."""

    type: str = ""


def read_spec(text: str, *, file: str, look: Look = unseen) -> Reading:
    """Read a spec that a person wrote, in YAML or JSON. Raises `SpecFaults` with file, line and column of every fault.

    `look` is asked for what drivers find wrong. Defaults that only a requester knows are not filled in; so a missing
    publisher is a warning here.
    """
    try:
        document = read_document(text, file=file)
    except Unreadable as error:
        line, column = error.mark
        fault = SpecFault("", error.message, file=file, line=line, column=column)
        raise SpecFaults([fault], file=file) from error
    findings = Findings(file, document)
    _check_repeated(document, findings)
    job = _read(document.data(), findings, look, strict=True)
    if job.task.result_paths and not job.task.publisher.type:
        findings.warn(_NO_PUBLISHER)
    return Reading(job, findings.warnings, _own(job, document, file))


def read_body(data: Any, *, defaults: Defaults = NO_DEFAULTS, look: Look = unseen) -> Reading:
    """Read the decoded ``Job`` of an API body, and fill in a requester's defaults. Raises `SpecFaults` with JSON paths."""
    findings = Findings()
    job = apply_defaults(_read(data, findings, look, strict=False), defaults)
    if job.task.result_paths and not job.task.publisher.type:
        findings.fault(("Tasks", 0, "Publisher"), "Tasks[0].Publisher is missing, and ResultPaths need one")
        findings.check()
    return Reading(job, findings.warnings)


def _read(data: Any, findings: Findings, look: Look, *, strict: bool) -> Job:
    wrong = unfit(data)
    if wrong:
        path, message = wrong
        findings.fault(path, f"{path_text(path)}: {message}" if path else message)
        findings.check()
    rules = Rules(findings, strict, REWRITES, look)
    if is_exact(data, _Submitted):
        # It has nothing but what belongs to a job: no older form, no field of the server's.
        submitted = msgspec.convert(data, _Submitted)
    else:
        _check_kind(data, findings)
        submitted = read_struct(_without_server_fields(data, findings, strict=strict), _Submitted, (), rules)
    if not submitted.tasks:
        findings.fault(("Tasks",), "Tasks is missing: a job has one task")
    if len(submitted.tasks) > 1:
        findings.warn(f"a job has one task: {len(submitted.tasks) - 1} more were dropped")
    written = {name: getattr(submitted, name) for name in Job.__struct_fields__}
    job = read_job(Job(**{**written, "tasks": submitted.tasks[:1]}), rules)
    findings.check()
    return job


def _check_kind(data: Any, findings: Findings) -> None:
    """Raise `SpecFaults` for what is no job of today."""
    if not isinstance(data, dict):
        findings.fault((), f"a job is an object with the keys Type and Tasks, and this is {kind(data)}")
    elif before_1_4(data):
        findings.fault((), _BEFORE_1_4)
        findings.check(_BEFORE_1_4_HINT)
    elif _holds_job(data):
        findings.fault((), _ANSWER)
        findings.check(_ANSWER_HINT)
    findings.check()


def _holds_job(data: Mapping[str, Any]) -> bool:
    keys = {key.lower(): value for key, value in data.items()}
    return "tasks" not in keys and isinstance(keys.get("job"), dict)


def _own(job: Job, document: Document, file: str) -> dict[str, Place]:
    places = {}
    for index, each in enumerate(job.task.input_sources):
        if each.source.type == OWN:
            path = ("Tasks", 0, "InputSources", index, "Source", "Params", "SourcePath")
            places[each.target] = Place(path_text(path), file, *document.place(path, key=False))
    return places


def _check_repeated(document: Document, findings: Findings) -> None:
    for repeated in document.repeated:
        line, _ = repeated.first
        message = f"{path_text(repeated.path)} is given twice, first in line {line}"
        findings.fault(repeated.path, message, at=repeated.mark)


def _without_server_fields(data: Mapping[str, Any], findings: Findings, *, strict: bool) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in data.items():
        name = _SERVER_FIELDS.get(key.lower())
        if name is None:
            kept[key] = value
        elif strict:
            findings.fault((key,), f"{quoted(key)} is set by the server and cannot be given", key=True)
        elif _says_something(value):
            findings.warn(f"{name} was dropped: it is set by the server")
    return kept


def _says_something(value: Any) -> bool:
    """Go's clients send all fields; those that are empty are no one's wish."""
    if isinstance(value, dict):
        return any(_says_something(each) for each in value.values())
    return value not in (None, "", 0, [], "Undefined")
