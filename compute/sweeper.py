"""Removes the folders of executions, many with one hop to a thread.

Knows: paths that should be gone. Must not know: whose they were, or why they go.

One sweep runs at a time; what is given up meanwhile goes into the next. Threads that remove small folders side by side keep
each other and the event loop waiting, and take three times as long.
"""

import asyncio
from functools import partial
from pathlib import Path

from storage.arrival import remove_tree
from storage.threads import Stop, in_thread


class Sweeper:
    """One node's; its sweeps belong to `tasks` and end with it."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._waiting: list[tuple[Path, asyncio.Future[None]]] = []
        self._sweeping = False

    async def remove(self, folder: Path) -> None:
        """Return when the folder is gone. Raises `Denied` if it holds what is not ours to remove, and ``OSError``."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((folder, gone))
        if not self._sweeping:
            self._sweeping = True
            self._tasks.create_task(self._sweep())
        await gone

    async def _sweep(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                errors = await in_thread(partial(_remove_all, [folder for folder, _ in group]))
                for (_, gone), error in zip(group, errors, strict=True):
                    if gone.done():
                        continue
                    if error is None:
                        gone.set_result(None)
                    else:
                        gone.set_exception(error)
        finally:
            self._sweeping = False


def _remove_all(folders: list[Path], stop: Stop) -> list[Exception | None]:
    return [_removed(folder) for folder in folders]


def _removed(folder: Path) -> Exception | None:
    """Why the folder could not be removed, or None."""
    try:
        remove_tree(folder)
    except Exception as error:  # noqa: BLE001 (it is raised where the folder was given up; the others go all the same)
        return error
    return None
