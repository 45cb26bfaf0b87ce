"""JSON with places.

Knows: RFC 8259, and that an object holds a key once. Must not know: what the values mean.
"""

import json
import re
from typing import Final

from protocol.spec.bounds import DEPTH_MAX, NUMBER_MAX_CHARACTERS, Path
from protocol.spec.tree import (
    TOO_DEEP,
    Document,
    Mark,
    Member,
    Node,
    Repeated,
    Unreadable,
    list_node,
    object_node,
    whole,
)

_BLANK: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<part>\.[0-9]+)?(?P<power>[eE][+-]?[0-9]+)?")
_WORDS: Final = {"true": True, "false": False, "null": None}
_WORD: Final = re.compile("|".join(_WORDS))


def read_json(text: str) -> Document:
    """Read one JSON value. Raises `Unreadable`."""
    return _Reader(text).read()


class _Reader:
    """Recursion is bounded: a value deeper than `DEPTH_MAX` is refused before its content is read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 1 if text.startswith("\ufeff") else 0
        self._line, self._line_start, self._marked = 1, 0, 0
        self._strings = json.JSONDecoder()
        self._repeated: list[Repeated] = []

    def read(self) -> Document:
        root = self._value(())
        if self._next():
            raise self._stopped("nothing more after the job")
        return Document(root, self._repeated)

    def _value(self, path: Path) -> Node:
        sign, mark = self._next(), self._mark()
        if len(path) >= DEPTH_MAX:
            raise Unreadable(mark, TOO_DEEP)
        match sign:
            case "{":
                return object_node(mark, self._members(path))
            case "[":
                return list_node(mark, self._items(path))
            case '"':
                return Node(mark, self._string())
            case _:
                return Node(mark, self._scalar())

    def _members(self, path: Path) -> dict[str, Member]:
        members: dict[str, Member] = {}
        self._at += 1
        while self._more(len(members), "}"):
            if self._next() != '"':
                raise self._stopped("a key in double quotes")
            mark, key = self._mark(), self._string()
            if self._next() != ":":
                raise self._stopped('":"')
            self._at += 1
            member = Member(mark, self._value((*path, key)))
            if key in members:
                self._repeated.append(Repeated((*path, key), mark, members[key].mark))
            else:
                members[key] = member
        return members

    def _items(self, path: Path) -> list[Node]:
        items: list[Node] = []
        self._at += 1
        while self._more(len(items), "]"):
            items.append(self._value((*path, len(items))))
        return items

    def _more(self, count: int, end: str) -> bool:
        """Whether another entry follows; takes the comma before it, or the end."""
        sign = self._next()
        if sign == end:
            self._at += 1
            return False
        if count:
            if sign != ",":
                raise self._stopped(f'"," or "{end}"')
            self._at += 1
        return True

    def _string(self) -> str:
        try:
            value, self._at = self._strings.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            raise Unreadable(self._mark(error.pos), f"a text cannot be read: {error.msg}") from error
        return str(value)

    def _scalar(self) -> int | float | bool | None:
        word = _WORD.match(self._text, self._at)
        if word:
            self._at = word.end()
            return _WORDS[word[0]]
        number = _NUMBER.match(self._text, self._at)
        if not number:
            raise self._stopped("a value")
        if len(number[0]) > NUMBER_MAX_CHARACTERS:
            raise Unreadable(self._mark(), f"a number has more than {NUMBER_MAX_CHARACTERS} characters")
        self._at = number.end()
        return whole(float(number[0])) if number["part"] or number["power"] else int(number[0])

    def _next(self) -> str:
        """The next character that is not blank, or an empty text at the end."""
        found = _BLANK.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._text[self._at : self._at + 1]

    def _mark(self, offset: int | None = None) -> Mark:
        """The place of `offset`, or of where reading is; asked only in the order of the text."""
        offset = self._at if offset is None else offset
        self._line += self._text.count("\n", self._marked, offset)
        self._line_start = max(self._line_start, self._text.rfind("\n", self._marked, offset) + 1)
        self._marked = offset
        return self._line, offset - self._line_start + 1

    def _stopped(self, expected: str) -> Unreadable:
        found = self._next()
        return Unreadable(self._mark(), f"expected {expected}, found {repr(found) if found else 'the end'}")
