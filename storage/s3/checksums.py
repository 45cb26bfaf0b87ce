"""Checksums that S3 keeps of an object, beside the bytes that came.

Knows: S3's algorithms, and which checksum is of the whole and which of its parts' checksums (it ends with their number).
Must not know: how bytes come. CRCs are reckoned while bytes are written, each range by itself, and put together; the
others, and those of parts, are reckoned from the file afterwards.
"""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from protocol.errors import Broken
from storage.threads import Stop
from storage.tree import CHUNK_BYTES, digest_file

CRCS: Final = {"CRC64NVME": 8, "CRC32C": 4, "CRC32": 4}
"""Those that ranges can be put together of, with their lengths in bytes."""
HASHES: Final = ("SHA256", "SHA1")
_MD5: Final = re.compile(r'"?([0-9a-f]{32})(?:-([1-9][0-9]{0,4}))?"?')


class Checksum(Struct, frozen=True, gc=False, array_like=True):
    """One that was told: `value` in Base64; `parts` is 0 if it is of the whole."""

    algorithm: str
    value: str
    parts: int = 0


def told(fields: Mapping[str, Any]) -> Checksum | None:
    """The checksum among an answer's headers (names in lower case) or botocore's fields: the cheapest of the whole first."""
    found = []
    for algorithm in (*CRCS, *HASHES):
        text = fields.get(f"x-amz-checksum-{algorithm.lower()}") or fields.get(f"Checksum{algorithm}")
        if isinstance(text, str) and text:
            value, _, parts = text.partition("-")
            found.append(Checksum(algorithm, value, int(parts) if parts.isdecimal() else 0))
    return min(found, key=lambda each: each.parts > 0, default=None)


def of_etag(etag: str) -> Checksum | None:
    """What an ETag of S3's usual form says: the MD5 of the bytes, or of the MD5s of so many parts. Not every store means it
    so, and none for what it keeps encrypted with a key of its own."""
    found = _MD5.fullmatch(etag)
    if found is None:
        return None
    return Checksum("MD5", base64.b64encode(bytes.fromhex(found[1])).decode(), int(found[2] or 0))


class CrcSum:
    """Sums up ranges of one file: a `storage.parts.Sum`."""

    def __init__(self, name: str, wanted: Checksum) -> None:
        from awscrt import checksums

        self._name = name
        self._wanted = wanted
        kind = wanted.algorithm.lower()
        self._of: Callable[[Any, int], int] = getattr(checksums, kind)
        self._joined: Callable[[int, int, int], int] = getattr(checksums, f"combine_{kind}")

    def more(self, value: int, data: memoryview) -> int:
        """The sum of what was summed and of these bytes behind it."""
        return self._of(data, value)

    def join(self, one: int, other: int, other_bytes: int) -> int:
        """The sum of two ranges of which the second has so many bytes."""
        return self._joined(one, other, other_bytes)

    def check(self, value: int) -> None:
        """Raise `Broken` unless this is the sum that was told."""
        found = base64.b64encode(value.to_bytes(CRCS[self._wanted.algorithm])).decode()
        if found != self._wanted.value:
            raise other_bytes(self._name, self._wanted, found)


def sum_of(wanted: Checksum, path: Path, part_bytes: int, stop: Stop) -> str:
    """The file's checksum as that one is reckoned, of the whole or of its parts of so many bytes; blocking."""
    outer = _new(wanted.algorithm)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
        if not wanted.parts:
            while piece := file.read(CHUNK_BYTES):
                outer.update(piece)
                stop()
        for _ in range(wanted.parts):
            inner, left = _new(wanted.algorithm), part_bytes
            while left and (piece := file.read(min(left, CHUNK_BYTES))):
                inner.update(piece)
                left -= len(piece)
                stop()
            outer.update(inner.digest())
    return base64.b64encode(outer.digest()).decode()


def sha256_of(path: Path, stop: Stop) -> str:
    """A file's SHA-256 as S3 writes it; blocking."""
    digest = digest_file(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), stop)
    return base64.b64encode(bytes.fromhex(digest)).decode()


def other_bytes(name: str, wanted: Checksum, found: str) -> Broken:
    """That other bytes came than S3 has."""
    return Broken(
        f"{name}: other bytes came than S3 has: their {wanted.algorithm} is {found}, and S3 says {wanted.value}",
        kind="Checksum",
    )


class _Crc:
    """A CRC that is used like a hash."""

    def __init__(self, algorithm: str) -> None:
        from awscrt import checksums

        self._of: Callable[[bytes, int], int] = getattr(checksums, algorithm.lower())
        self._bytes = CRCS[algorithm]
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = self._of(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._bytes)


def _new(algorithm: str) -> Any:
    return _Crc(algorithm) if algorithm in CRCS else hashlib.new(algorithm.lower(), usedforsecurity=False)
