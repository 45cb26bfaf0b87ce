"""What people ask of a job: the event that it comes to, or why it cannot be.

Knows: a job's record, and what may be asked of it in which state. Must not know: where the record is from, or who asks.
"""

from protocol.entries import Deleted, Submitted
from protocol.errors import NEVER_RAN, Conflict, Exhausted, Failure, NotFound
from protocol.ids import short
from protocol.jobs import Job
from protocol.states import ExecutionState, JobState
from requester.core.ends import used_up
from requester.core.meant import output_meant
from requester.core.model import ExecutionRecord, JobRecord


def submitted(
    record: JobRecord | None, job: Job, warnings: list[str], client: str, force: bool, entries_max: int
) -> Submitted:
    """A job's first version, or its next. Raises `Conflict` when nothing would change, or for a collision of hashes, and
    `Exhausted` if the log takes little more of this job (`entries_max` as in `used_up`).
    """
    if record is None:
        return Submitted(job, 1, warnings, client)
    if (record.spec.namespace, record.spec.name) != (job.namespace, job.name):
        raise Conflict(
            f"the name {job.name!r} has the same hash as {record.spec.name!r} in {record.spec.namespace}",
            kind="NameCollision",
            hint="Choose another name.",
        )
    if record.spec == job and not force:
        raise Conflict(
            f"no changes detected for new job spec. Job name: '{job.name}'",
            kind="NoChanges",
            hint="Use --force to run it all the same; clients before 1.8 have no such flag: change Name, or leave it out.",
            details={"JobID": record.id, "Version": str(record.version)},
        )
    _must_have_room(record, entries_max)
    return Submitted(job, record.version + 1, warnings, client)


def deleted(record: JobRecord, reason: str, client: str) -> Deleted:
    """Raises `Conflict` for a job that has not ended."""
    if not record.closed:
        raise Conflict(
            f"cannot delete job in state {record.state.capitalize()}",
            kind="JobState",
            hint="Stop it first: job stop",
            details={"JobID": record.id, "State": record.state},
        )
    return Deleted(reason, client)


def rerun(
    record: JobRecord,
    wanted: JobRecord | None,
    reason: str,
    client: str,
    *,
    anew: bool,
    entries_max: int = 0,
) -> Submitted:
    """A version that repeats an earlier one. Raises `Conflict` for one that has not begun to run: it needs no other go; and
    `Exhausted` as `submitted` does, unless it begins `anew` because it has left the log.
    """
    if record.state in (JobState.PENDING, JobState.QUEUED) and not record.current():
        raise Conflict(
            f"cannot rerun job in state {record.state.capitalize()}",
            kind="JobState",
            hint="It has not begun to run; a changed spec is submitted under the same name.",
            details={"JobID": record.id, "State": record.state},
        )
    if not anew:
        _must_have_room(record, entries_max)
    again = wanted or record
    return Submitted(again.spec, record.version + 1, again.warnings, client, again.version, reason, anew)


def _must_have_room(record: JobRecord, entries_max: int) -> None:
    spent = used_up(record, entries_max)
    if spent is not None:
        raise Exhausted(spent.message, hint=spent.hint, kind="Entries")


def output_execution(record: JobRecord) -> ExecutionRecord | None:
    """The execution of the present version whose output is meant if nobody says which, if there is one."""
    return output_meant(
        record.current(), is_open=lambda each: each.open, wrote=lambda each: each.output is not None
    )


def nothing_to_read(record: JobRecord) -> NotFound:
    """Why there is no output of a job that has no execution."""
    if record.closed:
        message = record.message.partition("\n")[0]
        never = f"job {record.id} never ran, it is {record.state.capitalize()}"
        return NotFound(f"{never}: {message}" if message else never, kind="Execution")
    message = record.queued.message.partition("\n")[0] if record.queued is not None else ""
    yet = f"job {record.id} has no execution yet"
    return NotFound(
        f"{yet}: {message}" if message else yet, kind="Execution", hint="Wait for it: logs --follow"
    )


def never_ran(execution: ExecutionRecord) -> Failure | None:
    """Why an execution that has ended wrote nothing, if its program never began; else None. Of one that was lost nobody
    knows how far it came."""
    if execution.state is ExecutionState.LOST:
        return None
    ran = any(stage.state is ExecutionState.RUNNING for stage in execution.stages)
    if execution.open or ran or execution.output is not None:
        return None
    why, hint = (execution.failure.message, execution.failure.hint) if execution.failure else ("", "")
    ended = f"execution {short(execution.id)} ended before its program began, it is {execution.state}"
    return Failure(NEVER_RAN, f"{ended}: {why}" if why else ended, hint=hint)


def execution_named(record: JobRecord, ref: str) -> ExecutionRecord:
    """One of a job's executions by id or unique prefix. Raises `NotFound` or `Conflict`."""
    found = [each for id_, each in record.executions.items() if id_.startswith(ref)]
    if not found:
        raise NotFound(
            f"job {record.id} has no execution {ref}", kind="Execution", hint="List them with: job executions"
        )
    if len(found) > 1:
        raise Conflict(
            f"{ref} could be any of {len(found)} executions",
            kind="MultipleExecutionsFound",
            hint="Use more of the id.",
            details={each.id: each.state for each in found},
        )
    return found[0]


def missed(what: str) -> NotFound:
    """That a job, of which this requester knows no end, is not in the log any more."""
    return NotFound(
        f"{what} ended and left the log while this requester was away",
        kind="Job",
        hint="Ask another requester.",
    )
