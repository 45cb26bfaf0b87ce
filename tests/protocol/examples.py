"""One example of every message and every entry event, with each field set to something other than its default.

``python -m tests.protocol.examples`` writes the golden file of an example that has none yet. It never changes one: what a
file holds has been sent and stored, and is read for ever.
"""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from protocol import entries, messages, questions
from protocol.errors import Failure
from protocol.ids import ExecutionId, JobId, NodeId, RequesterId
from protocol.jobs import (
    Amounts,
    Constraint,
    Input,
    Job,
    Network,
    Port,
    Resources,
    ResultPath,
    Spec,
    Task,
    Timeouts,
)
from protocol.nodes import Gpu, NodeInfo, Offer
from protocol.ranking import Candidate, Ranking
from protocol.states import ExecutionState, JobState

GOLDEN = Path(__file__).parent / "golden"

JOB = JobId("j-01234567-89ab-8cde-8123-456789abcdef")
EXECUTION = ExecutionId("e-01234567-89ab-8cde-8fed-cba987654321")
NODE = NodeId("n-1")
REQUESTER = RequesterId("r-1")
AT = 1_700_000_000.5

FAILURE = Failure(
    "NotFound.Image", "there is no image x", hint="Name another one.", retryable=True, details={"image": "x"}
)
AMOUNTS = Amounts(0.5, 512_000_000, 10**9, 1)
TASK = Task(
    name="count",
    engine=Spec("docker", {"Image": "ubuntu:24.04", "Parameters": ["-c", "ls"]}),
    publisher=Spec("s3", {"Bucket": "b", "Key": "k"}),
    env={"MODE": "fast"},
    meta={"team": "data"},
    input_sources=[Input(Spec("ipfs", {"CID": "Qm"}), "/in", "data")],
    result_paths=[ResultPath("outputs", "/outputs")],
    resources=Resources("500m", "512Mb", "1GB", "1"),
    network=Network("Bridge", ["x.com"], [Port("WEB", 8080, 80, "127.0.0.1")]),
    timeouts=Timeouts(60, 30, 600),
)
SPEC = Job(
    name="words",
    namespace="team",
    type="service",
    priority=5,
    count=2,
    constraints=[Constraint("region", "in", ["eu", "us"])],
    meta={"a": "b"},
    labels={"c": "d"},
    tasks=[TASK],
)
INFO = NodeInfo(
    id=NODE,
    version="0.1.0",
    labels={"region": "eu"},
    engines=[
        Offer("docker", available=False, version="24", reason="not running", hint="Start it.", lost=True)
    ],
    sources=[Offer("ipfs")],
    publishers=[Offer("s3")],
    capacity=AMOUNTS,
    largest=AMOUNTS,
    gpus=[Gpu(0, "A100", "NVIDIA", 40_000, "0000:00:00.0")],
    address="10.0.0.1",
)
STAGE = messages.Stage(ExecutionState.STAGING, AT, "fetching")
OUTPUT = messages.RunOutput("out", True, "err", True, 3, "killed")
INPUT_READ = messages.InputRead("/in", "ipfs", "Qm", 12, True)
RANKING = Ranking(3, 2, [Candidate(NODE, 1, 2048, 2, 3, True, 0.5, 4)], {"has no engine docker": 1})
FILE_WRITTEN = messages.FileWritten("outputs/a", 5, "cd" * 32)
LINK_WRITTEN = messages.LinkWritten("outputs/newest", "a")
WRITTEN = messages.Written(3, 12, "ef" * 32, [FILE_WRITTEN], 2, [LINK_WRITTEN], ["outputs/empty"])
REPORT = messages.Report(
    node=NODE,
    incarnation=2,
    seq=7,
    job=JOB,
    version=1,
    execution=EXECUTION,
    state=ExecutionState.FAILED,
    stages=[STAGE],
    failure=FAILURE,
    output=OUTPUT,
    result=Spec("ipfs", {"CID": "Qm"}),
    inputs=[INPUT_READ],
    ports={"WEB": 20_000},
    written=WRITTEN,
    read_by="0.1.0",
    ordered_at=AT,
)
CHUNK = questions.LogChunk(1, AT, b"\x00hello\xff")
CLOSED = entries.Closed(JobState.FAILED, "it failed", FAILURE)

RUN = messages.Run(
    seq=7,
    node=NODE,
    job=JOB,
    job_name="words",
    namespace="team",
    job_type="batch",
    version=1,
    execution=EXECUTION,
    partition=1,
    partitions=2,
    attempt=3,
    task=TASK,
    amounts=AMOUNTS,
    priority=5,
    execution_timeout_s=60,
    staging_timeout_s=300,
    ordered_at=AT,
)
CANCEL = messages.Cancel(7, NODE, EXECUTION, "stopped")
SNAPSHOT = entries.Snapshot([(3, AT), (5, AT)], AT, forgotten=7, count=4, since=2, packed=b"deflated")

EXAMPLES: list[Struct] = [
    RUN,
    CANCEL,
    messages.FullList(7, "2026-01-01T00:00:00Z", NODE, [EXECUTION]),
    messages.Replaced(NODE, 1_767_225_601),
    messages.KeptOut(
        NODE, "a person rejected it: not ours", "`shoal node approve n-1` lets it take work again"
    ),
    messages.CommandBatch([RUN, CANCEL]),
    messages.CommandAnswer(False, FAILURE, [messages.CommandAnswer(True)]),
    STAGE,
    OUTPUT,
    INPUT_READ,
    FILE_WRITTEN,
    LINK_WRITTEN,
    WRITTEN,
    REPORT,
    messages.ReportBatch([REPORT]),
    messages.Verdict("stored", 9, [messages.Verdict("drop")], True),
    messages.Beat(INFO, 2, AT, 7, True, {EXECUTION: ExecutionState.RUNNING}, {"0123456789ab": 12}, [8080], 1),
    messages.RequesterBeat(REQUESTER, AT, 9, "0.1.0", "http://10.0.0.2:1234", True, 8, 5, True),
    messages.Progress(JOB, EXECUTION, NODE, ExecutionState.STAGING, "image", 5, 10),
    questions.LogsRequest(EXECUTION, 5, 1000, 2.5),
    CHUNK,
    questions.LogsAnswer(9, [CHUNK], True, FAILURE),
    questions.ResultRequest(EXECUTION, 5, 1000, "files"),
    questions.ResultAnswer(9, "v1", b"\x00\xff", "http://10.0.0.2:6001/x", FAILURE),
    questions.BlobRequest("ab" * 32, 5, 1000),
    questions.BlobAnswer(9, b"\x00\xff", FAILURE),
    questions.UploadRequest(JOB, EXECUTION, "parts", "upload-1", 17, 16, ['"e1"']),
    questions.UploadAnswer(["http://10.0.0.3/b/k?signed"], "upload-1", FAILURE),
    entries.Submitted(SPEC, 2, ["a warning"], "cli", 1, "once more", True),
    entries.Queued(FAILURE),
    entries.Assigned(EXECUTION, 1, 3, NODE, AMOUNTS, "most room", RANKING, 4),
    entries.StopRequested("enough", "cli"),
    entries.Reported(REPORT),
    entries.Cancelled(EXECUTION, FAILURE),
    entries.Lost(EXECUTION, NODE, FAILURE),
    CLOSED,
    entries.Deleted("no longer wanted", "cli"),
    SNAPSHOT,
    entries.Packed([entries.Queued(FAILURE)], [(41, AT)]),
    entries.Entry(JOB, "op-1", "r-1", AT, [entries.Queued(FAILURE), CLOSED], SNAPSHOT),
]


def golden(example: Struct) -> Path:
    """Where the golden file of an example is."""
    return GOLDEN / f"{type(example).__name__}.json"


def kinds(module: Any) -> set[type[Struct]]:
    """The Structs that a module defines."""
    return {
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Struct) and each.__module__ == module.__name__
    }


if __name__ == "__main__":
    for each in EXAMPLES:
        if not golden(each).exists():
            golden(each).write_bytes(msgspec.json.format(messages.encode(each), indent=2) + b"\n")
