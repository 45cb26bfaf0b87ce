"""What a result of one object a file consists of: which objects, and of which bytes.

Knows: what is written down of them when they are put there, and how that is compared with what lies there later. Must not
know: any S3 client.

A prefix may hold other objects beside a result's: an earlier result that was overwritten, files of a person. So a result
does not say "all that is below this prefix" but names its objects: each by key, size and ETag (and version, where the bucket
keeps versions) if they are few, all of them together by a digest if they are many; then the execution that stands in each
object's metadata (`storage.s3.claims`) tells them from the others.
"""

import hashlib
from typing import Final

from msgspec import Struct, field

from protocol.errors import Broken
from protocol.ids import short
from protocol.spelling import some_of
from storage.long_lists import Packed
from storage.s3.keys import Object

OBJECTS_MAX: Final = 20
KEYS_MAX_BYTES: Final = 4096
"""What a result names one by one. A job may have ten thousand executions, and a requester has all of them in memory."""
_SHOWN: Final = 3


class Pin(Struct, frozen=True, rename="pascal", omit_defaults=True):
    """One object as it was when it was put there; `version_id` is empty where the bucket keeps none."""

    key: str
    size: int
    e_tag: str = field(name="ETag")
    version_id: str = field(default="", name="VersionID")

    @property
    def found(self) -> Object:
        """As a look at it would show it."""
        return Object(self.key, self.size, f'"{self.e_tag}"' if self.e_tag else "", self.version_id)


class Listing(Struct, frozen=True, rename="pascal", omit_defaults=True):
    """The objects of a result: `count` with `size` bytes together, put there by `execution_id`.

    `sha256` is of their lines (`digest_of`). `objects` are all of them in the order of their keys, or none where they are
    too many.
    """

    sha256: str = field(name="SHA256")
    count: int
    size: int
    execution_id: str = field(default="", name="ExecutionID")
    objects: list[Pin] = field(default_factory=list)


def listing_of(objects: Packed[Object], execution: str) -> Listing:
    """Write down what was put there."""
    size_bytes = sum(each.size_bytes for each in objects)
    pins = []
    if len(objects) <= OBJECTS_MAX:
        in_order = objects.in_order(_key)
        pins = [Pin(each.key, each.size_bytes, _etag(each), each.version) for each in in_order]
    few = sum(len(each.key.encode()) for each in pins) <= KEYS_MAX_BYTES
    return Listing(digest_of(objects), len(objects), size_bytes, execution, pins if few else [])


def digest_of(objects: Packed[Object]) -> str:
    """SHA-256 of a line for each object in the order of their keys: key, size and ETag with NULs between."""
    whole = hashlib.sha256()
    for each in objects.in_order(_key):
        whole.update(f"{each.key}\0{each.size_bytes}\0{_etag(each)}\n".encode())
    return whole.hexdigest()


def _key(found: Object) -> str:
    return found.key


def _etag(found: Object) -> str:
    """Without its quotation marks; a folder's marker has nothing that could change."""
    return "" if found.is_marker else found.etag.strip('"')


def check_listing(url: str, listing: Listing, found: Packed[Object]) -> None:
    """Raise `Broken` unless these are the objects that were put there; it names those that are missing or have changed, as
    far as anybody knows."""
    if digest_of(found) == listing.sha256:
        return
    raise changed(url, listing, _difference(listing, found))


def changed(url: str, listing: Listing, difference: str) -> Broken:
    """That a result is not what was put there."""
    of = f", the result of execution {short(listing.execution_id)}," if listing.execution_id else ""
    hint = "It was changed or removed since. Run the job again, with {executionID} in the publisher's Key."
    return Broken(f"{url}{of} is not as it was published: {difference}", hint=hint, kind="Changed")


def _difference(listing: Listing, found: Packed[Object]) -> str:
    if not listing.objects:
        there, size_bytes = len(found), sum(each.size_bytes for each in found)
        if (there, size_bytes) == (listing.count, listing.size):
            return f"of its {listing.count} objects some have other bytes"
        return f"of its {listing.count} objects ({listing.size} bytes) {there} are there ({size_bytes} bytes)"
    now = {each.key: (each.size_bytes, _etag(each)) for each in found}
    wrong = [
        f"{each.key!r} {'has other bytes' if each.key in now else 'is missing'}"
        for each in listing.objects
        if now.get(each.key) != (each.size, each.e_tag)
    ]
    return some_of(wrong, _SHOWN) or "there is more than it had"
