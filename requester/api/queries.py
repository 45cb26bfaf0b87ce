"""Query parameters and paging tokens.

Knows: how clients spell them: Go's ``true``, Python's ``True`` and ``None``, empty meaning absent. Must not know: what they
select. A token is opaque to clients: base64url without padding, as Bacalhau's are.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Final

from protocol.errors import Invalid

_ABSENT: Final = {"", "none", "null"}
_TRUE: Final = {"true", "1", "t"}
_FALSE: Final = {"false", "0", "f"} | _ABSENT
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
LIMIT_MAX: Final = 10_000
"""Items of one answer; beyond that there is a next page."""


def text(query: Mapping[str, str], name: str, default: str = "") -> str:
    """A parameter, or `default` when it is absent, empty or somebody's word for nothing."""
    value = query.get(name, "")
    return default if value.strip().lower() in _ABSENT else value


def flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean parameter. Raises `Invalid` for anything but true and false."""
    value = query.get(name, "").lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise Invalid(f"query parameter {name}={value!r} is neither true nor false")


def number(query: Mapping[str, str], name: str, default: int = 0) -> int:
    """A whole number that is not negative. Raises `Invalid` for anything else."""
    value = text(query, name)
    if not value:
        return default
    if not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise Invalid(f"query parameter {name}={value[:40]!r} is not a whole number")
    return int(value)


def pack(*parts: str | int) -> str:
    """A token from its parts, none of which holds a colon."""
    return urlsafe_b64encode(":".join(map(str, parts)).encode()).decode().rstrip("=")


def unpack(token: str, parts: int) -> list[str]:
    """The parts of a token made by `pack`. Raises `Invalid` if it is not one."""
    try:
        found = urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().split(":")
    except ValueError:
        found = []
    if len(found) != parts:
        raise Invalid("the paging token is not one of this server's", hint="Start again without next_token.")
    return found


def whole(part: str) -> int:
    """A number inside a token. Raises `Invalid`."""
    if not _WHOLE.fullmatch(part):
        raise Invalid("the paging token is not one of this server's", hint="Start again without next_token.")
    return int(part)
