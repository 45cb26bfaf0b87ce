"""Objects by links that were signed by somebody else: how results come to people who have no account.

Knows: what a requester's `/results` says of them, and how such a link is read in ranges. Must not know: who signed it.

Bacalhau's `s3PreSigned` has the link beside what it is of, in `SourceSpec`. A tree of objects is shoal's own addition:
`Objects` has a link, a size and an ETag for each, and `Key` their prefix.

A link is good for half an hour or so, and a large result takes longer. So whoever can ask for links again gives the source a
`Renew`, and what is asked for later is asked for by a newer link.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct, field

from protocol.errors import Broken, Denied, Fault, Invalid, NotFound
from protocol.nodes import Offer
from storage.arrival import arriving
from storage.contract import Fetched, Form, Progress, Resolved, Share, Source
from storage.lanes import Again, Lane, Lanes, Request, Task
from storage.lister import Lister
from storage.long_lists import Packed
from storage.parts import PARTIAL, Files, Item, requests_for
from storage.ranged import Limits, Refusal, check_size
from storage.resolver import CheckedResolver
from storage.route import find_route
from storage.s3.bulk import refusal_of
from storage.s3.checksums import sha256_of
from storage.s3.keys import Object, landing
from storage.s3.listing import Listing, changed, check_listing
from storage.s3.params import S3Settings
from storage.threads import in_thread
from storage.tree import Entry
from storage.tree import Limits as TreeLimits
from storage.tree_writer import TreeWriter
from storage.wire import Head, Line

LIFE_S: Final = 1800.0
"""How long a link is good that does not say it."""


class SignedObject(Struct, frozen=True, rename="pascal"):
    """One object and its link."""

    key: str
    size: int
    pre_signed_url: str = field(name="PreSignedURL")
    e_tag: str = field(default="", name="ETag")


class PreSignedParams(Struct, frozen=True, rename="pascal"):
    """One object by its link, or a tree of them. What names the object may stand in `source_spec` or beside it."""

    pre_signed_url: str = field(default="", name="PreSignedURL")
    managed: bool = False
    source_spec: dict[str, Any] = field(default_factory=dict)
    bucket: str = ""
    key: str = ""
    region: str = ""
    endpoint: str = ""
    version_id: str = field(default="", name="VersionID")
    checksum_sha256: str = field(default="", name="ChecksumSHA256")
    objects: list[SignedObject] = field(default_factory=list)
    addressing_style: str = ""
    listing: Listing | None = None
    job_id: str = field(default="", name="JobID")
    execution_id: str = field(default="", name="ExecutionID")

    def __post_init__(self) -> None:
        if not self.pre_signed_url and not self.objects:
            raise Invalid("s3PreSigned: PreSignedURL is missing")

    @property
    def name(self) -> str:
        """The object's key, or one for messages."""
        return self.key or str(self.source_spec.get("Key") or "") or "result.tar.gz"

    @property
    def links(self) -> dict[str, str]:
        """The link of each object, by its key."""
        return {each.key: each.pre_signed_url for each in self.objects} or {self.name: self.pre_signed_url}

    @property
    def of(self) -> tuple[str, str, str]:
        """What tells this result from others, whatever its links."""
        return self.execution_id, self.bucket, self.name

    @property
    def url(self) -> str:
        """How messages name a tree."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def sha256(self) -> str:
        """The checksum that was told of the object, if any."""
        return self.checksum_sha256 or str(self.source_spec.get("ChecksumSHA256") or "")


Renew = Callable[[PreSignedParams], Awaitable[Mapping[str, str]]]
"""New links to the objects of a result, by their keys. Raises `Fault`."""


class Link:
    """An object's bytes by its link, the newest of those for its key: a `storage.parts.Far`."""

    def __init__(self, found: Object, links: Mapping[str, str]) -> None:
        self._links = links
        self._where = urlsplit(links[found.key]).netloc
        self._etag = found.etag
        self.name = found.key
        self.size_bytes = found.size_bytes

    @property
    def _target(self) -> str:
        parts = urlsplit(self._links[self.name])
        return f"{parts.path}?{parts.query}"

    def request(self, start: int, end: int) -> Request:
        """A part of it."""
        headers = {"If-Match": self._etag} if self._etag else {}
        if start == 0 and end == self.size_bytes:
            return Request("GET", self._target, headers)
        return Request("GET", self._target, {**headers, "Range": f"bytes={start}-{end - 1}"}, (), (PARTIAL,))

    def check(self, headers: Mapping[str, str]) -> None:
        """What is answered is what was looked at."""
        etag = headers.get("etag", "")
        if etag and self._etag and etag.strip('"') != self._etag.strip('"'):
            raise Broken(f"{self.name} was changed while it was being read", kind="Changed")

    def refused(self, status: int, body: bytes) -> Refusal:
        """S3's error; a link that is refused has most often expired."""
        refusal = refusal_of(self.name, status, body, self._where, signed=True)
        if isinstance(refusal.fault, Denied):
            refusal.fault.hint = "The link may have expired: ask for the results again."
        return refusal


class _Look:
    """Asks for an object's first byte, which tells its size and ETag: a link for reading it is none for a look."""

    size_bytes = 0
    moved_bytes = 0

    def __init__(self, name: str, links: Mapping[str, str]) -> None:
        self._link = Link(Object(name, -1), links)
        self.name = name
        self.found = Object(name, 0)

    def request(self) -> Request:
        """The first byte; of an empty object there is none (416)."""
        asked = self._link.request(0, 1)
        return Request(asked.method, asked.target, asked.headers, (), (200, PARTIAL, 416))

    def refused(self, status: int, body: bytes) -> Refusal:
        """As the link says."""
        return self._link.refused(status, body)

    def answered(self, head: Head, line: Line, lane: Lane) -> None:
        """Take the size from wherever it stands."""
        total = head.headers.get("content-range", "").rpartition("/")[2]
        if head.status == 200:
            total = head.headers.get("content-length", "")
        elif head.status == 416:
            total = "0"
        if not total.isdecimal():
            raise Again(Broken(f"{self.name}: the server does not say how large it is"))
        if head.status != 200:
            line.rest(1 << 16)
        self.found = Object(self.name, int(total), head.headers.get("etag", ""))


class PreSignedSource:
    """Objects by links."""

    type: ClassVar[str] = "s3PreSigned"
    params: ClassVar[Form] = PreSignedParams

    def __init__(self, settings: S3Settings | None = None, renew: Renew | None = None) -> None:
        """To be made when the links have just been told; `renew` None means that there are no others."""
        self._settings = settings or S3Settings()
        self._renew = renew
        self._told_at = asyncio.get_running_loop().time()
        given = self._settings
        self._limits = Limits(
            given.connect_s, given.silence_s, given.retry_s, given.tries, part_bytes=given.part_bytes
        )
        self._lanes = Lanes(self._limits)

    async def aclose(self) -> None:
        """Let go of all connections."""
        self._lanes.close()

    async def probe(self) -> Offer:
        """Always there."""
        return Offer(self.type)

    async def resolve(self, params: PreSignedParams, share: Share) -> Resolved:
        """Look at the object behind the link; of a tree all is told already. Raises as `Source`."""
        links = params.links
        if asyncio.get_running_loop().time() - self._told_at > _life_s(links) / 2:
            await self._renew_all(params, links)
        if params.objects:
            found = Packed(Object, (Object(each.key, each.size, each.e_tag) for each in params.objects))
            if params.listing is not None:
                check_listing(params.url, params.listing, found)
        else:
            look = _Look(params.name, links)
            await self._move(links[params.name], iter([look]), 1)
            found = Packed(Object, [look.found])
        size_bytes = sum(each.size_bytes for each in found)
        check_size(params.name, size_bytes, self._settings.max_bytes)
        pins = " ".join(f"{each.key}?etag={each.etag}" for each in found)
        return Resolved(f"s3PreSigned {pins}", size_bytes, pinned=(found, links))

    async def fetch(
        self, params: PreSignedParams, resolved: Resolved, into: Path, progress: Progress
    ) -> Fetched:
        """Bring it into the folder `into`. Raises as `Source`."""
        found: Packed[Object]
        links: dict[str, str]
        found, links = resolved.pinned
        placed = landing(found, params.name)
        done = 0

        def moved(size: int) -> None:
            nonlocal done
            done += size
            progress(done, resolved.size_bytes)

        async with arriving(into) as beside:
            with TreeWriter(beside, TreeLimits(entries=self._settings.objects * 2)) as tree:
                for folder in placed.folders:
                    tree.folder(folder)
                items = (Item(Link(each, links), partial(tree.open, name)) for name, each in placed.files)
                files = Files(items, self._settings.part_bytes)
                try:
                    if placed.files:
                        sizes = (each.size_bytes for each in found)
                        requests = requests_for(
                            sizes, self._settings.part_bytes, self._settings.small_requests
                        )
                        async with self._renewing(params, links):
                            await self._move(next(iter(links.values())), files.parts(), requests, moved)
                except (Broken, NotFound) as fault:
                    if params.listing is None or fault.kind not in ("Changed", "Object"):
                        raise
                    raise changed(params.url, params.listing, fault.message) from fault
                finally:
                    files.close()
            if params.sha256 and placed.files:
                name, _ = next(iter(placed.files))
                found_sha256 = await in_thread(partial(sha256_of, beside / name))
                if found_sha256 != params.sha256:
                    said = f"{params.name} has the SHA-256 {found_sha256}, and was published with {params.sha256}"
                    hint = "It was damaged on its way, or changed where it lies."
                    raise Broken(said, hint=hint, kind="Checksum")
        return Fetched(into)

    async def entries(self, params: PreSignedParams, resolved: Resolved) -> list[Entry]:
        """See `storage.lister.Lister`."""
        found, _ = resolved.pinned
        return landing(found, params.name).entries

    @asynccontextmanager
    async def _renewing(self, params: PreSignedParams, links: dict[str, str]) -> AsyncIterator[None]:
        """While this is open, `links` are renewed before they end."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(_life_s(links) / 2)
                await self._renew_all(params, links)

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])

    async def _renew_all(self, params: PreSignedParams, links: dict[str, str]) -> None:
        """Have newer links, where there are any; that nobody tells them now says nothing of the old ones."""
        if self._renew is not None:
            with suppress(Fault):
                links |= {key: url for key, url in (await self._renew(params)).items() if key in links}

    async def _move(
        self, url: str, tasks: Iterator[Task], count: int, moved: Callable[[int], None] = lambda _: None
    ) -> None:
        resolver = CheckedResolver(self._settings.addresses)
        resolver.check_url(url)
        route = await find_route(url, self._limits, resolver)
        await self._lanes.move(tasks, route, count, moved)


def _life_s(links: Mapping[str, str]) -> float:
    """How long the first of the links is good from when it was made, in seconds: all are made alike."""
    query = parse_qs(urlsplit(next(iter(links.values()))).query)
    told = query.get("X-Amz-Expires", [""])[0]
    return float(told) if told.isascii() and told.isdecimal() else LIFE_S


if TYPE_CHECKING:

    def _fits(
        driver: PreSignedSource, task: _Look
    ) -> tuple[Source[PreSignedParams], Lister[PreSignedParams], Task]:
        return driver, driver, task
