"""How lists and objects are printed (tables for people, JSON, YAML and CSV for programs), and what programs wrote.

Knows: formats. Must not know: what the columns mean.
"""

import json
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Annotated, Any, Final, Literal

from cyclopts import Parameter

from protocol.questions import STDERR

Json = dict[str, Any]
_GAP: Final = "  "
"""Between two columns."""
_LEAST: Final = 12
"""A word that is no wider is not taken apart."""
_C1: Final = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
Column = tuple[str, Callable[[Json], str]]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ListFormat:
    """Flags of commands that print a list."""

    output: Annotated[
        Literal["table", "csv", "json", "yaml"], Parameter(alias="-o", help="How to print the list.")
    ] = "table"
    pretty: Annotated[bool, Parameter(help="Indent JSON.")] = False
    hide_header: Annotated[bool, Parameter(help="No heading line in tables and CSV.")] = False
    no_style: Annotated[bool, Parameter(help="Plain text, for programs that read tables.")] = False
    wide: Annotated[
        bool, Parameter(help="Whole ids instead of short ones, and lines as long as they get.")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Paging:
    """Flags of commands that print a list page by page."""

    limit: Annotated[int, Parameter(help="How many at most.")] = 10
    next_token: Annotated[str, Parameter(help="Go on where an earlier list ended.")] = ""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Order:
    """Flags of commands that print a list in the order of times."""

    order_by: Annotated[str, Parameter(help="created_at or modified_at.")] = ""
    order_reversed: Annotated[bool, Parameter(help="Reverse the order.")] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WholeList:
    """Flags of commands that print all there is, unless so many are asked for. Bacalhau's are taken, and do nothing."""

    limit: Annotated[int, Parameter(help="How many at most; default all.")] = 0
    next_token: Annotated[str, Parameter(show=False)] = ""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ObjectFormat:
    """Flags of commands that print one object."""

    output: Annotated[Literal["", "json", "yaml"], Parameter(alias="-o", help="How to print the object.")] = (
        ""
    )
    pretty: Annotated[bool, Parameter(help="Indent JSON.")] = False


def print_list(items: Sequence[Json], columns: Sequence[Column], how: ListFormat) -> None:
    """Print items in the wanted format; tables and CSV through `columns`."""
    if how.output in ("json", "yaml"):
        print_object(list(items), how.output, how.pretty)
        return
    rows = [[cell(item) for _, cell in columns] for item in items]
    header = [name for name, _ in columns]
    if how.output == "csv":
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows(rows if how.hide_header else [header, *rows])
    else:
        width = 0 if how.wide or how.no_style else terminal_width()
        print_table(header, rows, hide_header=how.hide_header, width=width)


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, hide_header: bool = False, width: int = 0
) -> None:
    """An aligned table without lines, on standard output, its cells without control characters and line ends.

    If it would be wider than `width` (0: any), its longest cells go on below themselves: at the ends of words, and in the
    middle of the longest words if that is not enough.
    """
    shown = [[clean("; ".join(map(str.strip, cell.split("\n")))) for cell in row] for row in rows]
    table = shown if hide_header else [[*header], *shown]
    widths = [max((columns(row[number]) for row in table), default=0) for number in range(len(header))]
    if width:
        _narrow(widths, table, width)
    for row in table:
        cells = [_lines(cell, room) for cell, room in zip(row, widths, strict=True)]
        for line in zip_longest(*cells, fillvalue=""):
            print(_GAP.join(_filled(part, room) for part, room in zip(line, widths, strict=True)).rstrip())


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: two for what is wide in East Asian writing and for most pictures."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    return sum(
        0 if category(c) in ("Mn", "Me", "Cf") else 2 if east_asian_width(c) in ("W", "F") else 1
        for c in text
    )


def _filled(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


def put(stream: int, data: bytes) -> None:
    """What a program wrote, at once and as it is: to standard error if it is of that stream, else to standard output."""
    target = sys.stderr if stream == STDERR else sys.stdout
    target.buffer.write(data)
    target.buffer.flush()


def terminal_width() -> int:
    """The width of the terminal that is written to; 0 for a file or a pipe, where each row of a table is one line."""
    if not sys.stdout.isatty():
        return 0
    # Not at the top: with it come the formats of all archives.
    from shutil import get_terminal_size

    return get_terminal_size().columns


def _narrow(widths: list[int], table: Sequence[Sequence[str]], width: int) -> None:
    """Take from the widest columns what is too much: first between words, then from the longest words down to `_LEAST`."""
    words = [
        max(columns(word) for row in table for word in (row[n].split() or [""])) for n in range(len(widths))
    ]
    for least in (words, [min(word, _LEAST) for word in words]):
        while sum(widths) + len(_GAP) * (len(widths) - 1) > width:
            widest = max(range(len(widths)), key=lambda n: widths[n] if widths[n] > least[n] else 0)
            if widths[widest] <= least[widest]:
                break
            widths[widest] -= 1


def _lines(cell: str, width: int) -> list[str]:
    """The lines of a cell: at least one."""
    if columns(cell) <= width:
        return [cell]
    return textwrap.wrap(cell, width, break_on_hyphens=False)


def print_object(value: Any, how: str, pretty: bool) -> None:
    """A document as JSON or YAML."""
    if how == "json":
        text = json.dumps(value, indent=2 if pretty else None, ensure_ascii=False)
        # JSON escapes only the older half of the control characters; a terminal obeys the newer half too.
        print(_C1.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
        return
    import yaml

    print(
        yaml.dump(
            value, sort_keys=False, allow_unicode=True, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        ),
        end="",
    )


def clean(text: str) -> str:
    """One line of text from elsewhere without what could steer a terminal: control characters become their escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clean_text(text: str) -> str:
    """The same for several lines: line ends and tabs stay."""
    return "\n".join("\t".join(clean(part) for part in line.split("\t")) for line in text.split("\n"))


def moment(nanoseconds: int) -> str:
    """A Bacalhau time (unix nanoseconds) as a person reads it, in UTC."""
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def age(nanoseconds: int, now: float) -> str:
    """How long ago that was: ``3m``."""
    seconds = max(0, int(now - nanoseconds / 1e9))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def size(size_bytes: int) -> str:
    """A number of bytes as a person reads it: ``1.5 GiB``."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
