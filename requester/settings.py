"""All knobs of a requester, with the values that hold when nobody turns them.

Knows: names, units and defaults. Must not know: where values come from (command line, file, environment).
"""

from pathlib import Path

from msgspec import Struct, field

from protocol.ids import RequesterId
from protocol.spec.bounds import INLINE_KEPT_BYTES
from requester.core.fold import KEPT
from requester.core.membership import SILENCE_S
from requester.core.policy import Policy


class Settings(Struct, frozen=True, kw_only=True):
    """How one requester runs. Times in seconds, sizes in bytes.

    `silence_s` is how long a node may be silent before its work is given up; `away_s` how long jobs that only it could run
    wait for it; `forget_s` how long it is remembered (0: for ever), which is less where more than `away_max` nodes are away;
    `takeover_s` how much later the requester of the next rank acts; `beat_s` how often this requester says that it is there,
    and three of them without a beat make another one absent.

    `commits_max` bounds the entries that wait for the log, `submit_timeout_s` how long a caller waits for its own.
    `keep_closed` closed jobs stay in memory, and `keep_waiting` of those that wait, but of either no more than
    `keep_bytes`; `flush_max` entries of no more than `flush_bytes` wait to be written to the read model. `keep_s` is how
    long a closed job stays in the log, and `history_s` how long one that has left it stays in the read model (both counted
    from its end, 0: for ever), looked at every `retention_s`; `blob_grace_s` how long inline data that no job names stays
    at least (0: for ever), looked at every `blob_retention_s`. Submissions are refused once the log is `log_full` (a share
    of 1) full, so that open jobs can still close. After `snapshot_after` more entries (0: never) a snapshot of a service or
    daemon is written, with up to `snapshot_attempts` ended attempts at each place, looked for every `snapshot_s`.
    """

    id: RequesterId = RequesterId("")
    data_dir: Path = Path("requester-data")
    nats_servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    nats_credentials: Path | None = None
    nats_password: str = ""
    replicas: int = 1
    log_max_bytes: int = 20_000_000_000
    api_host: str = "0.0.0.0"
    api_port: int = 1234
    manual_approval: bool = False
    policy: Policy = field(default_factory=Policy)
    silence_s: float = SILENCE_S
    away_s: float = 600.0
    forget_s: float = 7 * 86_400.0
    away_max: int = 10_000
    beat_s: float = 1.0
    takeover_s: float = 1.0
    tick_s: float = 0.1
    sweep_s: float = 10.0
    cells_s: float = 5.0
    repair_after_s: float = 0.3
    report_wait_s: float = 2.0
    command_timeout_s: float = 5.0
    commands_max: int = 1_000
    commits_max: int = 20_000
    submit_timeout_s: float = 30.0
    flush_s: float = 0.5
    flush_max: int = 10_000
    flush_bytes: int = 32 << 20
    keep_closed: int = 10_000
    keep_waiting: int = 10_000
    keep_bytes: int = 32 << 20
    log_full: float = 0.8
    keep_s: float = 30 * 86_400.0
    history_s: float = 365 * 86_400.0
    retention_s: float = 10.0
    blob_grace_s: float = 86_400.0
    blob_retention_s: float = 3_600.0
    snapshot_after: int = 5_000
    snapshot_attempts: int = KEPT
    snapshot_s: float = 10.0
    inline_max_bytes: int = INLINE_KEPT_BYTES

    @property
    def read_model(self) -> Path:
        """The file of the read model, there from the requester's first start on."""
        return self.data_dir / "read-model.sqlite"
