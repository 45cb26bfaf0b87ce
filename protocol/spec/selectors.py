"""Conditions on labels: the grammar of ``--constraints`` and ``labels=``, and what a condition means.

Knows: the label-selector grammar of Kubernetes and its operators. Must not know: whose labels they are, or what a
``favour_`` key does (`requester.core` ranks by it).

    region in (eu,us), env!=prod, gpu, !spot, cores>8 (or: cores gt 8)
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from protocol.errors import Invalid
from protocol.jobs import Constraint

ONE_VALUE: Final = ("=", "==", "!=", "gt", "lt")
SOME_VALUES: Final = ("in", "notin")
NO_VALUES: Final = ("exists", "!")
OPERATORS: Final = ONE_VALUE + SOME_VALUES + NO_VALUES

TEXT_MAX_CHARACTERS: Final = 65_536
"""A selector as text; a longer one is not written by a person."""

_SIGNS: Final[dict[str, str]] = {"=": "=", "==": "==", "!=": "!=", ">": "gt", "<": "lt"}
_WORDS: Final = SOME_VALUES
_TOKEN: Final = re.compile(r"\s*(?:(?P<sign>==|!=|[=!(),<>])|(?P<word>[^\s=!(),<>]+))")
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_PREFIX: Final = re.compile(
    r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
)
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")


def parse_selector(text: str) -> list[Constraint]:
    """Read a selector; an empty one has no conditions. Raises `Invalid`, with the place where reading stopped."""
    return _Reader(text).read()


def fault_in(constraint: Constraint) -> str:
    """Why a constraint can never be asked of labels, or an empty text."""
    operator, values = constraint.operator, constraint.values
    wrong = _key_fault(constraint.key)
    if wrong:
        return wrong
    if operator not in OPERATORS:
        return f'the operator "{operator[:20]}" is not one of {", ".join(OPERATORS)}'
    if operator in NO_VALUES and values:
        return f'the operator "{operator}" takes no values'
    if operator in SOME_VALUES and not values:
        return f'the operator "{operator}" needs at least one value'
    if operator in ONE_VALUE and len(values) != 1:
        return f'the operator "{operator}" needs exactly one value and has {len(values)}'
    if operator in ("gt", "lt") and not _INTEGER.fullmatch(values[0]):
        return f'the operator "{operator}" compares whole numbers, and "{values[0][:40]}" is none'
    return next((wrong for value in values if (wrong := _value_fault(value, operator))), "")


def matches(constraint: Constraint, labels: Mapping[str, str]) -> bool:
    """Whether labels meet a constraint.

    As in Kubernetes: ``!=`` and ``notin`` hold where the label is not there; ``gt`` and ``lt`` compare whole numbers and
    hold for no other label. An unknown operator holds for nothing.
    """
    value = labels.get(constraint.key)
    match constraint.operator:
        case "=" | "==" | "in":
            return value is not None and value in constraint.values
        case "!=" | "notin":
            return value is None or value not in constraint.values
        case "exists":
            return value is not None
        case "!":
            return value is None
        case "gt" | "lt":
            return value is not None and _beyond(value, constraint)
        case _:
            return False


def matches_all(constraints: Iterable[Constraint], labels: Mapping[str, str]) -> bool:
    """Whether labels meet every constraint."""
    return all(matches(constraint, labels) for constraint in constraints)


def format_selector(constraints: Iterable[Constraint]) -> str:
    """The text that `parse_selector` reads into these constraints."""
    return ",".join(map(_written, constraints))


def _written(constraint: Constraint) -> str:
    key, operator, values = constraint.key, constraint.operator, constraint.values
    match operator:
        case "exists":
            return key
        case "!":
            return f"!{key}"
        case "in" | "notin":
            return f"{key} {operator} ({','.join(values)})"
        case _:
            sign = next((sign for sign, name in _SIGNS.items() if name == operator), operator)
            return f"{key}{sign}{''.join(values)}"


def _beyond(value: str, constraint: Constraint) -> bool:
    bound = constraint.values[0] if len(constraint.values) == 1 else ""
    if not (_INTEGER.fullmatch(value) and _INTEGER.fullmatch(bound)):
        return False
    return int(value) > int(bound) if constraint.operator == "gt" else int(value) < int(bound)


def _key_fault(key: str) -> str:
    prefix, slash, name = key.rpartition("/")
    if not key:
        return "the label's key is missing"
    if slash and not (_PREFIX.fullmatch(prefix) and len(prefix) <= 253):
        return f'"{key[:80]}" is not a label: before the "/" there must be a domain name in lower case'
    if not _NAME.fullmatch(name):
        return (
            f'"{key[:80]}" is not a label: it has 1 to 63 letters, digits, "-", "_" and ".", '
            "and begins and ends with a letter or digit"
        )
    return ""


def _value_fault(value: str, operator: str) -> str:
    if operator in ("gt", "lt") or not value or _NAME.fullmatch(value):
        return ""
    return (
        f'"{value[:80]}" is not a label\'s value: it has at most 63 letters, digits, "-", "_" and ".", '
        "and begins and ends with a letter or digit"
    )


class _Reader:
    """One pass over the tokens of a selector; `column` of a token counts from 1."""

    def __init__(self, text: str) -> None:
        if len(text) > TEXT_MAX_CHARACTERS:
            raise Invalid(f"the selector is longer than {TEXT_MAX_CHARACTERS:,} characters")
        self._text = text
        self._tokens: list[tuple[str, int]] = []
        at = 0
        while found := _TOKEN.match(text, at):
            at = found.end()
            self._tokens.append(
                (found["sign"] or found["word"], at - len(found["sign"] or found["word"]) + 1)
            )
        self._tokens.append(("", len(text) + 1))
        self._at = 0

    def read(self) -> list[Constraint]:
        constraints: list[Constraint] = []
        if not self._peek():
            return constraints
        while True:
            constraint = self._condition()
            wrong = fault_in(constraint)
            if wrong:
                raise Invalid(f'in "{_shown(self._text)}": {wrong}')
            constraints.append(constraint)
            if not self._peek():
                return constraints
            self._expect(",")

    def _condition(self) -> Constraint:
        if self._peek() == "!":
            self._next()
            return Constraint(self._word("a label"), "!")
        key = self._word("a label")
        sign = self._peek()
        if sign in ("", ","):
            return Constraint(key, "exists")
        self._next()
        if sign in _WORDS:
            return Constraint(key, sign, self._values())
        if sign in ("gt", "lt"):
            # As a job's Constraints have it, and pages about Bacalhau.
            return Constraint(key, sign, [self._value()])
        if sign not in _SIGNS:
            self._at -= 1
            raise self._stopped("an operator (=, ==, !=, in, notin, >, <) or a comma")
        return Constraint(key, _SIGNS[sign], [self._value()])

    def _values(self) -> list[str]:
        self._expect("(")
        if self._peek() == ")":
            raise self._stopped("a value")
        values = [self._value()]
        while self._peek() == ",":
            self._next()
            values.append(self._value())
        self._expect(")")
        return list(dict.fromkeys(values))

    def _value(self) -> str:
        """A word, or nothing before a comma, a bracket or the end: the empty value."""
        return "" if self._peek() in ("", ",", ")") else self._word("a value")

    def _word(self, what: str) -> str:
        token = self._peek()
        if not token or token in _SIGNS or token in "!(),":
            raise self._stopped(what)
        return self._next()

    def _peek(self) -> str:
        return self._tokens[self._at][0]

    def _next(self) -> str:
        token = self._tokens[self._at][0]
        self._at += 1
        return token

    def _expect(self, sign: str) -> None:
        if self._peek() != sign:
            raise self._stopped(f'"{sign}"')
        self._next()

    def _stopped(self, expected: str) -> Invalid:
        token, column = self._tokens[self._at]
        found = f'"{_shown(token)}"' if token else "the end"
        return Invalid(
            f'in "{_shown(self._text)}", at character {column}: expected {expected}, found {found}',
            hint='Conditions look like "region in (eu,us), env!=prod, gpu, !spot, cores>8".',
        )


def _shown(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"
