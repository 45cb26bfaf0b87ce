"""The tar format: headers to bytes and back.

Knows: the ustar, GNU and pax forms of a header. Must not know: files, folders or compression; bytes come from a function
and go back as values. Python's own reader is not used, because it takes extension headers of any size into memory and has
been talked into leaving its folder before.

Written: ustar headers, with GNU's long-name records where a name has more than 100 bytes. Names are bytes to tar, so a name
that is not UTF-8 survives. Owners are not written, and set-user-id bits cannot be: an executable file has mode 755, any
other 644.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Final

from msgspec import Struct

from protocol.errors import Broken, Invalid
from storage.tree import Entry, Kind

BLOCK: Final = 512
END: Final = b"\0" * (2 * BLOCK)
_EXTENSION_MAX_BYTES: Final = 1 << 20
_EXTENSIONS_MAX: Final = 16
"""Headers that say something of the one member behind them; real archives have one to four."""
_TIME_MAX_S: Final = 1 << 33
_NEGATIVE: Final = 0xFF
"""How GNU's binary form of a number below zero begins."""

_KINDS: Final = {b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"5": Kind.FOLDER, b"2": Kind.LINK}
_FLAGS: Final = {Kind.FILE: b"0", Kind.FOLDER: b"5", Kind.LINK: b"2"}
_REFUSED: Final = {
    b"1": "a hard link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}
_INSTEAD: Final = {
    b"1": "Make the archive with: tar --hard-dereference",
    b"S": "Make the archive without: tar --sparse",
}
"""What helps where leaving it out would lose something."""

Read = Callable[[int], bytes]
"""Answers with exactly that many bytes, fewer only at the end of the archive."""


class _Extra(Struct):
    """What extension headers say about the member that follows them."""

    name: bytes = b""
    target: bytes = b""
    size_bytes: int | None = None
    mtime: float | None = None


def header(entry: Entry) -> bytes:
    """The header of a member, with its long-name records."""
    name = os.fsencode(entry.path) + (b"/" if entry.kind is Kind.FOLDER else b"")
    target = os.fsencode(entry.target)
    mode = (
        0o755
        if entry.executable or entry.kind is Kind.FOLDER
        else 0o777
        if entry.kind is Kind.LINK
        else 0o644
    )
    size = entry.size_bytes if entry.kind is Kind.FILE else 0
    mtime = min(max(int(entry.mtime), 0), _TIME_MAX_S)
    long = _long(b"L", name) + _long(b"K", target)
    return long + _block(name[:100], _FLAGS[entry.kind], mode, size, mtime, target[:100])


def padding(size_bytes: int) -> bytes:
    """What fills a member's last block."""
    return b"\0" * (-size_bytes % BLOCK)


def members(read: Read) -> Iterator[Entry]:
    """The members of an archive, one by one; the caller reads a file's `size_bytes` and its padding before the next.

    Raises `Broken` for what is no tar archive or is cut short, `Invalid` (naming the member) for kinds that are not taken:
    hard links, devices, pipes, sparse files.
    """
    extra = _Extra()
    extensions = 0
    while True:
        block = read(BLOCK)
        if block == END[:BLOCK]:
            return
        if len(block) < BLOCK:
            raise Broken("the archive is cut short: its end is missing")
        _check_sum(block)
        flag = block[156:157]
        if flag in b"LKxgV":
            extensions += 1
            if extensions > _EXTENSIONS_MAX:
                raise Broken(f"the archive has more than {_EXTENSIONS_MAX} extension headers in a row")
        if flag in b"LKxg":
            _extend(extra, flag, _extension(read, _number(block[124:136])))
            continue
        if flag == b"V":
            continue
        yield _member(block, flag, extra)
        extra = _Extra()
        extensions = 0


def _member(block: bytes, flag: bytes, extra: _Extra) -> Entry:
    name = extra.name or _joined_name(block)
    path = os.fsdecode(name)
    kind = _KINDS.get(flag)
    if kind is None:
        what = _REFUSED.get(flag, f"of a kind ({flag!r}) that is not known")
        hint = "Only files, folders and symbolic links are taken; make the archive without it."
        hint = _INSTEAD.get(flag, hint)
        raise Invalid(f"{path!r} in the archive is {what}", hint=hint, kind="File")
    if kind is Kind.FILE and name.endswith(b"/"):
        kind = Kind.FOLDER
    size = _number(block[124:136]) if extra.size_bytes is None else extra.size_bytes
    mtime = _time(block[136:148]) if extra.mtime is None else extra.mtime
    return Entry(
        path=path,
        kind=kind,
        size_bytes=size if kind is Kind.FILE else 0,
        executable=bool(_number(block[100:108]) & 0o111),
        mtime=min(max(mtime, 0.0), float(_TIME_MAX_S)),
        target=os.fsdecode(extra.target or _text(block[157:257])) if kind is Kind.LINK else "",
    )


def _joined_name(block: bytes) -> bytes:
    """The name in the header; only the POSIX form (``ustar`` and a NUL) splits it into two fields."""
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    name = _text(block[:100])
    return prefix + b"/" + name if prefix else name


def _extension(read: Read, size_bytes: int) -> bytes:
    if size_bytes > _EXTENSION_MAX_BYTES:
        raise Broken(
            f"the archive has an extension header of {size_bytes} bytes; the limit is {_EXTENSION_MAX_BYTES}"
        )
    data = read(size_bytes + len(padding(size_bytes)))
    if len(data) < size_bytes:
        raise Broken("the archive is cut short: within a header")
    return data[:size_bytes]


def _extend(extra: _Extra, flag: bytes, data: bytes) -> None:
    if flag == b"L":
        extra.name = _text(data)
    elif flag == b"K":
        extra.target = _text(data)
    elif flag == b"x":
        for key, value in _pax_records(data):
            _apply(extra, key, value)


def _apply(extra: _Extra, key: bytes, value: bytes) -> None:
    try:
        if key == b"path":
            extra.name = value
        elif key == b"linkpath":
            extra.target = value
        elif key == b"size":
            extra.size_bytes = _checked(int(value))
        elif key == b"mtime":
            extra.mtime = float(value)
            if math.isnan(extra.mtime):
                raise ValueError
    except ValueError as error:
        raise Broken(f"the archive has a wrong {key.decode()} in a header: {value[:40]!r}") from error
    if key.startswith(b"GNU.sparse"):
        raise Invalid(
            "the archive holds a sparse file", hint="Make the archive without --sparse.", kind="File"
        )


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Records of the form ``<length> <key>=<value>\\n``, where the length counts the whole record."""
    at = 0
    while at < len(data):
        blank = data.find(b" ", at, at + 20)
        digits = data[at:blank]
        length = int(digits) if blank > at and digits.isdigit() else 0
        record = data[blank + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if at + length > len(data) or not record.endswith(b"\n") or not equals:
            raise Broken("the archive has an extension header that cannot be read")
        yield key, value[:-1]
        at += length


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """A numeric field: octal digits, or GNU's binary form for what they cannot hold."""
    if field[0] & 0x80:
        return _checked(int.from_bytes(bytes([field[0] & 0x7F]) + field[1:]))
    digits = _text(field).strip()
    try:
        return _checked(int(digits or b"0", 8))
    except ValueError as error:
        raise Broken(f"the archive has a wrong number in a header: {digits[:20]!r}") from error


def _time(field: bytes) -> float:
    """A time in seconds. GNU tar writes one before 1970 as a negative number in binary form; it becomes 1970's beginning."""
    return 0.0 if field[0] == _NEGATIVE else float(_number(field))


def _checked(number: int) -> int:
    if not 0 <= number < 1 << 62:
        raise Broken(f"the archive has an impossible number in a header: {number}")
    return number


def _check_sum(block: bytes) -> None:
    with contextlib.suppress(ValueError):
        if int(_text(block[148:156]), 8) == _sum(block):
            return
    raise Broken("this is not a tar archive, or it is damaged (a header's checksum is wrong)")


def _sum(block: bytes) -> int:
    """The sum of a header's bytes, with the checksum field itself taken as blanks."""
    return sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _long(flag: bytes, text: bytes) -> bytes:
    """GNU's record that holds a name or link target too long for the header; empty for one that fits."""
    if len(text) <= 100:
        return b""
    data = text + b"\0"
    return _block(b"././@LongLink", flag, 0o644, len(data), 0, b"") + data + padding(len(data))


def _block(name: bytes, flag: bytes, mode: int, size: int, mtime: int, target: bytes) -> bytes:
    fields = (
        name.ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % 0,
        b"%07o\0" % 0,
        _encoded(size),
        _encoded(mtime),
        b" " * 8,
        flag,
        target.ljust(100, b"\0"),
        b"ustar  \0",
    )
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % _sum(block) + block[156:]


def _encoded(number: int) -> bytes:
    return b"%011o\0" % number if number < 1 << 33 else b"\x80" + number.to_bytes(11)
