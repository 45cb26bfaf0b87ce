"""Where the flags of ``docker run`` and ``wasm run`` end and the program's own words begin.

Knows: that everything behind IMAGE or MODULE belongs to the program, whatever it looks like (``sh -c …``, ``ls -l``), as in
``docker run``. Must not know: any flag by name; which of them take a value is asked of the command itself.
"""

from collections.abc import Iterable, Sequence

from cyclopts import App

from requester.cli.exits import tell


def program_last(app: App, arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--`` before the first that is neither a flag nor a flag's value.

    A ``--`` of the person's own behind it is dropped, as Bacalhau's users are used to; if nothing but flags stands between
    the two they are this command's, as there.
    """
    noun, verb, *rest = arguments
    valued, lone = _flags(app[noun][verb])
    at = _first_word(rest, valued)
    if at is None:
        return list(arguments)
    program = rest[at + 1 :]
    between = 0 if "--" in rest[:at] else _flags_before_dashes(program, valued, lone)
    rest, program = [*program[:between], *rest], program[between:]
    at += between
    if program[:1] == ["--"]:
        program = program[1:]
    else:
        _tell_misplaced(program, {*valued, *lone}, noun)
    flags = rest[:at]
    if flags[-1:] == ["--"]:
        flags = flags[:-1]
    return [noun, verb, *flags, "--", rest[at], *program]


def _flags_before_dashes(words: Sequence[str], valued: set[str], lone: set[str]) -> int:
    """How many words there are in front of ``--`` if all of them are known flags and their values, else 0."""
    index = 0
    while index < len(words) and words[index] != "--":
        name, equals, _ = words[index].partition("=")
        if name not in valued | lone:
            return 0
        index += 2 if name in valued and not equals else 1
    return index if index < len(words) else 0


def _first_word(words: Sequence[str], valued: set[str]) -> int | None:
    """Where the first word is that is no flag and no flag's value."""
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            return index + 1 if index + 1 < len(words) else None
        if not word.startswith("-") or word == "-":
            return index
        index += 2 if word in valued else 1
    return None


def _flags(command: App) -> tuple[set[str], set[str]]:
    """The command's flags: those that take a value in a word of its own, and those that don't."""
    valued: set[str] = set()
    lone: set[str] = set(command.help_flags)
    for argument in command.assemble_argument_collection():
        names = {name for name in argument.names if name.startswith("-")}
        (lone if argument.hint is bool else valued).update(names)
    return valued, lone


def _tell_misplaced(program: Iterable[str], flags: set[str], noun: str) -> None:
    """A long flag of ours among the program's words is probably a slip."""
    what = "image" if noun == "docker" else "module"
    for word in program:
        if word == "--":
            return
        name = word.partition("=")[0]
        if name.startswith("--") and name in flags:
            tell(
                f"Hint: {name} stands behind the {what} and goes to the program; for shoal it stands before it"
            )
            return
