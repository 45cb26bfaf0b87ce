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
_CLASS: Final = re.compile(r"(\\Q.*?(?:\\E|\Z))|\\[pP](?:\{[^}]*\}|[^{])|\\.", re.DOTALL)
"""What is quoted, a class of Unicode, or any other escape."""
RE2_MAX_BYTES: Final = 8 << 20
"""What RE2 itself allows a pattern."""
CHECKED_MAX_CHARACTERS: Final = 16_384
"""Whoever checks a pattern does nothing else meanwhile: 5 us a character at the worst."""
CLASSES_MAX: Final = 32
"""A class of Unicode takes up to 600 us to read: so many are read for what they are, the others for a small class."""
LIMIT_S: Final = 300.0
"""A million keys took 10 to 37 s on two slow cores with a load of six; a pattern of thousands of states takes longer."""


def check_patterns(params: SourceParams) -> None:
    """Raise `Invalid` if ``Filter`` or ``Partition.Pattern`` is no regular expression. Whether one needs more memory than
    RE2 has for it is left to the node that uses it, and so is one of more than `CHECKED_MAX_CHARACTERS`."""
    _check(params.filter, FILTER)
    if params.partition.type.lower() == "regex":
        _check(params.partition.pattern, PATTERN)


def _check(pattern: str, field: str) -> None:
    if len(pattern) > CHECKED_MAX_CHARACTERS:
        return
    for each in _quick(pattern):
        if not _is_read(each):
            raise _no_pattern(field, pattern, _complaint(each))
    _check_escapes(pattern, field)


def _quick(pattern: str) -> list[str]:
    """What can be read in a short time, and can be read exactly if the pattern can: itself, or if it has many classes of
    Unicode each of those once, and the pattern with small classes instead, which may stand wherever they do."""
    classes = [each[0] for each in _CLASS.finditer(pattern) if each[0][:2] in (r"\p", r"\P")]
    if len(classes) <= CLASSES_MAX:
        return [pattern]
    known = frozenset(classes)
    return [*sorted(known), _CLASS.sub(lambda each: r"\d" if each[0] in known else each[0], pattern)]


def _is_read(pattern: str) -> bool:
    """Whether RE2 can read it: what is put into a set is read, and not yet made ready to be looked for."""
    import re2

    try:
        re2.Set.SearchSet(_options()).Add(pattern.encode())
    except re2.error:
        return False
    return True


def compiled(pattern: str, field: str) -> Any:
    """RE2's own form of a pattern, for UTF-8. Raises `Invalid`, with the `field`, if it is none, or too large."""
    import re2

    try:
        found = re2.compile(pattern.encode(), _options())
    except re2.error as error:
        raise _no_pattern(field, pattern, _said(error)) from error
    _check_escapes(pattern, field)
    return found


def _complaint(pattern: str) -> str:
    """What RE2 says of a pattern that it cannot read."""
    import re2

    try:
        re2.compile(pattern.encode(), _options())
    except re2.error as error:
        return _said(error)
    raise AssertionError("RE2 reads a pattern alone as it reads it in a set")


def _options() -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = RE2_MAX_BYTES
    return options


def _said(error: Exception) -> str:
    told = error.args[0]
    return told.decode(errors="replace") if isinstance(told, bytes) else str(told)


def _check_escapes(pattern: str, field: str) -> None:
    """Raise `Invalid` for any single byte: Go's RE2 has none, and half a character is no text."""
    if any(each == ANY_BYTE for each in _QUOTED.findall(pattern)):
        raise _no_pattern(field, pattern, f"invalid escape sequence: {ANY_BYTE}")


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
