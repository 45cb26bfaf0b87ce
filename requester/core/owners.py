"""Who acts when nobody was asked: a rendezvous hash over the requesters that are there.

Knows: the order in which requesters take a job or a node upon themselves. Must not know: who is there (`membership`). The
order is only a courtesy that saves refused appends; the guard on each append is what keeps two from acting.
"""

from collections.abc import Collection
from hashlib import blake2b

from protocol.ids import RequesterId


def rank(me: RequesterId, requesters: Collection[RequesterId], key: str) -> int:
    """How many of the others come before `me` for this job's key or node's id; 0 acts at once, k after k seconds."""
    if len(requesters) < 2:
        return 0
    mine = (_weight(me, key), me)
    return sum((_weight(other, key), other) > mine for other in requesters if other != me)


def _weight(requester: str, key: str) -> bytes:
    return blake2b(f"{requester}\0{key}".encode(), digest_size=8).digest()
