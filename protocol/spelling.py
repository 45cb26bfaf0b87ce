"""What may have been meant by a name that is not there, and how names are listed in a sentence.

Knows: names and how near they are. Must not know: where they are from. Comparing takes time that grows with the
names, so few are compared, and no long ones: at its bounds it takes some milliseconds.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

NAMES_MAX: Final = 1000
NAME_MAX_CHARACTERS: Final = 255

SHOWN: Final = 3
"""How many names a question offers."""
_WORD_MAX_CHARACTERS: Final = 64
_SHORT_CHARACTERS: Final = 4
"""In a shorter word one letter is a large part: the match need not be as close."""


def near(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant: the only one that begins so, else the nearest; or an empty text."""
    if len(word) > _WORD_MAX_CHARACTERS:
        return ""
    by_case = {each.casefold(): each for each in known}
    begun = [each for lower, each in by_case.items() if len(word) > 1 and lower.startswith(word.casefold())]
    if len(begun) == 1:
        return begun[0]
    found = nearest(word, by_case.values(), likeness=0.5 if len(word) < _SHORT_CHARACTERS else 0.6)
    return found[0] if found else ""


def nearest(wanted: str, names: Iterable[str], *, at_most: int = 1, likeness: float = 0.6) -> list[str]:
    """Those of the first `NAMES_MAX` names that are spelled most like the wanted one, the nearest first.

    Case does not count. `likeness` is how much of them must be the same, up to 1.
    """
    # Most commands never misspell anything, and this takes a while to import.
    from difflib import get_close_matches

    if len(wanted) > NAME_MAX_CHARACTERS:
        return []
    some = [each for each in islice(names, NAMES_MAX) if len(each) <= NAME_MAX_CHARACTERS]
    by_case = {each.casefold(): each for each in some}
    found = get_close_matches(wanted.casefold(), list(by_case), n=at_most, cutoff=likeness)
    return [by_case[each] for each in found]


def nearest_few(wanted: str, names: Iterable[str]) -> list[str]:
    """Those few that a question may name."""
    return nearest(wanted, names, at_most=SHOWN, likeness=0.7)


def some_of(names: Sequence[str], at_most: int) -> str:
    """The first of these names, and how many more there are; empty for none."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def did_you_mean(names: list[str]) -> str:
    """The question, as a sentence; empty for no names."""
    return f"Did you mean {' or '.join(repr(each) for each in names)}?" if names else ""
