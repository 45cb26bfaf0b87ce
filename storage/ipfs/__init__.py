"""Data by content, through the RPC API of a Kubo node or from trustless gateways.

A driver is made from an endpoint and limits: ``IpfsSource("/ip4/127.0.0.1/tcp/5001")`` and ``IpfsPublisher(…)``, or around
one `Kubo` that is shared: ``IpfsSource(kubo)``. Both work in any task of one event loop, hold connections open, and let go
of them in ``close()``. The endpoint is a multiaddress or an http URL; with ``/p2p/<id>`` the node behind it must have that
id.

Without a node of one's own, `GatewaySource` reads from trustless gateways, and believes none.

=========  ======================================================================
params     the drivers' parameters and settings, and how CIDs are written (pure)
cid        CIDs as bytes, and blocks checked against them (pure)
dag_pb     what stands in a block (pure)
unixfs     from blocks to a tree (pure)
car        many blocks as one stream (pure)
murmur3    where in a sharded folder a name stands (pure)
answers    what a Kubo node answers (pure)
kubo       calls to a node
faults     what a node says that goes wrong, as our faults (pure)
holders    gateways and nodes, as those who may have blocks
exchange   one request to a holder
blocks     a tree brought block by block, each verified
taking     what a thread does with the blocks
sink       what blocks hold, put on the disk
files      a node's files in ranges
source     resolve and fetch through Kubo
gateways   resolve and fetch through gateways
ipns, dns  what names mean: by their owner's signature, by DNS
publisher  a result as a tree of its own, pinned
=========  ======================================================================
"""

from storage.ipfs.gateways import GatewaySource
from storage.ipfs.kubo import Kubo
from storage.ipfs.params import IpfsSettings, PublisherParams, SourceParams
from storage.ipfs.publisher import IpfsPublisher
from storage.ipfs.source import IpfsSource

__all__ = [
    "GatewaySource",
    "IpfsPublisher",
    "IpfsSettings",
    "IpfsSource",
    "Kubo",
    "PublisherParams",
    "SourceParams",
]
