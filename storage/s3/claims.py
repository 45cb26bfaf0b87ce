"""Whether a result may take a key: no two executions overwrite each other in silence.

Knows: what stands in an object's metadata about whose result it is. Must not know: what is published.

A key that holds the execution's id (or a UUID) is nobody else's. Any other key may hold a result already: it is replaced if
it is of the same execution, or of an earlier attempt at the same work, which counts no more; else publishing is a `Conflict`
that says whose it is. Work is a partition of one version of a job, or a node of a job that runs everywhere. Objects are made
under a condition, so that of two who come at once one is told. Servers that know no conditions are asked for the object
just before.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from protocol.errors import TAKEN, Conflict, kind_of
from protocol.ids import short
from protocol.together import together
from storage.contract import Label
from storage.long_lists import Packed
from storage.s3.connection import Connection, Found
from storage.s3.upload import NOT_THERE

EXECUTION: Final = "shoal-execution"
WORK: Final = "shoal-work"
ATTEMPT: Final = "shoal-attempt"
LOOKS_AT_ONCE: Final = 16
HINT: Final = "Put {executionID}, {partition} or {nodeID} into Key, or write Overwrite: true."


def meta_of(label: Label) -> dict[str, str]:
    """What is kept with a result's objects."""
    part = label.node if label.everywhere else label.partition
    return {
        EXECUTION: label.execution,
        WORK: f"{label.job}/{label.version}/{part}",
        ATTEMPT: str(label.attempt),
    }


def may_replace(meta: Mapping[str, str], label: Label) -> bool:
    """Whether a result with that metadata gives way to this execution's."""
    if meta.get(EXECUTION) == label.execution:
        return True
    attempt = meta.get(ATTEMPT, "")
    return meta.get(WORK) == meta_of(label)[WORK] and attempt.isdecimal() and int(attempt) < label.attempt


async def claim(connection: Connection, bucket: str, key: str, label: Label) -> dict[str, str]:
    """The condition under which the object may be made. Raises `Conflict` if it is somebody else's, and what S3 says."""
    found = await connection.look(bucket, key)
    if found is None:
        return dict(NOT_THERE)
    if not may_replace(found.meta, label):
        raise taken(bucket, key, found.meta)
    return {"If-Match": found.etag}


async def claim_prefix(
    connection: Connection, bucket: str, prefix: str, label: Label, limit: int
) -> Iterator[str]:
    """The keys below a prefix that give way to this execution's. Raises `Conflict` if any is somebody else's."""
    listed = await connection.objects(bucket, prefix, limit)
    # Some stores make a marker for each folder by themselves, and keep nothing with it.
    files = (each.key for each in listed if not each.is_marker)
    async for key, meta in metas(connection, bucket, files):
        if not may_replace(meta, label):
            raise taken(bucket, key, meta)
    return (each.key for each in listed)


async def of_ours(connection: Connection, bucket: str, keys: Iterable[str], execution: str) -> Packed[str]:
    """Those of the keys, in their order, that have something of this execution: put there by a request whose answer was
    lost."""
    ours = Packed(str)
    async for key, meta in metas(connection, bucket, keys):
        if meta.get(EXECUTION) == execution:
            ours.append(key)
    return ours


async def metas(
    connection: Connection, bucket: str, keys: Iterable[str]
) -> AsyncIterator[tuple[str, Mapping[str, str]]]:
    """What is kept with each of the objects that are there. The first alone, for one most often says it all; then many at
    once."""
    waiting = iter(keys)
    some = list(islice(waiting, 1))
    while some:
        seen: dict[str, Found | None] = {}

        async def look(key: str, seen: dict[str, Found | None] = seen) -> None:
            seen[key] = await connection.look(bucket, key)

        await together(look(key) for key in some)
        for key in some:
            if found := seen[key]:
                yield key, found.meta
        some = list(islice(waiting, LOOKS_AT_ONCE))


def taken(bucket: str, key: str, meta: Mapping[str, str]) -> Conflict:
    """That a key has something already, and whose it is."""
    whose = meta.get(EXECUTION, "")
    said = f"the result of execution {short(whose)}" if whose else "not a result of shoal"
    return Conflict(f"s3://{bucket}/{key} is there already: {said}", hint=HINT, kind=kind_of(TAKEN))
