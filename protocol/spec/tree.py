"""A text's values as a tree that knows where each of them stands, within limits.

Knows: how a path leads to a line and a column, and how large a tree may grow. Must not know: languages, or what values mean.
"""

from typing import Any, Final

from msgspec import Struct, field

from protocol.spec.bounds import DEPTH_MAX, NODES_MAX, Path

TOO_MANY: Final = f"it holds more than {NODES_MAX:,} values (an alias counts as what it stands for)"
TOO_DEEP: Final = f"it is nested more than {DEPTH_MAX} deep"

Mark = tuple[int, int]
"""Line and column, both from 1."""


class Node(Struct):
    """A value in a text. `value` is a scalar, a list of nodes, or a dictionary of members.

    `size` counts the values in it and `height` its depth, an alias as often as it is used.
    """

    mark: Mark
    value: "str | int | float | bool | list[Node] | dict[str, Member] | None" = None
    size: int = 1
    height: int = 1


class Member(Struct):
    """A value in an object, and where its key stands."""

    mark: Mark
    node: Node


class Repeated(Struct, frozen=True):
    """A key that its object has already."""

    path: Path
    mark: Mark
    first: Mark


class Unreadable(Exception):
    """The text is not in its language, or beyond a limit; `mark` is where reading stopped.

    It never leaves this package: reading a spec makes `SpecFaults` of it.
    """

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark
        self.message = message


class Document(Struct):
    """A text that was read."""

    root: Node
    repeated: list[Repeated] = field(default_factory=list)

    def data(self) -> Any:
        """The values alone."""
        return _plain(self.root, {})

    def place(self, path: Path, *, key: bool) -> Mark:
        """See `protocol.spec.faults.Places`. Keys are found in any case."""
        mark, node = self.root.mark, self.root
        for index, step in enumerate(path):
            member = _member(node, step)
            if member is None:
                return mark
            node = member.node
            mark = member.mark if key and index == len(path) - 1 else node.mark
        return mark


def object_node(mark: Mark, members: dict[str, Member]) -> Node:
    """An object. Raises `Unreadable` beyond the limits."""
    return _bounded(mark, members, [member.node for member in members.values()])


def list_node(mark: Mark, items: list[Node]) -> Node:
    """A list. Raises `Unreadable` beyond the limits."""
    return _bounded(mark, items, items)


def whole(number: float) -> int | float:
    """``1e3`` and ``2.0`` are whole numbers, as they are to Go's JSON."""
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _bounded(mark: Mark, value: "list[Node] | dict[str, Member]", children: list[Node]) -> Node:
    size = 1 + sum(child.size for child in children)
    height = 1 + max((child.height for child in children), default=0)
    if size > NODES_MAX:
        raise Unreadable(mark, TOO_MANY)
    if height > DEPTH_MAX:
        raise Unreadable(mark, TOO_DEEP)
    return Node(mark, value, size, height)


def _member(node: Node, step: str | int) -> Member | None:
    value = node.value
    if isinstance(value, dict) and isinstance(step, str):
        return value.get(step) or next(
            (each for key, each in value.items() if key.lower() == step.lower()), None
        )
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return Member(value[step].mark, value[step])
    return None


def _plain(node: Node, seen: dict[int, Any]) -> Any:
    """The values of a node; what an alias shares stays shared, so that the whole is no larger than its text."""
    if id(node) in seen:
        return seen[id(node)]
    plain: Any = node.value
    if isinstance(node.value, dict):
        plain = {key: _plain(member.node, seen) for key, member in node.value.items()}
    elif isinstance(node.value, list):
        plain = [_plain(item, seen) for item in node.value]
    seen[id(node)] = plain
    return plain
