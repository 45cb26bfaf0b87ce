"""The two layers of a UnixFS block: dag-pb's links around UnixFS's own words.

Knows: the encodings (https://ipld.io/specs/codecs/dag-pb/spec, https://specs.ipfs.tech/unixfs). Must not know: what becomes
of a node; its numbers, names and links are told as they stand.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from msgspec import Struct

from protocol.errors import Broken
from storage.ipfs.cid import cid_end, varint

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LINKS, _DATA = 2, 1
_HASH, _NAME, _TSIZE = 1, 2, 3
_FIELD_KEYS: Final = (_LINKS << 3 | _BYTES, _DATA << 3 | _BYTES)
_LINK_KEYS: Final = (_HASH << 3 | _BYTES, _NAME << 3 | _BYTES, _TSIZE << 3 | _VARINT)


class Type(IntEnum):
    """What a UnixFS node is."""

    RAW = 0
    DIRECTORY = 1
    FILE = 2
    METADATA = 3
    SYMLINK = 4
    SHARD = 5


_TYPES: Final = frozenset(Type)


class Link(Struct, frozen=True):
    """A link of a node. `total_bytes` is what all blocks below it take, by the word of whoever made the node."""

    cid: bytes
    name: bytes = b""
    total_bytes: int = 0


class UnixFs(Struct, frozen=True):
    """A node's own words. `sizes` are the bytes of the file that are below each link."""

    type: Type
    data: bytes = b""
    size_bytes: int | None = None
    sizes: list[int] = []
    hash_type: int = 0
    fanout: int = 0
    mode: int = 0


class Node(Struct, frozen=True):
    """A whole block."""

    links: list[Link]
    unixfs: UnixFs


def read_node(block: bytes) -> Node:
    """Read a dag-pb block that holds UnixFS. Raises `Broken` for anything else."""
    links = []
    data = None
    for number, value in fields(block):
        if number == _LINKS and isinstance(value, bytes):
            links.append(_link(value))
        elif number == _DATA and isinstance(value, bytes) and data is None:
            data = value
        else:
            raise Broken("it is not dag-pb")
    if data is None:
        raise Broken("it is dag-pb without UnixFS")
    return Node(links, _unixfs(data))


def without_link(block: bytes, name: bytes) -> bytes:
    """A dag-pb block without its links of that name, every other byte as it stands. Raises `Broken`."""
    kept = bytearray()
    at = 0
    while at < len(block):
        begin = at
        key, at = varint(block, at)
        size, at = varint(block, at)
        at += size
        if key not in _FIELD_KEYS or at > len(block):
            raise Broken("it is not dag-pb")
        if key != _FIELD_KEYS[0] or _link(block[at - size : at]).name != name:
            kept += block[begin:at]
    return bytes(kept)


def _link(block: bytes) -> Link:
    usual = _usual_link(block)
    if usual is not None:
        return usual
    cid = name = b""
    total = 0
    for number, value in fields(block):
        if number == _HASH and isinstance(value, bytes):
            cid = value
        elif number == _NAME and isinstance(value, bytes):
            name = value
        elif number == _TSIZE and isinstance(value, int):
            total = value
        else:
            raise Broken("it has a link that is not dag-pb")
    if not cid or cid_end(cid) != len(cid):
        raise Broken("it has a link without a CID")
    return Link(cid, name, total)


def _usual_link(block: bytes) -> Link | None:
    """A link as everybody writes it, its three fields once and in order; None for another. A folder has thousands."""
    try:
        cid_to = 2 + block[1]
        name_to = cid_to + 2 + block[cid_to + 1]
        keys = block[0], block[cid_to], block[name_to]
    except IndexError:
        return None
    if keys != _LINK_KEYS or block[1] > 0x7F or block[cid_to + 1] > 0x7F:
        return None
    total, end = varint(block, name_to + 1)
    cid = block[2:cid_to]
    if end != len(block) or not cid or cid_end(cid) != len(cid):
        return None
    return Link(cid, block[cid_to + 2 : name_to], total)


def _unixfs(block: bytes) -> UnixFs:
    """Unknown fields are passed over, as protobuf wants it; times are among them."""
    found: dict[int, int] = {}
    data = b""
    sizes: list[int] = []
    for number, value in fields(block):
        if number == 2 and isinstance(value, bytes):
            data = value
        elif number == 4:
            # Repeated numbers stand alone, or packed into one field.
            sizes += [value] if isinstance(value, int) else _packed(value)
        elif isinstance(value, int):
            found[number] = value
    if found.get(1, -1) not in _TYPES:
        raise Broken("it is not UnixFS")
    return UnixFs(
        Type(found[1]),
        data,
        size_bytes=found.get(3),
        sizes=sizes,
        hash_type=found.get(5, 0),
        fanout=found.get(6, 0),
        mode=found.get(7, 0),
    )


def _packed(data: bytes) -> list[int]:
    numbers = []
    at = 0
    while at < len(data):
        number, at = varint(data, at)
        numbers.append(number)
    return numbers


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message: a number, or bytes. Raises `Broken`."""
    at = 0
    end = len(data)
    while at < end:
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = varint(data, at)
            yield number, value
        elif kind == _BYTES:
            size, at = varint(data, at)
            if size > end - at:
                raise Broken("it is cut short")
            yield number, data[at : at + size]
            at += size
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            if size > end - at:
                raise Broken("it is cut short")
            yield number, int.from_bytes(data[at : at + size], "little")
            at += size
        else:
            raise Broken("it is not protobuf")
