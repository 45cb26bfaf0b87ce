"""What a compute node says about itself.

Knows: the facts placement and people need. Must not know: how they are found out, or what a requester makes of them.
"""

from msgspec import Struct, field

from protocol.ids import NodeId
from protocol.jobs import Amounts


class Offer(Struct, frozen=True, omit_defaults=True):
    """One engine, source or publisher of a node: there (with its version), or why not and what to do.

    `lost`: it is not there now and was before, in the life of this node's process; so it may come back by itself.
    """

    type: str
    available: bool = True
    version: str = ""
    reason: str = ""
    hint: str = ""
    lost: bool = False


class Gpu(Struct, frozen=True):
    """A graphics device, under the names of Bacalhau's API. Memory in MiB."""

    index: int = field(name="Index")
    name: str = field(name="Name")
    vendor: str = field(name="Vendor")
    memory_mib: int = field(default=0, name="Memory")
    pci_address: str = field(default="", name="PCIAddress")


class NodeInfo(Struct, frozen=True, omit_defaults=True):
    """A node's facts. `capacity` is what it gives to jobs in all; `largest` the most one job may ask."""

    id: NodeId
    version: str
    labels: dict[str, str] = field(default_factory=dict)
    engines: list[Offer] = field(default_factory=list)
    sources: list[Offer] = field(default_factory=list)
    publishers: list[Offer] = field(default_factory=list)
    capacity: Amounts = field(default_factory=Amounts)
    largest: Amounts = field(default_factory=Amounts)
    gpus: list[Gpu] = field(default_factory=list)
    address: str = ""

    def offers(self, kind: str, type: str) -> Offer | None:
        """The node's offer of that ``engines``, ``sources`` or ``publishers`` type, available or not, or None."""
        wanted = type.lower()
        for offer in getattr(self, kind):
            if offer.type.lower() == wanted:
                found: Offer = offer
                return found
        return None
