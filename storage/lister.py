"""What some sources can do besides: tell what a tree holds without bringing it.

Knows: the Protocol. Must not know: any driver.
"""

from typing import Protocol

from storage.contract import P_contra, Resolved
from storage.tree import Entry


class Lister(Protocol[P_contra]):
    """Raises the same faults as a `Source`."""

    async def entries(self, params: P_contra, resolved: Resolved) -> list[Entry]:
        """The files, links and folders of what was resolved, by their paths below it; the root itself is none of them."""
