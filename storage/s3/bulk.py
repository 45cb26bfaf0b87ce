"""How the bytes of a bucket's objects are asked for, past botocore: where, as whom, and what a refusal means.

Knows: request targets, S3's errors and its listings. Must not know: where an account comes from, or what is done with the
bytes. botocore says once for each bucket where its objects are and in which scope they are signed for
(`storage.s3.connection`); from then on requests are made here, in threads.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, unquote_plus, urlsplit
from xml.etree import ElementTree as ET

from protocol.errors import Broken, Invalid, Unavailable
from storage.lanes import Lane, Request
from storage.long_lists import Packed
from storage.ranged import Refusal
from storage.s3.faults import ACCOUNT, SUMS, fault_of, not_s3
from storage.s3.keys import ODD_HINT, Object
from storage.s3.signing import Credentials, Scope, Signer, query_of, quoted_path
from storage.wire import Head, Line

PAGE_MAX_BYTES: Final = 1 << 24
PARSED_BYTES: Final = 1 << 15
"""So much XML is read in one call, which no other thread interrupts: a page of a thousand keys has ten times as much."""
EMPTY_PAGES_MAX: Final = 1000
"""How many pages in a row may be empty (AWS sends such where much was deleted) before a listing is taken for endless."""
PROBE: Final = "shoal"
"""The key whose address botocore is asked for; what stands before it in the URL stands before every key."""


class Store:
    """What is learned of a store while it is spoken to (docs/adr/0049): `sums` is whether it takes S3's checksums.
    Backblaze's takes no request that names them (https://github.com/diced/zipline/issues/746); MD5s are taken by all."""

    def __init__(self) -> None:
        self.sums = True


class Bulk:
    """One bucket at one endpoint, with one account or none. `signer` None means unsigned.

    `renewed` is asked, in the thread that was refused, whether there is another account than one that S3 says is over.
    `always` are headers of every request.
    """

    def __init__(
        self,
        bucket: str,
        endpoint: str,
        probe_url: str,
        account: Credentials | None,
        renewed: "Callable[[Signer, Credentials], bool]" = lambda signer, over: False,
        always: Mapping[str, str] | None = None,
        store: Store | None = None,
    ) -> None:
        parts = urlsplit(probe_url)
        assert parts.path.endswith(f"/{PROBE}")
        self.bucket = bucket
        self.endpoint = endpoint
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._base = parts.path.removesuffix(PROBE)
        self.signer = Signer(account, _scope_of(probe_url)) if account is not None else None
        self.authority = parts.netloc
        self._renewed = renewed
        self._always = always or {}
        self.store = store or Store()
        self._asked = threading.local()
        """As whom this thread asked last, and whether with a checksum: meanwhile another may have had the account renewed,
        or learned that the store takes none."""

    @property
    def signed(self) -> bool:
        """Whether requests carry an account."""
        return self.signer is not None

    def url(self, key: str) -> str:
        """How messages name an object."""
        return f"s3://{self.bucket}/{key}"

    def request(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None = None,
        *,
        body: Sequence[memoryview] = (),
        statuses: tuple[int, ...] = (200,),
    ) -> Request:
        """A request about an object (or the bucket itself, if `key` is empty), signed as of now."""
        target = self._base + quoted_path(key) + (f"?{query_of(query)}" if query else "")
        headers = {**headers, **self._always}
        self._asked.summed = any(name.startswith("x-amz-checksum") for name in headers)
        if self.signer is not None:
            self._asked.account = self.signer.account
            headers = self.signer.signed(method, self.authority, target, headers)
        return Request(method, target, headers, body, statuses)

    def link(self, method: str, key: str, query: Mapping[str, str], expires_s: int) -> str:
        """A URL that anybody can use for one such request. There must be an account."""
        assert self.signer is not None
        target = self._base + quoted_path(key) + (f"?{query_of(query)}" if query else "")
        return self.origin + self.signer.link(method, self.authority, target, expires_s)

    def refusal(self, what: str, status: int, body: bytes) -> Refusal:
        """What an answer about `what` that is none of success means; to be asked in the thread that asked for it."""
        refusal = refusal_of(what, status, body, self.endpoint, signed=self.signed)
        if refusal.fault.kind == ACCOUNT and self.signer is not None:
            again = self._renewed(self.signer, self._asked.account)
            return Refusal(refusal.fault, again)
        if refusal.fault.kind == SUMS:
            self.store.sums = False
            return Refusal(refusal.fault, again=self._asked.summed)
        return refusal


class Page:
    """One page of a listing: a `storage.lanes.Task`."""

    size_bytes = 0
    moved_bytes = 0

    def __init__(self, bulk: Bulk, prefix: str, after: str) -> None:
        self._bulk = bulk
        self._prefix = prefix
        self._after = after
        self.name = bulk.url(prefix)
        self.objects: list[Object] = []
        self.next = ""

    def request(self) -> Request:
        """Ask for it."""
        query = {"list-type": "2", "prefix": self._prefix, "encoding-type": "url"}
        if self._after:
            query["continuation-token"] = self._after
        return self._bulk.request("GET", "", {}, query)

    def refused(self, status: int, body: bytes) -> Refusal:
        """As S3 says. One that has no bucket of that name says so; a bare 404 is some other server's."""
        if status == 404 and not error_in(body)[0]:
            return Refusal(not_s3(self.name, self._bulk.endpoint), again=False)
        return self._bulk.refusal(self.name, status, body)

    def answered(self, head: Head, line: Line, lane: Lane) -> None:
        """Read the page. Raises `Broken` for what is none."""
        try:
            self.objects, self.next = read_page(line.rest(PAGE_MAX_BYTES))
        except (ET.ParseError, ValueError, KeyError) as error:
            fault = f"{self.name}: {self._bulk.endpoint} does not answer as S3 does"
            raise Broken(fault, hint="Is this the address of an S3 server?") from error
        for each in self.objects:
            if not each.key.startswith(self._prefix):
                said = f"{self._bulk.endpoint} lists {each.key!r}, which was not asked for"
                raise Broken(f"{self.name}: {said}", hint=ODD_HINT)


def pages(bulk: Bulk, prefix: str, found: Packed[Object]) -> Iterator[Page]:
    """The pages of a listing as tasks, each made when the one before it is done; their objects come into `found`.

    Raises `Broken` for a listing without end.
    """
    page = Page(bulk, prefix, "")
    yield page
    found.extend(page.objects)
    empty = 0
    while after := page.next:
        page = Page(bulk, prefix, after)
        yield page
        found.extend(page.objects)
        empty = 0 if page.objects else empty + 1
        if page.next == after or empty > EMPTY_PAGES_MAX:
            raise Broken(f"{page.name}: the listing at {bulk.endpoint} has no end")


def read_page(body: bytes) -> tuple[list[Object], str]:
    """The objects of a page of a listing, and what to ask for the next with. Raises as the parser, and ``ValueError``."""
    root = _parsed(body)
    if _name(root) != "ListBucketResult":
        raise ValueError("not a listing")
    objects = []
    following = encoding = truncated = ""
    for each in root:
        match _name(each):
            case "Contents":
                fields = {_name(field): field.text or "" for field in each}
                size_bytes = int(fields["Size"])
                if size_bytes < 0:
                    # An object of it would come to no part, and not be there without a word.
                    raise ValueError("an object of less than no bytes")
                objects.append((fields["Key"], size_bytes, fields.get("ETag", "")))
            case "NextContinuationToken":
                following = each.text or ""
            case "EncodingType":
                encoding = each.text or ""
            case "IsTruncated":
                truncated = (each.text or "").lower()
    if encoding == "url":
        objects = [(unquote_plus(key, errors="strict"), size, etag) for key, size, etag in objects]
    if truncated == "true" and not following:
        raise ValueError("a listing is cut off and does not say how it goes on")
    return [Object(*each) for each in objects], following if truncated == "true" else ""


def refusal_of(what: str, status: int, body: bytes, endpoint: str, *, signed: bool) -> Refusal:
    """What an answer about `what` that is none of success means."""
    code, message = error_in(body)
    fault = fault_of(code or str(status), message, status, what, endpoint, signed=signed)
    return Refusal(fault, again=isinstance(fault, Unavailable))


def error_in(body: bytes) -> tuple[str, str]:
    """Code and message of S3's XML error, or two empty texts."""
    try:
        found = {_name(each): each.text or "" for each in _parsed(body)}
    except (ET.ParseError, ValueError):
        return "", ""
    return found.get("Code", ""), found.get("Message", "")


def _parsed(body: bytes) -> Any:
    if b"<!" in body:
        # Declarations have no place in it, and could be made to explode.
        raise ValueError("it holds a declaration")
    parser = ET.XMLParser()
    for start in range(0, len(body), PARSED_BYTES):
        parser.feed(body[start : start + PARSED_BYTES])
    return parser.close()


def _name(element: Any) -> str:
    name: str = element.tag.rpartition("}")[2]
    return name


def _scope_of(url: str) -> Scope:
    """The scope that botocore signed a URL for. Raises `Invalid` for signatures of another kind."""
    query = parse_qs(urlsplit(url).query)
    parts = query.get("X-Amz-Credential", [""])[0].split("/")
    usual = query.get("X-Amz-Algorithm") == ["AWS4-HMAC-SHA256"] and len(parts) == 5
    if not usual or parts[3] == "s3express":
        said = "a bucket of this kind wants another kind of signature, which shoal does not make"
        raise Invalid(
            said, hint="Use a general purpose bucket: no directory bucket, no multi-region access point."
        )
    return Scope(parts[2], parts[3])
