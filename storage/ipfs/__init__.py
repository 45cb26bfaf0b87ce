"""Data by content, through the RPC API of a Kubo node.

A driver is made from an endpoint and limits: ``IpfsSource("/ip4/127.0.0.1/tcp/5001")`` and ``IpfsPublisher(…)``, or around
one `Kubo` that is shared: ``IpfsSource(kubo)``. Both work in any task of one event loop, hold connections open, and let go
of them in ``close()``. The endpoint is a multiaddress or an http URL; with ``/p2p/<id>`` the node behind it must have that
id.

=========  ======================================================================
params     the drivers' parameters and settings, and how CIDs are written (pure)
kubo       calls to a node, and its errors as ours
source     resolve and fetch
publisher  a result as a tree of its own, pinned
=========  ======================================================================
"""

from storage.ipfs.kubo import Kubo
from storage.ipfs.params import IpfsSettings, PublisherParams, SourceParams
from storage.ipfs.publisher import IpfsPublisher
from storage.ipfs.source import IpfsSource

__all__ = [
    "IpfsPublisher",
    "IpfsSettings",
    "IpfsSource",
    "Kubo",
    "PublisherParams",
    "SourceParams",
]
