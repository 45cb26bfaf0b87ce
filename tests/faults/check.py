"""What must hold of a history, whatever was killed: the judge, who shares no code with what is judged.

Knows: the promises (`DESIGN.md` section 5, invariants I1 to I6 and I10). Must not know: requesters, nodes, or how a history
came about. It reads the raw events of the log and not their fold.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from tests.faults.history import SERVICE, History, Logged, Seen, Submission

ENDS = frozenset({"completed", "failed", "refused", "cancelled", "lost"})
CLOSED = {"completed": "Completed", "failed": "Failed", "stopped": "Stopped"}

CUT = "\n[Docker was away when the program ended: the last of what it wrote may be missing]\n"


def violations(history: History) -> list[str]:
    """Every promise that was broken, a sentence each; empty if all were kept."""
    return [
        *_log(history),
        *_answers(history),
        *_views(history),
        *_results(history),
        *_starts(history),
        *(f"left behind: {each}" for each in history.left),
        *(f"ended by itself: {each}" for each in history.ended),
    ]


def _by_job(events: Iterable[Logged]) -> dict[str, list[Logged]]:
    found: dict[str, list[Logged]] = defaultdict(list)
    for event in events:
        found[event.job].append(event)
    return found


def _log(history: History) -> Iterator[str]:
    """Each job's log tells of one life."""
    lasting = {each.job for each in history.submissions if each.kind == SERVICE}
    for job, events in _by_job(history.log).items():
        for fault in _life(events, lasting=job in lasting):
            yield f"{job}: {fault}"


def _life(events: list[Logged], *, lasting: bool = False) -> Iterator[str]:
    """What is wrong with one job's events, in the order of the log. Where it is `lasting`, what has completed is started
    again; and a snapshot tells it all from its submission on, so it counts as a beginning.
    """
    known: dict[str, Logged] = {}
    ended: dict[str, str] = {}
    completed: Counter[int] = Counter()
    closed = False
    for event in events:
        if closed and event.event != "submitted":
            yield f"{event.event} at {event.seq} after it was closed"
        if event.event == "submitted":
            known, ended, completed, closed = {}, {}, Counter(), False
        elif event.event == "assigned":
            if event.execution in known:
                yield f"execution {event.execution} was assigned twice"
            open_too = [
                name
                for name, each in known.items()
                if each.partition == event.partition and name not in ended
            ]
            if open_too:
                yield f"partition {event.partition} was assigned at {event.seq} while {open_too[0]} was open"
            if completed[event.partition] and not lasting:
                yield f"partition {event.partition} was assigned at {event.seq} after it had completed"
            known[event.execution] = event
        elif event.event in ("reported", "cancelled", "lost"):
            state = event.state if event.event == "reported" else event.event
            if event.execution not in known:
                yield f"{event.event} at {event.seq} of an execution that was never assigned"
            elif event.execution in ended:
                yield f"{event.execution} became {state} at {event.seq} after it was {ended[event.execution]}"
            elif state in ENDS:
                ended[event.execution] = state
                completed[known[event.execution].partition] += state == "completed"
        elif event.event == "closed":
            closed = True
            still = [name for name in known if name not in ended]
            if still:
                yield f"closed at {event.seq} while {still[0]} was open"
    for partition, times in completed.items():
        if times > 1 and not lasting:
            yield f"partition {partition} has {times} accepted results"
    if not closed:
        yield "never closed"


def _answers(history: History) -> Iterator[str]:
    """What was accepted is there, and what was refused is not."""
    logged = {event.job for event in history.log}
    names = {event.name for event in history.log if event.name}
    for each in history.submissions:
        if each.outcome == "accepted" and each.job not in logged:
            yield f"{each.name} ({each.job}) was accepted by {each.requester} and is not in the log"
        elif each.outcome == "refused" and each.name in names:
            yield f"{each.name} was refused by {each.requester} ({each.detail}) and is in the log"
    jobs = Counter(each.job for each in history.submissions if each.job)
    for job, times in jobs.items():
        if times > 1:
            yield f"{job} was answered to {times} submissions"


def _views(history: History) -> Iterator[str]:
    """All requesters show the same, and it is what the log says."""
    final = {
        job: next((each.state for each in reversed(events) if each.event == "closed"), "")
        for job, events in _by_job(history.log).items()
    }
    for requester, jobs in history.views.items():
        for job, state in final.items():
            seen = jobs.get(job)
            if seen is None:
                yield f"{requester} does not know {job}"
            elif seen.state != CLOSED.get(state, state):
                yield f"{requester} shows {job} as {seen.state}, the log closed it as {state}"
    first, *others = list(history.views.items()) or [("", {})]
    for requester, jobs in others:
        for job in final:
            if jobs.get(job) != first[1].get(job):
                yield f"{requester} and {first[0]} show {job} differently"


def _results(history: History) -> Iterator[str]:
    """An accepted job completed (or was stopped by whoever asked), and what it wrote is what it had to write."""
    view = next(iter(history.views.values()), {})
    for each in history.submissions:
        seen = view.get(each.job)
        if each.outcome != "accepted" or seen is None:
            continue
        if seen.state == "Stopped" and each.stopped:
            continue
        if seen.state != "Completed":
            whys = [event.why for event in history.log if event.job == each.job and event.event == "closed"]
            yield f"{each.name} ({each.job}) ended {seen.state} {' '.join(whys)}".rstrip()
            continue
        yield from _outputs(each, seen, history.published)


def _outputs(wanted: Submission, seen: Seen, published: dict[str, str]) -> Iterator[str]:
    done = {name: each for name, each in seen.executions.items() if each[0] == "completed"}
    if len(done) != wanted.count:
        yield f"{wanted.name} completed with {len(done)} completed executions instead of {wanted.count}"
    for name, (_, code, said) in done.items():
        if code or not _is_what_it_prints(said, wanted.says):
            yield f"{name} of {wanted.name} ended with {code} and printed {said!r}, not {wanted.says!r}"
        if wanted.result and published.get(name) != wanted.result:
            yield f"{name} of {wanted.name} published {published.get(name)!r}, not {wanted.result!r}"


def _is_what_it_prints(said: str, all_: str) -> bool:
    """All of it, or a beginning that says what it is."""
    beginning, cut, _ = said.partition(CUT)
    return all_.startswith(beginning) if cut else said == all_


def _starts(history: History) -> Iterator[str]:
    """A container is adopted, never started twice."""
    for name, executions in history.starts.items():
        for execution, times in Counter(executions).items():
            if times > 1:
                yield f"the program of {execution} ({name}) was started {times} times"
