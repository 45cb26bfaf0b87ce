"""Virtual time: one event loop for each simulated process, and the scheduler that lets them run.

Knows: callbacks, timers and chance. Must not know: what runs. It stands where asyncio's own loop stands, so the code under
simulation is the real one.

Within a process callbacks run in the order in which they became ready, as asyncio promises; which process runs next, and how
far, is drawn by the seed. When nobody is ready, time jumps to the next timer. A process that is killed is never run again:
its tasks are cut off where they stand, and nothing of them is tidied up.
"""

import asyncio
import contextvars
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

SPIN_MAX = 200_000
"""Callbacks at one moment of virtual time: beyond that something goes round in circles."""
THREAD_S = 0.002
"""The longest that work handed to a thread takes, usually."""


class Spinning(Exception):
    """Time stood still while callbacks ran and ran."""


class Handle:
    """A callback that waits; asyncio's own code calls nothing but `cancel` and `when`."""

    __slots__ = ("args", "callback", "context", "due")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context, due: float
    ) -> None:
        self.callback: Callable[..., Any] | None = callback
        self.args = args
        self.context = context
        self.due = due

    def cancel(self) -> None:
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self.due


class OrderedTask(asyncio.Task[T]):
    """A task whose hash is its number: a set of tasks is gone through in the same order in every run."""

    _numbers = itertools.count()

    def __init__(self, coro: Coroutine[Any, Any, T], **more: Any) -> None:
        self.number = next(OrderedTask._numbers)
        super().__init__(coro, **more)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class Scheduler:
    """All loops of one simulation, and what time it is: seconds since its beginning."""

    def __init__(self, seed: str) -> None:
        self.random = Random(f"{seed} schedule")
        self.now = 0.0
        self.steps = 0
        self.ready: list[Loop] = []
        self.problems: list[str] = []
        self._timers: list[tuple[float, float, int, Loop | None, Handle]] = []
        self._count = itertools.count()
        OrderedTask._numbers = itertools.count()

    def at(self, due: float, callback: Callable[..., Any], *args: Any) -> None:
        """Call something of the world itself, which is in no process, at that time."""
        handle = Handle(callback, args, _NOWHERE, due)
        heapq.heappush(self._timers, (due, self.random.random(), next(self._count), None, handle))

    def after(self, seconds: float, callback: Callable[..., Any], *args: Any) -> None:
        """The same, so many seconds from now."""
        self.at(self.now + seconds, callback, *args)

    def add(self, loop: "Loop", handle: Handle) -> None:
        """A process waits for a time."""
        heapq.heappush(self._timers, (handle.due, self.random.random(), next(self._count), loop, handle))

    def run(self, until: float) -> None:
        """Let everybody run until that time. Raises `Spinning`."""
        ready, draw, spun = self.ready, self.random.random, 0
        while True:
            while ready:
                place = int(draw() * len(ready))
                loop = ready[place]
                done = loop.run_some(1 + int(draw() * len(loop.waiting)))
                self.steps += done
                spun += done
                if not loop.listed:
                    # It has nothing more to do, was killed, or stands still.
                    ready[ready.index(loop)] = ready[-1]
                    ready.pop()
                if spun > SPIN_MAX:
                    raise Spinning(f"{loop.name} and others at {self.now:.3f}")
            spun = 0
            if not self._timers or self._timers[0][0] > until:
                self.now = max(self.now, until)
                return
            due, _, _, owner, handle = heapq.heappop(self._timers)
            self.now = max(self.now, due)
            if handle.callback is None:
                continue
            if owner is None:
                self.steps += 1
                handle.callback(*handle.args)
            else:
                owner.enqueue(handle)


class Loop(asyncio.AbstractEventLoop):
    """The event loop of one simulated process, from its start to its end."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.name = name
        self.waiting: deque[Handle] = deque()
        self.listed = False
        self.dead = False
        self.paused = False
        self.fuse: int | None = None
        self.blown: Callable[[], None] = lambda: None
        """Called when the fuse has counted down: so many callbacks run, and no more."""
        self.stops = 0
        """How often it has stood still or gone on."""
        self.drag_s = 0.0
        """How long it stands still after each turn: a slow machine."""
        self.thread_s = THREAD_S
        """The longest that work handed to a thread takes: a slow disk."""
        self._threads: dict[Any, float] = {}
        """When each pool of one thread has done what it was given."""
        self.kept: list[Any] = []
        """What must not be collected before the simulation ends, or it would tidy up."""
        self._scheduler = scheduler

    # Running

    def enqueue(self, handle: Handle) -> None:
        if self.dead:
            return
        self.waiting.append(handle)
        self._list()

    def _list(self) -> None:
        if not self.listed and not self.paused:
            self.listed = True
            self._scheduler.ready.append(self)

    def _runs(self) -> bool:
        return not self.dead and not self.paused

    def run_some(self, most: int) -> int:
        """Run at most so many callbacks; `listed` is False afterwards if there is nothing more to run."""
        waiting, done = self.waiting, 0
        if self.paused:
            self.listed = False
            return 0
        asyncio._set_running_loop(self)
        try:
            while waiting and done < most:
                if self.fuse is not None:
                    if self.fuse <= 0:
                        self.fuse = None
                        self.blown()
                        break
                    self.fuse -= 1
                handle = waiting.popleft()
                done += 1
                if handle.callback is not None:
                    handle.context.run(handle.callback, *handle.args)
                if not self._runs():
                    break
        finally:
            asyncio._set_running_loop(None)
        if self.drag_s and self._runs():
            self.pause(self.drag_s * self._scheduler.random.random())
        if not waiting or not self._runs():
            self.listed = False
        return done

    def pause(self, seconds: float) -> None:
        """Stand still, as a process that is stopped by a signal or waits for its disk."""
        self.paused = True
        self.stops += 1
        self._scheduler.after(seconds, self._resume)

    def _resume(self) -> None:
        self.paused = False
        self.stops += 1
        if self.waiting and not self.dead:
            self._list()

    def kill(self) -> None:
        """Run nothing any more."""
        self.dead = True
        self.kept += [list(self.waiting), [task for task in asyncio.all_tasks(self) if not task.done()]]
        self.waiting.clear()

    def tasks(self) -> list[str]:
        """The names of what its unfinished tasks do."""
        return sorted(str(task.get_coro()) for task in asyncio.all_tasks(self) if not task.done())

    # What asyncio asks of a loop

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context, 0.0)
        if not self.dead:
            self.waiting.append(handle)
            if not self.listed and not self.paused:
                self.listed = True
                self._scheduler.ready.append(self)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        return self.call_at(self._scheduler.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context, when)
        if not self.dead:
            self._scheduler.add(self, handle)
        return handle

    def time(self) -> float:
        return self._scheduler.now

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        return OrderedTask(coro, loop=self, name=name, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """There are no threads: the work is done in one piece, a little later, and in order where it is for one thread."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 (it is raised where the work is awaited)
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        due = self._scheduler.now + self._scheduler.random.random() * self.thread_s
        if executor is not None:
            due = self._threads[executor] = max(due, self._threads.get(executor, 0.0))
        self.call_at(due, work)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            error = context.get("exception")
            self._scheduler.problems.append(f"{self.name}: {context.get('message')}: {error!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.dead

    def is_closed(self) -> bool:
        return self.dead


_NOWHERE = contextvars.Context()


def finalize(generator: Any) -> None:
    """What asyncio does with an async generator that is dropped: close it on the loop that runs."""
    loop = asyncio._get_running_loop()
    if isinstance(loop, Loop) and not loop.dead:
        loop.call_soon(_close, loop, generator)


def _close(loop: Loop, generator: Any) -> None:
    loop.kept.append(loop.create_task(generator.aclose()))
