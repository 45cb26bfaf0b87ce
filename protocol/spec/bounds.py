"""How much a job spec may hold, and the reason for each number.

Knows: the limits, and the look over a whole document that keeps every later step safe from depth, breadth and values that
JSON cannot carry. Must not know: what a job is.

Beyond a limit a spec is refused with a text that names the limit; nothing is cut off and nothing grows first.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

TEXT_MAX_BYTES: Final = 10 * 1024 * 1024
"""A spec as text, and an API body: Bacalhau's own limit, so that every spec it takes fits."""
DEPTH_MAX: Final = 64
"""Objects in objects. A job is nine deep; what reads and encodes it may therefore recurse without harm."""
NODES_MAX: Final = 50_000
"""Values in a document, with every alias counted as often as it is used: an alias bomb ends here."""
NUMBER_MAX_CHARACTERS: Final = 64
"""A longer number is not one that a job can mean, and reading it takes time that grows with its square."""
KEY_MAX_CHARACTERS: Final = 1024
"""A key: longer ones are data in the wrong place."""

JOB_MAX_BYTES: Final = 192 * 1024
"""The job's JSON without its inline data. With `INLINE_KEPT_BYTES` it leaves 64 KiB of an entry to other events."""
INLINE_KEPT_BYTES: Final = 256 * 1024
"""Text of inline data that stays in the job; more is moved to blobs (`protocol.spec.blobs.large_inline`)."""

COUNT_MAX: Final = 10_000
"""Partitions of a job: each is an execution in every requester's memory and in the job's fold."""
NAME_MAX_CHARACTERS: Final = 256
"""Names and namespaces appear in paths, tables and addresses."""
ENV_MAX_ENTRIES: Final = 1024
ENV_MAX_BYTES: Final = 128 * 1024
"""Names and values together: Linux gives a program about as much room for one string, and a job must fit its entry."""
TEXTS_MAX: Final = 4096
"""Entries in one list of texts (arguments, values of a constraint)."""
INPUTS_MAX: Final = 256
INPUTS_LOOKED_AT_MAX: Final = 64
"""Inputs whose parameters drivers look at when a job is read (docs/adr/0035); what is wrong with more, nodes tell."""
RESULT_PATHS_MAX: Final = 256
"""Each input and result path is a mount; engines slow down with hundreds of them."""
CONSTRAINTS_MAX: Final = 256
"""Each is tried on every node."""
LABELS_MAX: Final = 1024
"""Entries of Labels or Meta."""
PORTS_MAX: Final = 128
DOMAINS_MAX: Final = 1024
CPU_MAX: Final = 1_000_000
"""Cores. No machine has so many; ``500M`` is a slip for ``500m``."""
GPU_MAX: Final = 10_000
BYTES_MAX: Final = 2**63 - 1
"""Sizes are kept as signed 64-bit numbers by what reads them."""
SECONDS_MAX: Final = 10 * 366 * 24 * 3600
"""Ten years: a longer limit is none."""
PATH_MAX_CHARACTERS: Final = 4096
"""A path that a program sees: Linux knows no longer ones."""
MEDIA_TYPE_MAX_CHARACTERS: Final = 512
"""What stands before the comma of a data URL."""
ESCAPES_MAX: Final = 250_000
"""Percent signs in a data URL: undoing more would keep a requester from all else for a second. Base64 has no such limit."""
ACTION_MAX_CHARACTERS: Final = 4096
"""What stands between ``{{`` and ``}}``: longer than any default that someone writes there."""
FAULTS_MAX: Final = 50
"""Faults shown at once; a person mends the first ones and asks again."""
FAULTS_FOUND_MAX: Final = 1000
"""Faults after which reading ends: what is wrong everywhere need not be read to its end."""

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**64 - 1

Path = tuple[str | int, ...]


def unfit(document: Any) -> tuple[Path, str] | None:
    """The first place that no job can hold, with what is wrong there; or None.

    Looks at every value without recursion: depth, number of values, texts that are not Unicode or hold NUL, numbers
    beyond 64 bits or not finite, and anything that is not JSON.
    """
    return None if _fits(document) else _first_unfit(document)


def _fits(document: Any) -> bool:
    """Whether there is no such place: level by level, without keeping any path."""
    level, seen = [document], 0
    for depth in range(DEPTH_MAX + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                # What is plain is seen in two glances, without a call.
                if ("\0" in value or not value.isascii()) and unfit_text(value):
                    return False
            elif isinstance(value, dict | list):
                if depth == DEPTH_MAX:
                    return False
                if isinstance(value, list):
                    below += value
                elif _unfit_keys(value):
                    return False
                else:
                    below += value.values()
            elif _unfit_value(value):
                return False
        seen += len(level)
        if seen + len(below) > NODES_MAX:
            return False
        if not below:
            return True
        level = below
    return False


def _first_unfit(document: Any) -> tuple[Path, str] | None:
    seen = 0
    waiting: list[tuple[Path, Any]] = [((), document)]
    while waiting:
        path, value = waiting.pop()
        seen += 1
        if seen > NODES_MAX:
            return (), f"it holds more than {NODES_MAX:,} values"
        wrong = _unfit_value(value)
        if wrong:
            return path, wrong
        if isinstance(value, dict | list):
            if len(path) >= DEPTH_MAX:
                return path, f"it is nested more than {DEPTH_MAX} deep"
            if seen + len(waiting) + len(value) > NODES_MAX:
                return (), f"it holds more than {NODES_MAX:,} values"
            waiting.extend(((*path, key), each) for key, each in reversed(list(_members(value))))
    return None


def unfit_text(text: str) -> str:
    """Why a text cannot be part of a job, or an empty text."""
    if "\0" in text:
        return "it holds a NUL character"
    if text.isascii():
        return ""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it holds half of a surrogate pair, which is not a character"
    return ""


def _members(value: dict[Any, Any] | list[Any]) -> Iterator[tuple[str | int, Any]]:
    return iter(value.items()) if isinstance(value, dict) else enumerate(value)


def _unfit_value(value: Any) -> str:
    match value:
        case None | bool():
            return ""
        case str():
            return unfit_text(value)
        case int():
            return "" if INT_MIN <= value <= INT_MAX else "the number does not fit into 64 bits"
        case float():
            return "" if math.isfinite(value) else "it is not a finite number"
        case dict():
            return _unfit_keys(value)
        case list():
            return ""
        case _:
            return f"a {type(value).__name__} is not JSON"


def _unfit_keys(value: dict[Any, Any]) -> str:
    for key in value:
        if not isinstance(key, str):
            return "a key is not a text"
        if len(key) > KEY_MAX_CHARACTERS:
            return f"a key is longer than {KEY_MAX_CHARACTERS} characters"
        wrong = unfit_text(key) if "\0" in key or not key.isascii() else ""
        if wrong:
            return f"a key cannot be used: {wrong}"
    return ""
