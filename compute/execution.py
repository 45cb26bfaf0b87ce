"""The life of one execution on its node: what has happened so far, and what is to be done next.

Knows: which effect follows which event (`compute.events`) between an order and its end. Must not know: clocks, files,
engines, buses; `compute.runner` performs the effects and tells of what came of them.

In: an `Execution`, an `Event`, the time. Out: the next `Execution` and a list of `Effect`. An event that does not belong to
the present phase (it was on its way when another one ended the execution) changes nothing.

A *phase* is what this process does and may begin again after a restart; a *state* is what others are told, and only moves
along `protocol.states.ARROWS`.
"""

from typing import Final

import msgspec
from msgspec import Struct, field

from compute.events import (
    Abandoned,
    Admitted,
    CancelOrdered,
    Cleaned,
    CleanUpDelayed,
    DeadlinePassed,
    Effect,
    Event,
    Failed,
    Phase,
    PortTaken,
    ProgramEnded,
    Published,
    Recovered,
    ReportDropped,
    ReportStored,
    Restarted,
    Staged,
    Started,
)
from protocol.errors import OVER_TIME, PROGRAM_FAILED, Failure
from protocol.ids import ExecutionId, NodeId
from protocol.jobs import Spec, Task
from protocol.messages import InputRead, Report, Run, RunOutput, Stage, Written
from protocol.spec.drivers import IN_PLACE
from protocol.states import ENDS, ExecutionState, may_follow

STARTS_MAX: Final = 2
"""How often one execution's program is started at most: again only if this process died and the program with it."""

S = ExecutionState
E = Effect


class Execution(Struct, frozen=True, omit_defaults=True):
    """One execution as its node has it, whole: the journal keeps this and nothing else.

    `starts` counts the times its program may have been started. `cleaned`: nothing of it is left on this machine;
    `settled`: its end was answered. When both hold it is forgotten. `holding`: it has ended, but its program may still be
    there; until that is gone its room is taken, and its end untold unless its clean-up is delayed. `abandoned`: only its
    process wanted its end, so a later one takes the same order again. `read_by` is the version of the process that refused
    it: a later one may be the first to tell.
    """

    run: Run
    phase: Phase = Phase.WAITING
    state: ExecutionState = S.ASSIGNED
    stages: list[Stage] = field(default_factory=list)
    starts: int = 0
    failure: Failure | None = None
    output: RunOutput | None = None
    result: Spec | None = None
    inputs: list[InputRead] = field(default_factory=list)
    written: Written | None = None
    ports: dict[str, int] = field(default_factory=dict)
    gpus: list[int] = field(default_factory=list)
    cleaned: bool = False
    settled: bool = False
    holding: bool = False
    abandoned: bool = False
    read_by: str = ""

    @property
    def id(self) -> ExecutionId:
        """The execution's id."""
        return self.run.execution

    @property
    def ended(self) -> bool:
        """Whether it has its final state."""
        return self.state in ENDS

    @property
    def shared(self) -> dict[int, InputRead]:
        """Those of its inputs, by index, that its program reads where others read them too, not a copy of its own."""
        return {index: read for index, read in enumerate(self.inputs) if not is_copied(self.run.task, index)}

    @property
    def publishes(self) -> bool:
        """Whether its task names a publisher that stores anything."""
        return self.run.task.publisher.type.lower() not in ("", "noop")

    def reached_at(self, state: ExecutionState) -> float | None:
        """When it reached a state, in unix seconds, if it did."""
        return next((stage.at for stage in self.stages if stage.state is state), None)

    def report(self, node: NodeId, incarnation: int) -> Report:
        """What a requester is told of it."""
        run = self.run
        return Report(
            node=node,
            incarnation=incarnation,
            seq=run.seq,
            job=run.job,
            version=run.version,
            execution=run.execution,
            state=self.state,
            stages=self.stages,
            failure=self.failure if self.ended else None,
            output=self.output,
            result=self.result,
            inputs=self.inputs,
            ports=self.ports,
            written=self.written,
            read_by=self.read_by,
            ordered_at=run.ordered_at,
        )


def is_copied(task: Task, index: int) -> bool:
    """Whether the program has a copy of its own of that input: it may change it, or another input or a result path lies
    below its target, for which an engine has to make the place.
    """
    wanted = task.input_sources[index]
    if wanted.source.type.lower() in IN_PLACE:
        return False
    above = wanted.target.rstrip("/") + "/"
    places = [each.target for each in task.input_sources] + [each.path for each in task.result_paths]
    return wanted.read_write is True or any(each.rstrip("/").startswith(above) for each in places)


Next = tuple[Execution, list[Effect]]


def ordered(run: Run, now: float) -> Next:
    """A new execution, from the order to run it."""
    return Execution(run, stages=[Stage(S.ASSIGNED, now)]), [E.ADMIT]


def advance(execution: Execution, event: Event, now: float) -> Next:
    """What becomes of an execution when this happens at `now` (unix seconds), and what is to be done."""
    match event:
        case ReportStored():
            return _settle(execution) if execution.ended else (execution, [])
        case ReportDropped():
            return _dropped(execution, now)
        case Abandoned():
            unanswered = not execution.settled or execution.abandoned
            return _dropped(msgspec.structs.replace(execution, abandoned=unanswered), now)
        case Cleaned(output):
            return _cleaned(execution, output)
        case CleanUpDelayed():
            # As with a node that is silent: others should not wait for an engine that may never come back.
            return execution, [E.SEND_REPORT] if execution.holding and not execution.settled else []
        case Restarted():
            return _restarted(execution)
        case _ if execution.ended:
            return execution, []
        case CancelOrdered(reason):
            failure = Failure("Cancelled", reason or "cancelled by the requester")
            return _end(execution, S.CANCELLED, failure, now)
        case Failed():
            return _failed(execution, event, now)
        case DeadlinePassed(phase, limit_s, outstanding) if phase is execution.phase:
            return _end(execution, S.FAILED, _too_long(phase, limit_s, outstanding), now)
        case Admitted(gpus) if execution.phase is Phase.WAITING:
            admitted = msgspec.structs.replace(execution, gpus=gpus)
            return _enter(admitted, Phase.STAGING, S.STAGING, now), [E.STAGE]
        case Staged(inputs, ports) if execution.phase is Phase.STAGING:
            staged = msgspec.structs.replace(
                execution, inputs=inputs, ports=ports, starts=execution.starts + 1
            )
            return _enter(staged, Phase.STARTING, S.STAGING, now), [E.START]
        case PortTaken(ports) if execution.phase is Phase.STARTING:
            return msgspec.structs.replace(execution, ports=ports), [E.START]
        case Started() if execution.phase is Phase.STARTING:
            return _enter(execution, Phase.RUNNING, S.RUNNING, now), [E.FOLLOW]
        case Recovered(found) if execution.phase in (Phase.STARTING, Phase.RUNNING):
            return _recovered(execution, found, now)
        case ProgramEnded() if execution.phase is Phase.RUNNING:
            return _program_ended(execution, event, now)
        case Published(result, written) if execution.phase is Phase.PUBLISHING:
            published = msgspec.structs.replace(execution, result=result, written=written)
            return _end(published, S.FAILED if execution.failure else S.COMPLETED, execution.failure, now)
    return execution, []


def must_be_kept(before: Execution, after: Execution) -> bool:
    """Whether a change has to be written down at once. Not so what a new process finds out or does again: that there was
    room, that a program which it looks for was started, that what has ended was cleaned up or answered.
    """
    if before.ended:
        return after.holding is not before.holding or after.abandoned is not before.abandoned
    return after.phase not in (Phase.STAGING, Phase.RUNNING)


def _enter(execution: Execution, phase: Phase, state: ExecutionState, now: float) -> Execution:
    """Go to a phase, and to the state that belongs to it unless that, or a later one, is reached already."""
    stages = execution.stages
    if may_follow(execution.state, state):
        stages = [*stages, Stage(state, now)]
    else:
        state = execution.state
    return msgspec.structs.replace(execution, phase=phase, state=state, stages=stages)


def _end(execution: Execution, state: ExecutionState, failure: Failure | None, now: float) -> Next:
    """Reach a final state. While a program may be running, its room is free and its end told only once it is gone."""
    message = failure.message if failure else ""
    holding = execution.phase in (Phase.STARTING, Phase.RUNNING) and execution.output is None
    after = msgspec.structs.replace(
        execution,
        phase=Phase.ENDING,
        state=state,
        stages=[*execution.stages, Stage(state, now, message)],
        failure=failure,
        holding=holding,
    )
    if holding:
        return after, [E.INTERRUPT, E.CLEAN_UP]
    return after, [E.INTERRUPT, E.RELEASE, E.SEND_REPORT, E.CLEAN_UP]


def _failed(execution: Execution, event: Failed, now: float) -> Next:
    failure = event.failure
    if execution.phase is Phase.PUBLISHING and execution.failure is not None:
        # The program's own failure is the root; that its output could not be published either is said beside it.
        details = {**execution.failure.details, "publisher": failure.message}
        failure = msgspec.structs.replace(execution.failure, details=details)
    if event.refused and may_follow(execution.state, S.REFUSED):
        return _end(msgspec.structs.replace(execution, read_by=event.read_by), S.REFUSED, failure, now)
    return _end(execution, S.FAILED, failure, now)


def _program_ended(execution: Execution, event: ProgramEnded, now: float) -> Next:
    failure = event.failure or _exit_failure(event.output.exit_code)
    after = msgspec.structs.replace(execution, output=event.output, failure=failure)
    # What will be tried again elsewhere (the engine is gone) has no result worth keeping.
    if execution.publishes and not (failure and failure.retryable):
        return _enter(after, Phase.PUBLISHING, S.PUBLISHING, now), [E.PUBLISH]
    return _end(after, S.FAILED if failure else S.COMPLETED, failure, now)


def _exit_failure(code: int) -> Failure | None:
    if code == 0:
        return None
    return Failure(
        PROGRAM_FAILED,
        f"program exited with code {code}",
        hint="See what it wrote: the job's logs, or standard error in its result.",
        details={"exit_code": str(code)},
    )


def _too_long(phase: Phase, limit_s: float, outstanding: str) -> Failure:
    if phase is Phase.RUNNING:
        return Failure(
            OVER_TIME,
            f"the program ran longer than its {limit_s:g} s",
            hint="Raise Timeouts.ExecutionTimeout, or let the program do less.",
        )
    return Failure(
        "TimedOut.Staging",
        f"{outstanding or 'what the program needs'} was not there within {limit_s:g} s",
        hint="See that it can be had, and how fast; a node's owner can raise Compute.StagingTimeout.",
        retryable=True,
    )


def _dropped(execution: Execution, now: float) -> Next:
    if execution.ended:
        return _settle(execution)
    settled = msgspec.structs.replace(execution, settled=True)
    after, effects = _end(
        settled, S.CANCELLED, Failure("Cancelled", "the requester no longer counts it"), now
    )
    return after, [effect for effect in effects if effect is not E.SEND_REPORT]


def _settle(execution: Execution) -> Next:
    return msgspec.structs.replace(execution, settled=True), [E.FORGET] if execution.cleaned else []


def _cleaned(execution: Execution, output: RunOutput | None) -> Next:
    if not execution.ended or execution.cleaned:
        return execution, []
    after = msgspec.structs.replace(execution, cleaned=True, holding=False, output=execution.output or output)
    effects = [E.RELEASE] if execution.holding else []
    if execution.settled:
        return after, [*effects, E.FORGET]
    return after, [*effects, E.SEND_REPORT] if execution.holding else []


def _restarted(execution: Execution) -> Next:
    if execution.ended:
        if execution.cleaned and execution.settled:
            return execution, [E.FORGET]
        report = [] if execution.settled or execution.holding else [E.SEND_REPORT]
        return execution, report if execution.cleaned else [*report, E.CLEAN_UP]
    if execution.phase is Phase.PUBLISHING:
        return execution, [E.PUBLISH]
    if execution.phase in (Phase.STARTING, Phase.RUNNING):
        return execution, [E.RECOVER]
    return msgspec.structs.replace(execution, phase=Phase.WAITING), [E.ADMIT]


def _recovered(execution: Execution, found: bool, now: float) -> Next:
    if found:
        return _enter(execution, Phase.RUNNING, S.RUNNING, now), [E.FOLLOW]
    if execution.starts < STARTS_MAX:
        return msgspec.structs.replace(execution, phase=Phase.WAITING), [E.ADMIT]
    failure = Failure(
        "Unavailable.Node",
        f"the node was restarted while it ran, {execution.starts} times",
        retryable=True,
    )
    return _end(msgspec.structs.replace(execution, phase=Phase.WAITING), S.FAILED, failure, now)
