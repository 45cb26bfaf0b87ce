"""Dates in keys, read and written by the layouts of Go's ``time`` package, as Bacalhau's ``DateFormat`` has them.

Knows: the layout's words and their rules (https://pkg.go.dev/time#pkg-constants), with all that Go's reader lets pass: what
is hashed is the date as Go writes it again. Both read bytes. Zones are as on a machine that keeps UTC. Must not know: keys
or partitions. Compared with Bacalhau's own package on some hundred thousand pairs of layout and text.
"""

import re
from collections.abc import Callable
from datetime import date
from functools import lru_cache
from math import fmod
from typing import Final, NamedTuple

from msgspec import Struct

from protocol.errors import Invalid

MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LEAP_CYCLE_YEARS: Final = 400
"""The calendar repeats after so many years, weekdays included: year 0, which Python lacks, is like year 400."""
_DAY_S: Final = 24 * 60 * 60
_LAYOUT_HINT: Final = "It is written as in Go, with the date 2 January 2006: 2006-01-02, 2006/01, Jan _2."
_FRACTION_DIGITS: Final = 9
"""More are read over."""


class _NoDate(Exception):
    """A text is no date of a layout."""


class _Moment(Struct):
    """What a date's words add up to; what is not said stays as Go has it: the first moment of year 0.

    `said_s` is the distance from UTC in seconds that the text names, `zone` the abbreviation; `offset_s` is what both mean.
    """

    year: int = 0
    month: int | None = None
    day: int | None = None
    year_day: int | None = None
    hour: int = 0
    minute: int = 0
    second: int = 0
    nanosecond: int = 0
    morning: bool = False
    afternoon: bool = False
    utc: bool = False
    said_s: int | None = None
    zone: bytes = b""
    offset_s: int = 0

    def calendar(self) -> date:
        """The day, in a year like this one. Raises `_NoDate` if there is none."""
        try:
            return date(self.year - self.like, self.month or 1, self.day or 0)
        except ValueError as error:
            raise _NoDate from error

    @property
    def like(self) -> int:
        """So much later is this year than the one that stands for it."""
        return (self.year // LEAP_CYCLE_YEARS - 1) * LEAP_CYCLE_YEARS


class _Word(NamedTuple):
    """One piece of a layout: `read` takes it from a text at a place and tells the place behind it, or raises `_NoDate`."""

    read: Callable[[_Moment, bytes, int], int]
    write: Callable[[_Moment], bytes]


def same_date(layout: str, text: str) -> str | None:
    """`text` read as a date by `layout` and written again by it, or None if it is not such a date. Bytes that are no
    character stand as surrogates in both."""
    words = _compiled(layout.encode(errors="surrogateescape"))
    moment = _read(words, text.encode(errors="surrogateescape"))
    return None if moment is None else _written(words, moment).decode(errors="surrogateescape")


def check_layout(layout: str, field: str) -> None:
    """Raise `Invalid`, which names the `field`, for a layout that cannot read what it writes (Bacalhau refuses it too), and
    for one without a part of a date (``YYYY-MM-DD``), by which Bacalhau gives all objects to the first partition."""
    words = _compiled(layout.encode(errors="surrogateescape"))
    first = _Moment(2006, 1, 2, hour=15, minute=4, second=5, utc=True)
    _settle(first)
    if _read(words, _written(words, first)) is None:
        raise Invalid(
            f"{field} {layout!r} is no date format: it cannot read what it writes",
            hint=_LAYOUT_HINT,
        )
    later = _Moment(
        2011, 12, 31, hour=8, minute=57, second=59, nanosecond=987_654_321, said_s=-18_000, zone=b"EST"
    )
    _settle(later)
    if _written(words, first) == _written(words, later):
        raise Invalid(f"{field} {layout!r} has no part of a date", hint=_LAYOUT_HINT)


def _read(words: tuple[_Word, ...], text: bytes) -> _Moment | None:
    moment, at = _Moment(), 0
    try:
        for word in words:
            at = word.read(moment, text, at)
        if at < len(text):
            return None
        _settle(moment)
    except _NoDate:
        return None
    return moment


def _written(words: tuple[_Word, ...], moment: _Moment) -> bytes:
    return b"".join(word.write(moment) for word in words)


def _settle(moment: _Moment) -> None:
    """Put the clock, the day and the zone in order. Raises `_NoDate` if there is no such moment."""
    if moment.afternoon and moment.hour < 12:
        moment.hour += 12
    elif moment.morning and moment.hour == 12:
        moment.hour = 0
    if moment.year_day is not None:
        _settle_year_day(moment, moment.year_day)
    elif moment.day is None:
        moment.day = 1
    moment.month = moment.month or 1
    moment.calendar()
    if moment.utc:
        moment.zone = b"UTC"
    elif moment.said_s is not None:
        moment.offset_s = moment.said_s
    elif hours := _GMT.fullmatch(moment.zone):
        _move(moment, int(hours[1]) * 60 * 60)


def _settle_year_day(moment: _Moment, year_day: int) -> None:
    first = date(moment.year - moment.like, 1, 1)
    day = date.fromordinal(first.toordinal() + year_day - 1)
    if day.year != first.year or moment.month not in (None, day.month) or moment.day not in (None, day.day):
        raise _NoDate
    moment.month, moment.day = day.month, day.day


def _move(moment: _Moment, offset_s: int) -> None:
    """To what the clock shows there: Go takes a time beside such a zone for one of UTC."""
    clock_s = (moment.hour * 60 + moment.minute) * 60 + moment.second + offset_s
    days, clock_s = divmod(clock_s, _DAY_S)
    day, like = date.fromordinal(moment.calendar().toordinal() + days), moment.like
    moment.year, moment.month, moment.day = day.year + like, day.month, day.day
    moment.hour, moment.minute, moment.second = clock_s // 3600, clock_s // 60 % 60, clock_s % 60
    moment.offset_s = offset_s


@lru_cache(maxsize=64)
def _compiled(layout: bytes) -> tuple[_Word, ...]:
    words: list[_Word] = []
    at = 0
    found = list(_SPELLING.finditer(layout))
    for each, following in zip(found, [*found[1:], None], strict=False):
        if at < each.start():
            words.append(_literal(layout[at : each.start()]))
        spelling, at = each[0], each.end()
        if spelling in _SECONDS and not (following and following[0][:1] in b".,"):
            words.append(_with_fraction(_WORDS[spelling]))
        else:
            words.append(_WORDS.get(spelling) or _fraction(spelling))
    if at < len(layout):
        words.append(_literal(layout[at:]))
    return tuple(words)


def _literal(plain: bytes) -> _Word:
    """Text that stands for itself; a run of spaces for any run of spaces, and for nothing at the end."""
    pieces = re.findall(rb" +|[^ ]+", plain)

    def read(moment: _Moment, text: bytes, at: int) -> int:
        for piece in pieces:
            if piece[:1] == b" ":
                behind = len(text) - len(text[at:].lstrip(b" "))
                if behind == at < len(text):
                    raise _NoDate
                at = behind
            elif text.startswith(piece, at):
                at += len(piece)
            else:
                raise _NoDate
        return at

    return _Word(read, lambda moment: plain)


def _take(pattern: re.Pattern[bytes], text: bytes, at: int) -> re.Match[bytes]:
    found = pattern.match(text, at)
    if found is None:
        raise _NoDate
    return found


def _padded(number: int, width: int, pad: bytes = b"0") -> bytes:
    """With at least so many digits; the sign comes on top."""
    return b"-" * (number < 0) + str(abs(number)).encode().rjust(width, pad)


def _number(name: str, width: int, form: bytes, low: int, high: int, pad: bytes = b"0") -> _Word:
    """A number that looks like `form`, written with at least `width` digits; beyond its bounds it is no date."""
    pattern = re.compile(form)

    def read(moment: _Moment, text: bytes, at: int) -> int:
        found = _take(pattern, text, at)
        number = int(found[0])
        if not low <= number <= high:
            raise _NoDate
        setattr(moment, name, number)
        return found.end()

    return _Word(read, lambda moment: _padded(getattr(moment, name), width, pad))


def _short_year() -> _Word:
    pattern = re.compile(rb"[+-]\d|\d\d")

    def read(moment: _Moment, text: bytes, at: int) -> int:
        found = _take(pattern, text, at)
        year = int(found[0])
        moment.year = year + (1900 if year >= 69 else 2000)
        return found.end()

    return _Word(read, lambda moment: _padded(abs(moment.year) % 100, 2))


def _year_day(width: int, form: bytes, pad: bytes) -> _Word:
    return _Word(
        _number("year_day", width, form, 0, 999).read,
        lambda moment: _padded(moment.calendar().timetuple().tm_yday, width, pad),
    )


def _month(length: int | None) -> _Word:
    names = [name[:length] for name in MONTHS]
    pattern = re.compile("|".join(names).encode(), re.IGNORECASE)

    def read(moment: _Moment, text: bytes, at: int) -> int:
        found = _take(pattern, text, at)
        moment.month = names.index(found[0].decode().title()) + 1
        return found.end()

    return _Word(read, lambda moment: names[(moment.month or 1) - 1].encode())


def _weekday(length: int | None) -> _Word:
    names = [name[:length] for name in DAYS]
    pattern = re.compile("|".join(names).encode(), re.IGNORECASE)
    return _Word(
        lambda moment, text, at: _take(pattern, text, at).end(),
        lambda moment: names[moment.calendar().weekday()].encode(),
    )


def _half(morning: bytes, afternoon: bytes) -> _Word:
    pattern = re.compile(morning + b"|" + afternoon)

    def read(moment: _Moment, text: bytes, at: int) -> int:
        found = _take(pattern, text, at)
        moment.morning = moment.morning or found[0] == morning
        moment.afternoon = moment.afternoon or found[0] == afternoon
        return found.end()

    return _Word(read, lambda moment: afternoon if moment.hour >= 12 else morning)


def _twelve_hours(width: int, form: bytes) -> _Word:
    read = _number("hour", width, form, 0, 12).read
    return _Word(read, lambda moment: _padded((moment.hour - 1) % 12 + 1, width))


def _nanoseconds(moment: _Moment, digits: bytes) -> None:
    """Take what stands behind the point for a part of a second."""
    read = digits[:_FRACTION_DIGITS]
    if not _SIGNED.fullmatch(read):
        raise _NoDate
    moment.nanosecond = int(read + b"0" * (_FRACTION_DIGITS - len(read)))
    if moment.nanosecond < 0:
        raise _NoDate


def _fraction(spelling: bytes) -> _Word:
    """``.000`` is so many characters, ``.999`` as many digits as there are, or none."""
    point, digits = spelling[:1], len(spelling) - 1
    exact = spelling[1:2] == b"0"

    def read(moment: _Moment, text: bytes, at: int) -> int:
        if not exact:
            return _loose_fraction(moment, text, at)
        if len(text) < at + 1 + digits or text[at : at + 1] not in (b".", b","):
            raise _NoDate
        _nanoseconds(moment, text[at + 1 : at + 1 + digits])
        return at + 1 + digits

    def write(moment: _Moment) -> bytes:
        shown = _padded(moment.nanosecond, _FRACTION_DIGITS)[:digits]
        if exact:
            return point + shown
        return (point + shown.rstrip(b"0")).rstrip(point)

    return _Word(read, write)


def _loose_fraction(moment: _Moment, text: bytes, at: int) -> int:
    found = _POINT.match(text, at)
    if found is None:
        return at
    _nanoseconds(moment, found[0][1:])
    return found.end()


def _with_fraction(word: _Word) -> _Word:
    """Seconds: behind them a text may have a fraction that the layout does not."""
    return _Word(
        lambda moment, text, at: _loose_fraction(moment, text, word.read(moment, text, at)), word.write
    )


def _offset(spelling: str) -> _Word:
    """A distance from UTC, as ``-0700``; by ``Z0700`` UTC itself is a Z."""
    mark, minutes, seconds = spelling[3:4] == ":", len(spelling) > 3, len(spelling.replace(":", "")) > 5
    colon = b":" if mark else b""
    form = rb"([+-])(\d\d)" + (colon + rb"(\d\d)") * minutes + (colon + rb"(\d\d)") * seconds
    pattern = re.compile(form)
    zulu = spelling[0] == "Z"

    def read(moment: _Moment, text: bytes, at: int) -> int:
        if zulu and text[at : at + 1] == b"Z":
            moment.utc = True
            return at + 1
        found = _take(pattern, text, at)
        hour, minute, second = (*map(int, found.groups()[1:]), 0, 0)[:3]
        if hour > 24 or minute > 60 or second > 60:
            raise _NoDate
        offset_s = (hour * 60 + minute) * 60 + second
        said_s = -offset_s if found[1] == b"-" else offset_s
        # In Go -1 stands for no offset at all.
        moment.said_s = None if said_s == -1 else said_s
        return found.end()

    def write(moment: _Moment) -> bytes:
        offset_s = moment.offset_s
        if zulu and not offset_s:
            return b"Z"
        whole = abs(offset_s) // 60
        west = offset_s <= -60
        # Less than a minute west of UTC has the sign with its seconds.
        rest = int(fmod(abs(offset_s) if west else offset_s, 60))
        said = [_padded(whole // 60, 2), *[_padded(whole % 60, 2)] * minutes, *[_padded(rest, 2)] * seconds]
        return (b"-" if west else b"+") + colon.join(said)

    return _Word(read, write)


def _abbreviation() -> _Word:
    def read(moment: _Moment, text: bytes, at: int) -> int:
        if text.startswith(b"UTC", at):
            moment.utc = True
            return at + 3
        found = _take(_ZONE, text, at)
        name = found["name"]
        if len(text) - at < 3 or (found["hours"] and abs(int(found["hours"])) > 23 and name[:3] != b"GMT"):
            raise _NoDate
        if found["gmt"] and abs(int(found["gmt"])) > 23:
            name = name[:3]
        moment.zone = name
        return at + len(name)

    return _Word(read, lambda moment: moment.zone)


_POINT: Final = re.compile(rb"[.,]\d+")
_SIGNED: Final = re.compile(rb"[+-]?\d*")
_GMT: Final = re.compile(rb"GMT([+-]\d+)")
_ZONE: Final = re.compile(
    rb"(?P<name>ChST|MeST|GMT(?P<gmt>[+-]\d+)?|(?P<hours>[+-]\d+)|[A-Z]{4}T(?![A-Z])|(?:[A-Z]{3}T|WITA)(?![A-Z])|"
    rb"[A-Z]{3}(?![A-Z]))"
)
_SECONDS: Final = (b"05", b"5")
_SPELLING: Final = re.compile(
    rb"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|002|0[1-6]|15|1|2006|2|__2|_2(?!006)|3|4|5|PM|pm|"
    rb"[-Z]07(?::00(?::00)?|00(?:00)?)?|[.,](?:0+|9+)(?!\d)"
)
_OFFSETS: Final = ("07:00:00", "070000", "07:00", "0700", "07")
_ONE_OR_TWO: Final = rb"\d\d?"
_TWO: Final = rb"\d\d"
_WORDS: Final[dict[bytes, _Word]] = {
    b"January": _month(None),
    b"Jan": _month(3),
    b"Monday": _weekday(None),
    b"Mon": _weekday(3),
    b"2006": _number("year", 4, rb"\d{4}", 0, 9999),
    b"06": _short_year(),
    b"__2": _year_day(3, rb" {0,2}\d{1,3}", b" "),
    b"002": _year_day(3, rb"\d{3}", b"0"),
    b"01": _number("month", 2, _TWO, 1, 12),
    b"1": _number("month", 1, _ONE_OR_TWO, 1, 12),
    b"02": _number("day", 2, _TWO, 0, 99),
    b"_2": _number("day", 2, rb" ?\d\d?", 0, 99, b" "),
    b"2": _number("day", 1, _ONE_OR_TWO, 0, 99),
    b"15": _number("hour", 2, _ONE_OR_TWO, 0, 23),
    b"03": _twelve_hours(2, _TWO),
    b"3": _twelve_hours(1, _ONE_OR_TWO),
    b"04": _number("minute", 2, _TWO, 0, 59),
    b"4": _number("minute", 1, _ONE_OR_TWO, 0, 59),
    b"05": _number("second", 2, _TWO, 0, 59),
    b"5": _number("second", 1, _ONE_OR_TWO, 0, 59),
    b"PM": _half(b"AM", b"PM"),
    b"pm": _half(b"am", b"pm"),
    b"MST": _abbreviation(),
    **{f"{sign}{each}".encode(): _offset(f"{sign}{each}") for sign in "-Z" for each in _OFFSETS},
}
