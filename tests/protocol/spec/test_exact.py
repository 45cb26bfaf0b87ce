"""What is written exactly is read as what is written loosely."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.spec import SpecFaults, read_body
from protocol.spec.bounds import DEPTH_MAX, _first_unfit, _fits, unfit

EXACT: dict[str, Any] = {
    "Name": "n",
    "Namespace": "team",
    "Type": "batch",
    "Priority": 3,
    "Count": 2,
    "Constraints": [{"Key": "zone", "Operator": "in", "Values": ["a", "b"]}],
    "Meta": {"a": "b"},
    "Labels": {"c": ""},
    "Tasks": [
        {
            "Name": "main",
            "Engine": {"Type": "wasm", "Params": {"EntryModule": "/m.wasm", "Parameters": ["x"]}},
            "Env": {"A": "1"},
            "InputSources": [
                {"Target": "/m.wasm", "Source": {"Type": "s3", "Params": {"Bucket": "b", "Key": "k"}}}
            ],
            "Resources": {"CPU": "1", "Memory": "16Mb"},
            "Network": {"Type": "None"},
            "Timeouts": {"ExecutionTimeout": 5},
        }
    ],
}
"""A body in canonical names and types, all kinds of fields in it."""


def loosely(value: Any) -> Any:
    """The same with other key cases, and nulls that say nothing; what drivers read for themselves stays."""
    if isinstance(value, dict):
        kept = {"Params", "Meta", "Labels", "Env"}
        loose = {
            key if key in kept else key.lower(): each if key in kept else loosely(each)
            for key, each in value.items()
        }
        return {**loose, "nobodysField": None}
    return [loosely(each) for each in value] if isinstance(value, list) else value


def test_exact_and_loose_are_one_job() -> None:
    """A body in canonical names is the same job as one in any key case, with fields that nobody knows."""
    assert read_body(EXACT) == read_body(loosely(EXACT))


@pytest.mark.parametrize(
    ("path", "value"),
    [(("Count",), "2"), (("Name",), 5), (("Tasks", 0, "Env"), {"A": 1}), (("Constraints",), {})],
)
def test_a_wrong_type_is_still_told(path: tuple[str | int, ...], value: Any) -> None:
    """One wrong value among exact ones is found, and named by its path."""
    body = copy.deepcopy(EXACT)
    at: Any = body
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value

    with pytest.raises(SpecFaults) as told:
        read_body(body)

    assert str(path[-1]) in told.value.faults[0].path


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(json_values, st.integers(0, DEPTH_MAX + 2))
def test_the_quick_look_sees_what_the_careful_one_sees(document: Any, depth: int) -> None:
    """Whether a document can be a job's does not depend on how it is looked at."""
    for _ in range(depth):
        document = [document]

    assert _fits(document) == (_first_unfit(document) is None)
    assert unfit(document) == _first_unfit(document)


def test_a_task_that_came_before_is_read_as_the_first_time() -> None:
    """A program that sends one task again and again gets the same job, and hears the same warnings and faults, each time."""
    older = copy.deepcopy(EXACT)
    older["Tasks"][0]["Network"] = {"Type": "Full"}
    wrong = copy.deepcopy(EXACT)
    wrong["Tasks"][0]["Env"] = {"lower": "1"}

    first, again = read_body(older), read_body(copy.deepcopy(older))

    assert first.warnings
    assert first == again
    assert read_body({**older, "Name": "other"}).job.task == first.job.task
    told = []
    for _ in range(2):
        with pytest.raises(SpecFaults) as fault:
            read_body(copy.deepcopy(wrong))
        told.append([each.path for each in fault.value.faults])
    assert told == [["Tasks[0].Env.lower"]] * 2
