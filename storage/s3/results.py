"""Results in S3 for people and nodes who have no account: links, signed by whoever has one.

Knows: Bacalhau's form of a signed result, and the bucket that is managed for all. Must not know: HTTP, the bus, or which
execution may ask for what.

A result of one archive becomes `s3PreSigned` as in Bacalhau (`SourceSpec` and `PreSignedURL`), with the fields of the
result beside them. A tree of objects stays `s3`, as there, unless its links are asked for. Where there is no account, a
result stays as it is, and is read with the reader's own.

What was published with a profile of the nodes' is signed with the same profile, where this process's AWS configuration has
it and its owner lets it be used; else, as everything, with its own account, which may or may not read it. A link's
`SourceSpec` has the profile's name, for whoever has to say why it does not work: beside it older clients would refuse it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct, structs, to_builtins

from protocol.errors import Denied, Exhausted, Fault, Invalid, NotFound
from protocol.jobs import Spec
from storage import archive
from storage.addresses import OWN_NETWORKS, read_policy
from storage.long_lists import Packed
from storage.params import read_params
from storage.s3.bulk import Bulk
from storage.s3.client import S3Client
from storage.s3.connection import Connection
from storage.s3.faults import faults
from storage.s3.keys import Object
from storage.s3.params import S3Settings, SourceParams
from storage.s3.presigned import SignedObject
from storage.s3.selection import listed
from storage.s3.upload import begun_in, completed
from storage.threads import in_thread

OBJECTS_MAX: Final = 10_000
"""A result of more objects is not signed; its reader needs an account."""
LINKS_MAX: Final = 64
SHOWN_S: Final = 20.0
"""What is not signed by then is told as it is: an account or a store that does not answer keeps nobody from the rest."""
AT_ONCE: Final = 16
NAME: Final = "the managed bucket"
"""How messages call it: nodes are not to know its own name."""
UPLOAD_S: Final = 3600
"""How long a node may use a link to upload with."""


class ManagedBucket(Struct, frozen=True):
    """Where the results of the publisher `s3managed` lie: below `key`, if any."""

    bucket: str
    key: str = ""
    region: str = ""
    endpoint: str = ""


class Signing(Struct, frozen=True):
    """What a requester's owner decides. `expires_s` is how long a link to a result is good, in seconds; `profiles` are the
    names (or patterns) of profiles that results are signed with which were published so."""

    expires_s: int = 1800
    disabled: bool = False
    managed: ManagedBucket | None = None
    managed_expires_s: int = 3600
    endpoint: str = ""
    region: str = ""
    profile: str = ""
    profiles: tuple[str, ...] = ()

    @property
    def makes_links(self) -> bool:
        """Whether any link may be asked for."""
        return not self.disabled or self.managed is not None


class ResultSigner:
    """Signs as the account of this process."""

    def __init__(self, signing: Signing) -> None:
        self.signing = signing
        settings = S3Settings(signing.endpoint, signing.region, signing.profile, signing.profiles)
        # To sign for a place nobody goes there, so it may be anywhere; to list what is there, the policy counts.
        anywhere = read_policy(OWN_NETWORKS)
        self._signer = S3Client(structs.replace(settings, addresses=anywhere))
        self._lister = S3Client(settings)

    async def close(self) -> None:
        """Let go of all connections."""
        await self._signer.close()
        await self._lister.close()

    async def shown_all(self, results: Sequence[Spec], *, objects: bool = False) -> list[Spec]:
        """As `shown`, for the results of one job, some at once and within `SHOWN_S`."""
        told = list(results)
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with limit:
                told[number] = await self.shown(results[number], objects=objects)

        with suppress(TimeoutError):
            async with asyncio.timeout(SHOWN_S), asyncio.TaskGroup() as tasks:
                for number in range(len(results)):
                    tasks.create_task(one(number))
        return told

    async def shown(self, result: Spec, *, objects: bool = False) -> Spec:
        """How a result is told: signed if that can be done, else as it is. `objects` asks for links to a tree's, too."""
        try:
            match result.type.lower():
                case "s3" if not self.signing.disabled:
                    return await self._shown_s3(result, objects)
                case "s3managed":
                    return await self._shown_managed(result)
        except Fault:
            # Then it is read with the reader's own account, and the fault is told there if it is one.
            return result
        return result

    async def _shown_s3(self, result: Spec, objects: bool) -> Spec:
        params = read_params(result.params, SourceParams, "result s3")
        whole = params.key.endswith(archive.SUFFIX)
        if not whole and not (objects and params.is_prefix):
            return result
        connection = await _connected(self._signer, params)
        if not connection.signed:
            return result
        shown = {name: value for name, value in result.params.items() if name.lower() != "profile"}
        async with connection.bulk(params.bucket, for_others=True) as bulk:
            if whole:
                url = bulk.link("GET", params.key, _of_version(params.version_id), self.signing.expires_s)
                return Spec("s3PreSigned", {**shown, **_signed(params, url, managed=False)})
            found = await self._objects(params)
            # To sign ten thousand takes half a second.
            links = await in_thread(lambda _: [to_builtins(self._link(bulk, each)) for each in found])
            if params.profile:
                shown["SourceSpec"] = {"Profile": params.profile}
            return Spec("s3PreSigned", {**shown, "Objects": links})

    def _link(self, bulk: Bulk, found: Object) -> SignedObject:
        url = bulk.link("GET", found.key, _of_version(found.version), self.signing.expires_s)
        return SignedObject(found.key, found.size_bytes, url, found.etag)

    async def _objects(self, params: SourceParams) -> Packed[Object]:
        """The objects of a tree. Of a small one all is known; for any other its bucket is asked."""
        listing = params.listing
        if listing is not None and listing.objects:
            return Packed(Object, (each.found for each in listing.objects))
        if listing is not None and listing.count > OBJECTS_MAX:
            raise Exhausted(f"{params.url} has {listing.count} objects, and at most {OBJECTS_MAX} are signed")
        connection = await _connected(self._lister, params)
        if listing is None:
            return await connection.objects(params.bucket, params.prefix, OBJECTS_MAX)
        # Its reader compares them with the listing, and says what is missing.
        return await listed(connection, params, listing, OBJECTS_MAX)

    async def _shown_managed(self, result: Spec) -> Spec:
        given = {name.lower(): str(value) for name, value in result.params.items()}
        place, bulk, _ = await self._managed()
        url = bulk.link(
            "GET",
            managed_key(place, given["jobid"], given["executionid"]),
            {},
            self.signing.managed_expires_s,
        )
        signed = _signed(SourceParams(place.bucket), url, managed=True)
        signed["SourceSpec"]["Bucket"] = ""
        return Spec("s3PreSigned", {**result.params, **signed})

    def check_managed(self) -> ManagedBucket:
        """The managed bucket. Raises `Invalid` if there is none."""
        if self.signing.managed is None:
            raise Invalid(
                "this requester has no bucket for the publisher s3managed",
                hint="Its owner names one: Publishers.Types.S3Managed.Bucket.",
            )
        return self.signing.managed

    async def _managed(self) -> tuple[ManagedBucket, Bulk, Any]:
        place = self.check_managed()
        connection = await self._signer.connect(place.endpoint, place.region)
        if not connection.signed:
            raise Denied(
                "the requester has no account for the managed bucket", hint="Give it one, as AWS has it."
            )
        async with connection.bulk(place.bucket, for_others=True) as bulk:
            return place, bulk, connection

    # What a node asks for when it publishes.

    async def prepare(self) -> None:
        """Set up the connection, which takes a second of processor time that the first result would wait for. Raises as
        `put`; without a managed bucket there is nothing to do."""
        if self.signing.managed is not None:
            await self._managed()

    async def put(self, job: str, execution: str) -> str:
        """A link to upload an execution's archive with, in one request."""
        place, bulk, _ = await self._managed()
        return bulk.link("PUT", managed_key(place, job, execution), {}, UPLOAD_S)

    async def begin(self, job: str, execution: str) -> str:
        """Begin an upload in parts: its id. What an earlier process of that execution had begun is taken back."""
        place, _, connection = await self._managed()
        key = managed_key(place, job, execution)
        await _aborted(connection, place.bucket, key)
        try:
            with faults(NAME, connection.endpoint, signed=True):
                answer = await connection.raw.create_multipart_upload(Bucket=place.bucket, Key=key)
                upload = begun_in(answer, NAME, connection.endpoint)
        except Fault:
            # It may have been begun all the same, and nobody knows its id.
            with suppress(Fault):
                await _aborted(connection, place.bucket, key)
            raise
        if answer["ResponseMetadata"].get("RetryAttempts"):
            with suppress(Fault):
                await _aborted(connection, place.bucket, key, but=upload)
        return upload

    async def parts(self, job: str, execution: str, upload: str, first: int, count: int) -> list[str]:
        """Links to upload the parts from number `first` with."""
        if not 0 < count <= LINKS_MAX:
            raise Exhausted(f"{count} links were asked for and the limit is {LINKS_MAX}")
        place, bulk, _ = await self._managed()
        key = managed_key(place, job, execution)
        numbers = range(first, first + count)
        return [
            bulk.link("PUT", key, {"partNumber": str(number), "uploadId": upload}, UPLOAD_S)
            for number in numbers
        ]

    async def complete(self, job: str, execution: str, upload: str, etags: Sequence[str]) -> None:
        """Put the parts together."""
        place, _, connection = await self._managed()
        key = managed_key(place, job, execution)
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, start=1)]
        await completed(connection, place.bucket, key, upload, listed, what=NAME)

    async def abort(self, job: str, execution: str, upload: str) -> None:
        """Take an upload in parts back; without an id, or if a call whose answer was lost completed it, the object."""
        place, _, connection = await self._managed()
        key = managed_key(place, job, execution)
        if upload:
            with suppress(NotFound), faults(NAME, connection.endpoint, signed=True):
                await connection.raw.abort_multipart_upload(Bucket=place.bucket, Key=key, UploadId=upload)
                return
        with faults(NAME, connection.endpoint, signed=True):
            await connection.raw.delete_object(Bucket=place.bucket, Key=key)


async def _aborted(connection: Connection, bucket: str, key: str, but: str = "") -> None:
    """Take back what has been begun at a key that is nobody else's."""
    with faults(NAME, connection.endpoint, signed=True):
        listed = await connection.raw.list_multipart_uploads(Bucket=bucket, Prefix=key)
        for each in listed.get("Uploads") or []:
            if each["UploadId"] != but:
                await connection.raw.abort_multipart_upload(
                    Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"]
                )


async def _connected(client: S3Client, params: SourceParams) -> Connection:
    """With the account that a result was published with, if it can be used here, else with our own. Raises as `connect`."""
    if params.profile:
        with suppress(Denied):
            return await client.connect(
                params.endpoint, params.region, profile=params.profile, addressing=params.addressing_style
            )
    return await client.connect(params.endpoint, params.region, addressing=params.addressing_style)


def _of_version(version: str) -> dict[str, str]:
    return {"versionId": version} if version else {}


def managed_key(place: ManagedBucket, job: str, execution: str) -> str:
    """Where an execution's archive lies in the managed bucket: as Bacalhau has it."""
    above = f"{place.key.rstrip('/')}/" if place.key else ""
    return f"{above}{job}/{execution}{archive.SUFFIX}"


def _signed(params: SourceParams, url: str, *, managed: bool) -> dict[str, Any]:
    """What Bacalhau's clients read: their struct of a source, embedded, and the link."""
    source = {
        "Bucket": params.bucket,
        "Key": params.key,
        "Filter": params.filter,
        "Region": params.region,
        "Endpoint": params.endpoint,
        "VersionID": params.version_id,
        "ChecksumSHA256": params.checksum_sha256,
        "Partition": {"Type": "", "Pattern": "", "StartIndex": 0, "EndIndex": 0, "DateFormat": ""},
        **({"Profile": params.profile} if params.profile else {}),
    }
    return {"SourceSpec": source, "PreSignedURL": url, "Managed": managed}
