"""Digests of what was brought, beside those that were told.

Knows: how they are reckoned from a file. Must not know: who told them.
"""

import base64
import hashlib
import os
from pathlib import Path

from protocol.errors import Broken
from storage.threads import Stop, in_thread
from storage.tree import CHUNK_BYTES


async def check_sha256(what: str, told: str, path: Path) -> None:
    """Raise `Broken` unless the file has this SHA-256, in Base64."""

    def digest(stop: Stop) -> str:
        whole = hashlib.sha256()
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
            while piece := file.read(CHUNK_BYTES):
                whole.update(piece)
                stop()
        return base64.b64encode(whole.digest()).decode()

    found = await in_thread(digest)
    if found != told:
        raise Broken(f"{what} has the SHA-256 {found}, and ChecksumSHA256 says {told}", kind="Checksum")
