"""Whether what has come of objects is what S3 has, where that could not be reckoned while it came.

Knows: checksums of other kinds than CRCs, those of parts, and what ETags say. Must not know: how objects are brought.

A store that keeps no checksums (and AWS of objects from before it kept any) still tells the MD5 of most objects, as their
ETag. What does not fit that is brought once more: if it fits then, it was damaged on its way, and else it is an error. A
node whose store's ETags are of the same form and mean something else says so in its settings.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

from protocol.errors import Broken, Invalid
from protocol.together import together
from storage.s3.checksums import Checksum, other_bytes, sum_of
from storage.s3.connection import Connection
from storage.s3.params import SourceParams
from storage.s3.remote_object import RemoteObject, version_of
from storage.threads import Stop, in_thread

ODD_MAX: Final = 16
"""How many files that do not fit their ETags are fetched once more; if there are more, it is an error at once."""
HINT: Final = (
    "Its ETag is no MD5 of what comes. Was it damaged where it lies? If this store's ETags are something else, its node's "
    "owner says so: InputSources.Types.S3.ETagsAreMD5: false."
)


class _Odd(Struct, frozen=True):
    """A file that does not fit its ETag: its name here and in messages, the sum that it has, and the one that is wanted."""

    name: str
    shown: str
    has: str
    wanted: Checksum
    part_bytes: int


class Arrived:
    """The files of one fetch, in `folder` by their names. `etags` says whether ETags of the usual form are MD5s; S3 is asked
    `looks` questions at once."""

    def __init__(self, folder: Path, *, etags: bool, looks: int) -> None:
        self._folder = folder
        self._etags = etags
        self._looks = looks
        self._later: list[tuple[str, RemoteObject]] = []
        self._odd: list[_Odd] = []

    def whole(self, name: str, remote: RemoteObject, stop: Stop) -> None:
        """All of a file is written, and nothing was reckoned meanwhile; in a lane's thread."""
        wanted = self._wanted(remote)
        if wanted is None:
            return
        if wanted.parts:
            # One has to ask how large they are.
            self._later.append((name, remote))
        elif remote.checksum is not None or len(self._odd) <= ODD_MAX:
            self._compare(name, remote, wanted, 0, stop)

    async def check(
        self, connection: Connection, params: SourceParams, bring_again: Callable[[str], Awaitable[None]]
    ) -> None:
        """Check what has not been checked yet; `bring_again` brings a file anew to its place. Raises `Broken`, and what that
        raises."""
        waiting = iter(self._later)

        async def look() -> None:
            for name, remote in waiting:
                wanted = self._wanted(remote)
                assert wanted is not None
                part_bytes = await _part_bytes(connection, params, remote, wanted)
                if part_bytes is not None and len(self._odd) <= ODD_MAX:
                    await in_thread(partial(self._compare, name, remote, wanted, part_bytes))

        await together(look() for _ in range(min(self._looks, len(self._later))))
        if len(self._odd) > ODD_MAX:
            raise _no_md5(self._odd[0], self._odd[0].has)
        for odd in self._odd:
            await bring_again(odd.name)
            has = await in_thread(partial(sum_of, odd.wanted, self._folder / odd.name, odd.part_bytes))
            if has != odd.wanted.value:
                raise _no_md5(odd, has)

    def _wanted(self, remote: RemoteObject) -> Checksum | None:
        return remote.checksum or (remote.etag_sum if self._etags else None)

    def _compare(
        self, name: str, remote: RemoteObject, wanted: Checksum, part_bytes: int, stop: Stop
    ) -> None:
        has = sum_of(wanted, self._folder / name, part_bytes, stop)
        if has == wanted.value:
            return
        if remote.checksum is not None:
            raise other_bytes(remote.name, wanted, has)
        self._odd.append(_Odd(name, remote.name, has, wanted, part_bytes))


def _no_md5(odd: _Odd, has: str) -> Broken:
    fault = other_bytes(odd.shown, odd.wanted, has)
    fault.hint = HINT
    return fault


async def _part_bytes(
    connection: Connection, params: SourceParams, remote: RemoteObject, wanted: Checksum
) -> int | None:
    """How large the parts are that a checksum is of; 0 if it is of the whole, None if nobody can tell."""
    if not wanted.parts:
        return 0
    version = version_of(params, remote.found)
    try:
        part_bytes = await connection.part_bytes(params.bucket, remote.found, version)
    except Invalid:
        # Some stores know no parts of what they hold.
        return None
    # Put together of parts of other sizes: nobody tells which bytes the checksum is of.
    return part_bytes if part_bytes and -(-remote.size_bytes // part_bytes) == wanted.parts else None
