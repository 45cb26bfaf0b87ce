"""Content identifiers as bytes, and blocks checked against them.

Knows: how a CID is built (https://github.com/multiformats/cid), and the hash functions that IPFS uses. Must not know:
where a block comes from, or what is in it.

A CID travels in links and in CARs as bytes, and those are compared and verified here; people write it as text, which
`libipld` reads and writes.
"""

import hashlib
from collections.abc import Callable
from typing import Final

import libipld
from msgspec import Struct

from protocol.errors import Broken, Invalid

RAW: Final = 0x55
DAG_PB: Final = 0x70
LIBP2P_KEY: Final = 0x72
CODECS: Final = {RAW: "raw", DAG_PB: "dag-pb", 0x71: "dag-cbor", 0x0129: "dag-json", LIBP2P_KEY: "libp2p-key"}
"""Multicodec numbers of what a CID may be of: https://github.com/multiformats/multicodec."""
IDENTITY: Final = 0x00
CID_MAX_BYTES: Final = 4096
EMPTY_CID: Final = "bafkqaaa"
"""A CID that holds its (empty) content in itself: every gateway has it."""

HASH: Final = "Hash"
"""Kind of a fault that says that nobody can tell here whether a block is right."""

_V0_HEAD: Final = b"\x12\x20"
_V0_BYTES: Final = 34
_USUAL: Final = {b"\x01\x55\x12\x20": RAW, b"\x01\x70\x12\x20": DAG_PB}
"""How nearly all CIDs of version 1 begin; to know them at sight halves the work for a small block."""
_USUAL_BYTES: Final = 36
VARINT_MAX_BYTES: Final = 9
_DIGEST_MIN_BYTES: Final = 20
"""A shorter digest could be met by other bytes; so says Kubo's own list of good hashes."""


def _blake2b(size: int) -> Callable[[bytes | memoryview], bytes]:
    return lambda block: hashlib.blake2b(block, digest_size=size).digest()


HASHES: Final[dict[int, Callable[[bytes | memoryview], bytes]]] = {
    0x12: lambda block: hashlib.sha256(block).digest(),
    0x13: lambda block: hashlib.sha512(block).digest(),
    0x14: lambda block: hashlib.sha3_512(block).digest(),
    0x15: lambda block: hashlib.sha3_384(block).digest(),
    0x16: lambda block: hashlib.sha3_256(block).digest(),
    0x17: lambda block: hashlib.sha3_224(block).digest(),
    **{0xB200 + size: _blake2b(size) for size in range(_DIGEST_MIN_BYTES, 65)},
}
"""The hash functions that this process can compute, by their multihash code."""


class Parts(Struct, frozen=True):
    """What a CID is made of."""

    codec: int
    hash: int
    digest: bytes


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """An unsigned varint at `at`, and where it ends. Raises `Broken` if it is cut short or longer than nine bytes."""
    if at < len(data) and (byte := data[at]) < 0x80:
        return byte, at + 1
    number = shift = 0
    for place in range(at, min(at + VARINT_MAX_BYTES, len(data))):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place + 1
        shift += 7
    raise Broken("a number is cut short or too long")


def cid_end(data: bytes | memoryview, at: int = 0) -> int:
    """Where the CID that begins at `at` ends. Raises `Broken` if none does."""
    if data[at : at + 2] == _V0_HEAD:
        end = at + _V0_BYTES
    elif bytes(data[at : at + 4]) in _USUAL:
        end = at + _USUAL_BYTES
    else:
        version, place = varint(data, at)
        if version != 1:
            raise Broken(f"version {version} of CIDs is not known")
        for _ in range(2):
            _, place = varint(data, place)
        size, place = varint(data, place)
        end = place + size
    if end > len(data) or end - at > CID_MAX_BYTES:
        raise Broken("a CID is cut short or too long")
    return end


def parts_of(cid: bytes) -> Parts:
    """Take a CID apart. Raises `Broken`."""
    usual = _USUAL.get(cid[:4])
    if usual is not None and len(cid) == _USUAL_BYTES:
        return Parts(usual, 0x12, cid[4:])
    if cid_end(cid) != len(cid):
        raise Broken("bytes follow a CID")
    if cid[:2] == _V0_HEAD:
        return Parts(DAG_PB, 0x12, cid[2:])
    _, at = varint(cid, 0)
    codec, at = varint(cid, at)
    function, at = varint(cid, at)
    size, at = varint(cid, at)
    return Parts(codec, function, cid[at : at + size])


def read_cid(text: str) -> bytes:
    """The bytes of a CID as people write it, in any base. Raises `Invalid`."""
    try:
        if text.startswith("Qm") and len(text) == 46:
            return _V0_HEAD + bytes(libipld.decode_cid(text)["hash"]["digest"])
        _, cid = libipld.decode_multibase(text)
        parts_of(cid)
    except (ValueError, Broken) as error:
        raise Invalid(f"{text[:100]!r} is not a content identifier") from error
    return bytes(cid)


def cid_text(cid: bytes) -> str:
    """How people write it: version 0 in base 58, version 1 in base 32."""
    return str(libipld.encode_cid(cid))


def cid_like(cid: bytes, block: bytes) -> bytes | None:
    """The CID of a block, of the version, codec and hash function that `cid` has; None if it cannot be computed here."""
    parts = parts_of(cid)
    function = HASHES.get(parts.hash)
    if function is None:
        return None
    digest = function(block)
    return cid.removesuffix(parts.digest) + digest if len(digest) == len(parts.digest) else None


def inlined(cid: bytes) -> bytes | None:
    """The content of a CID that holds it in itself; None for one that names it by a digest."""
    parts = parts_of(cid)
    return parts.digest if parts.hash == IDENTITY else None


def is_empty(cid: bytes) -> bool:
    """Whether a CID names no bytes at all, as a raw block."""
    parts = parts_of(cid)
    function = HASHES.get(parts.hash)
    return parts.codec == RAW and parts.digest == (function(b"") if function else b"")


def check_block(cid: bytes, block: bytes | memoryview, whence: str) -> None:
    """Raise `Broken`, which names the block and `whence` it came, unless its bytes are those that the CID names.

    `Invalid` if the hash function is one that cannot be computed here, or its digest is too short to tell anything.
    """
    parts = parts_of(cid)
    if parts.hash == IDENTITY:
        found = block
    else:
        function = HASHES.get(parts.hash)
        if function is None or len(parts.digest) < _DIGEST_MIN_BYTES:
            raise Invalid(
                f"the block {cid_text(cid)} cannot be verified: its hash function (0x{parts.hash:x}) is not taken here",
                hint="Add the data again with sha2-256 or blake2b-256.",
                kind=HASH,
            )
        found = function(block)[: len(parts.digest)]
    if found != parts.digest:
        raise Broken(
            f"the block {cid_text(cid)} from {whence} holds other bytes than its CID names", kind="Block"
        )


def same_peer(one: str, other: str) -> bool:
    """Whether two spellings of a peer id (base 58, or a CID) mean one peer."""
    return one == other or peer_bytes(one) == peer_bytes(other) != b""


def peer_bytes(text: str) -> bytes:
    """The multihash that a peer id (base 58, or a CID) or an IPNS name is; empty for what is neither."""
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    if text.startswith(("Qm", "1")):
        number = 0
        for letter in text:
            number = number * 58 + alphabet.find(letter)
        size = (number.bit_length() + 7) // 8
        zeros = len(text) - len(text.lstrip("1"))
        return bytes(zeros) + number.to_bytes(size)
    try:
        found = libipld.decode_cid(text)
    except ValueError:
        return b""
    digest = found["hash"]
    return bytes((digest["code"], digest["size"], *digest["digest"]))
