"""Objects by links that were signed by somebody else: how results come to people who have no account.

Knows: what a requester's `/results` says of them. Must not know: who signed it, or how a link is read (`storage.s3.links`).

Bacalhau's `s3PreSigned` has the link beside what it is of, in `SourceSpec`. A tree of objects is shoal's own addition:
`Objects` has a link, a size and an ETag for each, and `Key` their prefix.

A link is good for half an hour or so, and a large result takes longer; and whoever signed it may have had an account that
ends sooner. So whoever can ask for links again gives the source a `Renew`, and what is asked for later, or was refused, is
asked for by a newer link.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct, field

from protocol.errors import Broken, Invalid, NotFound
from protocol.nodes import Offer
from storage.arrival import arriving
from storage.contract import Fetched, Form, Progress, Resolved, Share, Source
from storage.lanes import Lanes, Task
from storage.lister import Lister
from storage.long_lists import Packed
from storage.parts import Files, Item, requests_for
from storage.ranged import Limits, check_size
from storage.resolver import CheckedResolver
from storage.s3.checksums import sha256_of
from storage.s3.keys import Object, landing
from storage.s3.links import Link, Links, Look, route_of
from storage.s3.listing import Listing, changed, check_listing
from storage.s3.params import S3Settings
from storage.threads import in_thread
from storage.tree import Entry
from storage.tree import Limits as TreeLimits
from storage.tree_writer import TreeWriter


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
        if params.objects:
            found = Packed(Object, (Object(each.key, each.size, each.e_tag) for each in params.objects))
            if params.listing is not None:
                check_listing(params.url, params.listing, found)
        else:
            links = await self._links(params)
            look = Look(params.name, links)
            await self._move(links.any, iter([look]), 1)
            found = Packed(Object, [look.found])
        size_bytes = sum(each.size_bytes for each in found)
        check_size(params.name, size_bytes, self._settings.max_bytes)
        pins = " ".join(f"{each.key}?etag={each.etag}" for each in found)
        return Resolved(f"s3PreSigned {pins}", size_bytes, pinned=found)

    async def fetch(
        self, params: PreSignedParams, resolved: Resolved, into: Path, progress: Progress
    ) -> Fetched:
        """Bring it into the folder `into`. Raises as `Source`."""
        found: Packed[Object] = resolved.pinned
        links = await self._links(params)
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
                        async with links.kept_new():
                            await self._move(links.any, files.parts(), requests, moved)
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
        return landing(resolved.pinned, params.name).entries

    async def _links(self, params: PreSignedParams) -> Links:
        """The links, newer ones where they are old."""
        links = Links(params.links, partial(self._newer, params), self._told_at)
        await links.renew_if_old()
        return links

    async def _newer(self, params: PreSignedParams) -> Mapping[str, str]:
        return await self._renew(params) if self._renew is not None else {}

    async def _move(
        self, url: str, tasks: Iterator[Task], count: int, moved: Callable[[int], None] = lambda _: None
    ) -> None:
        resolver = CheckedResolver(self._settings.addresses)
        resolver.check_url(url)
        route = await route_of(url, self._limits, resolver)
        await self._lanes.move(tasks, route, count, moved)


if TYPE_CHECKING:

    def _fits(driver: PreSignedSource) -> tuple[Source[PreSignedParams], Lister[PreSignedParams]]:
        return driver, driver
