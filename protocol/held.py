"""How a node says which inputs it holds, and how a requester asks whether it holds one.

Knows: the token of an input. Must not know: drivers. A requester cannot resolve: which version of an object a name leads to
is the node's to find out. So the token is made of what the spec says, not of the identity that was found; a node that has
the token may have an older version. It is good for choosing a node, and for nothing else.
"""

from hashlib import blake2b
from typing import Final

import msgspec

from protocol.jobs import Spec

HELD_MAX: Final = 256
"""Tokens in a beat: some eight kilobytes, sent only when they have changed and every quarter of a minute."""


def input_token(source: Spec, partition: int = 0, partitions: int = 1) -> str:
    """Twelve hexadecimal digits that are equal for equal sources: types and the params' own names in any case.

    The share counts only if the params speak of sharing out, as S3's ``Partition`` does; else each partition reads it all.
    """
    params = {key.lower(): value for key, value in source.params.items()}
    share = (partition, partitions) if "partition" in params and partitions > 1 else (0, 1)
    text = msgspec.json.encode((source.type.lower(), params, share), order="deterministic")
    return blake2b(text, digest_size=6).hexdigest()
