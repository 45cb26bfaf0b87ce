"""Specs with places to be filled in: Go's text/template, as far as a job spec has a use for it.

Knows: actions between ``{{`` and ``}}``, branches, loops, and the values for them. Must not know: specs, where values come
from, or expressions (`protocol.spec.template_actions`). Bacalhau runs the file of ``job run`` through Go's templates;
a value that is not given is an error. Published specs use:

    {{.name}}                                      a value
    {{index . "any-name"}}                         a value whose name need not be a word; empty if it is not given
    {{or FIRST SECOND …}}                          the first that is not empty
    {{if eq .env "prod"}} … {{else}} … {{end}}     one of two texts

``with``, ``range`` (over all values, or a number) and variables are there too. A ``-`` inside the braces takes the blanks
outside of them away, and ``{{/* … */}}`` is a comment. Whatever else Go's templates can do is a fault that names its place.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from protocol.errors import Invalid
from protocol.spec.bounds import FAULTS_FOUND_MAX, TEXT_MAX_BYTES
from protocol.spec.faults import SpecFault, SpecFaults, quoted
from protocol.spec.template_actions import Pipeline, Scope, Wrong, read_pipeline, shown, truth, unknown

_ACTION: Final = re.compile(r"\{\{(?:(-)(?=\s))?(.*?)(?:(?<=\s)(-))?\}\}|\{\{", re.DOTALL)
_COMMENT: Final = re.compile(r"\s*/\*.*\*/\s*", re.DOTALL)
_KEYWORD: Final = re.compile(r"\s*(if|with|range|else|end)\b(?:\s+(if|with)\b)?(.*)", re.DOTALL)
_PAIR: Final = re.compile(r"\s*[\w.-]+=")
STEPS_MAX: Final = 100_000
"""Actions that are carried out, those in loops each time: more than any spec has a use for."""
NESTED_MAX: Final = 50

_HINT: Final = (
    "Give values with -V name=value or -E PATTERN; --no-template leaves double braces as they are written."
)


class _Action(Struct):
    """An action as it stands in the text: where, what is in its braces, and the text before it.

    `inside` is None where nothing closes the braces.
    """

    before: str
    inside: str | None
    line: int = 0
    column: int = 0


class _Node(Struct):
    """What is printed: a `text`, or what an action gives. `kind` is empty, or ``if``, ``with`` or ``range``."""

    text: str = ""
    action: _Action | None = None
    pipeline: Pipeline | None = None
    kind: str = ""
    body: list["_Node"] = field(default_factory=list)
    otherwise: list["_Node"] = field(default_factory=list)


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
    actions, rest = _split(text)
    faults = _Faults(file)
    nodes = _Reader(actions, faults).nodes()
    # What is outside of every branch is looked at even where an action is wrong: all that is missing is told at once.
    printed = _Printing(values, faults, file).text(nodes) if faults.readable else ""
    faults.check()
    return printed + rest


class _Faults:
    """What is wrong with a template, with its places. `readable`: its branches are those that were meant."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._found: dict[tuple[int, int], SpecFault] = {}
        self.readable = True

    def add(self, action: _Action, wrong: Wrong) -> None:
        """A fault at an action; of several at one place the first. Raises `SpecFaults` when there are very many."""
        place = (action.line, action.column)
        fault = SpecFault(
            "", str(wrong), wrong.meant, file=self._file, line=action.line, column=action.column
        )
        self._found.setdefault(place, fault)
        if len(self._found) >= FAULTS_FOUND_MAX:
            self.check()

    def check(self) -> None:
        """Raise `SpecFaults` if anything is wrong."""
        if self._found:
            raise SpecFaults(
                [self._found[place] for place in sorted(self._found)], file=self._file, hint=_HINT
            )


def _split(text: str) -> tuple[list[_Action], str]:
    """The actions, each with the text before it, and the text behind the last."""
    actions: list[_Action] = []
    end = newline = 0
    trim, line = False, 1
    for found in _ACTION.finditer(text):
        start = found.start()
        line += text.count("\n", end, start)
        newline = max(newline, text.rfind("\n", end, start) + 1)
        before = _between(text[end:start], left=trim, right=bool(found[1]))
        actions.append(_Action(before, found[2], line, start - newline + 1))
        if found[2] is None:
            break
        line += found[0].count("\n")
        newline = max(newline, text.rfind("\n", start, found.end()) + 1)
        end, trim = found.end(), bool(found[3])
    return actions, _between(text[end:], left=trim, right=False)


def _between(text: str, *, left: bool, right: bool) -> str:
    text = text.lstrip() if left else text
    return text.rstrip() if right else text


class _Reader:
    """Actions, one after the other, into what is printed, with branches and loops around their parts."""

    def __init__(self, actions: Sequence[_Action], faults: _Faults) -> None:
        self._actions: Iterator[_Action] = iter(actions)
        self._faults = faults

    def nodes(self) -> list[_Node]:
        """The whole template."""
        nodes: list[_Node] = []
        while (stopped := self._until_branch_ends(nodes, 0)) is not None:
            # An else or end that ends nothing.
            self._unreadable(stopped[0], unknown())
        return nodes

    def _until_branch_ends(self, nodes: list[_Node], depth: int) -> tuple[_Action, "re.Match[str]"] | None:
        """Add to `nodes` up to an ``else`` or ``end`` of what they are in; None at the end of the template."""
        for action in self._actions:
            nodes.append(_Node(action.before))
            if action.inside is None:
                self._unreadable(action, Wrong('"{{" begins an action of a template, and no "}}" ends it'))
                continue
            if _COMMENT.fullmatch(action.inside):
                continue
            keyword = _KEYWORD.fullmatch(action.inside)
            if keyword is None:
                nodes.append(self._read(action, action.inside, ""))
            elif keyword[1] in ("else", "end"):
                return action, keyword
            else:
                nodes.append(self._branch(action, keyword[1], f"{keyword[2] or ''}{keyword[3]}", depth + 1))
        return None

    def _branch(self, action: _Action, kind: str, inside: str, depth: int) -> _Node:
        node = self._read(action, inside, kind)
        part = node.body
        while True:
            stopped = self._until_branch_ends(part, depth) if depth <= NESTED_MAX else None
            if stopped is None:
                self._unreadable(
                    action, Wrong(f"{{{{{kind}}}}} begins a part of a template, and no {{{{end}}}} ends it")
                )
                return node
            at, keyword = stopped
            if keyword[1] == "end" and not (keyword[2] or keyword[3].strip()):
                return node
            if keyword[1] == "end" or part is node.otherwise or (keyword[3].strip() and not keyword[2]):
                self._unreadable(at, unknown())
                continue
            part = node.otherwise
            if keyword[2]:
                # What is nested in the second part ends with it.
                part.append(self._branch(at, keyword[2], keyword[3], depth + 1))
                return node

    def _read(self, action: _Action, inside: str, kind: str) -> _Node:
        node = _Node(action=action, kind=kind)
        try:
            node.pipeline = read_pipeline(inside, names_max=2 if kind == "range" else 1)
        except Wrong as wrong:
            self._faults.add(action, wrong)
        return node

    def _unreadable(self, action: _Action, wrong: Wrong) -> None:
        self._faults.readable = False
        self._faults.add(action, wrong)


class _Printing:
    """Carries a template out."""

    def __init__(self, values: Mapping[str, str], faults: _Faults, file: str) -> None:
        self._values = values
        self._faults = faults
        self._file = file
        self._parts: list[str] = []
        self._size = self._steps = 0

    def text(self, nodes: list[_Node]) -> str:
        """All of it. Faults are noted; raises `Invalid` for what grows too large."""
        self._print(nodes, Scope(self._values, self._values, {}))
        return "".join(self._parts)

    def _print(self, nodes: list[_Node], scope: Scope) -> None:
        # What is declared here ends here: the scope in which it is stays behind.
        for node in nodes:
            if node.action is None:
                self._put(node.text)
                continue
            if node.pipeline is None:
                continue
            self._step()
            try:
                scope = self._carry_out(node, node.pipeline, scope)
            except Wrong as wrong:
                self._faults.add(node.action, wrong)

    def _carry_out(self, node: _Node, pipeline: Pipeline, scope: Scope) -> Scope:
        """What an action does; the scope of what follows it."""
        value = pipeline.value(scope)
        if node.kind == "range":
            self._repeat(node, pipeline, value, scope)
            return scope
        if not node.kind:
            if not pipeline.names:
                self._put(shown(value))
            return _named(scope, pipeline, (value,))
        inner = _named(scope, pipeline, (value,))
        if not truth(value):
            self._print(node.otherwise, inner)
        else:
            self._print(node.body, replace(inner, dot=value) if node.kind == "with" else inner)
        return scope

    def _repeat(self, node: _Node, pipeline: Pipeline, value: Any, scope: Scope) -> None:
        match value:
            case bool() | float() | str():
                raise Wrong(f"range goes through all values or a number, not {quoted(shown(value))}")
            case int():
                items: Iterable[tuple[Any, Any]] = ((each, each) for each in range(value))
            case _:
                items = sorted(value.items())
        ran = False
        for key, item in items:
            ran = True
            self._step()
            given = (key, item) if len(pipeline.names) == 2 else (item,)
            self._print(node.body, _named(replace(scope, dot=item), pipeline, given))
        if not ran:
            self._print(node.otherwise, scope)

    def _step(self) -> None:
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise Invalid(f"{self._file} has more than {STEPS_MAX:,} actions to carry out")

    def _put(self, text: str) -> None:
        self._parts.append(text)
        self._size += len(text)
        if self._size > TEXT_MAX_BYTES:
            raise Invalid(f"{self._file} is larger than {TEXT_MAX_BYTES} bytes once it is filled in")


def _named(scope: Scope, pipeline: Pipeline, given: tuple[Any, ...]) -> Scope:
    """The scope with the pipeline's variables. Raises `Wrong` for setting one that there is not."""
    named = dict(zip(pipeline.names, given, strict=False))
    if pipeline.declares:
        return replace(scope, variables=scope.variables | {name: [value] for name, value in named.items()})
    for name, value in named.items():
        if name not in scope.variables:
            raise Wrong(f"there is no variable {name} here; {name} := … makes one")
        scope.variables[name][0] = value
    return scope
