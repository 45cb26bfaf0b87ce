"""Which jobs' keys may be known: a Bloom filter.

Knows: keys that were put into it. Must not know: where they are kept, or what for. It is never wrong when it says that a key
is not there; of those that are not, it takes some for known, and whoever wants to be sure has to look.

Keys are hashes already, so two parts of one serve as its two places. With a million keys one in a thousand others is taken
for known, with ten million one in fifteen.
"""

from typing import Final

from protocol.ids import JobKey

_PLACES: Final = 1 << 26
"""Bits: 8 MiB, of which the system gives what is used."""
_MASK: Final = _PLACES - 1
_SECOND: Final = 30
"""The bit of a key from which on its second place is read: of its 60 bits none is used twice."""


class Bloom:
    """A set of keys that only grows."""

    __slots__ = ("_bits",)

    def __init__(self) -> None:
        self._bits = bytearray(_PLACES >> 3)

    def add(self, key: JobKey) -> bool:
        """Know a key from now on; again changes nothing. True if it surely was not known before."""
        first = int(key, 16)
        second = first >> _SECOND
        bits = self._bits
        at, bit = (first & _MASK) >> 3, 1 << (first & 7)
        also_at, also_bit = (second & _MASK) >> 3, 1 << (second & 7)
        new = not (bits[at] & bit and bits[also_at] & also_bit)
        bits[at] |= bit
        bits[also_at] |= also_bit
        return new

    def __contains__(self, key: JobKey) -> bool:
        first = int(key, 16)
        second = first >> _SECOND
        bits = self._bits
        return bool(
            bits[(first & _MASK) >> 3] & 1 << (first & 7) and bits[(second & _MASK) >> 3] & 1 << (second & 7)
        )
