"""How nodes look over REST: Bacalhau's field names, and what it does not have beside them.

Knows: the translation, as plain functions from records to JSON-ready objects. Must not know: HTTP, or where records come
from. Source of the forms: the reference of the peer's API, section 2.7.
"""

import msgspec

from protocol.jobs import Amounts
from protocol.messages import APART
from protocol.nodes import NodeInfo, Offer
from requester.api.views import Json, timestamp
from requester.core.model import NodeRecord


def node_info(info: NodeInfo, free: Amounts, running: int, waiting: int, build: Json) -> Json:
    """What a node says of itself; only drivers that are available are listed, the others say why under ``Unavailable``."""
    capacity: Json = {**_amounts(info.capacity)}
    if info.gpus:
        capacity["GPUs"] = msgspec.to_builtins(info.gpus)
    return {
        "NodeID": info.id,
        "NodeType": "Compute",
        "Labels": info.labels,
        "SupportedProtocols": ["shoal/v1"],
        "ComputeNodeInfo": {
            "ExecutionEngines": _available(info.engines),
            "Publishers": _available(info.publishers),
            "StorageSources": _available(info.sources),
            "MaxCapacity": capacity,
            "QueueCapacity": {},
            "AvailableCapacity": _amounts(free),
            "MaxJobRequirements": _amounts(info.largest),
            "RunningExecutions": running,
            "EnqueuedExecutions": waiting,
            "address": info.address,
            "Unavailable": [
                {"Type": offer.type, "Reason": offer.reason, "Hint": offer.hint}
                for offer in (*info.engines, *info.sources, *info.publishers)
                if not offer.available
            ],
        },
        "BacalhauVersion": build,
    }


def node(record: NodeRecord, build: Json) -> Json:
    """A node as the requester sees it."""
    status = "CONNECTED" if record.connected else "DISCONNECTED"
    view: Json = {
        "Info": node_info(record.info, record.free, record.running, record.waiting, build),
        "Membership": record.membership,
        "Connection": status,
        "ConnectionState": {
            "Status": status,
            "LastHeartbeat": timestamp(record.last_beat_at),
            "ConnectedSince": timestamp(record.connected_since),
            "DisconnectedSince": timestamp(record.disconnected_since),
        },
    }
    if record.cordon is not None or record.aside is not None:
        view["Scheduling"] = _kept_away(record)
    if record.doubled_since:
        view["Doubled"] = {
            "Since": timestamp(record.doubled_since),
            "Reason": "another process that was started earlier speaks as this node too; it does not count",
            "Hint": f"End it, or {APART}",
        }
    if record.held:
        view["HeldInputs"] = {"Count": len(record.held), "Size": sum(record.held.values())}
    return view


def _kept_away(record: NodeRecord) -> Json:
    """Why a node gets no new work: ``cordoned``, ``draining`` (``drained`` when nothing is left on it) or ``set aside``."""
    cordon, aside = record.cordon, record.aside
    if cordon is None:
        assert aside is not None
        return {"State": "set aside", "Reason": aside.reason, "Until": timestamp(aside.until)}
    view: Json = {"State": "cordoned", "Reason": cordon.reason, "Since": timestamp(cordon.since)}
    if cordon.drain_by is not None:
        left = record.running + record.waiting
        view |= {"State": "draining" if left else "drained", "Until": timestamp(cordon.drain_by)}
    return view


def _amounts(amounts: Amounts) -> Json:
    return {
        "CPU": amounts.cpu,
        "Memory": amounts.memory_bytes,
        "Disk": amounts.disk_bytes,
        "GPU": amounts.gpu,
    }


def _available(offers: list[Offer]) -> list[str]:
    return [offer.type for offer in offers if offer.available]
