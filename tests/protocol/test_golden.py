"""Messages and entries on the wire: one golden file each, read by every later version."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Struct

from protocol import entries, messages, questions
from protocol.errors import Broken, Failure
from protocol.messages import Command, decode, encode
from tests.protocol.examples import EXAMPLES, GOLDEN, golden, kinds

NAMES = [type(each).__name__ for each in EXAMPLES]


def test_every_message_and_event_has_one_example_and_one_golden_file() -> None:
    """Nothing is sent or stored whose form is not kept here, and nothing is kept that is not sent."""
    assert {type(each) for each in EXAMPLES} == kinds(messages) | kinds(questions) | kinds(entries)
    assert len(set(NAMES)) == len(NAMES)
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}.json" for name in NAMES}


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_an_example_says_something_in_every_field(example: Struct) -> None:
    """A golden file shows every field of its message."""
    for field in msgspec.structs.fields(type(example)):
        value = getattr(example, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if default is not msgspec.NODEFAULT and default is not UNSET:
            assert value != default, field.name


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_a_message_is_written_as_its_golden_file(example: Struct) -> None:
    """The wire form of a message does not change unnoticed."""
    assert encode(example) == msgspec.json.format(golden(example).read_bytes().strip(), indent=-1)


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_a_golden_file_is_read_as_its_message(example: Struct) -> None:
    """What earlier versions sent and stored is understood."""
    assert decode(golden(example).read_bytes(), type(example)) == example


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_a_newer_ones_fields_are_ignored(example: Struct) -> None:
    """A message with fields that this version does not know is read all the same."""
    newer = {**msgspec.json.decode(golden(example).read_bytes()), "added_later": {"deep": [1]}}

    assert decode(msgspec.json.encode(newer), type(example)) == example


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_an_older_ones_fields_are_enough(example: Struct) -> None:
    """A message without the fields that have defaults is read all the same."""
    form = type(example)
    optional = {field.encode_name for field in msgspec.structs.fields(form) if not field.required}
    older = {
        name: value
        for name, value in msgspec.json.decode(golden(example).read_bytes()).items()
        if name not in optional
    }

    assert isinstance(decode(msgspec.json.encode(older), form), form)


@pytest.mark.parametrize(
    "form", [messages.Run, messages.Cancel, messages.FullList, messages.Replaced, messages.KeptOut]
)
def test_a_command_is_known_by_its_tag(form: type[Any]) -> None:
    """A node reads any command from the one subject."""
    (example,) = (each for each in EXAMPLES if type(each) is form)

    assert decode(golden(example).read_bytes(), Command) == example  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "form", sorted(kinds(entries) - {entries.Entry, entries.Snapshot, entries.Packed}, key=str)
)
def test_an_entry_holds_every_event(form: type[Any]) -> None:
    """Any event comes back from an entry as what it was."""
    (example,) = (each for each in EXAMPLES if type(each) is form)
    (entry,) = (each for each in EXAMPLES if isinstance(each, entries.Entry))
    holding = msgspec.structs.replace(entry, events=[example])

    assert decode(encode(holding), entries.Entry) == holding


@given(message=st.text(st.characters(codec=None)), path=st.binary())
def test_no_word_of_a_stranger_keeps_a_message_back(message: str, path: bytes) -> None:
    """Names and headers in bytes that are no UTF-8 are written out; text is sent as it is."""
    name = os.fsdecode(path)
    answer = questions.UploadAnswer([name], failure=Failure("Broken", message, name, details={name: message}))

    sent = decode(encode(answer), questions.UploadAnswer)

    halves = any("\ud800" <= letter <= "\udfff" for letter in message + name)
    assert (sent == answer) is not halves


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"\xff", "malformed"),
        (b'{"type":"explode"}', "explode"),
        (b'{"type":"cancel","seq":"x","node":"n","execution":"e"}', "$.seq"),
        (b'{"type":"cancel","seq":1}', "node"),
        (b"[" * 100_000, ""),
    ],
)
def test_a_message_that_cannot_be_read_is_broken(data: bytes, says: str) -> None:
    """Whatever arrives on the bus is a message or `Broken`, with the place of the fault."""
    with pytest.raises(Broken) as caught:
        decode(data, Command)  # type: ignore[arg-type]

    assert says in caught.value.message


FROZEN = sorted((GOLDEN.parent / "frozen").glob("*/*.json"))
"""What each version sent and stored, kept as it was when that version was current. A folder here is never changed: the log
of a cluster holds such entries for as long as their jobs are kept, and a node or requester of that version may still run."""


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_an_earlier_version_wrote_is_understood(path: Path) -> None:
    """Every message and entry of every earlier version is read by this one, and nothing that it said is lost."""
    form = next(type(each) for each in EXAMPLES if type(each).__name__ == path.stem)
    written = msgspec.json.decode(path.read_bytes())

    understood = msgspec.json.decode(encode(decode(path.read_bytes(), form)))

    assert lost(written, understood) == []


def lost(written: Any, understood: Any, place: str = "$") -> list[str]:
    """Where something that was written is no longer said."""
    if isinstance(written, dict) and isinstance(understood, dict):
        return [
            fault
            for key, value in written.items()
            for fault in (
                lost(value, understood[key], f"{place}.{key}") if key in understood else [f"{place}.{key}"]
            )
        ]
    if isinstance(written, list) and isinstance(understood, list) and len(written) == len(understood):
        return [
            fault
            for number, value in enumerate(written)
            for fault in lost(value, understood[number], f"{place}[{number}]")
        ]
    return [] if written == understood else [place]
