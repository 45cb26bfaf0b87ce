"""What holds for every job and for everything that is none."""

import contextlib
import json
from typing import Any

import msgspec
import yaml
from hypothesis import given
from hypothesis import strategies as st

from protocol.jobs import Job
from protocol.spec import Defaults, SpecFault, SpecFaults, TypeDefaults, read_body, read_spec
from protocol.spec.blobs import large_inline, with_blob
from protocol.spec.engines import engine_spec
from protocol.spec.quantities import amounts
from tests.protocol.spec.jobs import PUBLISHERS, TIMEOUTS, jobs, read_engine

# Keys of a job, so that chance finds its way into every rule.
KEYS = st.sampled_from(
    """
    Name Namespace Type Priority Count Constraints Meta Labels Tasks Engine Params Publisher Env InputSources Source Target
    Alias ResultPaths Path Resources CPU Memory Network Domains Ports Timeouts TotalTimeout Key Operator Values Image
    EntryModule ImportModules EnvironmentVariables Bucket URL SourcePath Static ID State type tasks NAME Typ
    """.split()  # noqa: SIM905 - forty quoted words are harder to read
)
WORDS = st.sampled_from(
    """
    batch ops main docker wasm noop s3 ipfs local inline urlDownload HTTP Bridge None = in gt /in data:,x 1Gi 50% env: ~ x
    """.split()  # noqa: SIM905
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | WORDS
    | st.text(max_size=5)
    | st.text(st.characters(categories=["Cs", "Cc"]), max_size=3)
    | st.binary(max_size=3)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=6)
        | st.dictionaries(st.integers() | st.none(), inner, max_size=1)
        | st.tuples(inner)
    ),
    max_leaves=25,
)


@given(jobs())
def test_a_canonical_job_reads_as_itself(job: Job) -> None:
    """What the API shows of a job is that job when it is submitted again, without a warning."""
    reading = read_body(msgspec.to_builtins(job))

    assert reading.job == job
    assert reading.warnings == []


@given(jobs())
def test_yaml_and_json_of_a_job_read_as_the_job(job: Job) -> None:
    """A job written as JSON or YAML, by whatever writer, is read as itself."""
    plain = msgspec.to_builtins(job)

    assert read_spec(json.dumps(plain), file="job.json").job == job
    assert read_spec(msgspec.json.encode(job).decode(), file="job.json").job == job
    # In quotes: the writer's own rules for plain words are not Go's.
    assert read_spec(yaml.safe_dump(plain, default_style='"'), file="job.yaml").job == job


@given(jobs())
def test_a_canonical_job_is_ready_to_be_run(job: Job) -> None:
    """Amounts and engine parameters of a job that was read can be used without another look."""
    job = read_body(msgspec.to_builtins(job)).job

    assert amounts(job.task.resources).cpu >= 0
    assert engine_spec(job.task.engine.type, read_engine(job.task.engine)) == job.task.engine
    assert msgspec.json.decode(msgspec.json.encode(job), type=Job) == job


@given(jobs(), PUBLISHERS, TIMEOUTS, st.integers(-5, 5))
def test_defaults_give_a_job_that_needs_no_more(
    job: Job, publisher: Any, timeouts: Any, priority: int
) -> None:
    """Whatever a requester's defaults are, the job is valid with them, and they change it once."""
    mine = TypeDefaults(priority, publisher, timeouts)
    defaults = Defaults(mine, mine, mine, mine)

    once = read_body(msgspec.to_builtins(job), defaults=defaults).job

    assert read_body(msgspec.to_builtins(once), defaults=defaults).job == once
    assert read_body(msgspec.to_builtins(once)).job == once


@given(jobs(), st.integers(0, 50))
def test_moving_inline_data_leaves_a_canonical_job(job: Job, over_bytes: int) -> None:
    """A job whose inline data is in blobs reads as itself, and has no more than was allowed to stay."""
    for each in large_inline(job, over_bytes):
        job = with_blob(job, each.input, "ab" * 32, len(each.data), each.media_type)

    assert large_inline(job, over_bytes) == []
    assert read_body(msgspec.to_builtins(job)).job == job


@given(ANYTHING)
def test_anything_is_a_job_or_its_faults(data: Any) -> None:
    """No body does anything to a requester but be read or be refused."""
    with contextlib.suppress(SpecFaults):
        read_body(data)


@given(st.dictionaries(KEYS, ANYTHING, max_size=4), st.dictionaries(KEYS, ANYTHING, max_size=8))
def test_anything_in_a_job_is_a_job_or_its_faults(job: dict[str, Any], task: dict[str, Any]) -> None:
    """No value anywhere in a job does anything but be read or be refused, and what is read is canonical."""
    data = {"Type": "batch"} | job | {"Tasks": [{"Engine": {"Type": "noop"}} | task]}
    with contextlib.suppress(SpecFaults):
        read = read_body(data).job
        assert read_body(msgspec.to_builtins(read)).job == read


@given(
    st.binary(max_size=80)
    | st.text("{}[]:,-&*!|>'\"%@`#?~ \n\tTasksTypeEngine<1\\", max_size=120).map(str.encode)
)
def test_any_bytes_are_a_spec_or_its_faults(data: bytes) -> None:
    """No file does anything to the command line but be read or be refused, each fault with its place."""
    found: list[SpecFault] = []
    try:
        read_spec(data.decode(errors="surrogateescape"), file="job.yaml")
    except SpecFaults as faults:
        found = faults.faults
    assert all(fault.line >= 1 and fault.column >= 1 for fault in found)


@given(st.dictionaries(KEYS, ANYTHING, max_size=4))
def test_people_and_programs_agree_on_what_is_a_job(task: dict[str, Any]) -> None:
    """What is accepted from a person is accepted from a program, as the same job."""
    data = {"Type": "batch", "Tasks": [{"Engine": {"Type": "noop"}} | task]}
    try:
        text = json.dumps(data)
        read = read_spec(text, file="job.json").job
    except (SpecFaults, TypeError, ValueError):
        return
    if read.task.publisher.type or not read.task.result_paths:
        assert read_body(json.loads(text)).job == read
