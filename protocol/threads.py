"""Threads beside an event loop, begun without waiting for them.

Knows: threads, and executors as asyncio wants them. Must not know: what the work is.

`threading.Thread.start`, and Python's own pool with it, returns when the new thread has run. A loop that gives work to a
pool stands until the thread has had the interpreter's lock and a processor: on a busy machine 77 ms, and for each thread of
the pool once.
"""

import _thread
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def begin(work: Callable[[], None]) -> None:
    """Run `work`, which raises nothing, in a thread of its own; the process does not wait for it at its end.

    Raises `RuntimeError` where there can be no more threads.
    """
    _thread.start_new_thread(work, ())


class Threads(ThreadPoolExecutor):
    """At most `most` threads (see `allow`) that do what they are given, the first first; begun as there is work for them.

    It is one of Python's because asyncio takes no other as a loop's own. `shutdown` must be called by who wants what is
    under way to have an end: the process does not wait for it.
    """

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._most = most
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._ended = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._begun = self._alive = self._undone = 0
        self._over = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `concurrent.futures.Executor`; returns at once."""
        future: Future[T] = Future()
        with self._lock:
            if self._over:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._undone += 1
            self._begin_if_wanted()
            self._work.put(partial(_do, future, partial(fn, *args, **kwargs)))
        return future

    def allow(self, more: int) -> None:
        """Let one more work at once (1), or one fewer (-1) once one has nothing to do."""
        with self._lock:
            self._most += more
            if self._over:
                return
            self._begin_if_wanted()
            if self._alive > max(self._most, self._undone):
                self._alive -= 1
                self._work.put(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor`. What was given before is done, whether it is waited for or not."""
        with self._lock:
            begun, alive, already, self._over = self._begun, self._alive, self._over, True
        for _ in range(0 if already else alive):
            self._work.put(None)
        if wait and not already:
            for _ in range(begun):
                self._ended.acquire()

    def _begin_if_wanted(self) -> None:
        if self._alive < min(self._most, self._undone):
            begin(self._run)
            self._begun += 1
            self._alive += 1

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            # Or what it holds would be kept until there is more to do.
            del work
            if self._is_too_many():
                break
        self._ended.release()

    def _is_too_many(self) -> bool:
        """Whether the thread that has done a piece of work is to end."""
        with self._lock:
            self._undone -= 1
            too_many = self._alive > self._most and not self._over
            self._alive -= too_many
        return too_many


def _do(future: Future[T], work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        done = work()
    except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
        future.set_exception(error)
        # Or the error and what it came through would hold each other.
        del future
    else:
        future.set_result(done)
