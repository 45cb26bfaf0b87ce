"""Gives processes a share of a core each, so that they are what limits on a machine that has too few cores for the rest.

Knows: control groups, of both versions, on Linux, as root. Must not know: what the processes are.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

PERIOD_US: Final = 20_000
"""Short, so that a process which has had its share rests for no longer than a job takes anyway."""
ROOT: Final = Path("/sys/fs/cgroup")


@contextmanager
def throttled(pids: Sequence[int], share: float) -> Iterator[bool]:
    """While in here, each process has at most that share of one core; False, and no limit, where the system has no control
    groups that we may make.
    """
    with ExitStack() as groups:
        try:
            for pid in pids:
                groups.enter_context(_group(pid, share))
        except OSError:
            groups.close()
            yield False
            return
        yield True


@contextmanager
def _group(pid: int, share: float) -> Iterator[None]:
    second = (ROOT / "cgroup.controllers").exists()
    parent = ROOT if second else ROOT / "cpu"
    group = parent / f"shoal-bench-{secrets.token_hex(4)}"
    group.mkdir()
    try:
        quota_us = int(PERIOD_US * share)
        if second:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        (group / "cgroup.procs").write_text(str(pid))
        try:
            yield
        finally:
            # A group can be removed only when nobody is in it.
            _leave(pid, parent)
    finally:
        os.rmdir(group)


def _leave(pid: int, parent: Path) -> None:
    try:
        (parent / "cgroup.procs").write_text(str(pid))
    except ProcessLookupError:
        return
