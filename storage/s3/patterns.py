"""Regular expressions that strangers wrote, in RE2's language and by RE2 itself, as Bacalhau reads them (docs/adr/0028).

Knows: how RE2 is asked. Must not know: keys, or what a partition is. No pattern takes longer than its length times that of
the text, so they are tried in a thread of this process; RE2 itself bounds what a pattern may take of memory.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from protocol.errors import Invalid, TimedOut
from storage.long_lists import Packed
from storage.s3.params import SourceParams
from storage.threads import Stop, in_thread

T = TypeVar("T")

FILTER: Final = "source s3: Filter"
PATTERN: Final = "source s3: Partition.Pattern"
ANY_BYTE: Final = r"\C"
_QUOTED: Final = re.compile(r"\\Q.*?(?:\\E|\Z)|\\.", re.DOTALL)
RE2_MAX_BYTES: Final = 8 << 20
"""What RE2 itself allows a pattern."""
CHECKED_MAX_CHARACTERS: Final = 128
CHECKED_MAX_BYTES: Final = 1 << 20
"""Classes of Unicode take 50 us a character to read, and whoever checks a pattern does nothing else meanwhile."""
TOO_LARGE: Final = "pattern too large"
LIMIT_S: Final = 300.0
"""A million keys took 10 to 37 s on two slow cores with a load of six; a pattern of thousands of states takes longer."""


def check_patterns(params: SourceParams) -> None:
    """Raise `Invalid` if ``Filter`` or ``Partition.Pattern`` is no regular expression; one that takes long to read is left
    to the node that uses it."""
    _check(params.filter, FILTER)
    if params.partition.type.lower() == "regex":
        _check(params.partition.pattern, PATTERN)


def _check(pattern: str, field: str) -> None:
    if len(pattern) > CHECKED_MAX_CHARACTERS:
        return
    try:
        compiled(pattern, field, CHECKED_MAX_BYTES)
    except Invalid as fault:
        if TOO_LARGE not in fault.message:
            raise


def compiled(pattern: str, field: str, max_bytes: int = RE2_MAX_BYTES) -> Any:
    """RE2's own form of a pattern, for UTF-8, within so much memory. Raises `Invalid`, with the `field`, if it is none."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = max_bytes
    try:
        found = re2.compile(pattern.encode(), options)
    except re2.error as error:
        told = error.args[0]
        raise _no_pattern(
            field, pattern, told.decode(errors="replace") if isinstance(told, bytes) else told
        ) from error
    if any(each == ANY_BYTE for each in _QUOTED.findall(pattern)):
        # Go's RE2 has none, and half a character is no text.
        raise _no_pattern(field, pattern, f"invalid escape sequence: {ANY_BYTE}")
    return found


def _no_pattern(field: str, pattern: str, said: str) -> Invalid:
    hint = "It is written as in RE2: https://github.com/google/re2/wiki/Syntax"
    return Invalid(f"{field} {pattern!r} is not a regular expression: {said}", hint=hint)


def finder(pattern: str, field: str) -> Callable[[str], list[str]]:
    """What finds the first match in a text (the whole, then its groups), or an empty list. Raises as `compiled`."""
    search = compiled(pattern, field).search

    def find(text: str) -> list[str]:
        match = search(text.encode())
        return [match[0].decode(), *map(bytes.decode, match.groups(b""))] if match else []

    return find


async def sift(
    items: Packed[T],
    pattern: str,
    field: str,
    text_of: Callable[[T], str],
    wanted: Callable[[T, list[str]], bool],
    limit_s: float = LIMIT_S,
) -> Packed[T]:
    """Those of the items that are wanted, given what the pattern finds in their text; sifted in a thread.

    Raises `Invalid` naming the `field` if it is not a pattern, `TimedOut` if it takes longer than `limit_s`.
    """

    def work(stop: Stop) -> Packed[T]:
        # RE2 comes from the disk with its first pattern.
        find = finder(pattern, field)
        return items.sifted(lambda each: wanted(each, find(text_of(each))), stop)

    try:
        async with asyncio.timeout(limit_s):
            return await in_thread(work)
    except TimeoutError as error:
        hint = "Write it shorter, or read fewer objects."
        raise TimedOut(f"{field} {pattern!r} took longer than {limit_s:g} s", hint=hint) from error
