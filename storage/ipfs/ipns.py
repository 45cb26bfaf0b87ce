"""What an IPNS record says, and whether whoever owns the name says it (https://specs.ipfs.tech/ipns/ipns-record).

Knows: records of version 2 under Ed25519 keys, which names have been for years. Must not know: who keeps the record; nobody
who does is believed.
"""

from datetime import UTC, datetime
from typing import Any, Final

import libipld
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from protocol.errors import Broken, Invalid, NotFound
from storage.ipfs.cid import IDENTITY, LIBP2P_KEY, peer_bytes
from storage.ipfs.dag_pb import fields

RECORD_MAX_BYTES: Final = 10 << 10
_SIGNED: Final = b"ipns-signature:"
_SIGNATURE, _DATA = 8, 9
_KEY_TYPE, _KEY_DATA = 1, 2
_ED25519: Final = 1
_KEY_BYTES: Final = 32


def key_of(name: str) -> bytes | None:
    """The Ed25519 key that a name is, or None for a name that is no key (a domain). Raises `Invalid` for other keys."""
    hashed = peer_bytes(name)
    if not hashed:
        return None
    hint = "Only names of Ed25519 keys can be verified (k51…, 12D3Koo…)."
    if hashed[0] != IDENTITY:
        raise Invalid(f"the IPNS name {name} is of a key that it does not hold itself", hint=hint)
    try:
        key: dict[int, Any] = dict(fields(hashed[2:]))
    except Broken as error:
        raise Invalid(f"{name} is no IPNS name", hint=hint) from error
    data = key.get(_KEY_DATA)
    if key.get(_KEY_TYPE) != _ED25519 or not isinstance(data, bytes) or len(data) != _KEY_BYTES:
        raise Invalid(f"the IPNS name {name} is of a kind of key that is not taken", hint=hint)
    return data


def canonical(name: str) -> str:
    """A name that is a key, as gateways want it: a CID in base 36; others send elsewhere."""
    return str(libipld.encode_multibase("k", bytes((1, LIBP2P_KEY)) + peer_bytes(name)))


def meaning_of(record: bytes, name: str, key: bytes, now: datetime) -> str:
    """The path that a record gives to a name. Raises `Broken` unless its owner signed it, `NotFound` if it has run out."""
    try:
        found: dict[int, Any] = dict(fields(record))
        signed, signature = found[_DATA], found[_SIGNATURE]
        VerifyKey(key).verify(_SIGNED + signed, signature)
        said = libipld.decode_dag_cbor(signed)
        path, ends = said["Value"].decode(), _time(said["Validity"].decode())
    except BadSignatureError as error:
        raise Broken(f"the record of {name} is not signed by its owner", kind="Record") from error
    except (Broken, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Broken(f"the record of {name} cannot be read", kind="Record") from error
    if ends < now:
        raise NotFound(
            f"the record of {name} ran out at {ends:%Y-%m-%d %H:%M} UTC", hint="Publish the name again."
        )
    return str(path)


def _time(text: str) -> datetime:
    """RFC 3339, with more digits of a second than Python reads."""
    whole, _, _ = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(whole).replace(tzinfo=UTC)
