"""YAML as Bacalhau reads it, with places.

Knows: which plain words are numbers, booleans and nothing; anchors, merge keys and tags. Must not know: what the values
mean. Built on libyaml's events rather than on a composed document: so every limit holds while reading, and nothing in the
library recurses over what a stranger wrote.

A value's type follows Go's rules: ``no`` is false, ``yes`` and ``on`` are true, ``0123`` is 83, ``0o17`` is 15, ``1e3`` is
1000, ``~`` is null; ``1:30`` and ``2024-01-01`` stay texts. ``y`` stays a text here, where Bacalhau refuses it. A key is
always the text that stands there.
"""

import math
import re
from typing import Final, Protocol

import yaml

from protocol.spec.bounds import DEPTH_MAX, INT_MAX, INT_MIN, NODES_MAX, NUMBER_MAX_CHARACTERS, Path
from protocol.spec.tree import (
    TOO_DEEP,
    TOO_MANY,
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

DIRECTIVES_MAX: Final = 16
"""libyaml compares each ``%TAG`` with all before it."""

_TRUE: Final = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
_FALSE: Final = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_INTEGER: Final = (
    (re.compile(r"[-+]?0[bB][01]+"), 2),
    (re.compile(r"[-+]?0[oO][0-7]+"), 8),
    (re.compile(r"[-+]?0[xX][0-9a-fA-F]+"), 16),
    (re.compile(r"[-+]?0[0-7]+"), 8),
    (re.compile(r"[-+]?(0|[1-9][0-9]*)"), 10),
)
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAG: Final = "tag:yaml.org,2002:"
_MERGE: Final = "<<"


class _YamlMark(Protocol):
    """Where an event stands, counted from 0."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


Scalar = str | int | float | bool | None


def read_yaml(text: str) -> Document:
    """Read one YAML document. Raises `Unreadable`."""
    _check_directives(text)
    try:
        return _Reader(text).read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = " ".join(part for part in (error.context, error.problem) if part)
        if mark is not None and text[mark.index : mark.index + 1] == "\t":
            why = "a tab stands where YAML takes spaces alone"
        raise Unreadable(_mark(mark), f"it is not YAML: {why}") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark_at = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise Unreadable(mark_at, f"it is not YAML: {error.reason} (U+{error.character:04X})") from error


def resolve(plain: str) -> Scalar:
    """The value of a word without quotes."""
    if plain in _NULL:
        return None
    if plain in _TRUE or plain in _FALSE:
        return plain in _TRUE
    if len(plain) > NUMBER_MAX_CHARACTERS or plain[0] not in "+-.0123456789":
        return plain
    number = plain.replace("_", "")
    for form, base in _INTEGER:
        if form.fullmatch(number):
            value = int(number, base) if base != 8 else int(number.replace("o", "").replace("O", ""), 8)
            return value if INT_MIN <= value <= INT_MAX else float(value)
    if _FLOAT.fullmatch(number):
        value_f = float(number)
        return whole(value_f) if math.isfinite(value_f) else plain
    return float(plain.replace(".", "", 1)) if _NOT_FINITE.fullmatch(plain) else plain


def _check_directives(text: str) -> None:
    """Refuse a heap of directives. They stand before a document's first line: ``---``."""
    head = text.partition("\n---")[0]
    if head.count("\n%") > DIRECTIVES_MAX:
        raise Unreadable((1, 1), f"it has more than {DIRECTIVES_MAX} lines that begin with %")


class _Reader:
    """Builds nodes from events. Recursion is bounded by `DEPTH_MAX`, events by `NODES_MAX`."""

    def __init__(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._anchors: dict[str, Node | None] = {}
        self._repeated: list[Repeated] = []
        self._count = 0

    def read(self) -> Document:
        next(self._events)
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            raise Unreadable((1, 1), "it is empty")
        root = self._node(next(self._events), ())
        next(self._events)
        more = next(self._events)
        if not isinstance(more, yaml.StreamEndEvent):
            raise Unreadable(_mark(more.start_mark), "a second document begins here; a file holds one job")
        return Document(root, self._repeated)

    def _node(self, event: yaml.Event, path: Path) -> Node:
        mark = _mark(event.start_mark)
        self._count += 1
        if self._count > NODES_MAX:
            raise Unreadable(mark, TOO_MANY)
        if len(path) >= DEPTH_MAX:
            raise Unreadable(mark, TOO_DEEP)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, mark)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = None
        node = self._content(event, mark, path)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _content(self, event: yaml.Event, mark: Mark, path: Path) -> Node:
        match event:
            case yaml.ScalarEvent():
                return Node(mark, _scalar(event, mark))
            case yaml.SequenceStartEvent():
                _check_tag(event, mark, "seq")
                return list_node(mark, self._items(path))
            case yaml.MappingStartEvent():
                _check_tag(event, mark, "map")
                return object_node(mark, self._members(path))
            case _:
                raise Unreadable(mark, "expected a value")

    def _alias(self, event: yaml.AliasEvent, mark: Mark) -> Node:
        if event.anchor not in self._anchors:
            raise Unreadable(mark, f'there is no anchor "{event.anchor}" before this alias')
        node = self._anchors[event.anchor]
        if node is None:
            raise Unreadable(mark, f'the alias "{event.anchor}" stands inside its own anchor')
        return node

    def _items(self, path: Path) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return items

    def _members(self, path: Path) -> dict[str, Member]:
        members: dict[str, Member] = {}
        merged: list[Node] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            mark = _mark(event.start_mark)
            key, merges = self._key(event, mark)
            node = self._node(next(self._events), (*path, key))
            if merges:
                merged += _mergeable(node)
            elif key in members:
                self._repeated.append(Repeated((*path, key), mark, members[key].mark))
            else:
                members[key] = Member(mark, node)
        for node in merged:
            for key, member in node.value.items() if isinstance(node.value, dict) else ():
                members.setdefault(key, member)
        return members

    def _key(self, event: yaml.Event, mark: Mark) -> tuple[str, bool]:
        if isinstance(event, yaml.AliasEvent):
            value = self._alias(event, mark).value
            if isinstance(value, str):
                return value, False
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor is not None:
                self._anchors[event.anchor] = Node(mark, event.value)
            if event.implicit[0] and event.value in _NULL:
                raise Unreadable(mark, "a key is missing here")
            return event.value, bool(event.implicit[0]) and event.value == _MERGE
        raise Unreadable(mark, "a key must be a text")


def _mergeable(node: Node) -> list[Node]:
    nodes = node.value if isinstance(node.value, list) else [node]
    for each in nodes:
        if not isinstance(each.value, dict):
            raise Unreadable(each.mark, "only an object, or a list of objects, can be merged")
    return nodes


def _scalar(event: yaml.ScalarEvent, mark: Mark) -> Scalar:
    text = str(event.value)
    if event.tag is None or event.tag == "!":
        return resolve(text) if event.tag is None and event.implicit[0] else text
    name = str(event.tag).removeprefix(_TAG)
    value = resolve(text)
    match name:
        case "str":
            return text
        case "int" if isinstance(value, int) and not isinstance(value, bool):
            return value
        case "float" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case "bool" if isinstance(value, bool):
            return value
        case "null" if value is None:
            return None
        case "int" | "float" | "bool" | "null":
            raise Unreadable(mark, f"the value is no {name}, as its tag says")
        case _:
            raise Unreadable(mark, f"the tag {event.tag} is not known")


def _check_tag(event: yaml.CollectionStartEvent, mark: Mark, name: str) -> None:
    if event.tag not in (None, "!", _TAG + name):
        raise Unreadable(mark, f"the tag {event.tag} is not known")


def _mark(mark: _YamlMark | None) -> Mark:
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)
