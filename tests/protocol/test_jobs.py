"""A job's words: wire names and sums of resources."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.jobs import Amounts, Job, Spec, Task
from tests.protocol.examples import SPEC

AMOUNTS = st.builds(
    Amounts,
    cpu=st.integers(0, 64_000).map(lambda millis: millis / 1000),
    memory_bytes=st.integers(0, 2**40),
    disk_bytes=st.integers(0, 2**40),
    gpu=st.integers(0, 8),
)


def test_a_job_goes_over_the_wire_under_bacalhaus_names() -> None:
    """The JSON of a job has the keys that Bacalhau's clients read."""
    job = msgspec.to_builtins(SPEC)

    assert set(job) == {
        "Name",
        "Namespace",
        "Type",
        "Priority",
        "Count",
        "Constraints",
        "Meta",
        "Labels",
        "Tasks",
    }
    (task,) = job["Tasks"]
    assert set(task) == {
        "Name",
        "Engine",
        "Publisher",
        "Env",
        "Meta",
        "InputSources",
        "ResultPaths",
        "Resources",
        "Network",
        "Timeouts",
    }
    assert set(task["Resources"]) == {"CPU", "Memory", "Disk", "GPU"}
    assert set(task["Timeouts"]) == {"ExecutionTimeout", "QueueTimeout", "TotalTimeout"}
    assert set(task["Network"]) == {"Type", "Domains", "Ports"}
    assert set(task["Network"]["Ports"][0]) == {"Name", "Static", "Target", "HostNetwork"}
    assert task["InputSources"] == [
        {"Source": {"Type": "ipfs", "Params": {"CID": "Qm"}}, "Target": "/in", "Alias": "data"}
    ]
    assert task["ResultPaths"] == [{"Name": "outputs", "Path": "/outputs"}]
    assert job["Constraints"] == [{"Key": "region", "Operator": "in", "Values": ["eu", "us"]}]


def test_a_jobs_json_is_read_as_the_job() -> None:
    """A job survives the log and the bus."""
    assert msgspec.json.decode(msgspec.json.encode(SPEC), type=Job) == SPEC


def test_amounts_have_bacalhaus_names_and_leave_out_nothings() -> None:
    """AllocatedResources shows what there is."""
    assert msgspec.to_builtins(Amounts(0.5, 512_000_000)) == {"CPU": 0.5, "Memory": 512_000_000}


def test_a_job_has_one_task() -> None:
    """The job's task is its first."""
    task = Task(name="a", engine=Spec("noop"))

    assert Job(tasks=[task]).task is task


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (Amounts(), True),
        (Amounts(2.0, 100, 100, 1), True),
        (Amounts(2.0000000001, 100, 100, 1), True),
        (Amounts(2.001, 100, 100, 1), False),
        (Amounts(1, 101, 100, 1), False),
        (Amounts(1, 100, 101, 1), False),
        (Amounts(1, 100, 100, 2), False),
    ],
)
def test_amounts_fit_if_each_of_them_does(wanted: Amounts, fits: bool) -> None:
    """One resource that lacks is enough not to fit; rounding of cores is not a lack."""
    assert wanted.fits(Amounts(2.0, 100, 100, 1)) is fits


@given(AMOUNTS, AMOUNTS)
def test_what_was_added_can_be_taken_away(one: Amounts, other: Amounts) -> None:
    """Capacity that is taken and given back is all there again."""
    back = one + other - other

    assert one.fits(back)
    assert back.fits(one)
    assert one.fits(one + other)
