"""What may have been meant by a path below a CID where there is nothing.

Knows: how the names in a folder are asked for. Must not know: who asks. The nearest folder above that there is is looked at,
of no more than `FOLDERS_MAX`, in what the node has already: it has just followed the path as far as it leads.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.errors import Fault, NotFound
from protocol.spelling import NAMES_MAX, SHOWN, did_you_mean, nearest_few
from storage.ipfs.answers import Listing
from storage.ipfs.kubo import Kubo
from storage.ipfs.params import SourceParams, split_path
from storage.threads import in_thread

FOLDERS_MAX: Final = 4
LOOK_S: Final = 5.0


async def meant(kubo: Kubo, params: SourceParams) -> str:
    """A sentence with the nearest names, else with what is there; empty if there is nothing to say. Raises no fault."""
    cid, *names = split_path(params.cid)
    try:
        async with asyncio.timeout(LOOK_S):
            for depth in range(len(names) - 1, max(-1, len(names) - 1 - FOLDERS_MAX), -1):
                try:
                    there = await _names(kubo, "/".join(("", "ipfs", cid, *names[:depth])))
                except NotFound:
                    continue
                return await in_thread(lambda _: said(names[:depth], names[depth], there))  # noqa: B023
    except (Fault, TimeoutError, msgspec.DecodeError):
        pass
    return ""


def said(above: Sequence[str], wanted: str, there: Sequence[str]) -> str:
    """The sentence about a name that is not among those that are `there`, in the folder at the path `above`. Blocks."""
    names = nearest_few(wanted, there)
    if names:
        return did_you_mean(["/".join((*above, each)) for each in names])
    if not there:
        return f"{'/'.join(above)!r} is no folder, or there is nothing in it." if above else ""
    where = f"In {'/'.join(above)!r} there is" if above else "There is"
    return f"{where} {', '.join(repr(each) for each in there[:SHOWN])}{', …' if len(there) > SHOWN else ''}."


async def _names(kubo: Kubo, path: str) -> list[str]:
    """The first names in a folder: as lines, of which the rest is not waited for."""
    options = {"arg": path, "offline": "true", "stream": "true", "resolve-type": "false", "size": "false"}
    found: list[str] = []
    async with kubo.call("ls", options, what=path) as response:
        async for line in response.content:
            # What is no folder may have links without names.
            found += [link.name for link in msgspec.json.decode(line, type=Listing).links if link.name]
            if len(found) >= NAMES_MAX:
                break
    return found
