"""The laws of an execution's life, tried on arbitrary events and on shells that work, fail and die."""

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from compute.events import (
    WORK,
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
    ProgramEnded,
    Published,
    Recovered,
    ReportDropped,
    ReportStored,
    Restarted,
    Staged,
    Started,
)
from compute.execution import STARTS_MAX, Execution, advance, must_be_kept, ordered
from protocol import messages
from protocol.errors import Failure
from protocol.ids import NodeId
from protocol.jobs import ResultPath, Spec
from protocol.messages import RunOutput
from protocol.states import ARROWS, ENDS, ExecutionState
from tests.compute.twins import noop, order

S = ExecutionState
E = Effect
SPEC = Spec("ipfs", {"CID": "bafy"})
PLAIN = order(task=noop())
PUBLISHING = order(task=noop(publisher=Spec("local"), result_paths=[ResultPath("out", "/out")]))

outputs = st.builds(RunOutput, exit_code=st.sampled_from([0, 3]))
failures = st.builds(
    Failure,
    st.sampled_from(["Unavailable", "Invalid", "Exhausted.Disk"]),
    st.just("no"),
    retryable=st.booleans(),
)
from_outside: st.SearchStrategy[Event] = st.one_of(
    st.builds(CancelOrdered),
    st.just(ReportDropped()),
    st.just(Abandoned()),
    st.builds(DeadlinePassed, st.sampled_from([Phase.STAGING, Phase.RUNNING]), st.just(1.0)),
)
anything: st.SearchStrategy[Event] = st.one_of(
    from_outside,
    st.builds(Admitted),
    st.builds(Staged),
    st.builds(Started),
    st.builds(ProgramEnded, outputs, st.none() | failures),
    st.builds(Published, st.just(SPEC)),
    st.builds(Failed, failures, st.booleans()),
    st.just(ReportStored()),
    st.builds(Cleaned),
    st.just(CleanUpDelayed()),
    st.just(Restarted()),
    st.builds(Recovered, st.booleans()),
)
runs = st.sampled_from([PLAIN, PUBLISHING])


@given(runs, st.lists(anything, max_size=40))
def test_states_move_along_the_arrows_and_ends_stay(run: messages.Run, events: list[Event]) -> None:
    """Whatever happens in whatever order, a state is followed only by one that its arrows allow, an end by none."""
    execution, _ = ordered(run, 0.0)
    for now, event in enumerate(events, 1):
        after, _ = advance(execution, event, float(now))
        if after.state is not execution.state:
            assert after.state in ARROWS[execution.state]
        execution = after
    stages = [stage.state for stage in execution.stages]
    assert stages[0] is S.ASSIGNED
    assert stages[-1] is execution.state
    assert all(later in ARROWS[earlier] for earlier, later in pairwise(stages))


@given(runs, st.lists(anything, max_size=40))
def test_what_is_cancelled_is_never_published(run: messages.Run, events: list[Event]) -> None:
    """From a cancel on, nothing is published or started, and there is no result."""
    execution, _ = ordered(run, 0.0)
    for event in events:
        execution, effects = advance(execution, event, 1.0)
        if execution.state is S.CANCELLED:
            assert not {E.PUBLISH, E.START, E.STAGE} & set(effects)
            assert execution.result is None


@given(runs, st.lists(anything, max_size=40))
def test_it_survives_the_journal(run: messages.Run, events: list[Event]) -> None:
    """What is written down and read again is the same execution."""
    execution, _ = ordered(run, 0.0)
    for event in events:
        execution, _ = advance(execution, event, 1.0)
    assert messages.decode(messages.encode(execution), Execution) == execution


class Shell:
    """Performs effects as a runner does, one work at a time, with outcomes, interruptions and crashes that `draw` picks.

    Every other crash comes before what need not be kept at once has been written down.
    """

    def __init__(
        self, run: messages.Run, draw: Callable[[st.SearchStrategy[Event | None]], Event | None]
    ) -> None:
        self.draw = draw
        self.execution, effects = ordered(run, 0.0)
        self.kept = self.execution
        self.todo: list[Effect] = []
        self.done: list[Effect] = []
        self.reports: list[ExecutionState] = []
        self.crashes = 0
        self.do(effects)

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            self.done.append(effect)
            if effect in WORK:
                self.todo.append(effect)
            elif effect is E.INTERRUPT:
                self.todo.clear()
            elif effect is E.SEND_REPORT:
                self.reports.append(self.execution.state)

    def tell(self, event: Event) -> None:
        before = self.execution
        self.execution, effects = advance(before, event, 1.0)
        if must_be_kept(before, self.execution):
            self.kept = self.execution
        self.do(effects)

    def crash(self) -> None:
        self.crashes += 1
        if self.crashes % 2:
            self.execution = self.kept
        self.kept = self.execution
        self.todo.clear()
        self.reports.clear()
        self.tell(Restarted())

    def outcome(self, work: Effect) -> Event:
        match work:
            case E.ADMIT:
                return Admitted()
            case E.RECOVER:
                return self.pick(st.builds(Recovered, st.booleans()))
            case E.STAGE:
                return self.pick(st.builds(Staged) | st.builds(Failed, failures, st.booleans()))
            case E.START:
                return self.pick(st.builds(Started) | st.builds(Failed, failures))
            case E.FOLLOW:
                return self.pick(st.builds(ProgramEnded, outputs, st.none() | failures))
            case E.PUBLISH:
                return self.pick(st.builds(Published, st.just(SPEC)) | st.builds(Failed, failures))
            case _:
                return Cleaned()

    def pick(self, among: st.SearchStrategy[Event]) -> Event:
        picked = self.draw(among)
        assert picked is not None
        return picked

    def live(self, mischief: int) -> None:
        """Until it is forgotten; `mischief` is how often something from outside comes in between."""
        while E.FORGET not in self.done:
            if mischief:
                mischief -= 1
                event = self.draw(st.none() | from_outside | st.just(Restarted()))
                if isinstance(event, Restarted):
                    self.crash()
                elif event is not None:
                    self.tell(event)
            elif self.todo:
                self.tell(self.outcome(self.todo.pop(0)))
            else:
                assert self.reports, "nothing is to be done and nothing was said: it would stay for ever"
                self.reports.clear()
                self.tell(ReportStored())
            if self.todo and mischief:
                self.tell(self.outcome(self.todo.pop(0)))


@given(runs, st.data(), st.integers(0, 6))
def test_it_reaches_an_end_is_cleaned_and_forgotten(
    run: messages.Run, data: st.DataObject, mischief: int
) -> None:
    """Whatever fails, is cancelled, passes a deadline or crashes: it ends, is cleaned up, and then forgotten."""
    shell = Shell(run, data.draw)
    shell.live(mischief)

    assert shell.execution.state in ENDS
    assert shell.execution.cleaned
    assert shell.execution.settled
    assert shell.done[-1] is E.FORGET
    last_start = max((at for at, effect in enumerate(shell.done) if effect is E.START), default=-1)
    assert shell.done.index(E.CLEAN_UP) > last_start
    assert shell.done.count(E.CLEAN_UP) <= 1 + shell.crashes
    assert E.RELEASE in shell.done


@given(runs, st.data(), st.integers(0, 12))
def test_its_program_is_started_at_most_twice(run: messages.Run, data: st.DataObject, mischief: int) -> None:
    """However often the node dies, a program is started at most twice, and only once if nothing crashed."""
    shell = Shell(run, data.draw)
    shell.live(mischief)

    assert shell.done.count(E.START) <= min(STARTS_MAX, 1 + shell.crashes)


def test_a_small_job_is_written_down_with_its_order_its_start_and_its_end() -> None:
    """Nothing else about it has to be in the journal at once: a new process finds it out, or does it again."""
    events: list[Event] = [
        *(Admitted(), Staged(), Started(), ProgramEnded(RunOutput())),
        *(Cleaned(), ReportStored()),
    ]
    execution, _ = ordered(PLAIN, 0.0)
    kept = []
    for event in events:
        before, (execution, _) = execution, advance(execution, event, 1.0)
        if must_be_kept(before, execution):
            kept.append(type(event))
    assert kept == [Staged, ProgramEnded]


def ended(run: messages.Run, *events: Event) -> tuple[Execution, list[Effect]]:
    """An execution to which these have happened, and the last effects."""
    execution, effects = ordered(run, 0.0)
    for event in events:
        execution, effects = advance(execution, event, 1.0)
    return execution, effects


def test_a_program_that_exits_3_fails_but_its_output_is_published() -> None:
    """Exit code 3 is ProgramFailed with the code in its message; what it wrote is published and told all the same."""
    execution, effects = ended(
        PUBLISHING, Admitted(), Staged(), Started(), ProgramEnded(RunOutput(stdout="x", exit_code=3))
    )
    assert effects == [E.PUBLISH]
    execution, _ = advance(execution, Published(SPEC), 2.0)

    report = execution.report(NodeId("n1"), 1)
    assert report.state is S.FAILED
    assert report.failure is not None
    assert (report.failure.code, report.failure.message) == ("ProgramFailed", "program exited with code 3")
    assert report.failure.hint
    assert report.result == SPEC
    assert report.output is not None


def test_an_output_that_cannot_be_published_fails_the_execution() -> None:
    """A program that succeeded and whose result is nowhere has failed, with the publisher's fault."""
    fault = Failure("Unavailable", "publisher s3://b/k: no answer", retryable=True)
    execution, _ = ended(
        PUBLISHING, Admitted(), Staged(), Started(), ProgramEnded(RunOutput()), Failed(fault)
    )
    assert (execution.state, execution.failure) == (S.FAILED, fault)


def test_the_programs_own_failure_stays_the_root_when_publishing_fails_too() -> None:
    """If both failed, the program's failure is told, and the publisher's beside it."""
    fault = Failure("Unavailable", "publisher s3://b/k: no answer")
    execution, _ = ended(
        PUBLISHING, Admitted(), Staged(), Started(), ProgramEnded(RunOutput(exit_code=2)), Failed(fault)
    )
    assert execution.failure is not None
    assert execution.failure.code == "ProgramFailed"
    assert execution.failure.details["publisher"] == fault.message


def test_a_running_program_keeps_its_room_until_it_is_gone() -> None:
    """A cancelled program's room is given to others, and its end told, only when the program is removed."""
    execution, effects = ended(PLAIN, Admitted(), Staged(), Started(), CancelOrdered("enough"))
    assert effects == [E.INTERRUPT, E.CLEAN_UP]
    _, effects = advance(execution, Cleaned(RunOutput(stderr="bye")), 2.0)
    assert effects == [E.RELEASE, E.SEND_REPORT]


def test_an_engine_that_does_not_answer_keeps_the_room_and_not_the_end() -> None:
    """The end of a program that cannot be removed yet is told all the same: it may be tried elsewhere."""
    execution, _ = ended(PLAIN, Admitted(), Staged(), Started(), Failed(Failure("Unavailable", "away")))
    execution, effects = advance(execution, CleanUpDelayed(), 2.0)
    assert effects == [E.SEND_REPORT]
    execution, effects = advance(execution, ReportStored(), 3.0)
    assert effects == []
    assert advance(execution, CleanUpDelayed(), 4.0)[1] == []
    assert advance(execution, Cleaned(), 5.0)[1] == [E.RELEASE, E.FORGET]


def test_a_program_that_takes_too_long_times_out() -> None:
    """The execution's own deadline ends it with TimedOut.Execution, the limit in the message, and no other attempt."""
    execution, _ = ended(PLAIN, Admitted(), Staged(), Started(), DeadlinePassed(Phase.RUNNING, 5.0))
    assert execution.state is S.FAILED
    assert execution.failure is not None
    assert execution.failure.code == "TimedOut.Execution"
    assert "5 s" in execution.failure.message
    assert not execution.failure.retryable


def test_a_deadline_of_a_phase_that_is_over_changes_nothing() -> None:
    """The staging limit cannot end a program that runs already."""
    execution, _ = ended(PLAIN, Admitted(), Staged(), Started())
    assert advance(execution, DeadlinePassed(Phase.STAGING, 5.0), 2.0) == (execution, [])
