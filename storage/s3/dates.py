"""Dates in keys, read and written by the layouts of Go's ``time`` package, as Bacalhau's ``DateFormat`` has them.

Knows: the layout's words and their rules (https://pkg.go.dev/time#pkg-constants), as far as digits and English names go;
zone abbreviations (``MST``) are not taken. Must not know: keys or partitions. Tried against Go itself, word by word.
"""

import re
from collections.abc import Callable
from datetime import date
from functools import cache
from typing import Final

from msgspec import Struct

from protocol.errors import Invalid

MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LEAP_CYCLE_YEARS: Final = 400
"""The calendar repeats after so many years, weekdays included: year 0, which Python lacks, is like year 400."""


class _Moment(Struct):
    """What a date's words add up to; what is not said stays as Go has it: the first moment of year 0."""

    year: int = 0
    month: int = 0
    day: int = 0
    year_day: int = 0
    hour: int = 0
    minute: int = 0
    second: int = 0
    afternoon: bool | None = None
    fraction: str = ""
    zone: str = ""
    wrong: bool = False


class _Word(Struct, frozen=True):
    """One word of the layouts: how it looks in a text, what it says, and how it is written."""

    pattern: str
    read: Callable[[_Moment, str], None]
    write: Callable[[_Moment], str]


def check_layout(layout: str, field: str) -> None:
    """Raise `Invalid`, which names the `field`, for a layout that is not taken."""
    try:
        _compiled(layout)
    except Invalid as fault:
        raise Invalid(f"{field}: {fault.message}", hint=fault.hint) from fault


def same_date(layout: str, text: str) -> str | None:
    """`text` read as a date by `layout` and written again by it, or None if it is not such a date.

    Raises `Invalid` for a layout with a zone's abbreviation.
    """
    pattern, words = _compiled(layout)
    found = pattern.fullmatch(text)
    if found is None:
        return None
    moment = _Moment()
    for word, said in zip(words, found.groups(), strict=True):
        if isinstance(word, _Word):
            word.read(moment, said)
    if not _settle(moment):
        return None
    return "".join(word.write(moment) if isinstance(word, _Word) else word for word in words)


def _settle(moment: _Moment) -> bool:
    """Put twelve-hour clock and day of the year in order; whether such a moment exists."""
    if moment.wrong:
        return False
    if moment.afternoon is True and moment.hour < 12:
        moment.hour += 12
    if moment.afternoon is False and moment.hour == 12:
        moment.hour = 0
    if moment.year_day:
        return _settle_year_day(moment)
    moment.month = moment.month or 1
    moment.day = moment.day or 1
    return _calendar(moment) is not None


def _settle_year_day(moment: _Moment) -> bool:
    first = date(moment.year or LEAP_CYCLE_YEARS, 1, 1).toordinal()
    day = date.fromordinal(first + moment.year_day - 1)
    if day.year != (moment.year or LEAP_CYCLE_YEARS):
        return False
    if moment.month not in (0, day.month) or moment.day not in (0, day.day):
        return False
    moment.month, moment.day = day.month, day.day
    return True


def _calendar(moment: _Moment) -> date | None:
    try:
        return date(moment.year or LEAP_CYCLE_YEARS, moment.month, moment.day)
    except ValueError:
        return None


@cache
def _compiled(layout: str) -> tuple[re.Pattern[str], tuple[_Word | str, ...]]:
    words: list[_Word | str] = []
    at = 0
    pattern = ""
    while at < len(layout):
        spelling = next(
            (each for each in _SPELLINGS if layout.startswith(each, at) and _is_word(layout, at, each)), ""
        )
        if spelling == "MST":
            raise Invalid(
                f"the date format {layout!r} holds a zone's abbreviation, which says no time",
                hint="Write the zone as -0700 or Z07:00.",
            )
        word = _fraction(spelling) if spelling[:1] in (".", ",") else _WORDS.get(spelling)
        if word is None and layout[at] == " ":
            # A run of spaces stands for any run of spaces.
            spelling = " " * (len(layout) - at - len(layout[at:].lstrip(" ")))
            pattern += "( +)"
            words.append(spelling)
        elif word is None:
            spelling = layout[at]
            pattern += f"({re.escape(spelling)})"
            words.append(spelling)
        else:
            pattern += f"({word.pattern})"
            words.append(word)
        at += len(spelling)
    return re.compile(pattern, re.ASCII | re.DOTALL), tuple(words)


def _is_word(layout: str, at: int, spelling: str) -> bool:
    """Some words are such only by what follows: ``Jan`` not in ``Janet``, ``.000`` not in ``.0001``."""
    behind = layout[at + len(spelling) : at + len(spelling) + 1]
    if spelling in ("Jan", "Mon"):
        return not behind.islower()
    if spelling[0] in ".,":
        return not behind.isdigit()
    # "_2006" is a literal underscore and a year.
    return not (spelling == "_2" and layout.startswith("_2006", at))


def _number(name: str, width: int, pattern: str, low: int, high: int) -> _Word:
    """A number that looks like `pattern`, written with at least `width` digits; beyond its bounds it is no date."""

    def read(moment: _Moment, said: str) -> None:
        setattr(moment, name, int(said))
        moment.wrong = moment.wrong or not low <= int(said) <= high

    return _Word(pattern, read, lambda moment: str(getattr(moment, name)).rjust(width, "0"))


def _padded(word: _Word, name: str, width: int) -> _Word:
    return _Word(word.pattern, word.read, lambda moment: str(getattr(moment, name)).rjust(width))


def _short_year() -> _Word:
    def read(moment: _Moment, said: str) -> None:
        moment.year = int(said) + (1900 if int(said) >= 69 else 2000)

    return _Word(r"\d\d", read, lambda moment: f"{moment.year % 100:02}")


def _month(length: int | None) -> _Word:
    names = [name[:length] for name in MONTHS]

    def read(moment: _Moment, said: str) -> None:
        moment.month = [name.lower() for name in names].index(said.lower()) + 1

    return _Word(f"(?i:{'|'.join(names)})", read, lambda moment: names[moment.month - 1])


def _weekday(length: int | None) -> _Word:
    names = [name[:length] for name in DAYS]

    def write(moment: _Moment) -> str:
        day = _calendar(moment)
        return names[day.weekday()] if day else ""

    return _Word(f"(?i:{'|'.join(names)})", lambda moment, said: None, write)


def _half(upper: bool) -> _Word:
    names = ("AM", "PM") if upper else ("am", "pm")

    def read(moment: _Moment, said: str) -> None:
        moment.afternoon = said == names[1]

    return _Word("|".join(names), read, lambda moment: names[moment.hour >= 12])


def _zone(pattern: str) -> _Word:
    def read(moment: _Moment, said: str) -> None:
        moment.zone = said

    def write(moment: _Moment) -> str:
        if moment.zone.strip("+-:0Z"):
            return moment.zone
        return "Z" if pattern.startswith("Z") else moment.zone.replace("-", "+")

    return _Word(pattern, read, write)


def _twelve_hours(width: int, pattern: str) -> _Word:
    read = _number("hour", width, pattern, 0, 12).read
    return _Word(pattern, read, lambda moment: str((moment.hour - 1) % 12 + 1).rjust(width, "0"))


def _fraction(spelling: str) -> _Word:
    digits = len(spelling) - 1

    def read(moment: _Moment, said: str) -> None:
        moment.fraction = said

    def write(moment: _Moment) -> str:
        return moment.fraction if spelling[1] == "0" else moment.fraction.rstrip("0").rstrip(".,")

    pattern = rf"[.,]\d{{{digits}}}" if spelling[1] == "0" else r"(?:[.,]\d{1,9}+)?+"
    return _Word(pattern, read, write)


_ONE_OR_TWO: Final = r"\d\d?+"
_TWO: Final = r"\d\d"
_NUMERIC_ZONES: Final = {
    "-07:00:00": r"[+-]\d\d:\d\d:\d\d",
    "-070000": r"[+-]\d{6}",
    "-07:00": r"[+-]\d\d:\d\d",
    "-0700": r"[+-]\d{4}",
    "-07": r"[+-]\d\d",
}
_WORDS: Final[dict[str, _Word]] = {
    "January": _month(None),
    "Jan": _month(3),
    "Monday": _weekday(None),
    "Mon": _weekday(3),
    "2006": _number("year", 4, r"\d{4}", 0, 9999),
    "06": _short_year(),
    "__2": _padded(_number("year_day", 3, r" {0,2}+\d{1,3}+", 1, 366), "year_day", 3),
    "002": _number("year_day", 3, r"\d{3}", 1, 366),
    "01": _number("month", 2, _TWO, 1, 12),
    "1": _number("month", 1, _ONE_OR_TWO, 1, 12),
    "02": _number("day", 2, _TWO, 1, 31),
    "_2": _padded(_number("day", 1, r" ?+\d\d?+", 1, 31), "day", 2),
    "2": _number("day", 1, _ONE_OR_TWO, 1, 31),
    "15": _number("hour", 2, _ONE_OR_TWO, 0, 23),
    "03": _twelve_hours(2, _TWO),
    "3": _twelve_hours(1, _ONE_OR_TWO),
    "04": _number("minute", 2, _TWO, 0, 59),
    "4": _number("minute", 1, _ONE_OR_TWO, 0, 59),
    "05": _number("second", 2, _TWO, 0, 59),
    "5": _number("second", 1, _ONE_OR_TWO, 0, 59),
    "PM": _half(True),
    "pm": _half(False),
    **{spelling: _zone(pattern) for spelling, pattern in _NUMERIC_ZONES.items()},
    **{f"Z{spelling[1:]}": _zone(f"Z|{pattern}") for spelling, pattern in _NUMERIC_ZONES.items()},
}

_FRACTIONS: Final = [f"{mark}{digit * count}" for count in range(9, 0, -1) for mark in ".," for digit in "09"]
_SPELLINGS: Final = sorted([*_WORDS, *_FRACTIONS, "MST"], key=len, reverse=True)
