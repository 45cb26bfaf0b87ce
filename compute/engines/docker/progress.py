"""How far a pull is: the sum over its layers.

Knows: the events of the daemon's progress stream. Must not know: who reads it.
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct, field

FETCHED: Final = frozenset({"Verifying Checksum", "Download complete", "Extracting", "Pull complete"})
ANNOUNCED: Final = frozenset({"Pulling fs layer", "Waiting"})


class Pull(Struct, frozen=True):
    """Bytes fetched and bytes in all, by layer; None while the daemon has not said how large a layer is."""

    layers: dict[str, tuple[int, int | None]] = field(default_factory=dict)

    @property
    def done_bytes(self) -> int:
        """Fetched so far; layers that were here already do not count."""
        return sum(done for done, _ in self.layers.values())

    @property
    def total_bytes(self) -> int | None:
        """The whole, once every layer's size is known."""
        sizes = [size for _, size in self.layers.values()]
        return None if not sizes or None in sizes else sum(size or 0 for size in sizes)


def advance(pull: Pull, event: Mapping[str, Any]) -> Pull:
    """Take one event into account; what is not about a layer changes nothing."""
    layer, status = event.get("id"), event.get("status")
    if not isinstance(layer, str):
        return pull
    done, size = pull.layers.get(layer, (0, None))
    if status in ANNOUNCED:
        pass
    elif status == "Already exists":
        done, size = 0, 0
    elif status == "Downloading":
        detail = event.get("progressDetail") or {}
        done, size = int(detail.get("current") or 0), _size(detail) or size
    elif status in FETCHED:
        size = size or _size(event.get("progressDetail") or {})
        done = size = size or done
    else:
        return pull
    return Pull(pull.layers | {layer: (done, size)})


def _size(detail: Mapping[str, Any]) -> int | None:
    """A layer's size, or None where the registry does not tell (the daemon then says -1, or nothing)."""
    total = int(detail.get("total") or 0)
    return total if total > 0 else None
