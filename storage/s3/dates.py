"""Dates in keys, read and written by the layouts of Go's ``time`` package, as Bacalhau's ``DateFormat`` has them.

Knows: which words a layout has, and what they add up to; what is hashed is the date as Go writes it again. Zones are as on a
machine that keeps UTC. Must not know: keys or partitions, or a word's own rules (`storage.s3.date_words`). Compared with
Bacalhau's own package on some hundred thousand pairs of layout and text.
"""

import re
from datetime import date
from functools import lru_cache
from typing import Final

from protocol.errors import Invalid
from storage.s3.date_words import WORDS, Moment, NoDate, Word, fraction, literal, with_fraction

_DAY_S: Final = 24 * 60 * 60
_LAYOUT_HINT: Final = "It is written as in Go, with the date 2 January 2006: 2006-01-02, 2006/01, Jan _2."
_GMT: Final = re.compile(rb"GMT([+-]\d+)")
_SECONDS: Final = (b"05", b"5")
_SPELLING: Final = re.compile(
    rb"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|002|0[1-6]|15|1|2006|2|__2|_2(?!006)|3|4|5|PM|pm|"
    rb"[-Z]07(?::00(?::00)?|00(?:00)?)?|[.,](?:0+|9+)(?!\d)"
)


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
    first = Moment(2006, 1, 2, hour=15, minute=4, second=5, utc=True)
    _settle(first)
    if _read(words, _written(words, first)) is None:
        raise Invalid(
            f"{field} {layout!r} is no date format: it cannot read what it writes",
            hint=_LAYOUT_HINT,
        )
    later = Moment(
        2011, 12, 31, hour=8, minute=57, second=59, nanosecond=987_654_321, said_s=-18_000, zone=b"EST"
    )
    _settle(later)
    if _written(words, first) == _written(words, later):
        raise Invalid(f"{field} {layout!r} has no part of a date", hint=_LAYOUT_HINT)


def _read(words: tuple[Word, ...], text: bytes) -> Moment | None:
    moment, at = Moment(), 0
    try:
        for word in words:
            at = word.read(moment, text, at)
        if at < len(text):
            return None
        _settle(moment)
    except NoDate:
        return None
    return moment


def _written(words: tuple[Word, ...], moment: Moment) -> bytes:
    return b"".join(word.write(moment) for word in words)


def _settle(moment: Moment) -> None:
    """Put the clock, the day and the zone in order. Raises `NoDate` if there is no such moment."""
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


def _settle_year_day(moment: Moment, year_day: int) -> None:
    first = date(moment.year - moment.like, 1, 1)
    day = date.fromordinal(first.toordinal() + year_day - 1)
    if day.year != first.year or moment.month not in (None, day.month) or moment.day not in (None, day.day):
        raise NoDate
    moment.month, moment.day = day.month, day.day


def _move(moment: Moment, offset_s: int) -> None:
    """To what the clock shows there: Go takes a time beside such a zone for one of UTC."""
    clock_s = (moment.hour * 60 + moment.minute) * 60 + moment.second + offset_s
    days, clock_s = divmod(clock_s, _DAY_S)
    day, like = date.fromordinal(moment.calendar().toordinal() + days), moment.like
    moment.year, moment.month, moment.day = day.year + like, day.month, day.day
    moment.hour, moment.minute, moment.second = clock_s // 3600, clock_s // 60 % 60, clock_s % 60
    moment.offset_s = offset_s


@lru_cache(maxsize=64)
def _compiled(layout: bytes) -> tuple[Word, ...]:
    words: list[Word] = []
    at = 0
    found = list(_SPELLING.finditer(layout))
    for each, following in zip(found, [*found[1:], None], strict=False):
        if at < each.start():
            words.append(literal(layout[at : each.start()]))
        spelling, at = each[0], each.end()
        if spelling in _SECONDS and not (following and following[0][:1] in b".,"):
            words.append(with_fraction(WORDS[spelling]))
        else:
            words.append(WORDS.get(spelling) or fraction(spelling))
    if at < len(layout):
        words.append(literal(layout[at:]))
    return tuple(words)
