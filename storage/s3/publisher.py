"""Results to S3: as one ``.tar.gz``, or as one object a file.

Knows: where a result goes, and what is told of it. Must not know: how its bytes go there (`storage.s3.sending`).
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit
from uuid import uuid4

from msgspec import to_builtins

from protocol.errors import Fault, Invalid, NotFound
from protocol.jobs import Spec
from storage import archive
from storage.contents import Contents
from storage.contract import Foreseeing, Form, Label, Progress, Publisher
from storage.long_lists import Packed
from storage.s3.claims import may_replace, meta_of, taken
from storage.s3.client import S3Client
from storage.s3.connection import Connection
from storage.s3.driver import S3Driver
from storage.s3.faults import REGION
from storage.s3.kept_keys import check_kept
from storage.s3.keys import Object
from storage.s3.listing import listing_of
from storage.s3.params import PublisherParams, S3Settings
from storage.s3.sending import Sending
from storage.s3.upload import Sent
from storage.threads import in_thread

FOR_GOOD: Final = frozenset({"Profile", "Address"})
"""Kinds of `Denied` that a node's own settings say."""


class S3Publisher(S3Driver):
    """Results to S3."""

    params: ClassVar[Form] = PublisherParams

    def __init__(
        self,
        settings: S3Settings | None = None,
        *,
        client: S3Client | None = None,
        contents: Contents | None = None,
    ) -> None:
        """As `S3Driver`. `contents`: what is published, at keys that say so; see `storage.s3.sending.Sending`."""
        super().__init__(settings, client=client)
        self._contents = contents

    async def publish(self, folder: Path, params: PublisherParams, label: Label, progress: Progress) -> Spec:
        """Store the folder; the answer is a spec of source ``s3``. Raises as `Publisher`."""
        connection = await self._connect(params, params.region)
        try:
            return await self._publish(connection, folder, params, label, progress)
        except Invalid as fault:
            region = await connection.elsewhere(params.bucket) if fault.kind == REGION else ""
            if not region:
                raise
        connection = await self._connect(params, region)
        return await self._publish(connection, folder, params, label, progress)

    async def foresee(self, params: PublisherParams, label: Label) -> None:
        """See `storage.contract.Foreseeing`: whether the bucket is there, and the key free to take."""
        unique = str(uuid4())
        key = published_key(params, label, unique)
        shared = not (params.overwrite or label.execution in key or unique in key)
        try:
            connection = await self._connect(params, params.region)
            if shared and params.plain:
                key = await connection.first(params.bucket, key) or key
            found = await connection.look(params.bucket, key)
        except (NotFound, Invalid):
            raise
        except Fault as fault:
            # One who may write and not look is denied as well; and whoever is away may be back by then.
            if fault.kind not in FOR_GOOD:
                return
            raise
        # Some stores make a marker for each folder by themselves, and keep nothing with it.
        if found is not None and shared and not key.endswith("/") and not may_replace(found.meta, label):
            raise taken(params.bucket, key, found.meta)

    async def _connect(self, params: PublisherParams, region: str) -> Connection:
        return await self._client.connect(
            params.endpoint, region, profile=params.profile, addressing=params.addressing_style
        )

    async def _publish(
        self,
        connection: Connection,
        folder: Path,
        params: PublisherParams,
        label: Label,
        progress: Progress,
    ) -> Spec:
        unique = str(uuid4())
        key = published_key(params, label, unique)
        own = label.execution in key or unique in key
        async with connection.bulk(params.bucket) as bulk:
            await check_kept(connection, bulk, [key])
            claimed = None if own or params.overwrite else label
            settings = self._client.settings
            sending = Sending(
                connection,
                bulk,
                settings,
                folder,
                progress,
                meta_of(label),
                claimed,
                label.notes,
                params.options,
                self._contents,
            )
            if params.plain:
                put_there = await sending.objects(key, own=own)
                try:
                    listing = await in_thread(lambda _: _listed(put_there, label))
                except BaseException:
                    await sending.take_back(put_there)
                    raise
                return _spec(params, key, connection, {"Listing": listing})
            sent = await sending.archive(key, own=own)
        return _spec(params, key, connection, _pinned(sent))


def published_key(params: PublisherParams, label: Label, unique: str = "") -> str:
    """The key of an archive, or the prefix of the objects, with the templates filled in.

    ``{jobID}``, ``{executionID}``, ``{nodeID}``, ``{partition}``, ``{attempt}``, ``{date}`` (20060102), ``{time}`` (150405,
    the node's own time), and ``{uuid}``, which is `unique`: each publishing has another.
    """
    ending = "/" if params.plain else archive.SUFFIX
    key = params.key if params.key.endswith(ending) else params.key + ending
    at = time.localtime(label.at)
    for name, value in (
        ("nodeID", label.node),
        ("executionID", label.execution),
        ("jobID", label.job),
        ("date", time.strftime("%Y%m%d", at)),
        ("time", time.strftime("%H%M%S", at)),
        ("partition", str(label.partition)),
        ("attempt", str(label.attempt)),
        ("uuid", unique),
    ):
        key = key.replace(f"{{{name}}}", value)
    return key


def _spec(params: PublisherParams, key: str, connection: Connection, pinned: dict[str, Any]) -> Spec:
    """What brings the result again, and `pinned`, which says what it is."""
    host = urlsplit(connection.endpoint).hostname or ""
    of_aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    found = {
        "Bucket": params.bucket,
        "Key": key,
        "Endpoint": "" if of_aws and not params.endpoint else connection.endpoint,
        "Region": connection.region_of(params.bucket),
    }
    if params.addressing_style:
        found["AddressingStyle"] = params.addressing_style
    if params.profile:
        found["Profile"] = params.profile
    return Spec("s3", {**found, **pinned})


def _pinned(sent: Sent) -> dict[str, Any]:
    """An archive is pinned by its checksum, and its version where there are versions."""
    return {"ChecksumSHA256": sent.sha256, **({"VersionID": sent.version} if sent.version else {})}


def _listed(put_there: Packed[Object], label: Label) -> dict[str, Any]:
    listed: dict[str, Any] = to_builtins(listing_of(put_there, label.execution))
    return listed


if TYPE_CHECKING:

    def _fits(driver: S3Publisher) -> tuple[Publisher[PublisherParams], Foreseeing[PublisherParams]]:
        return driver, driver
