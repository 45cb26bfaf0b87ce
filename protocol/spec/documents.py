"""A spec as text, in JSON or in YAML.

Knows: which language a text is in. Must not know: what its values mean.

A text that begins like JSON is read as JSON, which YAML nearly contains but not quite (line separators and surrogate pairs
inside strings); if it is not JSON after all, it is YAML.
"""

from protocol.spec.bounds import TEXT_MAX_BYTES, unfit_text
from protocol.spec.tree import Document, Mark, Unreadable


def read_document(text: str, *, file: str = "") -> Document:
    """Read a text as JSON or YAML; `file` only decides which of two faults is told. Raises `Unreadable`."""
    # A program that never reads text (a requester's API) need not load YAML.
    from protocol.spec.json_text import read_json
    from protocol.spec.yaml_text import read_yaml

    _check_text(text)
    if not text.lstrip("\ufeff \t\r\n").startswith("{"):
        return read_yaml(text)
    try:
        return read_json(text)
    except Unreadable as not_json:
        if file.lower().endswith(".json"):
            raise
        try:
            return read_yaml(text)
        except Unreadable as not_yaml:
            # The reader that came further had understood what the text is meant to be.
            raise max(not_json, not_yaml, key=lambda each: each.mark) from not_json


def _check_text(text: str) -> None:
    start = (1, 1)
    # A character takes one to four bytes; only a text in between must be measured.
    if len(text) > TEXT_MAX_BYTES or len(text.encode(errors="surrogatepass")) > TEXT_MAX_BYTES:
        raise Unreadable(start, f"it is larger than {TEXT_MAX_BYTES // 2**20} MiB")
    wrong = unfit_text(text)
    if wrong:
        raise Unreadable(_mark_of(text, _first_unfit(text)), wrong)
    if not text.strip("\ufeff \t\r\n"):
        raise Unreadable(start, "it is empty")


def _first_unfit(text: str) -> int:
    return next(index for index, each in enumerate(text) if each == "\0" or "\ud800" <= each <= "\udfff")


def _mark_of(text: str, offset: int) -> Mark:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
