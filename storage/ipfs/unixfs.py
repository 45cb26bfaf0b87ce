"""From a block to a tree: what a block says of the files and folders it belongs to, and which blocks are still wanted.

Knows: UnixFS, and that a tree comes from strangers. Must not know: the network or the disk; a block goes in, a `Found` comes
out.

A tree is taken apart from its root. Each `Want` is a block that is missing and all that its parent said of it: whose file
it is a piece of, from which byte on, how long. What a parent says is checked against what the block holds, so equal CIDs
give equal bytes or a fault, whoever made the blocks.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from msgspec import Struct

from protocol.errors import Broken, Exhausted, Fault, Invalid
from storage.ipfs.cid import CODECS, DAG_PB, RAW, cid_text, parts_of
from storage.ipfs.dag_pb import Node, Type, UnixFs, read_node
from storage.ipfs.murmur3 import BITS, murmur3
from storage.tree import Kind, Limits, check_link, safe_parts

LEVELS_MAX: Final = 64
"""Levels of one file or of one sharded folder; Kubo makes five of a file of a petabyte."""
FANOUT_MAX: Final = 1024
DEPTH_MAX: Final = Limits().depth


class Role(StrEnum):
    """What a wanted block is to its parent."""

    NODE = "node"
    """A file, a folder or a link: the block will say."""
    PIECE = "piece"
    """A part of a file's bytes."""
    SHARD = "shard"
    """A part of a sharded folder's entries."""


class Want(Struct, frozen=True, gc=False):
    """A block that is missing. `path` is of the file or folder it belongs to, empty for the root itself.

    `size_bytes` is what the parent says of a piece or of a file, None where it does not. `total_bytes` is what all that is
    below weighs, by the word of the tree's maker: good for choosing a way, not for trusting.
    """

    cid: bytes
    path: str = ""
    role: Role = Role.NODE
    offset: int = 0
    size_bytes: int | None = None
    total_bytes: int = 0
    level: int = 0


class Found(Struct, frozen=True):
    """What a block holds: a thing at `path`, or a further part of one (then `kind` is None).

    `data` goes to the file's `offset`; `size_bytes` is the whole file's. `wants` are in the order of the tree.
    """

    path: str
    kind: Kind | None = None
    size_bytes: int = 0
    executable: bool = False
    target: str = ""
    data: bytes | memoryview = b""
    offset: int = 0
    wants: list[Want] = []


def expand(want: Want, block: bytes | memoryview) -> Found:
    """Read a block that was wanted, and is known to be the one that its CID names.

    Raises `Invalid` (a name, a link or a kind that is not taken, or not what its parent said of it), `Exhausted` (too many
    levels); each names the block.
    """
    try:
        codec = parts_of(want.cid).codec
        if codec == RAW:
            return _raw(want, block)
        if codec != DAG_PB:
            raise Invalid(f"it is {CODECS.get(codec, hex(codec))} and neither a file nor a folder")
        if want.level > LEVELS_MAX:
            raise Exhausted(f"it is more than {LEVELS_MAX} levels below its file or folder")
        node = read_node(bytes(block))
        match node.unixfs.type:
            case Type.FILE | Type.RAW:
                return _file(want, node)
            case Type.DIRECTORY if want.role is Role.NODE:
                return Found(want.path, Kind.FOLDER, wants=_unique(_entries(want, node)))
            case Type.SHARD if want.role is not Role.PIECE:
                kind = Kind.FOLDER if want.role is Role.NODE else None
                return Found(want.path, kind, wants=_unique(_shard(want, node)))
            case Type.SYMLINK if want.role is Role.NODE:
                return _link(want, node.unixfs)
        raise Invalid(f"it is of UnixFS type {node.unixfs.type}, which is not taken there")
    except Fault as fault:
        where = f"{want.path!r}, block {cid_text(want.cid)}" if want.path else f"block {cid_text(want.cid)}"
        # The block is what its CID names, and the CID will never name another.
        final = Invalid if isinstance(fault, Broken) else type(fault)
        raise final(f"{where}: {fault.message}", hint=fault.hint, kind=fault.kind) from None


def towards(want: Want, block: bytes, name: str) -> tuple[Want | None, list[str]]:
    """What leads on to `name` from a block of a folder: the entry, or the shard (`Role.SHARD`) where it stands if it does;
    None if there is no such entry, which the block proves. And the names that stand in this block.

    Raises as `expand`.
    """
    below = expand(want, block).wants
    entries = [each for each in below if each.role is Role.NODE]
    found = next((each for each in entries if each.path == name), None)
    if found is not None:
        found = Want(found.cid, size_bytes=found.size_bytes, total_bytes=found.total_bytes)
    elif any(each.role is Role.SHARD for each in below):
        found = _shard_of(want, read_node(block), name)
    return found, [each.path for each in entries]


def _shard_of(want: Want, node: Node, name: str) -> Want | None:
    """The shard below this one where `name` stands if it stands anywhere: each level is told by further bits of its hash."""
    fanout = node.unixfs.fanout
    bits = fanout.bit_length() - 1
    left = BITS - bits * (want.level + 1)
    if left < 0:
        return None
    place = murmur3(name.encode()) >> left & (fanout - 1)
    slot = f"{place:0{len(f'{fanout - 1:x}')}X}".encode()
    link = next((each for each in node.links if each.name == slot), None)
    return None if link is None else Want(link.cid, role=Role.SHARD, level=want.level + 1)


def _raw(want: Want, block: bytes | memoryview) -> Found:
    if want.role is Role.SHARD:
        raise Broken("it is no part of a folder")
    if want.size_bytes not in (None, len(block)):
        raise Broken(f"it has {len(block)} bytes where {want.size_bytes} were announced")
    kind = Kind.FILE if want.role is Role.NODE else None
    return Found(want.path, kind, len(block), data=block, offset=want.offset)


def _file(want: Want, node: Node) -> Found:
    if want.role is Role.SHARD:
        raise Broken("it is no part of a folder")
    words = node.unixfs
    if len(words.sizes) != len(node.links):
        raise Broken(f"it has {len(node.links)} links and tells {len(words.sizes)} sizes")
    size = len(words.data) + sum(words.sizes)
    if words.size_bytes not in (None, size) or want.size_bytes not in (None, size):
        announced = words.size_bytes if words.size_bytes not in (None, size) else want.size_bytes
        raise Broken(f"its parts have {size} bytes where {announced} were announced")
    wants = []
    at = want.offset + len(words.data)
    for link, part in zip(node.links, words.sizes, strict=True):
        # An empty part changes nothing, and so many of them are no work for anybody.
        if part:
            wants.append(
                Want(link.cid, want.path, Role.PIECE, at, part, link.total_bytes, level=want.level + 1)
            )
        at += part
    kind = Kind.FILE if want.role is Role.NODE else None
    executable = bool(words.mode & 0o111)
    return Found(want.path, kind, size, executable, data=words.data, offset=want.offset, wants=wants)


def _entries(want: Want, node: Node) -> Iterator[Want]:
    for link in node.links:
        yield _entry(want, link.name, link.cid, link.total_bytes)


def _shard(want: Want, node: Node) -> Iterator[Want]:
    """A link's name begins with its place in hexadecimal; with nothing behind it, it leads to a shard below."""
    fanout = node.unixfs.fanout
    if not 1 < fanout <= FANOUT_MAX or fanout & (fanout - 1):
        raise Invalid(f"it is a sharded folder with a fanout of {fanout}")
    width = len(f"{fanout - 1:x}")
    for link in node.links:
        if len(link.name) < width:
            raise Broken(f"it is a sharded folder with the entry {link.name!r}")
        if len(link.name) == width:
            yield Want(link.cid, want.path, Role.SHARD, total_bytes=link.total_bytes, level=want.level + 1)
        else:
            yield _entry(want, link.name[width:], link.cid, link.total_bytes)


def _entry(want: Want, name: bytes, cid: bytes, total_bytes: int) -> Want:
    try:
        text = name.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"the name {name[:200]!r} is refused: it is not UTF-8", kind="Name") from error
    if "/" in text or safe_parts(text) != (text,):
        raise Invalid(
            f"the name {text[:200]!r} is refused", hint="Rename it where it comes from.", kind="Name"
        )
    path = f"{want.path}/{text}" if want.path else text
    if path.count("/") >= DEPTH_MAX:
        raise Exhausted(f"it is more than {DEPTH_MAX} folders deep")
    # A raw block is the file itself, and its weight is its size; some tools write none.
    size = (total_bytes or None) if parts_of(cid).codec == RAW else None
    return Want(cid, path, size_bytes=size, total_bytes=total_bytes)


def _unique(wants: Iterator[Want]) -> list[Want]:
    """Two names that are one would make a tree of what came last."""
    found = list(wants)
    named: set[str] = set()
    for want in found:
        if want.role is Role.NODE:
            if want.path in named:
                raise Invalid(f"the name {want.path!r} stands there twice", kind="Name")
            named.add(want.path)
    return found


def _link(want: Want, words: UnixFs) -> Found:
    try:
        target = words.data.decode()
    except UnicodeDecodeError as error:
        raise Invalid("it is a link whose target is not UTF-8", kind="Link") from error
    if not want.path:
        raise Invalid(
            "it is a symbolic link", hint="Name what it leads to, or the folder it is in.", kind="Link"
        )
    check_link(want.path, target)
    return Found(want.path, Kind.LINK, target=target)
