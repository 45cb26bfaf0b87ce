"""What `submit`, `docker run` and `wasm run` have in common: submit a job, wait for it, tell how it went.

Knows: the flags of waiting and the order of things. Must not know: how the job was written.
"""

import base64
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from protocol.errors import Fault
from protocol.jobs import Job
from protocol.spec import Reading
from requester.cli.exits import Exit, code_of_job, complain, tell
from requester.cli.progress import Screen, Stages
from requester.client import Client

Json = dict[str, Any]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Flags of commands that submit a job."""

    wait: Annotated[bool, Parameter(help="Wait until the job is closed.")] = True
    wait_timeout_secs: Annotated[
        float, Parameter(help="Wait at most so long; the job goes on. 0: no limit.")
    ] = 0
    id_only: Annotated[bool, Parameter(help="Print the job's id and nothing else.")] = False
    follow: Annotated[
        bool, Parameter(alias="-f", help="Print what the program writes, and end with its code.")
    ] = False
    dry_run: Annotated[bool, Parameter(help="Print the job as it would be submitted.")] = False
    force: Annotated[bool, Parameter(help="Submit even if the job of that name has the same spec.")] = False
    quiet: Annotated[bool, Parameter(help="No progress.")] = False
    exit_zero: Annotated[bool, Parameter(help="End with 0 whatever became of the job, as Bacalhau does.")] = (
        False
    )
    node_details: Annotated[bool, Parameter(show=False)] = False
    group_events: Annotated[bool, Parameter(show=False)] = False
    hide_warnings: Annotated[bool, Parameter(help="No warnings about the spec.")] = False


def submit_and_wait(client: Client, reading: Reading, how: Waiting) -> int:
    """Submit a job and do what the flags ask. Returns the exit code. Raises the faults of submission."""
    if how.dry_run:
        print(as_yaml(reading.job), end="")
        return Exit.OK
    submission = client.submit(msgspec.to_builtins(reading.job), force=how.force)
    job = submission["JobID"]
    if not how.hide_warnings and not how.id_only:
        for warning in dict.fromkeys([*reading.warnings, *(submission["Warnings"] or [])]):
            tell(f"Warning: {warning}")
    if how.id_only:
        print(job, flush=True)
    elif not how.follow:
        print(f"Job successfully submitted. Job ID: {job}", flush=True)
    if not how.wait and not how.follow:
        return Exit.OK
    until = time.monotonic() + how.wait_timeout_secs if how.wait_timeout_secs > 0 else None
    code = _wait(client, job, how, until, Screen(quiet=how.quiet or how.id_only or how.follow))
    if not how.id_only and not how.quiet:
        _next_commands(job, published=bool(reading.job.task.publisher.type))
    return Exit.OK if how.exit_zero else code


def as_yaml(job: Job) -> str:
    """A job in canonical form as a person would write it: what is empty is left out."""
    import yaml

    return str(yaml.safe_dump(_without_empty(msgspec.to_builtins(job)), sort_keys=False, allow_unicode=True))


def _wait(client: Client, job: str, how: Waiting, until: float | None, screen: Screen) -> int:
    if not screen.quiet:
        tell("Checking job status... (Enter Ctrl+C to exit at any time, your job will continue running):\n")
    try:
        if how.follow:
            _print_output(client, job, until)
        closed = _watch(client, job, until, screen)
    except Fault as fault:
        screen.clear()
        if fault.failure().code != "TimedOut.Wait":
            raise
        complain(
            f"job {job} is not closed after {how.wait_timeout_secs:g} s",
            f"it goes on: shoal job describe {job}",
        )
        return Exit.WAIT_TIMED_OUT
    except KeyboardInterrupt:
        screen.clear()
        tell(f"\nStopped waiting; the job goes on. To end it: shoal job stop {job}")
        return Exit.INTERRUPTED
    return _verdict(closed, follow=how.follow)


def _watch(client: Client, job: str, until: float | None, screen: Screen) -> Json:
    """Tell what happens until the job is closed; its last view."""
    stages, view = Stages(), {}
    for update in client.watch(job, until=until):
        if "Progress" in update:
            screen.bytes(update["Progress"])
            continue
        view = update
        for line in stages.lines(update):
            screen.line(*line)
    screen.clear()
    return view


def _verdict(view: Json, *, follow: bool) -> int:
    """Tell what went wrong, and the exit code: the program's own where one execution was followed."""
    job, executions = view["Job"], view.get("Executions", [])
    code = code_of_job(job)
    if code is not Exit.OK:
        failure = job.get("Failure") or {}
        complain(
            job["State"]["Message"] or f"job {job['State']['StateType'].lower()}", failure.get("Hint", "")
        )
    if follow and len(executions) == 1 and (output := executions[0].get("RunOutput")):
        program_code: int = output["ExitCode"]
        return program_code if program_code or code is Exit.OK else code
    return code


def _print_output(client: Client, job: str, until: float | None) -> None:
    """The program's own output, to where it wrote it."""
    for piece in client.output(job, follow=True, until=until):
        if "Failure" in piece:
            complain(piece["Failure"]["Message"], piece["Failure"]["Hint"])
        elif "Data" in piece:
            target = sys.stderr if piece["Stream"] == 2 else sys.stdout
            target.buffer.write(base64.b64decode(piece["Data"]))
            target.buffer.flush()


def _next_commands(job: str, *, published: bool) -> None:
    tell("\nTo get more details about the run, execute:")
    tell(f"\tshoal job describe {job}")
    tell("\nTo get more details about the run executions, execute:")
    tell(f"\tshoal job executions {job}")
    if published:
        tell("\nTo download the results, execute:")
        tell(f"\tshoal job get {job}")


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: kept
            for key, each in value.items()
            if (kept := _without_empty(each)) not in ({}, [], "", None)
        }
    if isinstance(value, list):
        return [_without_empty(each) for each in value]
    return value
