"""The names of images.

Knows: the grammar of image references, and what is meant where a name leaves something out. Must not know: any registry or
daemon. Source of the rules: the OCI distribution specification and the ``distribution/reference`` grammar that Docker uses.
"""

import re
from typing import Final

from msgspec import Struct

from protocol.errors import Invalid

HUB: Final = "docker.io"
HUB_NAMES: Final = frozenset({HUB, "index.docker.io", "registry-1.docker.io"})
LENGTH_MAX: Final = 255

_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_REGISTRY: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)
_TAG: Final = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_IMAGE_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")


class Reference(Struct, frozen=True):
    """An image's name in full. `digest`, where given, decides and the tag is decoration. `id` names a local image only."""

    registry: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""
    id: str = ""

    @property
    def name(self) -> str:
        """Registry and repository, as the daemon pulls it."""
        return f"{self.registry}/{self.repository}"

    @property
    def version(self) -> str:
        """The digest, or the tag."""
        return self.digest or self.tag


def parse_reference(text: str) -> Reference:
    """Read an image's name as Docker does: no registry is Docker Hub, no tag is ``latest``. Raises `Invalid`."""
    if not text.strip():
        raise Invalid("Image is empty", hint="Name an image, such as ubuntu:24.04.")
    if _IMAGE_ID.fullmatch(text):
        return Reference(id=text)
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _wrong(
            text, f"{digest!r} is not a digest", "write it as NAME@sha256:… with 64 hexadecimal digits"
        )
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        head, tag = name, ""
    elif not _TAG.fullmatch(tag):
        raise _wrong(
            text, f"{tag!r} is not a tag", "a tag is up to 128 letters, digits, dots, dashes and underscores"
        )
    registry, repository = _registry_of(head)
    if not _REGISTRY.fullmatch(registry):
        raise _wrong(text, f"{registry!r} is not a registry", "write it as HOST or HOST:PORT")
    if len(head) > LENGTH_MAX or not _REPOSITORY.fullmatch(repository):
        hint = (
            f"did you mean {text.lower()}?"
            if text != text.lower()
            else "letters are lower case, without blanks"
        )
        raise _wrong(text, f"{repository!r} is not a repository's name", hint)
    return Reference(registry, repository, tag or ("" if digest else "latest"), digest)


def _registry_of(name: str) -> tuple[str, str]:
    """The registry, and the repository in it: the first part is a registry if it looks like a host."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return (HUB if first in HUB_NAMES else first), rest
    return HUB, name if slash else f"library/{name}"


def _wrong(text: str, why: str, hint: str) -> Invalid:
    return Invalid(f"{text!r} is not an image's name: {why}", hint=hint)
