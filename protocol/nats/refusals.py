"""What a NATS server says when it refuses a subject to its user, and what that means.

Knows: the server's words. Must not know: connections, or who asked.
"""

import re
from typing import Final

import structlog

VIOLATION: Final = "permissions violation"
"""What all of these words contain; nats-py gives them in lower case."""
HINT: Final = "It belongs to another role or name. After an upgrade, `shoal cluster push` tells the servers of new rights."
REMEMBERED_MAX: Final = 256

_ANSWER: Final = 'publish to "_r_.'
"""The subjects that servers make for answers across the accounts' border."""
_ANSWER_HINT: Final = (
    "Whoever asked asks again. An answer is taken once, and within a minute; perhaps the log stood still for longer. "
    "If all answers are refused, the user lacks `allow_responses`."
)
_PUBLISHED: Final = re.compile(r'publish to "([^"]+)"')
_LISTENED: Final = re.compile(r'subscription to "([^"]+)"')

_log = structlog.get_logger(__name__)


def refused_subject(text: str) -> str | None:
    """The subject, in lower case, that a message was not published to."""
    found = _PUBLISHED.search(text)
    return found[1] if found else None


class Refusals:
    """Those of one connection, each logged once: what is refused is often tried again with each beat."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._unheard: set[str] = set()

    def tell(self, text: str) -> None:
        """Log it, unless it was."""
        if (found := _LISTENED.search(text)) and len(self._unheard) < REMEMBERED_MAX:
            self._unheard.add(found[1])
        late = _ANSWER in text
        told = _ANSWER if late else text
        if told in self._told:
            return
        if len(self._told) == REMEMBERED_MAX:
            self._told.clear()
        self._told.add(told)
        if late:
            _log.warning("an answer came too late or twice", violation=text, hint=_ANSWER_HINT)
        else:
            _log.error("the NATS server refused a subject to this user", violation=text, hint=HINT)

    def lets_hear(self, subject: str) -> bool:
        """Whether no subscription to it was refused."""
        return subject.lower() not in self._unheard

    def forget(self) -> None:
        """The next connection begins anew."""
        self._told.clear()
        self._unheard.clear()
