"""Data that travels inside a job: data URLs, and the references that stand for those too large for the log.

Knows: both forms of an inline source's ``URL``. Must not know: where blobs are kept (`protocol.bus.Bus.put_blob`).

A **data URL** is RFC 2397: ``data:[<media type>][;base64],<data>``. A **blob URL** is ours; it names bytes by their
SHA-256 and keeps what the data URL said of them:

    blob:sha256:<64 hexadecimal digits>;<media type>;size=<bytes>

The requester moves large inline data out of a job before it is logged: for each of `large_inline` it stores the bytes and
takes the job `with_blob`.
"""

import base64
import binascii
import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct

from protocol.errors import Invalid
from protocol.jobs import Job, Spec
from protocol.spec.bounds import ESCAPES_MAX, MEDIA_TYPE_MAX_CHARACTERS

INLINE: Final = "inline"
MEDIA_TYPE_DEFAULT: Final = "text/plain;charset=US-ASCII"

_SCHEME: Final = "data:"
_BASE64: Final = re.compile(r";\s*base64\s*$", re.IGNORECASE)
_MEDIA: Final = re.compile(
    r"[\w!#$&^.+*-]+/[\w!#$&^.+*-]+(;[\w!#$&^.+*-]+=(\"[^\"\\]*\"|[^;,\"\s]*))*", re.ASCII
)
_BLOB: Final = re.compile(
    r"blob:sha256:(?P<digest>[0-9a-f]{64});(?P<media>[^\s,]+);size=(?P<size>0|[1-9][0-9]{0,17})"
)


class Inline(NamedTuple):
    """One large inline input: `input` is its place in `Task.input_sources`; the rest is what its data URL holds."""

    input: int
    media_type: str
    data: bytes


class BlobUrl(Struct, frozen=True):
    """Bytes by name: `digest` is their SHA-256 in lower-case hexadecimal, `size_bytes` their number."""

    digest: str
    media_type: str
    size_bytes: int

    def __str__(self) -> str:
        return f"blob:sha256:{self.digest};{self.media_type};size={self.size_bytes}"


def is_blob_url(url: str) -> bool:
    """Whether this is meant as a blob URL."""
    return url.startswith("blob:")


def parse_blob_url(url: str) -> BlobUrl:
    """Read a blob URL. Raises `Invalid`."""
    found = _BLOB.fullmatch(url)
    if not found or not _MEDIA.fullmatch(found["media"]):
        raise Invalid(
            "not a blob URL",
            hint='The form is "blob:sha256:<64 hexadecimal digits>;<media type>;size=<bytes>".',
        )
    return BlobUrl(found["digest"], found["media"], int(found["size"]))


def parse_data_url(url: str) -> tuple[str, bytes]:
    """The media type and the bytes of a data URL. Raises `Invalid` without repeating the data."""
    comma = url.find(",", 0, MEDIA_TYPE_MAX_CHARACTERS)
    if comma < 0 or url[: len(_SCHEME)].lower() != _SCHEME:
        raise Invalid("not a data URL", hint='The form is "data:<media type>;base64,<data>".')
    media, packed = _media(url[len(_SCHEME) : comma])
    if url.count("%") > ESCAPES_MAX:
        raise Invalid(
            f"a data URL has more than {ESCAPES_MAX:,} escapes", hint="Encode so much data in base64."
        )
    try:
        data = unquote_to_bytes(url[comma + 1 :])
    except UnicodeEncodeError as error:
        raise Invalid("a data URL holds half of a surrogate pair, which is not a character") from error
    return media, _unpacked(data) if packed else data


@lru_cache(maxsize=64)
def _media(header: str) -> tuple[str, bool]:
    """The media type before a data URL's comma, and whether base64 follows. Raises `Invalid`."""
    base64_mark = _BASE64.search(header)
    media = "".join((header[: base64_mark.start()] if base64_mark else header).split())
    if media.startswith(";"):
        media = "text/plain" + media
    if media and not _MEDIA.fullmatch(media):
        raise Invalid("the media type of a data URL cannot be read", hint="Write it like application/gzip.")
    return media or MEDIA_TYPE_DEFAULT, base64_mark is not None


def large_inline(job: Job, over_bytes: int) -> list[Inline]:
    """The inline inputs to move into blobs, in the order of the inputs.

    The fewest, largest first, so that the text of the data URLs that stay is at most `over_bytes` in all. Raises
    `Invalid` for a data URL that cannot be read (a job from `protocol.spec` has none).
    """
    sizes = {
        index: len(url)
        for index, each in enumerate(job.task.input_sources)
        if (url := inline_url(each.source)) and not is_blob_url(url)
    }
    total = sum(sizes.values())
    if total <= over_bytes:
        return []
    large: list[int] = []
    for index in sorted(sizes, key=lambda index: (-sizes[index], index)):
        if total <= over_bytes:
            break
        large.append(index)
        total -= sizes[index]
    return [
        Inline(index, *parse_data_url(inline_url(job.task.input_sources[index].source)))
        for index in sorted(large)
    ]


def with_blob(job: Job, index: int, digest: str, size_bytes: int, media_type: str) -> Job:
    """The same job, with the inline input at `index` naming a blob. Raises `Invalid` for a digest that is none."""
    url = parse_blob_url(str(BlobUrl(digest, media_type, size_bytes)))
    task = job.task
    inputs = list(task.input_sources)
    inputs[index] = msgspec.structs.replace(inputs[index], source=Spec(INLINE, {"URL": str(url)}))
    return msgspec.structs.replace(job, tasks=[msgspec.structs.replace(task, input_sources=inputs)])


def inline_url(source: Spec) -> str:
    """The URL of an inline source in any key case; empty for other sources."""
    if source.type.lower() != INLINE:
        return ""
    url = next((value for key, value in source.params.items() if key.lower() == "url"), "")
    return url if isinstance(url, str) else ""


def _unpacked(data: bytes) -> bytes:
    """Base64 as people and programs write it: line breaks and missing padding are taken, other letters are not."""
    packed = b"".join(data.split()).rstrip(b"=")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error as error:
        raise Invalid("a data URL's base64 cannot be read", hint="Encode the data again.") from error
