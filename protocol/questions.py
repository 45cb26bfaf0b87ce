"""What is asked for bytes, and answered at once: output, kept results, blobs, leave to upload. None of it changes a job.

Knows: the shape of each question and its answer, encoded as all messages are (`protocol.messages`). Must not know: who
answers, or from where.
"""

from typing import Final

from msgspec import Struct, field

from protocol.errors import Failure
from protocol.ids import ExecutionId, JobId

STDOUT: Final = 1
STDERR: Final = 2
"""The streams of a program."""


class LogsRequest(Struct, frozen=True, gc=False, omit_defaults=True):
    """Read an execution's output from `cursor` on (0 is the beginning, -1 the present end).

    The answer holds at most `limit_bytes` of text. If there is none yet and the program still runs, the node answers
    after at most `wait_s`: asking again with the answer's cursor follows the output, at the asker's own speed.
    """

    execution: ExecutionId
    cursor: int = 0
    limit_bytes: int = 131_072
    wait_s: float = 0


class LogChunk(Struct, frozen=True, gc=False):
    """A piece of output: `stream` is `STDOUT` or `STDERR`, `at` unix seconds. Base64 on the wire."""

    stream: int
    at: float
    data: bytes


class LogsAnswer(Struct, frozen=True, gc=False, omit_defaults=True):
    """Chunks in the order written; `ended` says that nothing follows after `cursor`."""

    cursor: int
    chunks: list[LogChunk] = field(default_factory=list)
    ended: bool = False
    failure: Failure | None = None


class ResultRequest(Struct, frozen=True, gc=False, omit_defaults=True):
    """A piece of what a node keeps of a result, from `offset` on. `limit_bytes` 0 asks for no bytes.

    `part` is what is meant: empty for the archive; ``files`` for the list of all files as ``sha256sum`` writes it, whose
    digest `Written` has; ``sizes`` for their sizes in bytes, a line each in the same order.
    """

    execution: ExecutionId
    offset: int = 0
    limit_bytes: int = 0
    part: str = ""


class ResultAnswer(Struct, frozen=True, gc=False, omit_defaults=True):
    """A piece of an archive or a list, the whole's size in bytes, and a link to an archive for a while; or why not.
    Base64 on the wire.

    `version` changes with the archive: pieces of two versions do not belong together.
    """

    size_bytes: int = 0
    version: str = ""
    data: bytes = b""
    link: str = ""
    failure: Failure | None = None


class BlobRequest(Struct, frozen=True, gc=False):
    """Bytes of a blob that travelled beside its job: see `protocol.bus`. `digest` is SHA-256 in hexadecimal."""

    digest: str
    offset: int
    limit_bytes: int = 262_144


class BlobAnswer(Struct, frozen=True, gc=False, omit_defaults=True):
    """A piece of a blob and the whole's size in bytes; or why not."""

    size_bytes: int = 0
    data: bytes = b""
    failure: Failure | None = None


class UploadRequest(Struct, frozen=True, gc=False, omit_defaults=True):
    """Leave to upload an execution's archive to the managed bucket. `what` is one of these:

    ``put`` (a link for all of it), ``begin`` (an upload in parts: its id), ``parts`` (`count` links from number `first`
    on), ``complete`` (of the parts with these `etags`), ``abort`` (of `upload`; without one, of the object).
    """

    job: JobId
    execution: ExecutionId
    what: str
    upload: str = ""
    first: int = 1
    count: int = 0
    etags: list[str] = field(default_factory=list)


class UploadAnswer(Struct, frozen=True, gc=False, omit_defaults=True):
    """Links, or an upload's id; or why not. A link is as good as a password, for one object and a short time."""

    links: list[str] = field(default_factory=list)
    upload: str = ""
    failure: Failure | None = None
