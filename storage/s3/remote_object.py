"""The bytes of one object as it was found: what each request for them asks, and whether an answer is of that object.

Knows: ETags, versions and checksums. Must not know: how requests travel (`storage.parts`), or why it is read.
"""

from collections.abc import Mapping

from protocol.errors import Broken
from storage.lanes import Request
from storage.parts import PARTIAL
from storage.ranged import Refusal
from storage.s3.bulk import Bulk
from storage.s3.checksums import CRCS, Checksum, CrcSum, of_etag, told
from storage.s3.keys import Object
from storage.s3.params import SourceParams


class RemoteObject:
    """An object's bytes for `storage.parts`, pinned to the object's ETag and version."""

    def __init__(self, bulk: Bulk, params: SourceParams, found: Object) -> None:
        self._bulk = bulk
        self.found = found
        version = version_of(params, found)
        self._query = {"versionId": version} if version else {}
        self._pin = {"If-Match": found.etag} if found.etag else {}
        self.checksum = found.checksum
        self._sum: CrcSum | None = None
        self._encrypted = False
        self.name = bulk.url(found.key)
        self.size_bytes = found.size_bytes

    def summed(self) -> CrcSum | None:
        """The sum that its bytes should have, if S3 keeps one that can be reckoned as they come."""
        wanted = self.checksum
        if self._sum is None and wanted is not None and wanted.algorithm in CRCS and not wanted.parts:
            self._sum = CrcSum(self.name, wanted)
        return self._sum

    @property
    def etag_sum(self) -> Checksum | None:
        """What its ETag says of its bytes, where it says that: see `storage.s3.checksums.of_etag`."""
        return None if self._encrypted else of_etag(self.found.etag)

    def request(self, start: int, end: int) -> Request:
        """The whole object is asked for without a range, which every server understands; then its checksum is told, where
        the store takes the question."""
        if start == 0 and end == self.size_bytes:
            asked = {"x-amz-checksum-mode": "ENABLED"} if self._bulk.store.sums else {}
            headers = {**self._pin, **asked}
            return self._bulk.request("GET", self.found.key, headers, self._query)
        headers = {**self._pin, "Range": f"bytes={start}-{end - 1}"}
        return self._bulk.request("GET", self.found.key, headers, self._query, statuses=(PARTIAL,))

    def check(self, headers: Mapping[str, str]) -> None:
        """The ETag that is answered is the pinned one, also where a server does not know If-Match."""
        etag = headers.get("etag", "")
        if etag and self.found.etag and etag.strip('"') != self.found.etag.strip('"'):
            raise Broken(f"{self.name} was changed while it was being read", kind="Changed")
        encrypted = headers.get("x-amz-server-side-encryption", "AES256") != "AES256"
        self._encrypted = encrypted or "x-amz-server-side-encryption-customer-algorithm" in headers
        if "content-range" not in headers:
            self.checksum = self.checksum or told(headers)

    def refused(self, status: int, body: bytes) -> Refusal:
        """S3's own error."""
        return self._bulk.refusal(self.name, status, body)


def version_of(params: SourceParams, found: Object) -> str:
    """The version to ask for: one that the params name, or a result's own. (Who is asked for what is there now may be
    refused versions.)"""
    return params.version_id or (found.version if params.listing is not None else "")
