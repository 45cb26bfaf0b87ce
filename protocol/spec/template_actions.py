"""What stands between ``{{`` and ``}}`` in a spec's template: the expressions of Go's text/template.

Knows: pipelines, variables and functions, and how Go prints a value. Must not know: texts around them, branches and loops
(`protocol.spec.template`), or where values come from.

Values are texts, numbers, truths, and the map of all that was given. A pipeline is read into an `Expression`, a function of
the `Scope` in which it is evaluated. Functions are Go's own, but for ``call``, ``js`` and what needs nested templates.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote_plus

import msgspec
from msgspec import Struct

from protocol.spec.bounds import ACTION_MAX_CHARACTERS
from protocol.spec.faults import quoted
from protocol.spelling import near

Values = Mapping[str, str]

_WORD: Final = re.compile(r"""\s*("(?:[^"\\\n]|\\.)*"|`[^`]*`|:=|[()|=,]|[^\s()"`|=:,]+|\S)""")
_FIELDS: Final = re.compile(r"(\$\w*)?((?:\.[^\W\d]\w*)*|\.)")
_VARIABLE: Final = re.compile(r"\$[^\W\d]\w*")
_INTEGER: Final = re.compile(r"[+-]?\d{1,18}")
_FRACTION: Final = re.compile(r"[+-]?\d{1,18}\.\d{1,18}")
_VERB: Final = re.compile(r"%([-+0 ]*)(\d{1,3})?(?:\.(\d{1,3}))?(.)?", re.DOTALL)
_WORDS: Final = {"true": True, "false": False}
_DEEPEST: Final = 20
_HTML: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;"})


class Wrong(Exception):
    """Why an action cannot be filled in. `meant` is the name that was probably meant, or empty."""

    def __init__(self, message: str, meant: str = "") -> None:
        super().__init__(message)
        self.meant = meant


class Scope(Struct, frozen=True):
    """What an expression sees: all values, the dot, and variables by name (``$x``), each in a list of one: who sets it sets
    it for all parts that see it.
    """

    values: Values
    dot: Any
    variables: dict[str, list[Any]]


Expression = Callable[[Scope], Any]


class Pipeline(Struct, frozen=True):
    """An expression, and the variables that get its value: declared with ``:=``, or set with ``=``."""

    value: Expression
    names: tuple[str, ...] = ()
    declares: bool = False


def read_pipeline(text: str, *, names_max: int = 1) -> Pipeline:
    """One action's pipeline, with at most so many variables before it. Raises `Wrong`."""
    words: list[str] = _WORD.findall(text) if len(text) <= ACTION_MAX_CHARACTERS else []
    names, sign = _names(words, names_max)
    reading = _Reading(words[len(names) * 2 :] if names else words)
    value = reading.pipeline(0)
    if reading.words:
        raise unknown()
    return Pipeline(value, names, sign == ":=")


def truth(value: Any) -> bool:
    """What ``if`` makes of a value: nothing, zero and what is empty are false."""
    return bool(value)


def shown(value: Any) -> str:
    """A value as Go prints it."""
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case Mapping():
            return f"map[{' '.join(f'{key}:{value[key]}' for key in sorted(value))}]"
    return str(value)


def unknown() -> Wrong:
    """What is no action."""
    known = 'such are {{.name}}, {{index . "name"}}, {{or .a "b"}}, {{if eq .a "b"}} … {{else}} … {{end}}'
    return Wrong(f"this is no action that a spec's template can have: {known}")


def _names(words: list[str], at_most: int) -> tuple[tuple[str, ...], str]:
    """The variables in front, and the sign behind them; none if there is no such sign."""
    for count in range(1, at_most + 1):
        head, signs = words[: count * 2 : 2], words[1 : count * 2 : 2]
        if len(signs) == count and signs[-1] in (":=", "=") and all(each == "," for each in signs[:-1]):
            if all(_VARIABLE.fullmatch(each) for each in head):
                return tuple(head), signs[-1]
            raise unknown()
    return (), ""


class _Reading:
    """One pipeline, read word by word."""

    def __init__(self, words: list[str]) -> None:
        self.words = words[::-1]

    def pipeline(self, depth: int) -> Expression:
        value = self._command(depth, [])
        while self.words and self.words[-1] == "|":
            self.words.pop()
            value = self._command(depth, [value])
        return value

    def _command(self, depth: int, piped: list[Expression]) -> Expression:
        word = self._next()
        if word in FUNCTIONS:
            given = []
            while self.words and self.words[-1] not in (")", "|"):
                given.append(self._operand(self._next(), depth))
            return _call(word, [*given, *piped])
        if piped:
            raise unknown()
        return self._operand(word, depth)

    def _operand(self, word: str, depth: int) -> Expression:
        if word == "(" and depth < _DEEPEST:
            value = self.pipeline(depth + 1)
            if self._next() != ")":
                raise unknown()
            return value
        fields = _FIELDS.fullmatch(word)
        if fields and word:
            return _field(fields[1], [name for name in fields[2].split(".") if name])
        literal = _literal(word)
        return lambda scope: literal

    def _next(self) -> str:
        if not self.words:
            raise unknown()
        return self.words.pop()


def _literal(word: str) -> Any:
    if len(word) > 1 and word[0] == word[-1] == "`":
        return word[1:-1]
    if word in _WORDS:
        return _WORDS[word]
    if _INTEGER.fullmatch(word):
        return int(word)
    if _FRACTION.fullmatch(word):
        return float(word)
    try:
        return msgspec.json.decode(word, type=str)
    except msgspec.DecodeError:
        raise unknown() from None


def _field(variable: str | None, names: list[str]) -> Expression:
    def value(scope: Scope) -> Any:
        found = scope.dot
        if variable is not None:
            found = scope.values if variable == "$" else _variable(scope, variable)
        for name in names:
            if not isinstance(found, Mapping):
                raise Wrong(
                    f"{quoted(shown(found))} has no part {quoted(name)}: only all values together have some"
                )
            if name not in found:
                raise Wrong(f"the template needs a value for {quoted(name)}", near(name, found))
            found = found[name]
        return found

    return value


def _variable(scope: Scope, name: str) -> Any:
    if name not in scope.variables:
        raise Wrong(f"there is no variable {name} here", near(name, scope.variables))
    return scope.variables[name][0]


def _call(name: str, given: list[Expression]) -> Expression:
    """A function of arguments, evaluated as it needs them. Raises `Wrong` for a number of them that it never takes."""
    function, least, most = FUNCTIONS[name]
    if len(given) < least or (most is not None and len(given) > most):
        raise unknown()
    if name in ("and", "or"):
        # As in Go, those behind the first that decides are not looked at.
        return lambda scope: _first(given, scope, until=name == "or")
    return lambda scope: function(*(each(scope) for each in given))


def _first(given: list[Expression], scope: Scope, *, until: bool) -> Any:
    value: Any = None
    for each in given:
        value = each(scope)
        if truth(value) is until:
            break
    return value


def _index(values: Any, key: Any) -> Any:
    if not isinstance(values, Mapping) or not isinstance(key, str):
        raise Wrong('index takes all values and a name, like {{index . "name"}}')
    return values.get(key, "")


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping):
        return len(value)
    raise Wrong(f"{shown(value)} has no length")


def _slice(value: Any, *ends: Any) -> str:
    numbers = [each for each in ends if isinstance(each, int) and not isinstance(each, bool) and each >= 0]
    if not isinstance(value, str) or len(numbers) != len(ends) or numbers != sorted(numbers):
        raise Wrong("slice takes a text and one or two numbers in order")
    data = value.encode()
    if numbers and numbers[-1] > len(data):
        raise Wrong(f"the text {quoted(value)} has no {numbers[-1]} bytes")
    return data[slice(*numbers) if len(numbers) == 2 else slice(numbers[0] if numbers else 0, None)].decode(
        errors="replace"
    )


def _equal(first: Any, *others: Any) -> bool:
    return any(_comparable(first, each) and first == each for each in others)


def _less(first: Any, second: Any) -> bool:
    _comparable(first, second)
    if isinstance(first, bool):
        raise Wrong("true and false are in no order")
    return bool(first < second)


def _comparable(first: Any, second: Any) -> bool:
    """True, or `Wrong` for values of different kinds, which Go does not compare: what -V and -E give is text."""
    if type(first) is not type(second) or isinstance(first, Mapping):
        raise Wrong(f"{_kind(first)} and {_kind(second)} cannot be compared; what -V and -E give is text")
    return True


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return f"the truth {shown(value)}"
    kinds = {str: "text", int: "number", float: "fraction"}
    kind = next((name for type_, name in kinds.items() if isinstance(value, type_)), "map")
    return f"the {kind} {quoted(shown(value))}"


def _print(*values: Any) -> str:
    """As Go: with a blank between two of which neither is a text."""
    parts: list[str] = []
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            parts.append(" ")
        parts.append(shown(value))
    return "".join(parts)


def _println(*values: Any) -> str:
    return " ".join(map(shown, values)) + "\n"


def _printf(form: Any, *values: Any) -> str:
    if not isinstance(form, str):
        raise Wrong("printf's first word is a text")
    left = list(values)

    def put(verb: re.Match[str]) -> str:
        if verb[4] == "%":
            return "%"
        if not left:
            raise Wrong(f"printf has no value for {verb[0]}")
        return _formatted(verb, left.pop(0))

    text = _VERB.sub(put, form)
    if left:
        raise Wrong("printf has more values than its text has places")
    return text


def _formatted(verb: re.Match[str], value: Any) -> str:
    flags, width, precision, kind = verb[1], verb[2] or "", verb[3], verb[4]
    if kind == "q" and isinstance(value, str):
        text = msgspec.json.encode(value).decode()
    elif kind in ("s", "v") or (kind == "t" and isinstance(value, bool)):
        text = shown(value)[: int(precision) if precision else None]
    elif kind in ("d", "x", "X", "o") and isinstance(value, int) and not isinstance(value, bool):
        return f"%{flags}{width}{kind}" % value
    elif kind in ("f", "e", "g") and isinstance(value, float):
        return f"%{flags}{width}{f'.{precision}' if precision else ''}{kind}" % value
    else:
        raise Wrong(f"printf cannot write {_kind(value)} as %{kind or ''}")
    return text.ljust(int(width or 0)) if "-" in flags else text.rjust(int(width or 0))


FUNCTIONS: Final[dict[str, tuple[Callable[..., Any], int, int | None]]] = {
    "and": (_first, 1, None),
    "or": (_first, 1, None),
    "not": (lambda value: not truth(value), 1, 1),
    "eq": (_equal, 2, None),
    "ne": (lambda first, second: not _equal(first, second), 2, 2),
    "lt": (_less, 2, 2),
    "le": (lambda first, second: not _less(second, first), 2, 2),
    "gt": (lambda first, second: _less(second, first), 2, 2),
    "ge": (lambda first, second: not _less(first, second), 2, 2),
    "index": (_index, 2, 2),
    "len": (_length, 1, 1),
    "slice": (_slice, 1, 3),
    "print": (_print, 0, None),
    "println": (_println, 0, None),
    "printf": (_printf, 1, None),
    "html": (lambda *values: _print(*values).translate(_HTML), 1, None),
    "urlquery": (lambda *values: quote_plus(_print(*values)), 1, None),
}
"""Each function with the least and the most arguments that it takes."""
