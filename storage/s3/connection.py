"""One connection to S3: what can be asked of it, and how bulk data goes over it.

Knows: calls of aiobotocore's client, and what goes past it: bulk data (`storage.s3.bulk`). Must not know: how connections
are made (`storage.s3.client`), or what is read or written. A signed URL never stands in a message.
"""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from typing import Any, Final

from aiohttp.abc import AbstractResolver
from msgspec import Struct

from protocol.errors import Broken, Exhausted, Fault, Invalid, Unavailable
from protocol.together import together
from storage.http_faults import header_text
from storage.lanes import Lanes, Task
from storage.long_lists import Packed
from storage.ranged import Limits
from storage.route import find_route
from storage.s3.bulk import PROBE, Bulk, Store, pages
from storage.s3.checksums import told
from storage.s3.faults import ABOUT_ALL, OVER, code_of, faults, not_s3, status_of
from storage.s3.keys import Object
from storage.s3.renewal import READ_S, Renewal
from storage.s3.signing import Credentials, Signer

SIGNED_S: Final = 3600
DELETE_MAX: Final = 1000
DELETES_AT_ONCE: Final = 16
PAYER: Final = {"x-amz-request-payer": "requester"}
RENEW_S: Final = 30.0
"""How often an account that grows old is asked for anew while data moves."""


class Place(Struct, frozen=True):
    """Where requests go. `signed` says that they carry the node's account, `pays` that it pays for them."""

    endpoint: str
    region: str
    signed: bool
    profile: str = ""
    addressing: str = ""
    pays: bool = False


class Found(Struct, frozen=True):
    """What is at a key: its ETag, and what was kept with it."""

    etag: str
    meta: dict[str, str]


class Roads(Struct, frozen=True):
    """What all connections of a client go over where they carry bulk data."""

    lanes: Lanes
    limits: Limits
    resolver: AbstractResolver
    check_url: Callable[[str], None]
    ca_bundle: str = ""


class Connection:
    """One endpoint and region with one account, or none. Its methods raise our faults, which name `endpoint`.

    `raw` is aiobotocore's client, `account` what it signs with (None: unsigned), `roads` what bulk data goes over.
    """

    def __init__(self, raw: Any, place: Place, account: Renewal | None, roads: Roads) -> None:
        self.raw = raw
        self.signed = place.signed
        self.endpoint: str = raw.meta.endpoint_url
        self._region = place.region
        self._regions: dict[str, str] = {}
        self._account = account
        self._roads = roads
        self._bulks: dict[str, Bulk] = {}
        self._always = PAYER if place.pays else {}
        self.store = Store()
        raw.meta.events.register("needs-retry.s3", self._note_region)
        raw.meta.events.register("needs-retry.s3", self._asks_again)
        raw.meta.events.register("before-call.s3", self._says_who_pays)
        raw.meta.events.register("before-call.s3.DeleteObjects", _with_md5)

    @asynccontextmanager
    async def bulk(self, bucket: str, *, for_others: bool = False) -> AsyncIterator[Bulk]:
        """How the bucket's objects are asked for; while in here, its account is kept from growing old.

        `for_others` is for links: whoever uses them cannot have the account renewed.
        """
        found = self._bulks.get(bucket)
        account = await self._signing_account(lately=for_others)
        if found is None:
            url = await self.signed_url(bucket, PROBE)
            self._roads.check_url(url)
            renewed = partial(self._renewed, asyncio.get_running_loop())
            found = self._bulks[bucket] = Bulk(
                bucket, self.endpoint, url, account, renewed, self._always, self.store
            )
        if found.signer is not None and account is not None:
            found.signer.account = account
        if found.signer is None or self._account is None or not self._account.ends:
            yield found
            return
        renewing = asyncio.create_task(self._renew(found.signer))
        try:
            yield found
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])

    async def move(
        self,
        bulk: Bulk,
        tasks: Iterator[Task],
        count: int,
        moved: Callable[[int], None],
        finish_s: float = 0.0,
    ) -> None:
        """Do tasks of a bucket, `count` at once; see `Lanes.move`. Raises the first one's fault."""
        roads = self._roads
        try:
            route = await find_route(bulk.origin, roads.limits, roads.resolver, roads.ca_bundle)
        except Unavailable as fault:
            if ".amazonaws.com" in bulk.origin:
                fault.hint = "Without an Endpoint it is Amazon's S3; another server is named in the job or on the node."
            raise
        await roads.lanes.move(tasks, route, count, moved, finish_s)

    async def _signing_account(self, *, lately: bool = False) -> Credentials | None:
        if self._account is None:
            return None
        with faults("the AWS configuration", self.endpoint, signed=True):
            return await (self._account.lately() if lately else self._account.now())

    def _renewed(self, loop: asyncio.AbstractEventLoop, signer: Signer, over: Credentials) -> bool:
        """In a lane's thread: have the signer sign as another account, if there is one; whether there is."""
        if self._account is None:
            return False
        asked = asyncio.run_coroutine_threadsafe(self._after(over), loop)
        try:
            now = asked.result(READ_S * 2)
        except (Fault, TimeoutError):
            asked.cancel()
            return False
        if signer.account == over:
            signer.account = now
        return now != over

    async def _after(self, over: Credentials) -> Credentials:
        """The account that takes the place of one that S3 says is over, or the same. Raises as `_signing_account`."""
        assert self._account is not None
        with faults("the AWS configuration", self.endpoint, signed=True):
            return await self._account.after(over)

    def _says_who_pays(self, params: dict[str, Any], **more: Any) -> None:
        """See each request of botocore's."""
        params["headers"].update(self._always)

    async def _asks_again(self, response: Any, attempts: int, **more: Any) -> float | None:
        """See each answer to botocore: what was refused because the account is over is asked for once more."""
        code = response[1].get("Error", {}).get("Code") if response is not None else None
        if code not in OVER or attempts > 1 or self._account is None or not self._account.may_pass:
            return None
        with contextlib.suppress(Fault, TimeoutError):
            await self._after(await self._account.now())
            return 0.0
        return None

    async def _renew(self, signer: Signer) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            with contextlib.suppress(Fault):
                signer.account = await self._signing_account() or signer.account

    def region_of(self, bucket: str) -> str:
        """The bucket's own region, as far as S3 has told it: botocore goes there by itself, a signed URL does not."""
        return self._regions.get(bucket, self._region)

    async def elsewhere(self, bucket: str) -> str:
        """The region that a bucket is in if it is another than this connection's; empty if S3 tells of none."""
        # botocore goes there by itself, and learns which region it is. One who may not list is told it as well.
        with contextlib.suppress(Fault):
            await self.has_any(bucket, "")
        region = self.region_of(bucket)
        return region if region != self._region else ""

    async def head(self, bucket: str, key: str, version: str = "") -> tuple[Object, str]:
        """An object as it is now, and its content type. Raises `NotFound`, `Denied`, `Unavailable` and others."""
        wanted = {"Bucket": bucket, "Key": key}
        wanted |= {"ChecksumMode": "ENABLED"} if self.store.sums else {}
        wanted |= {"VersionId": version} if version else {}
        with faults(f"s3://{bucket}/{key}", self.endpoint, signed=self.signed):
            found = await self._looked(wanted)
        if "ContentLength" not in found:
            raise Broken(f"s3://{bucket}/{key}: {self.endpoint} does not say how large it is")
        if not found.get("ETag"):
            # Somebody's page about an error has a length as well.
            said = f"{self.endpoint} does not answer as S3 does: it tells no ETag"
            raise Broken(f"s3://{bucket}/{key}: {said}", hint="Is this the address of an S3 server?")
        etag, told_version = (header_text(found.get(name, "")) for name in ("ETag", "VersionId"))
        looked = Object(key, found["ContentLength"], etag, told_version, told(found))
        return looked, found.get("ContentType", "")

    async def part_bytes(self, bucket: str, found: Object, version: str = "") -> int:
        """How large the first part is that an object was put together of; 0 if the store does not say."""
        wanted = {"Bucket": bucket, "Key": found.key, "PartNumber": 1, "IfMatch": found.etag}
        wanted |= {"VersionId": version} if version else {}
        with faults(f"s3://{bucket}/{found.key}", self.endpoint, signed=self.signed):
            told_part = await self.raw.head_object(**wanted)
        return int(told_part.get("ContentLength", 0))

    async def look(self, bucket: str, key: str) -> Found | None:
        """What is at a key just now, or None. Raises `Denied`, `Unavailable` and others."""
        with faults(f"s3://{bucket}/{key}", self.endpoint, signed=self.signed):
            try:
                found = await self._looked({"Bucket": bucket, "Key": key})
            except self.raw.exceptions.ClientError as error:
                if status_of(error) == 404 and code_of(error) not in ABOUT_ALL:
                    return None
                raise
        return Found(found.get("ETag", ""), found.get("Metadata") or {})

    async def _looked(self, wanted: dict[str, Any]) -> Any:
        """What a look at an object answers. Raises botocore's errors, as well told as may be."""
        account = await self._signing_account()
        try:
            return self._told(wanted, await self.raw.head_object(**wanted))
        except self.raw.exceptions.ClientError as error:
            await self._ask_why(wanted["Bucket"], wanted["Key"], status_of(error))
            if status_of(error) != 400 and account == await self._signing_account():
                raise
        # An answer without a body could not say what the question's did: the bucket's region, or that the account is over.
        try:
            return self._told(wanted, await self.raw.head_object(**wanted))
        except self.raw.exceptions.ClientError as error:
            if status_of(error) != 400 or not wanted.pop("ChecksumMode", ""):
                raise
        # Nor that the store knows no checksums.
        found = self._told(wanted, await self.raw.head_object(**wanted))
        self.store.sums = False
        return found

    def _told(self, wanted: dict[str, Any], found: Any) -> Any:
        """What was answered. Raises `Broken` for a success that is none of S3's: botocore takes any."""
        status = found["ResponseMetadata"]["HTTPStatusCode"]
        if status not in (200, 206):
            said = f"{self.endpoint} answers {status} to a look, which is not how S3 does"
            raise Broken(f"s3://{wanted['Bucket']}/{wanted['Key']}: {said}")
        return found

    async def _ask_why(self, bucket: str, key: str, status: int) -> None:
        """A look at an object that is refused has no body and no code: raise what a request with a body is told."""
        try:
            await self.raw.list_objects_v2(Bucket=bucket, MaxKeys=1)
        except self.raw.exceptions.ClientError as better:
            # An object that is not there says nothing of its bucket; other refusals are the same for both.
            if status != 404 or code_of(better) in ABOUT_ALL:
                raise
            if code_of(better) == "404":
                raise not_s3(f"s3://{bucket}/{key}", self.endpoint) from better

    def _note_region(self, response: Any, request_dict: Any, **more: Any) -> None:
        """See each answer; those from the wrong region name the right one."""
        if response is None:
            return
        headers = response[1].get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or response[1].get("Error", {}).get("Region")
        bucket = request_dict.get("context", {}).get("s3_redirect", {}).get("bucket")
        if region and bucket and self._regions.get(bucket) != region:
            self._regions[bucket] = region
            self._bulks.pop(bucket, None)

    async def objects(self, bucket: str, prefix: str, limit: int) -> Packed[Object]:
        """All objects whose keys begin with `prefix`. Raises `Exhausted` beyond `limit`, and what S3 says: `Invalid` of
        kind ``Region`` if the bucket is in another."""
        found = Packed(Object)

        def within() -> Iterator[Task]:
            for page in pages(bulk, prefix, found):
                if len(found) > limit:
                    break
                yield page

        async with self.bulk(bucket) as bulk:
            await self.move(bulk, within(), 1, lambda _: None)
        if len(found) > limit:
            raise Exhausted(
                f"s3://{bucket}/{prefix} has more than {limit} objects", hint="Use a longer prefix."
            )
        return found

    async def has_any(self, bucket: str, prefix: str) -> bool:
        """Whether any object's key begins with `prefix`."""
        return bool(await self.first(bucket, prefix))

    async def first(self, bucket: str, prefix: str) -> str:
        """The first key that begins with `prefix`; empty if there is none."""
        with faults(f"s3://{bucket}/{prefix}", self.endpoint, signed=self.signed):
            page = await self.raw.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        # A server that keeps keys otherwise than they are written lists others.
        found = (each["Key"] for each in page.get("Contents") or () if each["Key"].startswith(prefix))
        return next(found, "")

    async def remove(self, bucket: str, keys: Iterable[str]) -> None:
        """Remove objects, as well as may be."""
        waiting = iter(keys)
        while some := list(islice(waiting, DELETE_MAX)):
            listed = [{"Key": key} for key in some]
            try:
                with faults(f"s3://{bucket}", self.endpoint, signed=self.signed):
                    await self.raw.delete_objects(Bucket=bucket, Delete={"Objects": listed, "Quiet": True})
            except Invalid:
                # Some stores know no request for many, as Google's: https://github.com/supabase/storage/issues/898.
                await self._remove_singly(bucket, some)
            except Fault:
                continue

    async def _remove_singly(self, bucket: str, keys: list[str]) -> None:
        waiting = iter(keys)

        async def some() -> None:
            for key in waiting:
                what = f"s3://{bucket}/{key}"
                with contextlib.suppress(Fault), faults(what, self.endpoint, signed=self.signed):
                    await self.raw.delete_object(Bucket=bucket, Key=key)

        await together(some() for _ in range(min(DELETES_AT_ONCE, len(keys))))

    async def signed_url(self, bucket: str, key: str, version: str = "") -> str:
        """A URL that answers a GET with the object, for an hour; as it stands where there is no account."""
        wanted = {"Bucket": bucket, "Key": key, **({"VersionId": version} if version else {})}
        with faults(f"s3://{bucket}/{key}", self.endpoint, signed=self.signed):
            url: str = await self.raw.generate_presigned_url("get_object", Params=wanted, ExpiresIn=SIGNED_S)
        return url


def _with_md5(params: dict[str, Any], **more: Any) -> None:
    """See each request to remove many, whose body must be vouched for. Every store takes its MD5; the CRC32 that
    botocore sends in its place, older ones do not (https://github.com/s3fs-fuse/s3fs-fuse/issues/2639)."""
    params["context"].pop("checksum", None)
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
