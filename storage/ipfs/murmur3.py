"""The hash that says where in a sharded folder a name stands: MurmurHash3, x64, the first 64 of its 128 bits.

Knows: the function (https://github.com/aappleby/smhasher/wiki/MurmurHash3), without a seed. Must not know: folders. It keeps
nobody from choosing names that meet, and nothing here relies on that.
"""

from typing import Final

_C1: Final = 0x87C37B91114253D5
_C2: Final = 0x4CF5AD432745937F
_MASK: Final = (1 << 64) - 1
BITS: Final = 64


def murmur3(data: bytes) -> int:
    """The hash of `data`, 64 bits."""
    one = two = 0
    whole = len(data) & ~15
    for at in range(0, whole, 16):
        one ^= _mixed(int.from_bytes(data[at : at + 8], "little"), _C1, 31, _C2)
        one = (_turned(one, 27) + two) * 5 + 0x52DCE729 & _MASK
        two ^= _mixed(int.from_bytes(data[at + 8 : at + 16], "little"), _C2, 33, _C1)
        two = (_turned(two, 31) + one) * 5 + 0x38495AB5 & _MASK
    one ^= _mixed(int.from_bytes(data[whole : whole + 8], "little"), _C1, 31, _C2)
    two ^= _mixed(int.from_bytes(data[whole + 8 :], "little"), _C2, 33, _C1)
    one ^= len(data)
    two ^= len(data)
    one = one + two & _MASK
    two = two + one & _MASK
    return _finished(one) + _finished(two) & _MASK


def _mixed(word: int, first: int, turn: int, second: int) -> int:
    return _turned(word * first & _MASK, turn) * second & _MASK


def _turned(word: int, turn: int) -> int:
    return (word << turn | word >> 64 - turn) & _MASK


def _finished(word: int) -> int:
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _MASK
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return word ^ word >> 33
