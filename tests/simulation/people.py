"""The people of a simulation: they ask any requester, and another one when they get no answer.

Knows: how each thing is asked for, and what came of it. Must not know: what goes wrong meanwhile, or what is right but for
the answers themselves.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from protocol.errors import Conflict, Exhausted, Fault, NotFound, TimedOut, Unavailable
from protocol.jobs import Job
from protocol.states import JobState
from requester.service import Service
from requester.verbs import HistoryQuery, JobQuery
from tests.simulation.loop import Loop, Scheduler
from tests.simulation.processes import PATIENCE, RequesterProcess
from tests.simulation.scenario import Action
from tests.simulation.words import ABOUT_MEMBERSHIP, ABOUT_NODES, Word, Words

ASK_AGAIN_S = 1.0
PEOPLE = ("submit", "stop", "watch", "look", "rerun", "delete", *ABOUT_NODES)


class Call:
    """What a person asks for, again and again until somebody answers; `answer` is what came of it."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.answer = ""
        self.asked = 0
        self.lost = False
        """Its answer, or what it was to say, was lost with the servers that had the log."""
        self.job = ""
        self.version = 0


class People:
    """Those who ask. `there` says whether a node is not gone for good; where all is `calm`, nothing goes wrong."""

    def __init__(
        self,
        scheduler: Scheduler,
        requesters: Sequence[RequesterProcess],
        words: Words,
        *,
        note: Callable[[str, str], None],
        wrong: Callable[[str], None],
        there: Callable[[str], bool],
        calm: bool,
    ) -> None:
        self.calls: list[Call] = []
        self._scheduler = scheduler
        self._requesters = requesters
        self._words = words
        self._checker = words.checker
        self._note = note
        self._wrong = wrong
        self._there = there
        self._calm = calm
        self._lost: set[str] = set()
        """Names that were spoken of before the servers were lost: their backup may not have them."""

    def ask(self, action: Action) -> None:
        """Ask for something, until there is an answer."""
        call = Call(action)
        self.calls.append(call)
        self._ask(call)

    def begin_again(self) -> None:
        """The log is another one from now on: it may have nothing of what was asked so far."""
        for call in self.calls:
            call.lost = True
            self._lost.add(call.action.job.name if call.action.job else call.action.text)

    def waiting_for(self, *what: str) -> set[str]:
        """The names about which one of these was asked and not answered yet."""
        return {call.action.text for call in self.calls if call.action.what in what and not call.answer}

    def _ask(self, call: Call) -> None:
        """Ask a requester that serves; who gets no answer asks another one, later."""
        if call.answer:
            return
        if call.asked and call.action.once:
            call.answer = "nobody waits for it any more"
            return
        serving = [each for each in self._requesters if each.alive and each.service is not None]
        if not serving:
            self._scheduler.after(ASK_AGAIN_S, self._ask, call)
            return
        action = call.action
        asked = serving[int(self._scheduler.random.random() * len(serving))]
        if action.who and not call.asked:
            asked = next((each for each in serving if each.name == action.who), asked)
        work: Callable[[Service, Call, str], Coroutine[Any, Any, str]] = getattr(self, f"_{action.what}")
        self._note(
            "people", f"{action.what} {action.job.name if action.job else action.text} at {asked.name}"
        )
        loop, stops = asked.loop, asked.loop.stops
        call.asked += 1
        number = call.asked

        def again(fault: Fault) -> None:
            self._note("people", f"{asked.name} has no answer to {action.what}: {fault.message}")
            if self._calm and isinstance(fault, Unavailable | TimedOut):
                self._wrong(f"I1: {asked.name} has no answer though nothing is wrong: {fault.message}")
            if number == call.asked:
                self._scheduler.after(ASK_AGAIN_S, self._ask, call)

        async def ask(service: Service) -> None:
            try:
                answer = await work(service, call, asked.name)
            except Conflict as fault:
                answer = f"{fault.failure().code}: {fault.message}"
            except Exhausted as fault:
                if fault.failure().code != "Exhausted.Entries":
                    again(fault)
                    return
                answer = f"{fault.failure().code}: {fault.message}"
            except NotFound as fault:
                if not self._is_past(action):
                    again(fault)
                    return
                answer = f"{fault.failure().code}: {fault.message}"
            except Fault as fault:
                again(fault)
                return
            if not call.answer:
                call.answer = answer
                self._note("people", f"{asked.name} answers {action.what}: {answer}")

        task = asked.call(ask)
        if action.seconds and call.asked == 1:
            self._scheduler.after(action.seconds, self._hang_up, call, task, asked)
        self._scheduler.after(
            PATIENCE.submit_timeout_s + 5.0, self._ask_elsewhere, call, number, asked, loop, stops
        )

    def _hang_up(self, call: Call, task: asyncio.Task[None], asked: RequesterProcess) -> None:
        """Whoever asks does not wait for the answer, and asks again in a moment."""
        if asked.alive and not task.done():
            self._note("people", f"hang up on {asked.name}, who was asked to {call.action.what}")
            task.cancel()
            self._scheduler.after(ASK_AGAIN_S, self._ask, call)

    def _ask_elsewhere(
        self, call: Call, number: int, asked: RequesterProcess, loop: Loop, stops: int
    ) -> None:
        """The one who was asked has died meanwhile, or says nothing at all."""
        if call.answer or number != call.asked:
            return
        same = asked.alive and asked.loop is loop
        if call.action.what == "watch" and same:
            self._scheduler.after(
                PATIENCE.submit_timeout_s, self._ask_elsewhere, call, number, asked, loop, loop.stops
            )
            return
        if same and loop.stops == stops:
            self._wrong(f"I1: {asked.name} does not answer {call.action.what} at all")
        self._ask(call)

    def _is_past(self, action: Action) -> bool:
        """Whether it is about a node that is gone for good, or a job that has left the log: not all know of these."""
        if action.what in ABOUT_NODES:
            return not self._there(action.text)
        past = (each for some in self._checker.past.values() for each in some)
        return action.text in self._lost or any(each.spec.name == action.text for each in past)

    async def _submit(self, service: Service, call: Call, who: str) -> str:
        job = call.action.job
        assert isinstance(job, Job)
        submission = await service.submit(job, warnings=[], client="people")
        call.job, call.version = submission.job, submission.version
        self._check_accepted(call, job)
        return f"{submission.job} version {submission.version}"

    def _check_accepted(self, call: Call, job: Job) -> None:
        """I2: an answer with an id is given only when the log has the job, and this version of it."""
        found = self._checker.newest(call.job)
        if call.lost:
            return
        if found is None or found.version < call.version:
            self._wrong(f"I2: {call.job} version {call.version} was accepted and is not in the log")
        elif found.version == call.version and found.spec != job:
            self._wrong(f"I2: {call.job} version {call.version} was accepted with another spec")

    async def _stop(self, service: Service, call: Call, who: str) -> str:
        name = call.action.text
        record = await service.stop(name, namespace="default", reason="people", client="people")
        if record.state is not JobState.STOPPED:
            self._wrong(f"stop answered and {record.id} is {record.state}")
        return f"{record.id} {record.state}"

    async def _watch(self, service: Service, call: Call, who: str) -> str:
        record = None
        async for update in service.watch(call.action.text, namespace="default"):
            record = update.job or record
        if record is None or not record.closed:
            self._wrong(f"a watch ended before its job: {record and record.state}")
        return f"seen to its end: {record and record.state}"

    async def _look(self, service: Service, call: Call, who: str) -> str:
        """Every way of reading answers."""
        record = await service.job(call.action.text, namespace="default")
        await service.jobs(JobQuery())
        await service.history(record.id, HistoryQuery())
        await service.results(record.id)
        await service.nodes()
        await service.explain(record.id)
        return f"{record.id} is {record.state}"

    async def _rerun(self, service: Service, call: Call, who: str) -> str:
        submission = await service.rerun(
            call.action.text, namespace="default", version=0, reason="people", client="people"
        )
        call.job, call.version = submission.job, submission.version
        return f"{submission.job} version {submission.version}"

    async def _delete(self, service: Service, call: Call, who: str) -> str:
        record = await service.delete(call.action.text, namespace="default", reason="people", client="people")
        return f"{record.id} is deleted"

    async def _said(self, service: Service, call: Call, who: str) -> str:
        """A word about a node."""
        word = self._words.ask(call.action.what, call.action.text, who)
        try:
            answer = await self._say(service, word, call.action.number)
        except Fault:
            self._words.over(word, answered=False)
            raise
        # Of one who hung up meanwhile the word may still be heard.
        self._words.over(word, answered=True)
        return answer

    async def _say(self, service: Service, word: Word, drain_s: float) -> str:
        match word.what:
            case "cordon":
                node = await service.cordon(word.node, reason="people")
            case "drain":
                node = await service.cordon(word.node, reason="people", drain_s=drain_s)
            case "uncordon":
                node = await service.uncordon(word.node)
            case _:
                node = await service.set_membership(word.node, ABOUT_MEMBERSHIP[word.what], "people")
        return f"{node.info.id} is {node.membership}, cordon {node.cordon is not None}"

    _cordon = _drain = _uncordon = _approve = _reject = _remove = _said
