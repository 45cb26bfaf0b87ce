"""What is written down while faults happen, for `check` to judge.

Knows: the form of a history. Must not know: how it came about, or what is right.
"""

from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

SERVICE: Final = "service"
"""The kind of a job whose program ends and is started again, until somebody stops it."""


class Submission(Struct, omit_defaults=True):
    """One call that submits a job, and what was answered: ``accepted`` with an id, ``refused``, or nothing (``doubtful``).

    `says` is what each partition of the job has to print; `result` the text that it has to publish, if it does.
    """

    name: str
    kind: str
    requester: str
    count: int = 1
    outcome: str = "doubtful"
    job: str = ""
    detail: str = ""
    says: str = ""
    result: str = ""
    stopped: bool = False
    """Whether somebody asked for it to be stopped, and was answered."""


class Done(Struct, omit_defaults=True):
    """A fault that was carried out; `reached` is False for a step that the process did not come to in time."""

    kind: str
    target: str
    at_s: float
    for_s: float = 0.0
    step: str = ""
    reached: bool = True
    lived_s: float = 0.0
    """How long the process had been running when it was hit."""


class Logged(Struct):
    """One event of the log, flat: its entry's sequence, time and writer, the job, the event's tag, what matters of it."""

    seq: int
    at: float
    by: str
    job: str
    event: str
    execution: str = ""
    node: str = ""
    partition: int = 0
    state: str = ""
    version: int = 0
    cid: str = ""
    """Of a report: the result, if it is in IPFS."""
    name: str = ""
    """Of a submission: the job's name."""
    why: str = ""
    """Of an end that is no success: code and message of the failure."""


class Seen(Struct, omit_defaults=True):
    """One job as one requester shows it at the end: its state, and per execution (state, exit code, what it printed)."""

    state: str
    executions: dict[str, tuple[str, int, str]] = field(default_factory=dict)


class History(Struct):
    """Everything about one run. `views` are by requester and job, `starts` by job name: the execution ids that programs
    wrote down when they started; `published` the text published by execution; `left` what is still there at the end;
    `ended` the parts that ended without having been killed; `snapshots` how many the log has, and `cut` of how many jobs
    it has no more than they say.
    """

    seed: int
    submissions: list[Submission] = field(default_factory=list)
    faults: list[Done] = field(default_factory=list)
    log: list[Logged] = field(default_factory=list)
    views: dict[str, dict[str, Seen]] = field(default_factory=dict)
    starts: dict[str, list[str]] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    snapshots: int = 0
    cut: int = 0
    slowest_s: float = 0.0
    settled_s: float = 0.0

    def write(self, path: Path) -> None:
        """Keep it as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)))


def read(path: Path) -> History:
    """A history that was kept."""
    return msgspec.json.decode(path.read_bytes(), type=History)


Json = dict[str, Any]
