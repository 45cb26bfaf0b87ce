"""Whether a server keeps an object under the key that it was given.

Knows: which keys some servers change, and how to find out. Must not know: what is published. Servers that keep objects as
files make of a key what a path means, and SeaweedFS takes a backslash for a slash; neither says anything of it.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final
from uuid import uuid4

from protocol.errors import Denied, Fault, Invalid
from storage.s3.bulk import Bulk
from storage.s3.connection import Connection
from storage.s3.faults import faults
from storage.s3.keys import ODD_HINT, plain_key
from storage.s3.upload import ABORT_S, Target, put

NAME_HINT: Final = (
    "Publish with Encoding: gzip, which takes any name, or let the program name its files without \\."
)


async def check_kept(connection: Connection, bulk: Bulk, keys: Iterable[str], hint: str = ODD_HINT) -> None:
    """Raise `Invalid` if the server keeps what is put at any of these keys under another one: a result would not be found
    again where it was put, and might take another's place. Empty objects of our own beside the odd ones show it before
    anything is sent; of those that are odd in the same way, one for all.
    """
    for key, probe in _probes(keys, f".shoal-{uuid4()}"):
        await _check(connection, bulk, key, probe, hint)


def _probes(keys: Iterable[str], name: str) -> Iterator[tuple[str, str]]:
    """The first key of each way to be odd, and a key with that name which is odd in the same way."""
    path = backslash = False
    for key in keys:
        above = key.rpartition("/")[0]
        if not path and key != plain_key(key):
            path = True
            yield key, f"{above}/{name}"
        if not backslash and "\\" in key:
            backslash = True
            yield key, f"{above}/{name}\\probe".removeprefix("/")


def _moved(probe: str) -> set[str]:
    """Where it may be instead."""
    return {plain_key(probe), probe.replace("\\", "/"), plain_key(probe.replace("\\", "/"))} - {probe}


async def _check(connection: Connection, bulk: Bulk, key: str, probe: str, hint: str) -> None:
    sent = put(bulk, Target(bulk.bucket, probe), [])
    sent.name = bulk.url(key)
    try:
        await connection.move(bulk, iter([sent]), 1, lambda _: None, finish_s=ABORT_S)
        # One who may write and not look is told 403 of what is not there.
        with suppress(Denied):
            for other in _moved(probe):
                if await connection.look(bulk.bucket, other) is not None:
                    said = f"{connection.endpoint} keeps this key under another one"
                    raise Invalid(f"{bulk.url(key)}: {said}", hint=hint, kind="Key")
    except Invalid as refused:
        refused.hint = refused.hint or hint
        raise
    finally:
        with suppress(Fault), faults(bulk.url(probe), connection.endpoint, signed=True):
            await connection.raw.delete_object(Bucket=bulk.bucket, Key=probe)
