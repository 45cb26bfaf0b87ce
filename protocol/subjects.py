"""Every subject, in one place; what each role may do on NATS (`deploy.claims`) is written against this table.

Knows: names only. Must not know: message bodies or any client library. An id inside a subject is always one token.
"""

from typing import Final

from protocol.ids import JobId, JobKey, NodeId, RequesterId, key_of

LOG_STREAM: Final = "JOBS"
LOG_SUBJECTS: Final = "job.*"
BLOB_STREAM: Final = "BLOBS"
BLOB_SUBJECTS: Final = "blobs.*.*"
CELL_BUCKET: Final = "NODES"

REPORT_PARTS: Final = 16
MANY: Final = "many"

ALL_BEATS: Final = "node.*.beat"
ALL_PROGRESS: Final = "node.*.progress"
ALL_COMMANDS: Final = "node.*.do"
ALL_LOGS: Final = "node.*.logs"
ALL_RESULTS: Final = "node.*.results"
ALL_REPORTS: Final = "report.*.*"
ALL_REQUESTER_BEATS: Final = "req.*.beat"
BLOB_READ: Final = "blob.read"
ALL_UPLOADS: Final = "upload.*"
REQUESTER_GROUP: Final = "requesters"


def entries(key: JobKey) -> str:
    """The one subject of a job's log."""
    return f"job.{key}"


def commands(node: NodeId) -> str:
    """Where a node listens for commands."""
    return f"node.{node}.do"


def beats(node: NodeId) -> str:
    """Where a node says that it is alive."""
    return f"node.{node}.beat"


def progress(node: NodeId) -> str:
    """Where a node says what its executions are busy with."""
    return f"node.{node}.progress"


def logs(node: NodeId) -> str:
    """Where a node answers for the output of its executions."""
    return f"node.{node}.logs"


def results(node: NodeId) -> str:
    """Where a node answers for the results that it keeps."""
    return f"node.{node}.results"


def reports(node: NodeId, job: JobId) -> str:
    """Where a node reports about a job: all reports of one job have one part, so that they can meet."""
    key = key_of(job)
    if key is None:
        raise ValueError(f"not a job id: {job}")
    return f"report.{node}.{int(key, 16) % REPORT_PARTS}"


def many_reports(node: NodeId) -> str:
    """Where a node reports about several jobs at once."""
    return f"report.{node}.{MANY}"


def uploads(node: NodeId) -> str:
    """Where a node asks for leave to upload a result to the requesters' bucket."""
    return f"upload.{node}"


def node_in(subject: str) -> NodeId:
    """The node in a ``node.*.…``, ``report.*.…`` or ``upload.*`` subject: the server vouches for it, the body does not."""
    return NodeId(subject.split(".")[1])


def requester_beats(requester: RequesterId) -> str:
    """Where a requester says that it is alive."""
    return f"req.{requester}.beat"


def requester_in(subject: str) -> RequesterId:
    """The requester in a ``req.*.beat`` subject: the server vouches for it, the body does not."""
    return RequesterId(subject.split(".")[1])


def blob_piece(digest: str, piece: int) -> str:
    """Where one piece of a blob is stored."""
    return f"blobs.{digest}.{piece}"


def blob_pieces(digest: str) -> str:
    """All pieces of one blob."""
    return f"blobs.{digest}.*"
