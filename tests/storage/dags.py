"""UnixFS made by hand: any tree as blocks, well-formed or not, without a Kubo node."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import libipld

from storage.ipfs.cid import DAG_PB, RAW
from storage.ipfs.dag_pb import Type

Block = tuple[bytes, bytes]
"""A CID and its bytes."""


def varint(number: int) -> bytes:
    """An unsigned varint."""
    made = b""
    while number >= 0x80:
        made += bytes([number & 0x7F | 0x80])
        number >>= 7
    return made + bytes([number])


def field(number: int, value: bytes | int) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def cid_of(block: bytes, codec: int) -> bytes:
    """A CID of version 1 with SHA-256."""
    return bytes((1, codec, 0x12, 0x20)) + hashlib.sha256(block).digest()


def raw(data: bytes) -> Block:
    """A raw block."""
    return cid_of(data, RAW), data


def inline(data: bytes) -> Block:
    """A raw block that its CID holds."""
    return bytes((1, RAW, 0)) + varint(len(data)) + data, data


def node(
    type: Type,
    links: Sequence[tuple[str | bytes, bytes, int]] = (),
    *,
    data: bytes = b"",
    size: int | None = None,
    sizes: Iterable[int] = (),
    fanout: int = 0,
) -> Block:
    """A dag-pb block; links are a name, a CID and a weight."""
    listed = b""
    for name, cid, weight in links:
        text = name.encode() if isinstance(name, str) else name
        listed += field(2, field(1, cid) + field(2, text) + field(3, weight))
    words = field(1, type) + (field(2, data) if data else b"")
    words += b"" if size is None else field(3, size)
    words += b"".join(field(4, each) for each in sizes) + (field(6, fanout) if fanout else b"")
    block = listed + field(1, words)
    return cid_of(block, DAG_PB), block


def file(pieces: Sequence[bytes]) -> list[Block]:
    """A file of raw leaves below one node, the root first."""
    leaves = [raw(piece) for piece in pieces]
    sizes = [len(piece) for piece in pieces]
    links = [("", cid, len(data)) for cid, data in leaves]
    return [node(Type.FILE, links, size=sum(sizes), sizes=sizes), *leaves]


def folder(entries: Iterable[tuple[str, list[Block]]]) -> list[Block]:
    """A folder, the root first, then all blocks below it in the order of the tree."""
    listed = list(entries)
    links = [(name, blocks[0][0], sum(len(data) for _, data in blocks)) for name, blocks in listed]
    return [node(Type.DIRECTORY, links), *(block for _, blocks in listed for block in blocks)]


def link(target: str) -> list[Block]:
    """A symbolic link."""
    return [node(Type.SYMLINK, data=target.encode())]


def car(blocks: Iterable[Block]) -> bytes:
    """A CAR of these blocks."""
    header: bytes = libipld.encode_dag_cbor({"roots": [], "version": 1})
    return b"".join(varint(len(part)) + part for part in _frames(header, blocks))


def _frames(header: bytes, blocks: Iterable[Block]) -> Iterator[bytes]:
    yield header
    for cid, data in blocks:
        yield cid + data
