"""Which execution reads which object: the same object in the same partition as in Bacalhau.

Knows: the five ways of sharing out and the hash. Must not know: where keys come from, or regular expressions (their groups
come as values). An object's index is the 32-bit FNV-1a hash of some text of its key, modulo the number of partitions; an
object without such text is in partition 0.
"""

from collections.abc import Callable, Sequence
from typing import Final

from storage.s3.dates import same_date
from storage.s3.params import Partition

GROUP_SEPARATOR: Final = "\x1f"
UNMATCHED: Final = 0

_FNV_OFFSET: Final = 2_166_136_261
_FNV_PRIME: Final = 16_777_619

Groups = Sequence[str]
"""A match: its whole text, then its groups; empty for no match."""


def fnv1a(text: str) -> int:
    """The 32-bit FNV-1a hash of the text's UTF-8 bytes (http://www.isthe.com/chongo/tech/comp/fnv)."""
    value = _FNV_OFFSET
    for byte in text.encode(errors="surrogateescape"):
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return value


def shares_out(partition: Partition, count: int) -> bool:
    """Whether the objects are shared out at all: without a type, every partition reads all of them."""
    return partition.type.lower() not in ("", "none") and count > 1


def behind_prefix(key: str, prefix: str) -> str:
    """The part of a key that patterns, slices and dates are looked for in."""
    return key.removeprefix(prefix).removeprefix("/")


def index_of(key: str, prefix: str, partition: Partition, count: int, groups: Groups = ()) -> int:
    """The partition that reads the object `key`, from 0 to `count` - 1, if they are shared out.

    `groups` is the match of ``Pattern`` in what `behind_prefix` answers. Raises `Invalid` for a date
    format that is not taken.
    """
    text = _TEXT_OF[partition.type.lower()](key, behind_prefix(key, prefix), partition, groups)
    return UNMATCHED if text is None else fnv1a(text) % count


def _whole_key(key: str, rest: str, partition: Partition, groups: Groups) -> str | None:
    return key


def _groups(key: str, rest: str, partition: Partition, groups: Groups) -> str | None:
    if not groups or not groups[0]:
        return None
    return GROUP_SEPARATOR.join(group for group in groups[1:] if group) or groups[0]


def _slice(key: str, rest: str, partition: Partition, groups: Groups) -> str | None:
    if len(rest) < partition.end_index:
        return None
    return rest[partition.start_index : partition.end_index]


def _date(key: str, rest: str, partition: Partition, groups: Groups) -> str | None:
    # As many bytes as the format has, whatever characters they cut.
    length = len(partition.date_format.encode())
    head = rest.encode()[:length].decode(errors="surrogateescape")
    return same_date(partition.date_format, head)


_TEXT_OF: Final[dict[str, Callable[[str, str, Partition, Groups], str | None]]] = {
    "object": _whole_key,
    "regex": _groups,
    "substring": _slice,
    "date": _date,
}
