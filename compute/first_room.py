"""Room for a node to start in, where its disk has none left.

Knows: which inputs the executions in the journal read; that the others can be had again. Must not know: how a node is put
together, or what it does once it runs: then it keeps its reserve by itself (`compute.pressure`).

A node whose disk is full cannot write its journal, and so would never come to letting go of inputs that nobody reads. All
here blocks.
"""

from pathlib import Path

import structlog

from compute.disk import Disk
from compute.journal import inputs_read
from compute.machine import disk_reserve
from protocol.errors import Fault
from protocol.process import held
from storage.arrival import remove_tree
from storage.cache_entries import entries_by_use, key_of, put_away, unfinished_in

_log = structlog.get_logger(__name__)


def make_first_room(folder: Path, reserve: str) -> None:
    """Where less than its `reserve` is free on the disk of a node's data folder, let inputs go that nobody reads, the least
    recently used first, until it is there.

    Raises as `held` and `disk_reserve`. What cannot be read or removed is left: the node says so when it starts.
    """
    with held(folder, "node"):
        disk = Disk(folder, disk_reserve(folder, reserve))
        if disk.spare_bytes() >= 0:
            return
        try:
            gone = _let_go(folder, disk)
        except (Fault, OSError) as error:
            _log.warning("inputs cannot be removed before the start", fault=str(error))
        else:
            _log.info("inputs that nobody reads were removed for the disk's reserve", count=gone)


def _let_go(folder: Path, disk: Disk) -> int:
    """Remove what is to go; how many inputs it was."""
    cache = folder / "cache"
    for path in unfinished_in(cache):
        remove_tree(path)
    read = {key_of(each.type, each.identity) for each in inputs_read(folder)}
    gone = 0
    for _, path, _ in entries_by_use(cache):
        if disk.spare_bytes() >= 0:
            break
        if path.name not in read:
            remove_tree(put_away(path))
            gone += 1
    return gone
