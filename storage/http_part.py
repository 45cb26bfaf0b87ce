"""Which bytes of a thing a GET is answered with: conditions and ranges, as RFC 9110 has them in its sections 13 and 14.

Knows: what the headers of a request ask for. Must not know: servers, or where the bytes lie. A range is given of the version
that is asked for (``If-Range``) and of no other: whoever goes on with what was replaced begins anew. What may be ignored is:
several ranges, one that cannot be read, and all conditions on a time, which would tell versions apart by seconds.
"""

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

TAKEN_S: Final = 120.0
"""Whoever takes (nearly) nothing of an answer for this long is cut off."""
_RANGE: Final = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)


class Part(Struct, frozen=True):
    """The answer's status, and the bytes it brings: from `start` to before `stop`. None but with 200 and 206."""

    status: int
    start: int = 0
    stop: int = 0

    @property
    def size_bytes(self) -> int:
        """How many they are."""
        return self.stop - self.start

    def headers(self, size_bytes: int, etag: str) -> dict[str, str]:
        """What is said of it, where `size_bytes` is that of the whole."""
        said = {"Accept-Ranges": "bytes", "ETag": etag}
        if self.status == 206:
            said["Content-Range"] = f"bytes {self.start}-{self.stop - 1}/{size_bytes}"
        if self.status == 416:
            said["Content-Range"] = f"bytes */{size_bytes}"
        return said


def part_of(headers: Mapping[str, str], size_bytes: int, etag: str) -> Part:
    """What to answer with of a thing of `size_bytes`, whose version has the strong `etag`. `headers` are read in any case of
    their names, if the mapping does that."""
    if not _names(headers.get("If-Match", "*"), etag):
        return Part(412)
    if "If-None-Match" in headers and _names(headers["If-None-Match"], etag, weak=True):
        return Part(304)
    asked = _RANGE.fullmatch(headers.get("Range", ""))
    if asked is None or headers.get("If-Range", etag).strip() != etag or not (asked[1] or asked[2]):
        return Part(200, 0, size_bytes)
    if not asked[1]:
        start, stop = max(size_bytes - int(asked[2]), 0), size_bytes
    else:
        start, stop = int(asked[1]), int(asked[2]) + 1 if asked[2] else size_bytes
        if asked[2] and stop <= start:
            return Part(200, 0, size_bytes)
        stop = min(stop, size_bytes)
    return Part(206, start, stop) if start < stop else Part(416)


def _names(told: str, etag: str, *, weak: bool = False) -> bool:
    """Whether a list of ETags names this one."""
    named = {each.strip().removeprefix("W/" if weak else "") for each in told.split(",")}
    return etag in named or "*" in named
