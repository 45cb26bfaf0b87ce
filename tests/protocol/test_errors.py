"""Faults: what each asks for, and how it travels."""

import pytest

from protocol import errors
from protocol.errors import KINDS, Broken, Failure, Fault, Invalid, NotFound, fault_of

ALL = sorted(KINDS.values(), key=lambda kind: kind.code)


def test_every_fault_there_is_can_travel() -> None:
    """No kind of fault is without a code, and no code stands for two."""
    defined = {
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, Fault) and each is not Fault
    }

    assert set(KINDS.values()) == defined
    assert {code: kind.code for code, kind in KINDS.items()} == {code: code for code in KINDS}


@pytest.mark.parametrize("kind", ALL)
def test_a_fault_arrives_as_what_it_was(kind: type[Fault]) -> None:
    """Message, hint, kind and details of a fault survive the wire."""
    fault = kind("there is no image x", hint="Name another.", kind="Image", details={"image": "x"})

    arrived = fault_of(fault.failure())

    assert type(arrived) is kind
    assert arrived.failure() == fault.failure()
    assert (arrived.message, arrived.hint, arrived.kind, arrived.details) == (
        "there is no image x",
        "Name another.",
        "Image",
        {"image": "x"},
    )
    assert str(arrived) == "there is no image x"


def test_a_failures_code_begins_with_its_kind() -> None:
    """A program may look at the part before the point only."""
    assert NotFound("x").failure().code == "NotFound"
    assert NotFound("x", kind="Image").failure().code == "NotFound.Image"


@pytest.mark.parametrize("kind", ALL)
def test_only_faults_that_pass_are_worth_another_try(kind: type[Fault]) -> None:
    """The same words, the same missing thing and the same limit fail again; weather does not last."""
    lasting = {"Invalid", "Denied", "NotFound", "Exhausted"}

    assert kind("x").failure().retryable is (kind.code not in lasting)


@pytest.mark.parametrize("code", ["", "Unheard", "unheard.Of", "."])
def test_a_code_that_is_not_known_is_a_broken_answer(code: str) -> None:
    """A newer version's fault is still a fault here."""
    assert isinstance(fault_of(Failure(code, "x")), Broken)


def test_a_fault_says_only_what_it_was_given() -> None:
    """Without hint and details there are none, and one fault's details are not another's."""
    one, other = Invalid("x"), Invalid("x")
    one.details["a"] = "b"

    assert other.failure() == Failure("Invalid", "x")
