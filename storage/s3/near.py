"""What may have been meant by a key of which there is no object.

Knows: how a bucket is looked at a folder at a time. Must not know: who asks. One page of a listing for each folder above the
key until one holds something, and never more than `FOLDERS_MAX`; where the bucket may not be listed nothing is suggested.
"""

import asyncio
from typing import Any, Final

from protocol.errors import Fault
from protocol.spelling import NAMES_MAX, did_you_mean, nearest_few
from storage.s3.connection import Connection
from storage.s3.faults import faults
from storage.s3.keys import plain_key
from storage.threads import in_thread

FOLDERS_MAX: Final = 4
LOOK_S: Final = 5.0


async def meant(connection: Connection, bucket: str, key: str) -> str:
    """A sentence with the nearest keys or folders, empty if there are none. Raises no fault."""
    try:
        async with asyncio.timeout(LOOK_S):
            # A path begins with a slash, and may have more of them than it needs; a key does not.
            return await _meant(connection, bucket, plain_key(key).lstrip("/"))
    except (Fault, TimeoutError):
        return ""


async def _meant(connection: Connection, bucket: str, key: str) -> str:
    above = key
    for _ in range(FOLDERS_MAX):
        above = _above(above)
        found = await _held(connection, bucket, above)
        if found or not above:
            name, slash, _ = key.removeprefix(above).partition("/")
            names = await in_thread(lambda _: nearest_few(name + slash, found))  # noqa: B023
            return did_you_mean([above + each for each in names])
    return ""


async def _held(connection: Connection, bucket: str, folder: str) -> list[str]:
    """The names in a folder, those of folders with a slash behind them: a page of them."""
    with faults(f"s3://{bucket}/{folder}", connection.endpoint, signed=connection.signed):
        page: dict[str, Any] = await connection.raw.list_objects_v2(
            Bucket=bucket, Prefix=folder, Delimiter="/", MaxKeys=NAMES_MAX
        )
    keys = [each["Key"] for each in page.get("Contents") or ()]
    keys += [each["Prefix"] for each in page.get("CommonPrefixes") or ()]
    return [each.removeprefix(folder) for each in keys if each != folder]


def _above(key: str) -> str:
    """The folder that a key, or a folder, is in: with its slash, empty for the bucket itself."""
    head, slash, _ = key.rstrip("/").rpartition("/")
    return head + slash
