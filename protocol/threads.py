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
    """At most `most` threads that do what they are given, the first first; begun as there is work for them.

    It is one of Python's because asyncio takes no other as a loop's own. `shutdown` must be called by who wants what is
    under way to have an end: the process does not wait for it.
    """

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._most = most
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._ended = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._begun = 0
        self._over = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `concurrent.futures.Executor`; returns at once."""
        future: Future[T] = Future()
        with self._lock:
            if self._over:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if not self._idle.acquire(blocking=False) and self._begun < self._most:
                begin(self._run)
                self._begun += 1
            self._work.put(partial(_do, future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor`. What was given before is done, whether it is waited for or not."""
        with self._lock:
            begun, already, self._over = self._begun, self._over, True
        for _ in range(0 if already else begun):
            self._work.put(None)
        if wait and not already:
            for _ in range(begun):
                self._ended.acquire()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            # Or what it holds would be kept until there is more to do.
            del work
            self._idle.release()
        self._ended.release()


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
