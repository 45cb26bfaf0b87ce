"""Which paths of this machine jobs may see: globs, each with ``:ro`` or ``:rw``.

Knows: the patterns' language, which is Bacalhau's (``*`` and ``?`` within a component, ``**`` across them, ``[a-z]``,
``{one,other}``). Must not know: who asks.
"""

import os
import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from protocol.errors import Invalid

_SPECIAL: Final = re.compile(r"[*?\[{\\]")
_CLASS: Final = re.compile(r"\[([!^]?)([^\]/]+)\]")


class Allowed(Struct, frozen=True):
    """One line of the list: a pattern for absolute paths, and whether a job may write there."""

    pattern: str
    writable: bool

    def matches(self, path: str) -> bool:
        """Whether the normalised absolute `path` is meant."""
        return re.fullmatch(_expression(self.pattern), path, re.DOTALL) is not None

    def resolved(self) -> "Allowed":
        """The same with links followed in the part before the first special character: what the pattern means on disk."""
        fixed, rest = _split(self.pattern)
        return Allowed(
            os.path.join(os.path.realpath(fixed), rest) if rest else os.path.realpath(fixed), self.writable
        )


def read_allow_list(lines: Sequence[str]) -> list[Allowed]:
    """Read the list as people write it. Raises `Invalid` for a relative pattern or one that cannot be read."""
    return [_read(line) for line in lines]


def is_allowed(allowed: Sequence[Allowed], path: str, *, write: bool) -> bool:
    """Whether some line allows `path`."""
    return any(each.matches(path) and (each.writable or not write) for each in allowed)


def _read(line: str) -> Allowed:
    pattern, colon, mode = line.rpartition(":")
    if not colon or mode not in ("ro", "rw"):
        pattern, mode = line, "ro"
    if not pattern.startswith("/"):
        raise Invalid(f"the allowed path {line!r} is not absolute", hint="Write it like /data/**:ro.")
    try:
        re.compile(_expression(pattern))
    except re.error as error:
        raise Invalid(f"the allowed path {line!r} cannot be read: {error}") from error
    return Allowed(pattern.rstrip("/") or "/", mode == "rw")


def _split(pattern: str) -> tuple[str, str]:
    """The folders before the first special character, and the rest."""
    special = _SPECIAL.search(pattern)
    if special is None:
        return pattern, ""
    cut = pattern.rindex("/", 0, special.start()) + 1
    return pattern[:cut], pattern[cut:]


def _expression(pattern: str) -> str:
    """The regular expression for a pattern. ``/**`` also means the folder itself."""
    made: list[str] = []
    at = depth = 0
    while at < len(pattern):
        rest = pattern[at:]
        taken = 1
        if rest.startswith("/**/"):
            made, taken = [*made, "/(?:.*/)?"], 4
        elif rest == "/**":
            made, taken = [*made, "(?:/.*)?"], 3
        elif rest.startswith("*"):
            made.append("[^/]*")
        elif rest[0] == "?":
            made.append("[^/]")
        elif rest[0] == "[" and (found := _CLASS.match(rest)):
            # A hyphen keeps its meaning; everything else in the brackets stands for itself.
            inner = "-".join(re.escape(part) for part in found[2].split("-"))
            made, taken = [*made, f"[^/{inner}]" if found[1] else f"[{inner}]"], found.end()
        elif rest[0] == "{":
            made.append("(?:")
            depth += 1
        elif rest[0] == "," and depth:
            made.append("|")
        elif rest[0] == "}" and depth:
            made.append(")")
            depth -= 1
        elif rest[0] == "\\" and len(rest) > 1:
            made, taken = [*made, re.escape(rest[1])], 2
        else:
            made.append(re.escape(rest[0]))
        at += taken
    return "".join(made)
