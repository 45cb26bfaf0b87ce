"""The words of Go's layouts of dates: what each takes from a text, and how it writes a moment.

Knows: each word's rules (https://pkg.go.dev/time#pkg-constants), with all that Go's reader lets pass. Must not know: which
words a layout has, or which moment they add up to (`storage.s3.dates`). All read bytes.
"""

import re
from collections.abc import Callable
from datetime import date
from math import fmod
from typing import Final, NamedTuple

from msgspec import Struct

MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LEAP_CYCLE_YEARS: Final = 400
"""The calendar repeats after so many years, weekdays included: year 0, which Python lacks, is like year 400."""
_FRACTION_DIGITS: Final = 9
"""More are read over."""


class NoDate(Exception):
    """A text is no date of a layout."""


class Moment(Struct):
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
        """The day, in a year like this one. Raises `NoDate` if there is none."""
        try:
            return date(self.year - self.like, self.month or 1, self.day or 0)
        except ValueError as error:
            raise NoDate from error

    @property
    def like(self) -> int:
        """So much later is this year than the one that stands for it."""
        return (self.year // LEAP_CYCLE_YEARS - 1) * LEAP_CYCLE_YEARS


class Word(NamedTuple):
    """One piece of a layout: `read` takes it from a text at a place and tells the place behind it, or raises `NoDate`."""

    read: Callable[[Moment, bytes, int], int]
    write: Callable[[Moment], bytes]


def literal(plain: bytes) -> Word:
    """Text that stands for itself; a run of spaces for any run of spaces, and for nothing at the end."""
    pieces = re.findall(rb" +|[^ ]+", plain)

    def read(moment: Moment, text: bytes, at: int) -> int:
        for piece in pieces:
            if piece[:1] == b" ":
                behind = len(text) - len(text[at:].lstrip(b" "))
                if behind == at < len(text):
                    raise NoDate
                at = behind
            elif text.startswith(piece, at):
                at += len(piece)
            else:
                raise NoDate
        return at

    return Word(read, lambda moment: plain)


def _take(pattern: re.Pattern[bytes], text: bytes, at: int) -> re.Match[bytes]:
    found = pattern.match(text, at)
    if found is None:
        raise NoDate
    return found


def _padded(number: int, width: int, pad: bytes = b"0") -> bytes:
    """With at least so many digits; the sign comes on top."""
    return b"-" * (number < 0) + str(abs(number)).encode().rjust(width, pad)


def _number(name: str, width: int, form: bytes, low: int, high: int, pad: bytes = b"0") -> Word:
    """A number that looks like `form`, written with at least `width` digits; beyond its bounds it is no date."""
    pattern = re.compile(form)

    def read(moment: Moment, text: bytes, at: int) -> int:
        found = _take(pattern, text, at)
        number = int(found[0])
        if not low <= number <= high:
            raise NoDate
        setattr(moment, name, number)
        return found.end()

    return Word(read, lambda moment: _padded(getattr(moment, name), width, pad))


def _short_year() -> Word:
    pattern = re.compile(rb"[+-]\d|\d\d")

    def read(moment: Moment, text: bytes, at: int) -> int:
        found = _take(pattern, text, at)
        year = int(found[0])
        moment.year = year + (1900 if year >= 69 else 2000)
        return found.end()

    return Word(read, lambda moment: _padded(abs(moment.year) % 100, 2))


def _year_day(width: int, form: bytes, pad: bytes) -> Word:
    return Word(
        _number("year_day", width, form, 0, 999).read,
        lambda moment: _padded(moment.calendar().timetuple().tm_yday, width, pad),
    )


def _month(length: int | None) -> Word:
    names = [name[:length] for name in MONTHS]
    pattern = re.compile("|".join(names).encode(), re.IGNORECASE)

    def read(moment: Moment, text: bytes, at: int) -> int:
        found = _take(pattern, text, at)
        moment.month = names.index(found[0].decode().title()) + 1
        return found.end()

    return Word(read, lambda moment: names[(moment.month or 1) - 1].encode())


def _weekday(length: int | None) -> Word:
    names = [name[:length] for name in DAYS]
    pattern = re.compile("|".join(names).encode(), re.IGNORECASE)
    return Word(
        lambda moment, text, at: _take(pattern, text, at).end(),
        lambda moment: names[moment.calendar().weekday()].encode(),
    )


def _half(morning: bytes, afternoon: bytes) -> Word:
    pattern = re.compile(morning + b"|" + afternoon)

    def read(moment: Moment, text: bytes, at: int) -> int:
        found = _take(pattern, text, at)
        moment.morning = moment.morning or found[0] == morning
        moment.afternoon = moment.afternoon or found[0] == afternoon
        return found.end()

    return Word(read, lambda moment: afternoon if moment.hour >= 12 else morning)


def _twelve_hours(width: int, form: bytes) -> Word:
    read = _number("hour", width, form, 0, 12).read
    return Word(read, lambda moment: _padded((moment.hour - 1) % 12 + 1, width))


def _nanoseconds(moment: Moment, digits: bytes) -> None:
    """Take what stands behind the point for a part of a second."""
    read = digits[:_FRACTION_DIGITS]
    if not _SIGNED.fullmatch(read):
        raise NoDate
    moment.nanosecond = int(read + b"0" * (_FRACTION_DIGITS - len(read)))
    if moment.nanosecond < 0:
        raise NoDate


def fraction(spelling: bytes) -> Word:
    """``.000`` is so many characters, ``.999`` as many digits as there are, or none."""
    point, digits = spelling[:1], len(spelling) - 1
    exact = spelling[1:2] == b"0"

    def read(moment: Moment, text: bytes, at: int) -> int:
        if not exact:
            return _loose_fraction(moment, text, at)
        if len(text) < at + 1 + digits or text[at : at + 1] not in (b".", b","):
            raise NoDate
        _nanoseconds(moment, text[at + 1 : at + 1 + digits])
        return at + 1 + digits

    def write(moment: Moment) -> bytes:
        shown = _padded(moment.nanosecond, _FRACTION_DIGITS)[:digits]
        if exact:
            return point + shown
        return (point + shown.rstrip(b"0")).rstrip(point)

    return Word(read, write)


def _loose_fraction(moment: Moment, text: bytes, at: int) -> int:
    found = _POINT.match(text, at)
    if found is None:
        return at
    _nanoseconds(moment, found[0][1:])
    return found.end()


def with_fraction(word: Word) -> Word:
    """Seconds: behind them a text may have a fraction that the layout does not."""
    return Word(
        lambda moment, text, at: _loose_fraction(moment, text, word.read(moment, text, at)), word.write
    )


def _offset(spelling: str) -> Word:
    """A distance from UTC, as ``-0700``; by ``Z0700`` UTC itself is a Z."""
    mark, minutes, seconds = spelling[3:4] == ":", len(spelling) > 3, len(spelling.replace(":", "")) > 5
    colon = b":" if mark else b""
    form = rb"([+-])(\d\d)" + (colon + rb"(\d\d)") * minutes + (colon + rb"(\d\d)") * seconds
    pattern = re.compile(form)
    zulu = spelling[0] == "Z"

    def read(moment: Moment, text: bytes, at: int) -> int:
        if zulu and text[at : at + 1] == b"Z":
            moment.utc = True
            return at + 1
        found = _take(pattern, text, at)
        hour, minute, second = (*map(int, found.groups()[1:]), 0, 0)[:3]
        if hour > 24 or minute > 60 or second > 60:
            raise NoDate
        offset_s = (hour * 60 + minute) * 60 + second
        said_s = -offset_s if found[1] == b"-" else offset_s
        # In Go -1 stands for no offset at all.
        moment.said_s = None if said_s == -1 else said_s
        return found.end()

    def write(moment: Moment) -> bytes:
        offset_s = moment.offset_s
        if zulu and not offset_s:
            return b"Z"
        whole = abs(offset_s) // 60
        west = offset_s <= -60
        # Less than a minute west of UTC has the sign with its seconds.
        rest = int(fmod(abs(offset_s) if west else offset_s, 60))
        said = [_padded(whole // 60, 2), *[_padded(whole % 60, 2)] * minutes, *[_padded(rest, 2)] * seconds]
        return (b"-" if west else b"+") + colon.join(said)

    return Word(read, write)


def _abbreviation() -> Word:
    def read(moment: Moment, text: bytes, at: int) -> int:
        if text.startswith(b"UTC", at):
            moment.utc = True
            return at + 3
        found = _take(_ZONE, text, at)
        name = found["name"]
        if len(text) - at < 3 or (found["hours"] and abs(int(found["hours"])) > 23 and name[:3] != b"GMT"):
            raise NoDate
        if found["gmt"] and abs(int(found["gmt"])) > 23:
            name = name[:3]
        moment.zone = name
        return at + len(name)

    return Word(read, lambda moment: moment.zone)


_POINT: Final = re.compile(rb"[.,]\d+")
_SIGNED: Final = re.compile(rb"[+-]?\d*")
_ZONE: Final = re.compile(
    rb"(?P<name>ChST|MeST|GMT(?P<gmt>[+-]\d+)?|(?P<hours>[+-]\d+)|[A-Z]{4}T(?![A-Z])|(?:[A-Z]{3}T|WITA)(?![A-Z])|"
    rb"[A-Z]{3}(?![A-Z]))"
)
_OFFSETS: Final = ("07:00:00", "070000", "07:00", "0700", "07")
_ONE_OR_TWO: Final = rb"\d\d?"
_TWO: Final = rb"\d\d"
WORDS: Final[dict[bytes, Word]] = {
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
"""By their spellings in a layout; fractions of a second have any length (`fraction`)."""
