"""What differs between two versions of a job, field by field.

Knows: how a difference is told to a person: a line with ``-`` for what was, a line with ``+`` for what is to be, each with
the path that an error message would give. Must not know: where the two jobs come from.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from protocol.jobs import Job
from protocol.spec.bounds import Path
from protocol.spec.faults import path_text

VALUE_MAX_CHARACTERS: Final = 400
"""A longer value (a script, inline data) is told by its beginning."""
_ABSENT: Final = object()


def changes(before: Job, after: Job) -> str:
    """The differences, one line each, in the order of the spec; empty if there are none."""
    return "\n".join(_lines(msgspec.to_builtins(before), msgspec.to_builtins(after), ()))


def _lines(before: Any, after: Any, path: Path) -> Iterator[str]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from _lines(before.get(key, _ABSENT), after.get(key, _ABSENT), (*path, key))
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            yield from _lines(
                before[index] if index < len(before) else _ABSENT,
                after[index] if index < len(after) else _ABSENT,
                (*path, index),
            )
    else:
        if before is not _ABSENT:
            yield f"- {path_text(path)}: {_shown(before)}"
        if after is not _ABSENT:
            yield f"+ {path_text(path)}: {_shown(after)}"


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= VALUE_MAX_CHARACTERS else text[:VALUE_MAX_CHARACTERS] + "…"
