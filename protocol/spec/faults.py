"""What is wrong with a spec: all of it at once, each with its place.

Knows: how faults are collected, placed and put into words. Must not know: any rule.

A fault's **path** is the place in the document's canonical names: ``("Tasks", 0, "Engine", "Type")``, written
``Tasks[0].Engine.Type``. Only a document that was read from text can turn it into a line and a column.
"""

from collections.abc import Iterable
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from protocol.errors import Failure, Invalid
from protocol.spec.bounds import FAULTS_FOUND_MAX, FAULTS_MAX, Path

_DETAIL: Final = "fault."


class SpecFault(Struct, frozen=True, omit_defaults=True):
    """One thing wrong. `file`, `line` and `column` (from 1) are empty and 0 for what did not come from text.

    `near` is the spelling that was probably meant, or empty.
    """

    path: str
    message: str
    near: str = ""
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        near = f'   did you mean "{self.near}"?' if self.near else ""
        return f"{self.message}{near}"


class SpecFaults(Invalid):
    """A spec cannot be used; `faults` holds everything that was found, in the order of the text.

    Reading ends at `FAULTS_FOUND_MAX`; then there may be more.
    """

    def __init__(self, faults: list[SpecFault], *, file: str = "", hint: str = "") -> None:
        shown = faults[:FAULTS_MAX]
        details = {f"{_DETAIL}{n}": msgspec.json.encode(fault).decode() for n, fault in enumerate(shown)}
        super().__init__(_text(faults, shown, file), hint=hint, kind="Spec", details=details)
        self.faults = faults


def faults_in(failure: Failure) -> list[SpecFault]:
    """The single faults inside a failure that came over the wire; none if it is of another kind."""
    found: list[SpecFault] = []
    while encoded := failure.details.get(f"{_DETAIL}{len(found)}"):
        found.append(msgspec.json.decode(encoded, type=SpecFault))
    return found


class Places(Protocol):
    """Where things are in a text."""

    def place(self, path: Path, *, key: bool) -> tuple[int, int]:
        """Line and column of the value at `path` (of its key if `key`), or of the nearest thing around it."""


class Findings:
    """Faults and warnings, as they are collected. `file` and `places` are those of the text, if there is one."""

    def __init__(self, file: str = "", places: Places | None = None) -> None:
        self.warnings: list[str] = []
        self._file = file
        self._places = places
        self._found: list[tuple[Path, bool, SpecFault]] = []
        self._spoilt: set[Path] = set()
        self._around_spoilt: set[Path] = set()

    def fault(
        self,
        path: Path,
        message: str,
        *,
        near: str = "",
        key: bool = False,
        at: tuple[int, int] | None = None,
    ) -> None:
        """Add a fault about the value at `path`, or about its key; `at` is its line and column if the path cannot say.

        A second fault in the same place, or inside or around it, would only repeat the first, and is not added. Raises
        `SpecFaults` when there are so many that looking further is of no use.
        """
        if not self.spoilt(path):
            line, column = at or (0, 0)
            self._found.append(
                (path, key, SpecFault(path_text(path), message, near, line=line, column=column))
            )
            self.spoil(path)
            if len(self._found) >= FAULTS_FOUND_MAX:
                self.check()

    def spoil(self, path: Path) -> None:
        """Nothing more is to be said about this place."""
        self._spoilt.add(path)
        self._around_spoilt.update(path[:length] for length in range(len(path) + 1))

    def spoilt(self, path: Path) -> bool:
        """Whether there is a fault at this place, around it or inside it."""
        return path in self._around_spoilt or any(
            path[:length] in self._spoilt for length in range(len(path))
        )

    def warn(self, warning: str) -> None:
        """Add a warning, once."""
        if warning not in self.warnings:
            self.warnings.append(warning)

    @property
    def any(self) -> bool:
        """Whether anything is wrong so far."""
        return bool(self._found)

    def check(self, hint: str = "") -> None:
        """Raise `SpecFaults` if there is any fault."""
        if not self._found:
            return
        placed = [self._placed(*each) for each in self._found]
        raise SpecFaults(
            sorted(placed, key=lambda fault: (fault.line, fault.column)), file=self._file, hint=hint
        )

    def _placed(self, path: Path, key: bool, fault: SpecFault) -> SpecFault:
        if self._places is None:
            return fault
        line, column = (fault.line, fault.column) if fault.line else self._places.place(path, key=key)
        return msgspec.structs.replace(fault, file=self._file, line=line, column=column)


def no_such(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a type that is not known."""
    return f"there is no {what} {quoted(name)}: known are {', '.join(known)}"


def path_text(path: Path) -> str:
    """``Tasks[0].Engine.Type``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{shown(step)}" if text else shown(step)
    return text


def quoted(text: str) -> str:
    """A person's word inside a message: short, on one line, in quotes."""
    return f'"{shown(text)}"'


def shown(text: str) -> str:
    """At most 60 characters, none of which can move a terminal's cursor."""
    short = text if len(text) <= 60 else text[:60] + "…"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in short)


def _text(faults: list[SpecFault], shown_faults: list[SpecFault], file: str) -> str:
    count = "1 problem" if len(faults) == 1 else f"{len(faults)} problems"
    if len(faults) >= FAULTS_FOUND_MAX:
        count = f"{FAULTS_FOUND_MAX} problems or more"
    places = [_place(fault) for fault in shown_faults]
    width = min(max(map(len, places), default=0), 40)
    lines = [f"{count} in {file or 'the job'}"]
    lines += [
        f"  {place:<{width}}  {fault}".rstrip() if place else f"  {fault}"
        for place, fault in zip(places, shown_faults, strict=True)
    ]
    if len(faults) > len(shown_faults):
        lines.append(f"  … and {len(faults) - len(shown_faults)} more")
    return "\n".join(lines)


def _place(fault: SpecFault) -> str:
    """Where in the text it is, else its path, where the message does not name that itself."""
    if fault.line:
        return f"{fault.file}:{fault.line}:{fault.column}"
    return "" if fault.path in fault.message else fault.path
