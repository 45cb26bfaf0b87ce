"""What a program writes, from its first attempt to its last: what ``--follow`` prints.

Knows: that an attempt whose node is gone is followed by another, which of a job's executions are attempts at the same, and
that a job of several programs has all of them printed. Must not know: what becomes of the job; its end is told by
`requester.cli.waiting`.
"""

import base64
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

from protocol.errors import NEVER_RAN, Fault, Unavailable
from protocol.ids import short
from protocol.jobs import EVERYWHERE
from requester.cli.exits import complain, tell
from requester.cli.lines import Lines
from requester.cli.output import clean, put
from requester.cli.views import output_execution
from requester.client import RECONNECTS, Client, rest
from requester.core.meant import place_of

Json = dict[str, Any]

OUT_OF_REACH: Final = ("Unavailable", "TimedOut")
"""Failures of output whose node is gone: what the program wrote there counts no more if it is tried again."""


def print_output(client: Client, job: str, until: float | None) -> None:
    """The program's own output, to where it wrote it, attempt after attempt until the job is closed. Of a job that has
    several programs all is printed as it comes, each line with its execution before it.

    What cannot be had is told, unless another attempt took its place. Raises `TimedOut` at `until` (monotonic seconds) and
    the faults of `Client.watch`.
    """
    views = client.watch(job, until=until)
    begin = next((view for view in views if "Job" in view), None)
    if begin is None:
        return
    attempts = _attempts(client, job, until, chain((begin,), views))
    # A connection is held by whoever holds its views.
    del views
    if several(begin["Job"]):
        del attempts
        _print_all(client, job, until)
        return
    missing: Json | None = None
    first = True
    for execution, before in attempts:
        if execution["Attempt"] > 1 or not first:
            tell_of_attempt(execution, before)
        first = False
        failure = _print(client, job, execution["ID"], until)
        missing = None
        if failure is not None and failure["Code"].startswith(OUT_OF_REACH):
            missing = failure
        elif failure is not None and failure["Code"] != NEVER_RAN:
            # Why its program never began is told as the job's own end.
            complain(failure["Message"], failure["Hint"])
    if missing is not None:
        complain(missing["Message"], missing["Hint"])


def several(job: Json) -> bool:
    """Whether a job's program runs more than once, in parts or on many nodes."""
    return job["Type"] in EVERYWHERE or int(job["Count"]) > 1


def _print_all(client: Client, job: str, until: float | None) -> None:
    """All that the executions of a job write. A connection that breaks is made anew."""
    lines = Lines()
    told: set[str] = set()
    try:
        for piece in _pieces(client, job, until, every=True):
            failure, id_ = piece.get("Failure"), piece.get("ExecutionID", "")
            if failure is None:
                lines.add(id_, piece["Stream"], piece["Data"], "", whole=False)
            elif failure["Code"] != NEVER_RAN and id_ not in told:
                told.add(id_)
                complain(failure["Message"], failure["Hint"])
    finally:
        lines.end()


def tell_of_attempt(attempt: Json, before: str) -> None:
    """That a program is tried again, where, and why what was `before` has ended, as far as that is known."""
    if before:
        first, *_ = before.splitlines()
        tell(f"It has ended: {clean(first)}")
    number, node = attempt["Attempt"], short(attempt["NodeID"])
    # The first attempt of a version comes in the place of an execution of the version before.
    what = f"tried again: attempt {number}" if number > 1 else f"replaced by version {attempt['JobVersion']}"
    tell(f"The program is {what}, on {node}. What follows is what it prints there.")


def _attempts(
    client: Client, job: str, until: float | None, views: Iterator[Json]
) -> Iterator[tuple[Json, str]]:
    """The newest execution, once there is one, and then each that takes its place, with why the one before it failed; the
    job is closed behind the last. `views` is how the job is seen until there is the first.
    """
    passed: set[str] = set()
    last = ""
    place: object = None
    while True:
        for view in views:
            found = [
                each
                for each in view.get("Executions", [])
                if each["ID"] not in passed and place in (None, _place(view["Job"], each))
            ]
            execution = output_execution(found)
            if execution is not None:
                break
        else:
            return
        place = _place(view["Job"], execution)
        passed |= {each["ID"] for each in found if _place(view["Job"], each) == place}
        failures = [each.get("Failure") for each in view["Executions"] if each["ID"] == last]
        views = iter(())
        yield execution, next((failure["Message"] for failure in failures if failure), "")
        last = execution["ID"]
        views = client.watch(job, until=until)


def _place(job: Json, execution: Json) -> object:
    """What executions have in common that are attempts at the same: their partition, or their node."""
    return place_of(job["Type"], execution["NodeID"], execution["PartitionIndex"])


def _print(client: Client, job: str, execution: str, until: float | None) -> Json | None:
    """All that one execution writes; the failure that ended it too early."""
    for piece in _pieces(client, job, until, execution=execution):
        if "Failure" in piece:
            return dict(piece["Failure"])
        put(piece["Stream"], piece["Data"])
    return None


def _pieces(
    client: Client, job: str, until: float | None, *, execution: str = "", every: bool = False
) -> Iterator[Json]:
    """What one execution writes, or `every` one, with ``Data`` as bytes, and failures. A connection that breaks is made
    anew, and what had come before is left out.
    """
    come: Counter[tuple[str, int]] = Counter()
    broken = 0
    while True:
        passed: Counter[tuple[str, int]] = Counter()
        try:
            for piece in client.output(
                job, follow=True, until=until, execution_id=execution, all="true" if every else ""
            ):
                if "Failure" in piece:
                    yield piece
                    if not every:
                        return
                if "Data" not in piece:
                    continue
                place, data = (piece["ExecutionID"], piece["Stream"]), base64.b64decode(piece["Data"])
                fresh = data[max(come[place] - passed[place], 0) :]
                passed[place] += len(data)
                come[place] = max(come[place], passed[place])
                broken = 0
                if fresh:
                    yield {**piece, "Data": fresh}
            return
        except Unavailable:
            broken += 1
            if broken > RECONNECTS:
                raise
        except Fault as fault:
            if fault.failure().code == "TimedOut.Wait":
                raise
            # A job that was deleted has no output; who watches it is told.
            if not fault.failure().code.startswith("NotFound"):
                complain(f"the output broke off: {fault.message}")
            return
        rest(broken, until)
