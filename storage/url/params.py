"""What a job may say of a URL, and what a server says of the file behind it.

Knows: URLs, names, versions and identities. Must not know: connections. An identity is what the server says of a version,
unless the params name a SHA-256, which then is. A server that says nothing of versions gets an identity that is used once,
so that its data is never taken for the same by mistake.
"""

import contextlib
import hashlib
import re
import secrets
from typing import Final
from urllib.parse import unquote

import aiohttp
from msgspec import Struct, field
from yarl import URL

from protocol.errors import Broken, Invalid
from storage.http_faults import FINAL, header_text
from storage.mismatch import mismatch
from storage.tree import safe_parts

_PLAIN: Final = re.compile(r"[!-~]+")
_SHA256: Final = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")


class UrlParams(Struct, frozen=True):
    """Where the file is: an absolute ``http`` or ``https`` URL.

    Optional: the `name` it gets, the `sha256` (hexadecimal) and `size_bytes` it must have, and the name of `credentials`
    that the node's owner has configured.
    """

    url: str = field(name="URL")
    name: str = field(default="", name="Name")
    sha256: str = field(default="", name="SHA256")
    size_bytes: int | None = field(default=None, name="Size")
    credentials: str = field(default="", name="Credentials")

    def __post_init__(self) -> None:
        parse_url(self.url)
        if self.name and not _is_name(self.name):
            raise ValueError(f"Name {self.name[:200]!r} is not the name of a file")
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise ValueError("SHA256 is not 64 hexadecimal digits, as sha256sum prints them")
        if self.size_bytes is not None and self.size_bytes < 0:
            raise ValueError("Size is less than 0 bytes")

    @property
    def digest(self) -> str:
        """The SHA-256 in small hexadecimal digits, empty for none."""
        found = _SHA256.fullmatch(self.sha256)
        return found[1].lower() if found else ""


class Version(Struct, frozen=True):
    """What a server says of the bytes behind a URL."""

    etag: str = ""
    modified: str = ""
    size_bytes: int | None = None
    coding: str = ""
    """How the bytes are packed (``Content-Encoding``), which nobody asked for; some servers say one ETag of all codings."""

    @property
    def told(self) -> bool:
        """Whether it tells one version from another at all."""
        return bool(self.etag or self.modified)

    def may_be(self, other: "Version") -> bool:
        """Whether the bytes may be the same; a length that only one of them tells does not count."""
        sizes = {self.size_bytes, other.size_bytes} - {None}
        same = (self.etag, self.modified, self.coding) == (other.etag, other.modified, other.coding)
        return same and len(sizes) < 2

    @property
    def exact(self) -> bool:
        """Whether equal versions have equal bytes (RFC 9110, 8.8.1): a weak ETag or a time in seconds does not say so.

        One beyond ASCII is not sure to be sent back as it came.
        """
        return bool(self.etag) and not self.etag.startswith("W/") and self.etag.isascii()


class Pinned(Struct, frozen=True):
    """What was resolved: a version, and the name its file gets."""

    version: Version
    name: str


def parse_url(text: str) -> URL:
    """Read an ``http`` or ``https`` URL. One that is written in plain characters is sent as it is written: a signature may
    depend on every escape in it. Raises ``ValueError``.
    """
    url = URL(text, encoded=_PLAIN.fullmatch(text) is not None)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"URL {text[:200]!r} is not an absolute http or https URL")
    return url


def shown(params: UrlParams) -> str:
    """The URL for people; see `shown_url`."""
    return shown_url(params.url)


def shown_url(text: str) -> str:
    """A URL for people: without password and query, which may hold secrets. Of what is none, nothing is shown."""
    try:
        url = parse_url(text)
    except ValueError:
        return "what is no URL"
    return str(url.with_user(None).with_query(None).with_fragment(None)) + ("?…" if url.query_string else "")


def identity(params: UrlParams, pinned: Pinned) -> str:
    """A name for these bytes in their file: the digest; else the URL (what is not shown of it, by its digest) and version.

    Without either, a name that is used once.
    """
    if params.digest:
        return f"url:sha256:{params.digest}|{pinned.name}"
    version = pinned.version
    whole = hashlib.sha256(params.url.encode()).hexdigest()[:16]
    mark = (
        f"{version.etag}|{version.modified}|{version.size_bytes}" if version.told else secrets.token_hex(16)
    )
    mark += f"|{version.coding}" if version.coding else ""
    return f"url:{shown(params)}#{whole}|{mark}|{pinned.name}"


def version_of(answer: aiohttp.ClientResponse) -> Version:
    """The version that an answer's headers speak of."""
    etag, modified = (header_text(answer.headers.get(name, "")) for name in ("ETag", "Last-Modified"))
    return Version(
        etag, modified, answer.content_length, header_text(answer.headers.get("Content-Encoding", ""))
    )


def file_name(params: UrlParams, answer: aiohttp.ClientResponse) -> str:
    """The name of the downloaded file: never a path, never empty."""
    asked = parse_url(params.url)
    disposition = answer.content_disposition
    said = header_text(disposition.filename or "") if disposition else ""
    redirected = (answer.url.host, answer.url.raw_path) != (asked.host, asked.raw_path)
    found = (said, _last(answer.url), _last(asked)) if redirected else (_last(asked), said)
    for name in (params.name, *found):
        with contextlib.suppress(Invalid):
            return safe_parts(name)[-1]
    return "download"


def _last(url: URL) -> str:
    """The last element of a URL's path."""
    return unquote(url.raw_path.rpartition("/")[2])


def _is_name(text: str) -> bool:
    try:
        return safe_parts(text) == (text,)
    except Invalid:
        return False


def changed(params: UrlParams) -> Broken:
    message = f"{shown(params)} has changed since it was resolved"
    return Broken(message, hint="Run the job again.", kind=FINAL)


def check_size(params: UrlParams, size_bytes: int | None, *, more: bool = False) -> None:
    """Raise `Broken` of kind ``Mismatch`` unless it is the size that the params name, or one of both is not known.

    With `more` there may be more bytes than those.
    """
    named = params.size_bytes
    if named is None or size_bytes is None or size_bytes == named or (more and size_bytes < named):
        return
    found = f"at least {size_bytes} bytes" if more else f"{size_bytes} bytes"
    raise mismatch(shown(params), found, "Size", str(named))


def redirected(params: UrlParams, at: URL, location: str) -> URL:
    try:
        return parse_url(str(at.join(URL(location, encoded=_PLAIN.fullmatch(location) is not None))))
    except ValueError as error:
        raise Broken(f"{shown(params)} redirects to what is no http URL", kind=FINAL) from error
