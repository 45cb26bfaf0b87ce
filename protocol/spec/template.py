"""Specs with places to be filled in: the part of Go's text/template that job specs use.

Knows: actions between ``{{`` and ``}}``, and the values for them. Must not know: specs, or where values come from. Bacalhau
runs the file of ``job run`` through Go's templates, a value that is not given being an error. Published specs use:

    {{.name}}                    a value
    {{index . "any-name"}}       a value whose name need not be a word; empty if it is not given
    {{or FIRST SECOND …}}        the first that is not empty: each a value, a quoted text, or an action in parentheses

A ``-`` inside the braces takes the blanks outside of them away, and ``{{/* … */}}`` is a comment. Whatever else Go's
templates can do is a fault that names its place.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from protocol.errors import Invalid
from protocol.spec.bounds import ACTION_MAX_CHARACTERS, FAULTS_FOUND_MAX, TEXT_MAX_BYTES
from protocol.spec.faults import SpecFault, SpecFaults, quoted
from protocol.spelling import near

_ACTION: Final = re.compile(r"\{\{(?:(-)(?=\s))?(.*?)(?:(?<=\s)(-))?\}\}|\{\{", re.DOTALL)
_COMMENT: Final = re.compile(r"\s*/\*.*\*/\s*", re.DOTALL)
_WORD: Final = re.compile(r"""\s*("(?:[^"\\\n]|\\.)*"|`[^`]*`|[()]|[^\s()"`]+|\S)""")
_PAIR: Final = re.compile(r"\s*[\w.-]+=")
_NAME: Final = re.compile(r"\.([^\W\d]\w*)")
_DEEPEST: Final = 20
Value = Callable[[], str]

_HINT: Final = (
    "Give values with -V name=value or -E PATTERN; --no-template leaves double braces as they are written."
)


class _Wrong(Exception):
    """Why an action cannot be filled in. `meant` is the name that was probably meant, or empty."""

    def __init__(self, message: str, meant: str = "") -> None:
        super().__init__(message)
        self.meant = meant


def values_of(flags: Iterable[str], pattern: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The values of ``-V name=value`` (several in one, where a comma is followed by another name and ``=``), and of the
    variables whose names `pattern` finds; a flag wins. Raises `Invalid`.
    """
    try:
        found = re.compile(".*" if pattern == "*" else pattern)
    except re.error as error:
        raise Invalid(f"-E {quoted(pattern)} is not a regular expression: {error}") from error
    values = {name: value for name, value in environ.items() if pattern and found.search(name)}
    for flag in flags:
        pairs = flag.split(",")
        for pair in pairs if all(map(_PAIR.match, pairs)) else [flag]:
            name, equals, value = pair.partition("=")
            if not equals or not name:
                raise Invalid(f"-V {quoted(pair)} is not name=value")
            values[name] = value
    return values


def fill_in(text: str, values: Mapping[str, str], *, file: str) -> str:
    """The text with every action replaced.

    Raises `SpecFaults` with line and column of each that cannot be, and `Invalid` for more text than a spec may have.
    """
    faults: list[SpecFault] = []
    parts: list[str] = []
    size = end = newline = 0
    trim, line = False, 1
    for action in _ACTION.finditer(text):
        start = action.start()
        line += text.count("\n", end, start)
        newline = max(newline, text.rfind("\n", end, start) + 1)
        parts.append(_between(text[end:start], left=trim, right=bool(action[1])))
        try:
            parts.append(_filled(action[2], values))
        except _Wrong as wrong:
            column = start - newline + 1
            faults.append(SpecFault("", str(wrong), wrong.meant, file=file, line=line, column=column))
            if action[2] is None or len(faults) >= FAULTS_FOUND_MAX:
                break
        size += len(parts[-1])
        if size > TEXT_MAX_BYTES:
            raise Invalid(f"{file} is larger than {TEXT_MAX_BYTES} bytes once it is filled in")
        line += action[0].count("\n")
        newline = max(newline, text.rfind("\n", start, action.end()) + 1)
        end, trim = action.end(), bool(action[3])
    if faults:
        raise SpecFaults(faults, file=file, hint=_HINT)
    return "".join([*parts, _between(text[end:], left=trim, right=False)])


def _between(text: str, *, left: bool, right: bool) -> str:
    text = text.lstrip() if left else text
    return text.rstrip() if right else text


def _filled(action: str | None, values: Mapping[str, str]) -> str:
    if action is None:
        raise _Wrong('"{{" begins an action of a template, and no "}}" ends it')
    return "" if _COMMENT.fullmatch(action) else _Reading(action, values).value()()


class _Reading:
    """One action, read word by word into what gives its value."""

    def __init__(self, action: str, values: Mapping[str, str]) -> None:
        self._values = values
        self._words: list[str] = _WORD.findall(action)[::-1] if len(action) <= ACTION_MAX_CHARACTERS else []

    def value(self) -> Value:
        """The whole action. Raises `_Wrong`, as its value may."""
        value = self._call(0)
        if self._words:
            raise self._unknown()
        return value

    def _call(self, depth: int) -> Value:
        word = self._next()
        if word == "index" and self._next() == ".":
            name = self._text(self._next())
            return lambda: self._values.get(name, "")
        if word != "or":
            return self._operand(word, depth)
        choice = [self._operand(self._next(), depth)]
        while self._words and self._words[-1] != ")":
            choice.append(self._operand(self._next(), depth))
        # As in Go, those behind the first that is not empty are not looked at.
        return lambda: next(filter(None, (each() for each in choice)), "")

    def _operand(self, word: str, depth: int) -> Value:
        if word == "(" and depth < _DEEPEST:
            value = self._call(depth + 1)
            if self._next() != ")":
                raise self._unknown()
            return value
        if name := _NAME.fullmatch(word):
            return lambda: self._given(name[1])
        text = self._text(word)
        return lambda: text

    def _given(self, name: str) -> str:
        value = self._values.get(name)
        if value is None:
            raise _Wrong(f"the template needs a value for {quoted(name)}", near(name, self._values))
        return value

    def _text(self, word: str) -> str:
        if len(word) > 1 and word[0] == word[-1] == "`":
            return word[1:-1]
        try:
            return msgspec.json.decode(word, type=str)
        except msgspec.DecodeError:
            raise self._unknown() from None

    def _next(self) -> str:
        if not self._words:
            raise self._unknown()
        return self._words.pop()

    def _unknown(self) -> _Wrong:
        known = 'known are {{.name}}, {{index . "name"}} and {{or … …}}'
        return _Wrong(f"this is no action that a spec's template can have: {known}")
