"""Keys with wildcards: what is listed for them, and which of the listed keys they mean.

Knows: ``*`` (anything but a slash), ``**`` (anything; ``**/`` also no folder at all), ``?`` (one character but a slash),
``[a-z]`` and ``[!a-z]``, and ``\\`` before a character that means itself. Must not know: S3 or how patterns are tried.

One ``*`` at the end means all that follows, slashes too, because it does so in Bacalhau, whose keys know no other wildcard.
"""

import re
from typing import Final

_SPECIAL: Final = re.compile(r"[*?\[\\]")
_TOKEN: Final = re.compile(r"\*\*+/?|\*|\?|\[(?:[!^]?\]?[^\]]*)\]|\\.|.", re.DOTALL)
_MEMBER: Final = re.compile(r"(.)-(.)|.", re.DOTALL)
_NOTHING: Final = r"[^\x00-\x{10FFFF}]"


def is_glob(key: str) -> bool:
    """Whether a key has a wildcard besides a ``*`` at its end, which alone makes it a prefix."""
    return _SPECIAL.search(key.removesuffix("*")) is not None


def literal_prefix(key: str) -> str:
    """What every key that is meant begins with: as much as stands before the first wildcard."""
    found = _SPECIAL.search(key)
    return key[: found.start()] if found else key


def pattern_of(key: str) -> str:
    """A regular expression for what follows `literal_prefix` in the keys that are meant; it matches the whole of it."""
    rest = key[len(literal_prefix(key)) :]
    if rest.endswith("/"):
        rest += "**"
    elif rest.endswith("*"):
        rest = rest.rstrip("*") + "**"
    return r"\A" + "".join(_part(token) for token in _TOKEN.findall(rest)) + r"\z"


def across_folders(key: str) -> str:
    """The key with each ``*`` as ``**``, which is what a ``*`` means to s5cmd and `aws s3`."""
    return "".join("**" if token == "*" else token for token in _TOKEN.findall(key))


def _part(token: str) -> str:
    if token.startswith("**"):
        return "(?:[^\\x00]*/)?" if token.endswith("/") else "[^\\x00]*"
    if token == "*":
        return "[^/]*"
    if token == "?":
        return "[^/]"
    if token.startswith("[") and len(token) > 2:
        negated = token[1] in "!^"
        members = token[2 if negated else 1 : -1]
        if not members:
            return re.escape(token)
        meant = _members(members)
        return f"[^/{meant}]" if negated else f"[{meant}]" if meant else _NOTHING
    if token.startswith("\\") and len(token) > 1:
        return re.escape(token[1:])
    return re.escape(token)


def _members(members: str) -> str:
    """The inside of a character class: everything stands for itself except the hyphen of a range. One that ends before it
    begins has nothing in it, as in a shell."""
    found = []
    for each in _MEMBER.finditer(members):
        first, last = each.groups()
        if first is None:
            found.append(re.escape(each[0]))
        elif first <= last:
            found.append(f"{re.escape(first)}-{re.escape(last)}")
    return "".join(found)
