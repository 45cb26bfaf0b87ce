"""What may have been meant by a name that is not there.

Knows: names and how near they are. Must not know: where they are from. Comparing takes time that grows with the names, so
few are compared, and no long ones; it blocks for some milliseconds.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from typing import Final

NAMES_MAX: Final = 1000
NAME_MAX_CHARACTERS: Final = 255
SHOWN: Final = 3


def near(wanted: str, names: Iterable[str]) -> list[str]:
    """Those of the first `NAMES_MAX` names that are spelled most like the wanted one, the nearest first."""
    if len(wanted) > NAME_MAX_CHARACTERS:
        return []
    some = [each for each in islice(names, NAMES_MAX) if len(each) <= NAME_MAX_CHARACTERS]
    by_case = {each.casefold(): each for each in some}
    found = get_close_matches(wanted.casefold(), list(by_case), n=SHOWN, cutoff=0.7)
    return [by_case[each] for each in found]


def did_you_mean(names: list[str]) -> str:
    """The question, as a sentence; empty for no names."""
    return f"Did you mean {' or '.join(repr(each) for each in names)}?" if names else ""
