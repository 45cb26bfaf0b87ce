"""Which of Bacalhau's clients asks, as far as a request tells.

Knows: the header with a client's version. Must not know: what any client needs.
"""

import re
from collections.abc import Mapping
from typing import Final

VERSION_HEADER: Final = "X-Bacalhau-Git-Version"
OLDEST: Final = (1, 4, 0)
NAMES_ARE_IDENTITIES: Final = (1, 8, 0)
"""From then on a spec under a name that is taken is that job's next version, and one that changes nothing needs ``--force``.
Clients before it have no such flag: each submission was a new job to them, whatever its name."""
UNVERSIONED: Final = (0, 0, 0)
"""What Bacalhau's client says when it was built from its source without a version."""
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


def version_of(headers: Mapping[str, str]) -> tuple[int, ...] | None:
    """The version that a client claims; None if it claims none, or one that cannot be read."""
    found = _VERSION.match(headers.get(VERSION_HEADER, ""))
    return tuple(int(part) for part in found.groups()) if found else None


def is_before(claimed: tuple[int, ...] | None, version: tuple[int, ...]) -> bool:
    """Whether a client that claims a version (`version_of`) says that it is older than another."""
    return claimed is not None and claimed != UNVERSIONED and claimed < version
