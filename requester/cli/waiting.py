"""What `submit`, `rerun`, `docker run` and `wasm run` have in common: wait for a job, tell how it went.

Knows: the flags of waiting and the order of things. Must not know: how the job was written.
"""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from protocol.errors import PROGRAM_FAILED, Fault, Unavailable
from protocol.jobs import LONG_RUNNING, Job
from protocol.spec import Reading
from requester.cli.exits import (
    CLOSED,
    Exit,
    code_of_followed,
    code_of_job,
    complain,
    failure_code,
    tell,
)
from requester.cli.following import print_output, several
from requester.cli.output import clean_text
from requester.cli.progress import Screen, Stages
from requester.cli.views import is_open
from requester.client import Client

Json = dict[str, Any]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Flags of commands that have a job run."""

    wait: Annotated[
        bool,
        Parameter(
            negative="--no-wait", help="Wait until the job is closed (service, daemon: runs); on by default."
        ),
    ] = True
    wait_timeout_secs: Annotated[
        float, Parameter(help="How many seconds to wait; the job goes on. 0: no limit.")
    ] = 0
    id_only: Annotated[bool, Parameter(help="Print the job's id and nothing else.")] = False
    follow: Annotated[
        bool, Parameter(alias="-f", help="Print what the program writes, and end with its code.")
    ] = False
    dry_run: Annotated[
        bool, Parameter(help="Print the job as it would be submitted; what it would change: shoal diff.")
    ] = False
    quiet: Annotated[bool, Parameter(help="No progress.")] = False
    exit_zero: Annotated[bool, Parameter(help="End with 0 whatever became of the job, as Bacalhau does.")] = (
        False
    )
    node_details: Annotated[bool, Parameter(show=False)] = False
    group_events: Annotated[bool, Parameter(show=False)] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Submitting(Waiting):
    """Flags of commands that submit a spec, as well."""

    force: Annotated[bool, Parameter(help="Submit even if the job of that name has the same spec.")] = False
    hide_warnings: Annotated[bool, Parameter(help="No warnings about the spec.")] = False


def submit_and_wait(client: Client, reading: Reading, how: Submitting) -> int:
    """Submit a job and do what the flags ask. Returns the exit code. Raises the faults of submission."""
    if not how.hide_warnings and not how.id_only:
        _warn(reading.warnings)
    if how.dry_run:
        print(as_yaml(reading.job), end="")
        return Exit.OK
    submission = client.submit(msgspec.to_builtins(reading.job), force=how.force)
    job: str = submission["JobID"]
    if not how.hide_warnings and not how.id_only:
        _warn(each for each in submission["Warnings"] or [] if each not in reading.warnings)
    return wait_for(client, job, how, published=bool(reading.job.task.publisher.type))


def wait_for(client: Client, job: str, how: Waiting, *, published: bool) -> int:
    """Tell the id of a job that was taken, and wait for it as the flags ask. Returns the exit code.

    `published` says that it has a publisher, so that there may be results one day.
    """
    if how.id_only:
        print(job, flush=True)
    else:
        text = f"Job successfully submitted. Job ID: {job}"
        # Who follows wants the program's own words alone on standard output.
        print(text, file=sys.stderr if how.follow else sys.stdout, flush=True)
    if not how.wait and not how.follow:
        return Exit.OK
    quiet = how.quiet or how.id_only or how.follow
    code, view = _wait(client, job, how, Screen(quiet=quiet))
    if not quiet:
        closed = bool(view) and view["Job"]["State"]["StateType"] in CLOSED
        _next_commands(job, results=_has_results(view) if closed else published)
    return Exit.OK if how.exit_zero and code != Exit.INTERRUPTED else code


def as_yaml(job: Job) -> str:
    """A job in canonical form as a person would write it: what only repeats a default is left out."""
    import yaml

    return str(yaml.safe_dump(_written(job), sort_keys=False, allow_unicode=True))


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        tell(f"Warning: {clean_text(warning)}")


def _wait(client: Client, job: str, how: Waiting, screen: Screen) -> tuple[int, Json]:
    """The exit code, and the job's last view: empty if waiting ended before that."""
    until = time.monotonic() + how.wait_timeout_secs if how.wait_timeout_secs > 0 else None
    if not screen.quiet:
        tell("Checking job status... (Enter Ctrl+C to exit at any time, your job will continue running):\n")
    try:
        if how.follow:
            print_output(client, job, until)
        view = _watch(client, job, until, screen)
    except Fault as fault:
        screen.clear()
        if fault.failure().code == "TimedOut.Wait":
            complain(
                f"job {job} is not closed after {how.wait_timeout_secs:g} s",
                f"it goes on: shoal job describe {job}",
            )
            return Exit.WAIT_TIMED_OUT, {}
        if isinstance(fault, Unavailable):
            complain(fault.message, f"the job goes on; once a requester is back: shoal job describe {job}")
            return Exit.ERROR, {}
        raise
    except KeyboardInterrupt:
        screen.clear()
        tell(f"\nStopped waiting; the job goes on. To end it: shoal job stop {job}")
        return Exit.INTERRUPTED, {}
    return _verdict(view, follow=how.follow), view


def _watch(client: Client, job: str, until: float | None, screen: Screen) -> Json:
    """Tell what happens until there is nothing more to wait for; the job's last view."""
    stages, view = Stages(), {}
    for update in client.watch(job, until=until):
        if "Progress" in update:
            screen.bytes(update["Progress"])
            continue
        view = update
        for line in stages.lines(update):
            screen.line(*line)
        if _runs(update):
            break
    screen.clear()
    return view


def _runs(view: Json) -> bool:
    """Whether a job that is not meant to end runs: all it wants of its present version, and nothing of an earlier one."""
    job, executions = view["Job"], view.get("Executions", [])
    if job["Type"] not in LONG_RUNNING or view.get("Older"):
        return False
    running = {each["PartitionIndex"] for each in executions if each["State"] == "running"}
    if job["Type"] == "service":
        return len(running) >= int(job["Count"])
    # How many a daemon wants is how many nodes fit: each has one from the moment that it does.
    return bool(running) and all(each["State"] == "running" or not is_open(each) for each in executions)


def _has_results(view: Json) -> bool:
    """Whether there is something to get. What a failed program wrote is published as well."""
    return any(
        each["PublishedResult"].get("Type") and each["JobVersion"] == view["Job"]["Version"]
        for each in view.get("Executions", [])
    )


def _verdict(view: Json, *, follow: bool) -> int:
    """Tell what went wrong, and the exit code."""
    if not view:
        raise Unavailable("the requester did not say what became of the job")
    job = view["Job"]
    if _runs(view):
        return Exit.OK
    code = code_of_followed(job, view.get("Executions", [])) if follow else code_of_job(job)
    if code == Exit.OK or (follow and not several(job) and failure_code(job).startswith(PROGRAM_FAILED)):
        # A followed program has told its own failure.
        return code
    hint = (job.get("Failure") or {}).get("Hint", "")
    complain(job["State"]["Message"] or f"job {job['State']['StateType'].lower()}", hint)
    return code


def _next_commands(job: str, *, results: bool) -> None:
    tell("\nTo get more details about the run, execute:")
    tell(f"\tshoal job describe {job}")
    tell("\nTo get more details about the run executions, execute:")
    tell(f"\tshoal job executions {job}")
    if results:
        tell("\nTo download the results, execute:")
        tell(f"\tshoal job get {job}")


def _written(value: Any) -> Any:
    """A Struct's fields that differ from their defaults (a type and a count always), as plain objects."""
    if isinstance(value, list):
        return [_written(each) for each in value]
    if not isinstance(value, msgspec.Struct):
        return value
    found = {}
    for field in msgspec.structs.fields(value):
        own = getattr(value, field.name)
        if own is msgspec.UNSET:
            continue
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        if own != default or field.name in ("type", "count", "name"):
            found[field.encode_name] = _written(own)
    return {name: own for name, own in found.items() if own != ""}
