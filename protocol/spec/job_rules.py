"""What a job must be, beyond the types of its fields, and its canonical form.

Knows: the rules of reference section 1.2 and 1.6. Must not know: how a spec was written.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from protocol.jobs import EVERYWHERE, NAMESPACE_DEFAULT, Constraint, Job
from protocol.spec import bounds
from protocol.spec.blobs import inline_url
from protocol.spec.bounds import Path
from protocol.spec.faults import Findings, path_text, quoted
from protocol.spec.policy_rules import read_disconnect, read_placement, read_retry, read_update
from protocol.spec.selectors import OPERATORS, fault_in
from protocol.spec.shape import Rules
from protocol.spec.task_rules import check_list, check_name, check_texts, read_task
from protocol.spelling import near

TYPES: Final = ("batch", "ops", "service", "daemon")
SYSTEM_META: Final = "bacalhau.org/"
"""The beginning of meta keys that the server itself sets."""
PRIORITY_MAX: Final = 2**31 - 1


def read_job(job: Job, rules: Rules) -> Job:
    """A job in canonical form."""
    findings = rules.findings
    name, namespace = job.name.strip(), job.namespace.strip() or NAMESPACE_DEFAULT
    check_name(name, ("Name",), findings)
    check_name(namespace, ("Namespace",), findings)
    check_texts(job.labels, ("Labels",), findings)
    check_texts(job.meta, ("Meta",), findings)
    if abs(job.priority) > PRIORITY_MAX:
        findings.fault(("Priority",), f"Priority is not between {-PRIORITY_MAX} and {PRIORITY_MAX}")
    _check_type(job.type, findings)
    canonical = msgspec.structs.replace(
        job,
        name=name,
        namespace=namespace,
        count=_read_count(job, findings),
        constraints=_read_constraints(job.constraints, ("Constraints",), findings),
        meta=_own_meta(job.meta, findings),
        disconnect=read_disconnect(job.disconnect, ("Disconnect",), findings),
        update=read_update(job.update, ("Update",), findings),
        placement=read_placement(job.placement, ("Placement",), findings),
        retry=read_retry(job.retry, ("Retry",), findings),
        tasks=[read_task(task, ("Tasks", index), rules) for index, task in enumerate(job.tasks)],
    )
    _check_size(canonical, findings)
    return canonical


def _check_type(type: str, findings: Findings) -> None:
    if not type:
        findings.fault(("Type",), f"Type is missing: it is one of {', '.join(TYPES)}")
    elif type not in TYPES:
        findings.fault(
            ("Type",), f"Type {quoted(type)} is not one of {', '.join(TYPES)}", near=near(type, TYPES)
        )


def _read_count(job: Job, findings: Findings) -> int:
    """Partitions; none for a job that runs everywhere."""
    if job.count < 0:
        findings.fault(("Count",), f"Count must be 0 or more, and is {job.count}")
    elif job.type in EVERYWHERE:
        if job.count > 1:
            findings.fault(
                ("Count",),
                f"Count cannot be more than 1 for {job.type} jobs: they run on every node that fits",
            )
        return 0
    elif job.count > bounds.COUNT_MAX:
        findings.fault(("Count",), f"Count must be at most {bounds.COUNT_MAX:,}, and is {job.count}")
    return job.count


def _read_constraints(constraints: list[Constraint], path: Path, findings: Findings) -> list[Constraint]:
    if not check_list(constraints, bounds.CONSTRAINTS_MAX, path, findings):
        return constraints
    read = []
    for index, each in enumerate(constraints):
        here = (*path, index)
        constraint = msgspec.structs.replace(
            each, key=each.key.strip(), operator=each.operator.strip().lower()
        )
        read.append(constraint)
        if not check_list(each.values, bounds.TEXTS_MAX, (*here, "Values"), findings):
            continue
        if constraint.operator not in OPERATORS:
            message = f"{path_text((*here, 'Operator'))} {quoted(each.operator)} is not one of {' '.join(OPERATORS)}"
            findings.fault((*here, "Operator"), message, near=near(each.operator, OPERATORS))
        elif wrong := fault_in(constraint):
            findings.fault(here, f"{path_text(here)}: {wrong}")
    return read


def _own_meta(meta: Mapping[str, str], findings: Findings) -> dict[str, str]:
    for key in meta:
        if key.startswith(SYSTEM_META):
            findings.warn(
                f"Meta {quoted(key)} was dropped: keys that begin with {SYSTEM_META} are the server's own"
            )
    return {key: value for key, value in meta.items() if not key.startswith(SYSTEM_META)}


def _check_size(job: Job, findings: Findings) -> None:
    """A job without its inline data must fit an entry of the log."""
    inline = sum(len(inline_url(each.source)) for task in job.tasks for each in task.input_sources)
    size_bytes = len(msgspec.json.encode(job)) - inline
    if size_bytes > bounds.JOB_MAX_BYTES:
        findings.fault(
            (), f"the job is larger than {bounds.JOB_MAX_BYTES // 1024} KiB (inline data not counted)"
        )
