"""Reading a driver's params."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, field

from protocol.errors import Invalid
from storage.params import read_params


class Inner(Struct, frozen=True, rename="pascal"):
    """A form inside a form."""

    type: str = "none"
    start_index: int = 0


class Outer(Struct, frozen=True, rename="pascal"):
    """A form with fields of every kind."""

    bucket: str
    key: str = ""
    version_id: str = field(default="", name="VersionID")
    read_write: bool = False
    partition: Inner = Inner()
    several: list[Inner] = field(default_factory=list)
    maybe: Inner | None = None
    labels: dict[str, str] = field(default_factory=dict)


def read(params: dict[str, Any]) -> Outer:
    """Read as a source would."""
    return read_params(params, Outer, "source s3")


def refusal(params: dict[str, Any]) -> Invalid:
    """The fault of params that cannot be read."""
    with pytest.raises(Invalid) as caught:
        read(params)
    return caught.value


@given(st.lists(st.booleans(), min_size=8, max_size=8))
def test_keys_match_in_any_case(cases: list[bool]) -> None:
    """A field is found however its letters are cased, at every depth."""

    def cased(text: str) -> str:
        return "".join(letter.upper() if cases[at % 8] else letter.lower() for at, letter in enumerate(text))

    params = {
        cased("bucket"): "b",
        cased("versionid"): "v",
        cased("partition"): {cased("startindex"): 3},
        cased("several"): [{cased("type"): "date"}],
        cased("maybe"): {cased("type"): "object"},
    }

    assert read(params) == Outer(
        "b", version_id="v", partition=Inner(start_index=3), several=[Inner("date")], maybe=Inner("object")
    )


def test_null_is_as_good_as_absent() -> None:
    """Go clients write null for what they leave out."""
    assert read({"Bucket": "b", "Key": None, "Partition": None, "Maybe": None}) == Outer("b")


def test_the_keys_of_a_map_stay_as_they_are() -> None:
    """Only the names of fields are case-insensitive, not what people put into maps."""
    assert read({"Bucket": "b", "labels": {"TeAm": "x"}}).labels == {"TeAm": "x"}


def test_text_is_taken_for_numbers_and_booleans() -> None:
    """Command-line options are text, and mean what they say."""
    assert read({"Bucket": "b", "readwrite": "true", "partition": {"StartIndex": "7"}}) == Outer(
        "b", read_write=True, partition=Inner(start_index=7)
    )


def test_an_unknown_field_gets_a_near_spelling() -> None:
    """A slip of the pen is named, with the field that was meant."""
    fault = refusal({"Bukcet": "b"})

    assert fault.message == "source s3: unknown field Bukcet"
    assert fault.hint == "Did you mean Bucket?"


def test_an_unknown_field_like_no_other_gets_the_list() -> None:
    """Where nothing is near, the known fields are listed."""
    assert "VersionID" in refusal({"Bucket": "b", "qqqqqqqq": 1}).hint


def test_an_inner_unknown_field_is_named_by_its_path() -> None:
    """A fault inside a nested object says where."""
    assert (
        refusal({"Bucket": "b", "partition": {"Typ": "date"}}).message
        == "source s3: unknown field partition.Typ"
    )


def test_a_driver_without_params_says_so() -> None:
    """A publisher that takes nothing refuses something."""
    with pytest.raises(Invalid) as caught:
        read_params({"Bucket": "b"}, type("Nothing", (Struct,), {}), "publisher ipfs")

    assert caught.value.hint == "It takes no params."


class Checked(Struct, frozen=True, rename="pascal"):
    """A form that checks itself in our own words."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise Invalid("Number is below zero", hint="Count up.")


def test_what_a_form_finds_itself_is_told_with_its_driver() -> None:
    """A driver's own check says which driver it is about, and keeps its hint."""
    with pytest.raises(Invalid) as caught:
        read_params({"Number": -1}, Checked, "source x")

    assert (caught.value.message, caught.value.hint) == ("source x: Number is below zero", "Count up.")


def test_a_field_given_twice_is_refused() -> None:
    """Two spellings of one field are a doubt, not a choice."""
    assert "given twice" in refusal({"Bucket": "a", "bucket": "b"}).message


def test_a_missing_field_is_named() -> None:
    """What is required and absent is said by name."""
    assert refusal({}).message == "source s3: field Bucket is missing"


@pytest.mark.parametrize("value", [1, [], {}, True])
def test_a_wrong_type_names_the_field(value: Any) -> None:
    """A value of another type is told with driver, field and both types."""
    message = refusal({"Bucket": value}).message

    assert message.startswith("source s3: field Bucket: expected str, got ")


@pytest.mark.parametrize("value", [3, "x", [1]])
def test_a_value_where_an_object_belongs_names_the_field(value: Any) -> None:
    """A plain value in the place of an object is told likewise."""
    assert (
        "source s3: field Partition: expected object" in refusal({"Bucket": "b", "Partition": value}).message
    )


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
FIELDS = st.sampled_from(["bucket", "KEY", "Partition", "several", "maybe", "labels"]) | st.text(max_size=9)
NESTED = VALUES | st.lists(VALUES, max_size=2) | st.dictionaries(FIELDS, VALUES, max_size=2)


@given(st.dictionaries(FIELDS, NESTED, max_size=3))
def test_any_object_is_read_or_refused(params: dict[str, Any]) -> None:
    """Whatever the params are, the answer is a value or an `Invalid` that begins with the driver."""
    message = "source s3: "
    try:
        read(params)
    except Invalid as fault:
        message = fault.message

    assert message.startswith("source s3: ")
