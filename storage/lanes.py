"""Requests for bulk data, several at once, each in a thread and tried again by itself.

Knows: when another try may help, and how threads are started, waited for and stopped. Must not know: what is moved, or
whose server it is: a `Task` says what to ask for and what to do with the answer.

A lane is a thread with at most one connection. A request that breaks off is sent again, after a pause with jitter, for what
is still missing; only tries that moved (nearly) nothing count, so a transfer that moves goes on, however bad the line.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from msgspec import Struct

from protocol.errors import Broken, Fault, TimedOut, Unavailable
from protocol.threads import begin
from storage.idle_lines import Lines
from storage.pour import Piece
from storage.ranged import ERROR_MAX_BYTES, MOVED_BYTES, PAUSE_MAX_S, Limits, Refusal
from storage.route import Route
from storage.threads import Stopped
from storage.wire import Garbled, Head, Line, LineFault, Silent, Unreached, Untrusted

BUFFER_BYTES: Final = 1 << 18
TICK_S: Final = 0.05
"""How often progress is told."""


class Request(Struct, frozen=True):
    """What to send. `target` is path and query as they stand in the request; `statuses` are those of success.

    A body that is not to be held in memory is `poured`: made anew for each try, in the lane's thread, of exactly
    `poured_bytes`.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: Sequence[memoryview] = ()
    statuses: tuple[int, ...] = (200,)
    poured: "Callable[[Lane], Generator[Piece, None, None]] | None" = None
    poured_bytes: int = 0


class Task(Protocol):
    """One thing to move, by as many requests as it takes. All of it runs in a lane's thread."""

    @property
    def name(self) -> str:
        """How messages name it."""

    @property
    def moved_bytes(self) -> int:
        """How much of it has been moved so far."""

    @property
    def size_bytes(self) -> int:
        """How much there is to move; for messages."""

    def request(self) -> Request:
        """What to ask for what is still missing."""

    def answered(self, head: Head, line: Line, lane: "Lane") -> None:
        """Take the answer of a success. Raises `Again` where another try may help."""

    def refused(self, status: int, body: bytes) -> Refusal:
        """What an answer of another status means."""


class Again(Exception):
    """A try failed in a way that another may not."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Lane:
    """One thread's connection and buffer; `moved` is what its tasks have moved, for whoever tells progress."""

    def __init__(self, route: Route, lines: Lines, limits: Limits) -> None:
        self._route = route
        self._lines = lines
        self._limits = limits
        self._line: Line | None = None
        self._stop = threading.Event()
        self.moved = 0
        self._buffer: memoryview | None = None

    @property
    def buffer(self) -> memoryview:
        """Room for bytes on their way, used again for each answer."""
        if self._buffer is None:
            self._buffer = memoryview(bytearray(BUFFER_BYTES))
        return self._buffer

    def stop(self, *, cut: bool = True) -> None:
        """Begin nothing more, and break off what is under way if it is to be `cut`; from any thread."""
        self._stop.set()
        line = self._line
        if line is not None and cut:
            line.cut()

    def check(self) -> None:
        """Raise `Stopped` if nobody waits for it any more."""
        if self._stop.is_set():
            raise Stopped

    def do(self, task: Task) -> None:
        """Do a task to its end. Raises its fault, and `Stopped`."""
        tries = silences = 0
        while True:
            before = task.moved_bytes
            try:
                return self._try(task)
            except Again as again:
                if task.moved_bytes - before >= MOVED_BYTES:
                    tries = silences = 0
                else:
                    tries += 1
                    silences += isinstance(again.fault, TimedOut)
                self.check()
                if tries >= self._limits.tries or silences >= self._limits.silent_tries:
                    raise again.fault from again.__cause__
            pause = min(self._limits.retry_s * 2.0**tries, PAUSE_MAX_S)
            self._stop.wait(pause * random.uniform(0.5, 1.0))

    def _try(self, task: Task) -> None:
        self.check()
        try:
            self._exchange(task)
        except LineFault as error:
            self.check()
            raise self._fault_of(error, task) from error

    def _exchange(self, task: Task) -> None:
        request = task.request()
        line, head = self._asked(request)
        try:
            if head.status in request.statuses:
                task.answered(head, line, self)
            else:
                self._refuse(task, head.status, line)
        finally:
            self._line = None
            self._lines.give(line)

    def _asked(self, request: Request) -> tuple[Line, Head]:
        """Send a request and have its answer begin. A connection that was kept may be dead: then the next is taken."""
        while True:
            line = self._line = self._lines.take(self._route)
            known = not line.fresh
            try:
                self.check()
                if line.fresh:
                    line.open()
                self._sent(line, request)
                return line, line.head(request.method)
            except BaseException as error:
                line.close()
                self._line = None
                if not known or not isinstance(error, LineFault) or isinstance(error, Silent):
                    raise
                self.check()

    def _sent(self, line: Line, request: Request) -> None:
        try:
            if request.poured is None:
                line.send(request.method, request.target, request.headers, request.body)
                return
            with contextlib.closing(request.poured(self)) as pieces:
                line.pour(request.method, request.target, request.headers, pieces, request.poured_bytes)
        except LineFault:
            # Who refuses a body answers before its end, and may hang up at once.
            if not (request.body or request.poured) or not line.has_answer():
                raise

    def _refuse(self, task: Task, status: int, line: Line) -> None:
        body = line.rest(ERROR_MAX_BYTES)
        if 200 <= status < 300:
            raise Broken(f"{task.name}: status {status} was answered, which is not what was asked for")
        refusal = task.refused(status, body)
        if refusal.again:
            raise Again(refusal.fault)
        raise refusal.fault

    def _fault_of(self, error: LineFault, task: Task) -> Exception:
        so_far = f"{task.moved_bytes} of {task.size_bytes} bytes"
        match error:
            case Unreached():
                return Again(
                    Unavailable(f"{task.name}: {error}", hint="Is the server running, the address right?")
                )
            case Untrusted():
                return Unavailable(f"{task.name}: {error}", hint=error.hint)
            case Silent():
                where = f", after {so_far}" if task.size_bytes else ""
                silence = f"{self._route.authority} does not answer: no byte for {self._limits.silence_s:g} s{where}"
                hint = "Try again later, or allow a longer silence."
                return Again(TimedOut(f"{task.name}: {silence}", hint=hint))
            case Garbled():
                return Broken(f"{task.name}: {error}")
            case _:
                return Again(Broken(f"{task.name}: the connection broke after {so_far}", kind="Cut"))


class Lanes:
    """Starts lanes over connections that are kept."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lines = Lines()

    async def move(
        self,
        tasks: Iterator[Task],
        route: Route,
        count: int,
        moved: Callable[[int], None],
        finish_s: float = 0.0,
    ) -> None:
        """Do all tasks in order, `count` at once; `moved` is told on the loop of bytes that were moved.

        `tasks` is gone through by one thread at a time. Raises the first fault; then, as when cancelled, no lane does
        anything any more. Requests that are under way have `finish_s` to come to an end before they are broken off: what a
        server has been sent it may carry out after we have hung up.
        """
        lanes = [Lane(route, self._lines, self._limits) for _ in range(count)]
        lock = threading.Lock()
        told = 0

        def work(lane: Lane) -> None:
            while True:
                with lock:
                    lane.check()
                    task = next(tasks, None)
                if task is None:
                    return
                lane.do(task)

        def tell() -> None:
            nonlocal told
            now = sum(lane.moved for lane in lanes)
            if now > told:
                told, more = now, now - told
                moved(more)

        await _crew(lanes, work, tell, finish_s)

    def close(self) -> None:
        """Let go of the connections that were kept."""
        self._lines.close()


async def _crew(
    lanes: list[Lane], work: Callable[[Lane], None], tell: Callable[[], None], finish_s: float
) -> None:
    """Run each lane in a thread of its own until all have ended; the first fault stops the others."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    left = 0
    faults: list[BaseException] = []

    def stop(*, cut: bool) -> None:
        for each in lanes:
            each.stop(cut=cut)

    def one_less() -> None:
        nonlocal left
        left -= 1
        if not left:
            ended.set()
        elif faults and finish_s:
            loop.call_later(finish_s, lambda: stop(cut=True))

    def run(lane: Lane) -> None:
        try:
            work(lane)
        except Stopped:
            pass
        except BaseException as fault:  # noqa: BLE001 - it is raised where the lanes are awaited
            faults.append(fault)
            stop(cut=not finish_s)
        finally:
            loop.call_soon_threadsafe(one_less)

    try:
        for lane in lanes:
            begin(partial(run, lane))
            left += 1
        while left:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await ended.wait()
            tell()
    except BaseException:
        stop(cut=not finish_s)
        cutting = loop.call_later(finish_s, lambda: stop(cut=True))
        while left:
            with contextlib.suppress(asyncio.CancelledError):
                await ended.wait()
        cutting.cancel()
        raise
    if faults:
        raise faults[0]
