"""What a requester fills in where a job says nothing (``JobDefaults`` of its configuration).

Knows: which defaults each type of job takes. Must not know: where they are configured. Resources are not filled in here: the
job keeps what was asked, and `protocol.spec.quantities.amounts` takes the rest from its default.
"""

from typing import Final

import msgspec
from msgspec import Struct, field

from protocol.jobs import Job, Resources, Spec, Task, Timeouts


class TypeDefaults(Struct, frozen=True, rename="pascal"):
    """The defaults of one type of job. Publisher and timeouts count for batch and ops jobs only, which end by themselves."""

    priority: int = 0
    publisher: Spec = field(default_factory=Spec)
    timeouts: Timeouts = field(default_factory=Timeouts)
    resources: Resources = field(default_factory=Resources)


class Defaults(Struct, frozen=True, rename="pascal"):
    """The defaults of every type."""

    batch: TypeDefaults = field(default_factory=TypeDefaults)
    ops: TypeDefaults = field(default_factory=TypeDefaults)
    service: TypeDefaults = field(default_factory=TypeDefaults)
    daemon: TypeDefaults = field(default_factory=TypeDefaults)


NO_DEFAULTS: Final = Defaults()
_NOTHING: Final = TypeDefaults()
ENDING: Final = ("batch", "ops")


def apply_defaults(job: Job, defaults: Defaults) -> Job:
    """A canonical job with the defaults of its type in the places that say nothing."""
    mine: TypeDefaults = getattr(defaults, job.type)
    if mine == _NOTHING:
        return job
    task = msgspec.structs.replace(job.task, resources=_resources(job.task.resources, mine.resources))
    if job.type in ENDING:
        task = _apply_to_task(task, mine)
    return msgspec.structs.replace(job, priority=job.priority or mine.priority, tasks=[task])


def _apply_to_task(task: Task, mine: TypeDefaults) -> Task:
    publisher = task.publisher if task.publisher.type else mine.publisher
    return msgspec.structs.replace(
        task, publisher=publisher, timeouts=_timeouts(task.timeouts, mine.timeouts)
    )


def _resources(own: Resources, default: Resources) -> Resources:
    return Resources(
        own.cpu or default.cpu,
        own.memory or default.memory,
        own.disk or default.disk,
        own.gpu or default.gpu,
        own.gpu_name,
        own.gpu_memory,
    )


def _timeouts(own: Timeouts, default: Timeouts) -> Timeouts:
    """A default total never forbids what the job itself asks for."""
    execution = own.execution_timeout or default.execution_timeout
    total = own.total_timeout or default.total_timeout
    if not own.total_timeout and total:
        total = max(total, execution + own.queue_timeout)
    elif own.total_timeout and not own.execution_timeout:
        execution = max(min(execution, total - own.queue_timeout), 0)
    return Timeouts(execution, own.queue_timeout, total)
