"""Regular expressions that strangers wrote, tried in a process of their own.

Knows: that Python's matcher may take for ever on a pattern that RE2, which Bacalhau uses, settles at once, and that it
holds up every other task meanwhile. Must not know: keys or partitions.

Patterns are read as RE2 reads them as far as keys need it: ``\\d``, ``\\w``, ``\\s`` mean ASCII, ``\\z`` and ``$`` the
very end of the text.
"""

import asyncio
import contextlib
import re
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.errors import Invalid, TimedOut

LIMIT_S: Final = 10.0
PATTERN_MAX: Final = 1000

# What the child runs: it knows nothing of us, and needs no more than the standard library.
_CHILD: Final = """
import json, re, sys
pattern, texts = json.load(sys.stdin)
find = re.compile(pattern, re.ASCII).search
found = [find(text) for text in texts]
json.dump([[match[0], *(group or "" for group in match.groups())] if match else [] for match in found], sys.stdout)
"""

_TOKEN: Final = re.compile(
    r"\\Q.*?(?:\\E|$)|\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|\$|\(\?<(?=[A-Za-z_])|\{(?=,\d*\})",
    re.DOTALL,
)
_POSIX: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}


def in_python(pattern: str, field: str) -> str:
    """An RE2 pattern as Python writes it. Raises `Invalid` naming the `field` if it is not a pattern."""
    if len(pattern) > PATTERN_MAX:
        raise Invalid(f"{field} has {len(pattern)} characters and the limit is {PATTERN_MAX}")
    many_lines = re.match(r"\(\?[a-z]*m", pattern) is not None
    try:
        ours = _TOKEN.sub(lambda found: _token(found[0], many_lines), pattern)
        re.compile(ours, re.ASCII)
    except (re.error, RecursionError, OverflowError) as error:
        raise Invalid(f"{field} {pattern!r} is not a regular expression: {error}") from error
    return ours


async def search(pattern: str, texts: Sequence[str], field: str, limit_s: float = LIMIT_S) -> list[list[str]]:
    """For each text the first match (the whole, then its groups), or an empty list.

    Raises `Invalid` naming the `field` if it is not a pattern, `TimedOut` if it takes longer than `limit_s`.
    """
    asked = msgspec.json.encode((in_python(pattern, field), texts))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", _CHILD),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(limit_s):
            answer, _ = await child.communicate(asked)
    except TimeoutError as error:
        hint = "Avoid repetitions inside repetitions, such as (a+)+."
        raise TimedOut(f"{field} {pattern!r} took longer than {limit_s:g} s", hint=hint) from error
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode:
        raise Invalid(f"{field} {pattern!r} cannot be tried")
    return msgspec.json.decode(answer, type=list[list[str]])


def _token(token: str, many_lines: bool) -> str:
    if token == "$":
        return "$" if many_lines else r"\Z"
    if token == r"\z":
        return r"\Z"
    if token == "(?<":
        return "(?P<"
    if token == "{":
        # Without a least number it is no repetition to RE2.
        return r"\{"
    if token.startswith(r"\Q"):
        return re.escape(token[2:].removesuffix(r"\E"))
    if token.startswith("["):
        inner = re.sub(
            r"\[:(\^?)(\w+):\]", lambda found: _class(found[2], negated=bool(found[1])), token[1:-1]
        )
        return f"[{inner}]"
    return token


def _class(name: str, *, negated: bool) -> str:
    """A POSIX class as it stands between brackets. Raises ``re.error`` for one that there is not."""
    if name not in _POSIX:
        raise re.error(f"there is no class [:{name}:]")
    if not negated:
        return _POSIX[name]
    others = [chr(code) for code in range(128) if not re.match(f"[{_POSIX[name]}]", chr(code))]
    return "".join(map(re.escape, others)) + r"\x80-\U0010ffff"
