"""What a job may say to the S3 drivers, and what a node may.

Knows: the fields, their meaning and what makes them wrong. Must not know: any S3 client.
"""

import base64
import binascii
import re
from typing import Final

from msgspec import Struct, field

from protocol.errors import Invalid
from storage.addresses import AddressPolicy
from storage.multiaddr import parse_endpoint
from storage.s3.dates import check_layout
from storage.s3.globs import is_glob, literal_prefix
from storage.s3.listing import Listing
from storage.s3.signing import Credentials

DEFAULT_REGION: Final = "us-east-1"
MEBIBYTE: Final = 1 << 20
KEY_MAX_BYTES: Final = 1024
PARTITION_TYPES: Final = ("none", "object", "regex", "substring", "date")
ENCODINGS: Final = ("gzip", "plain")
TEMPLATES: Final = ("jobID", "executionID", "nodeID", "partition", "attempt", "date", "time", "uuid")
"""What may stand in braces in a publisher's key: see `storage.s3.publisher.published_key`."""
ADDRESSING_STYLES: Final = ("auto", "path", "virtual")
ENCRYPTIONS: Final = ("AES256", "aws:kms", "aws:kms:dsse")

_REGION: Final = re.compile(r"[A-Za-z0-9-]{1,63}")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}|arn:[A-Za-z0-9._:/-]{1,250}")
"""A name, or what AWS calls an access point."""
_SHA256: Final = re.compile(r"[A-Za-z0-9+/]{43}=")
_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KMS_KEY: Final = re.compile(r"[A-Za-z0-9:/_-]{1,2048}")
_TEMPLATE: Final = re.compile(r"\{(\w+)\}")


class Partition(Struct, frozen=True, rename="pascal"):
    """How the objects of a prefix are shared out among the partitions of a job; see `storage.s3.partitions`."""

    type: str = ""
    pattern: str = ""
    start_index: int = 0
    end_index: int = 0
    date_format: str = ""


class SourceParams(Struct, frozen=True, rename="pascal"):
    """An input. `key` names one object, or a prefix if it is empty or ends with ``/`` or ``*``, or by wildcards
    (`storage.s3.globs`) whatever matches, unless there is an object of exactly that key.

    Params that can never work are `Invalid` from the start, by the name of the field. `filter` is a regular expression
    on what follows the prefix; `checksum_sha256` is in Base64, as S3 writes it. Where nothing is found, `allow_empty` makes
    an empty folder of it instead of an error. `profile` names an account of the node, `addressing_style` where the bucket's
    name stands in URLs: ``path`` (usual where an endpoint is named) or ``virtual``, the host's name. `requester_pays`: the
    bucket is read at its readers' cost, and the node's account pays. `listing` is what a publisher wrote down of a result:
    of all that lies below the prefix exactly those objects are meant.
    """

    bucket: str
    key: str = ""
    filter: str = ""
    region: str = ""
    endpoint: str = ""
    version_id: str = field(default="", name="VersionID")
    checksum_sha256: str = field(default="", name="ChecksumSHA256")
    partition: Partition = field(default_factory=Partition)
    allow_empty: bool = False
    profile: str = ""
    addressing_style: str = ""
    requester_pays: bool = False
    listing: Listing | None = None

    def __post_init__(self) -> None:
        _check_source(self)

    @property
    def is_glob(self) -> bool:
        """Whether the key has wildcards besides a ``*`` at its end."""
        return is_glob(self.key)

    @property
    def is_prefix(self) -> bool:
        """Whether the key means all objects that begin with it."""
        return self.key == "" or self.key.endswith(("/", "*"))

    @property
    def prefix(self) -> str:
        """What the keys of the objects begin with."""
        if self.listing is not None:
            # Whoever published to it gave it as it is.
            return self.key
        return literal_prefix(self.key) if self.is_glob else self.key.removesuffix("*")

    @property
    def url(self) -> str:
        """How messages name the input."""
        return f"s3://{self.bucket}/{self.key}"


class PublisherParams(Struct, frozen=True, rename="pascal"):
    """Where a result goes. `encoding` is ``gzip`` (one archive, the default) or ``plain`` (one object a file). With
    `overwrite` it takes the place of whatever has its key; see `storage.s3.claims`.

    `storage_class`, `acl` (a canned one), `server_side_encryption` and `sse_kms_key_id` are S3's own, for each object; where
    one is left out, the bucket's owner has said what counts.
    """

    bucket: str
    key: str
    region: str = ""
    endpoint: str = ""
    encoding: str = ""
    overwrite: bool = False
    profile: str = ""
    addressing_style: str = ""
    storage_class: str = ""
    acl: str = field(default="", name="ACL")
    server_side_encryption: str = ""
    sse_kms_key_id: str = field(default="", name="SSEKMSKeyID")

    def __post_init__(self) -> None:
        _check_publisher(self)

    @property
    def plain(self) -> bool:
        """Whether each file becomes an object."""
        return self.encoding.lower() == "plain"

    @property
    def options(self) -> dict[str, str]:
        """What S3 is told about each object, by the names of its API's parameters."""
        said = {
            "StorageClass": self.storage_class,
            "ACL": self.acl,
            "ServerSideEncryption": self.server_side_encryption,
            "SSEKMSKeyId": self.sse_kms_key_id,
        }
        return {name: value for name, value in said.items() if value}


class S3Settings(Struct, frozen=True):
    """What a node says to the S3 drivers; limits on silence are in seconds without a byte. `call_s` is for the whole of a
    call that moves no bulk data.

    `endpoint` and `region` are for params that name none (else the AWS configuration's, else AWS itself in us-east-1).
    `credentials` None means the AWS chain, in it the given `profile` if any.

    At most `requests` requests run at once in a fetch or an upload (`small_requests` where objects are small), each for a
    part of `part_bytes` or `upload_part_bytes`. An upload holds as many parts and one more in memory, a fetch much less.
    `tries` counts a part's attempts in a row that brought nothing. An input has at most `objects` and `max_bytes`;
    `profiles` are the names (or patterns) of profiles that jobs may use; `requester_pays` says that its account pays where a
    bucket's readers do and a job says so. `addressing` is for params that name none.
    `addresses` says where an endpoint of the params may lead; the node's own endpoint may lead anywhere. `etags_are_md5`
    False says that some store's ETags look like MD5s and are none (`storage.s3.verifying`).
    """

    endpoint: str = ""
    region: str = ""
    profile: str = ""
    profiles: tuple[str, ...] = ()
    requester_pays: bool = False
    addressing: str = ""
    credentials: Credentials | None = None
    connect_s: float = 10.0
    silence_s: float = 30.0
    call_s: float = 600.0
    retry_s: float = 0.2
    tries: int = 5
    requests: int = 4
    small_requests: int = 16
    part_bytes: int = 16 * MEBIBYTE
    upload_part_bytes: int = 8 * MEBIBYTE
    objects: int = 1_000_000
    max_bytes: int | None = None
    addresses: AddressPolicy = field(default_factory=AddressPolicy)
    etags_are_md5: bool = True


def _check_source(params: SourceParams) -> None:
    """Raise `Invalid` naming the field for params that can never work."""
    what = "source s3"
    _check_place(what, params.bucket, params.key, params.region, params.endpoint)
    _check_addressing(what, params.addressing_style)
    if params.checksum_sha256:
        _check_checksum(params)
    if params.version_id and params.is_prefix:
        raise Invalid(f"{what}: VersionID names a version of one object, but Key {params.key!r} is a prefix")
    if params.listing is not None and not params.key.endswith("/"):
        raise Invalid(f"{what}: Listing is of what lies below a prefix, but Key {params.key!r} is none")
    _check_partition(params.partition)


def _check_publisher(params: PublisherParams) -> None:
    """Raise `Invalid` naming the field for params that can never work."""
    what = "publisher s3"
    _check_place(what, params.bucket, params.key, params.region, params.endpoint)
    _check_addressing(what, params.addressing_style)
    if not params.key:
        raise Invalid(f"{what}: Key is empty", hint="Write for example results/{jobID}/{executionID}.")
    if params.encoding and params.encoding.lower() not in ENCODINGS:
        raise Invalid(f"{what}: Encoding {params.encoding!r} is unknown", hint="It is gzip or plain.")
    _check_options(what, params)
    for name in _TEMPLATE.findall(params.key):
        meant = {each.lower(): each for each in TEMPLATES}.get(name.replace("_", "").lower())
        if meant is not None and meant != name:
            raise Invalid(f"{what}: Key has {{{name}}}", hint=f"Did you mean {{{meant}}}?")


def _check_place(what: str, bucket: str, key: str, region: str, endpoint: str) -> None:
    if not _BUCKET.fullmatch(bucket):
        hint = "It is the name alone; what stands behind it in s3://bucket/key is Key."
        raise Invalid(f"{what}: Bucket {bucket!r} is not a bucket's name", hint=hint)
    if key.startswith("s3://"):
        raise Invalid(f"{what}: Key {key!r} is a URL", hint="Key is what stands behind the bucket's name.")
    if region and not _REGION.fullmatch(region):
        raise Invalid(
            f"{what}: Region {region!r} is not a region's name", hint="Write for example us-east-1."
        )
    if endpoint:
        try:
            check_endpoint(endpoint)
        except Invalid as fault:
            raise Invalid(f"{what}: Endpoint: {fault.message}", hint=fault.hint) from fault
    try:
        length = len(key.encode())
    except UnicodeEncodeError as error:
        raise Invalid(f"{what}: Key {key!r} is not Unicode text") from error
    if length > KEY_MAX_BYTES:
        raise Invalid(f"{what}: Key has {length} bytes and the limit is {KEY_MAX_BYTES}")


def _check_options(what: str, params: PublisherParams) -> None:
    for name, value, form in (
        ("StorageClass", params.storage_class, _WORD),
        ("ACL", params.acl, _WORD),
        ("SSEKMSKeyID", params.sse_kms_key_id, _KMS_KEY),
    ):
        if value and not form.fullmatch(value):
            raise Invalid(f"{what}: {name} {value!r} is none of S3's")
    encryption = params.server_side_encryption
    if encryption and encryption not in ENCRYPTIONS:
        hint = f"It is one of {', '.join(ENCRYPTIONS)}."
        raise Invalid(f"{what}: ServerSideEncryption {encryption!r} is unknown", hint=hint)
    if params.sse_kms_key_id and not encryption.startswith("aws:kms"):
        raise Invalid(
            f"{what}: SSEKMSKeyID names a key", hint="Write ServerSideEncryption: aws:kms beside it."
        )


def _check_addressing(what: str, style: str) -> None:
    if style and style.lower() not in ADDRESSING_STYLES:
        hint = f"It is one of {', '.join(ADDRESSING_STYLES)}."
        raise Invalid(f"{what}: AddressingStyle {style!r} is unknown", hint=hint)


def check_endpoint(endpoint: str) -> None:
    """Raise `Invalid` unless it is an http or https URL without a user, query or fragment."""
    if not endpoint.startswith(("http://", "https://")):
        hint = "Write it with its scheme, for example http://s3.example.com:9000."
        raise Invalid(f"the S3 endpoint {endpoint!r} is not an http URL", hint=hint)
    parse_endpoint(endpoint)


def _check_checksum(params: SourceParams) -> None:
    if params.is_prefix:
        raise Invalid(f"source s3: ChecksumSHA256 is of one object, but Key {params.key!r} is a prefix")
    try:
        length = len(base64.b64decode(params.checksum_sha256, validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if length != 32 or not _SHA256.fullmatch(params.checksum_sha256):
        raise Invalid(
            f"source s3: ChecksumSHA256 {params.checksum_sha256!r} is not a SHA-256 in Base64",
            hint="It has 44 characters: openssl dgst -sha256 -binary FILE | base64",
        )


def _check_partition(partition: Partition) -> None:
    what = "source s3: Partition"
    kind = partition.type.lower()
    if kind and kind not in PARTITION_TYPES:
        raise Invalid(
            f"{what}.Type {partition.type!r} is unknown", hint=f"It is one of {', '.join(PARTITION_TYPES)}."
        )
    if kind == "regex" and not partition.pattern:
        raise Invalid(f"{what}.Pattern is empty, and Type regex needs one")
    if kind == "substring" and not 0 <= partition.start_index < partition.end_index:
        raise Invalid(
            f"{what}: StartIndex {partition.start_index} and EndIndex {partition.end_index} span no text",
            hint="StartIndex is 0 or more and EndIndex is greater.",
        )
    if kind == "date":
        if not partition.date_format:
            raise Invalid(
                f"{what}.DateFormat is empty, and Type date needs one", hint="For example 2006-01-02."
            )
        check_layout(partition.date_format, f"{what}.DateFormat")
