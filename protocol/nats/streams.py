"""The streams the system stands on: their settings, made when missing, checked when there.

Knows: every setting and which of them promises depend on. Must not know: what is written into the streams. The settings
were run, attacked and measured on nats-server 2.15.1.
"""

import asyncio
from typing import Any, Final

import structlog
from msgspec import Struct

from protocol.bus import ENTRY_MAX_BYTES
from protocol.errors import Broken, Exhausted, Unavailable
from protocol.nats.api import AGAIN_S, NO_STREAM, ApiError, StreamInfo, attempt, unavailable
from protocol.nats.wire import Wire
from protocol.subjects import BLOB_STREAM, BLOB_SUBJECTS, CELL_BUCKET, LOG_STREAM, LOG_SUBJECTS

_log = structlog.get_logger(__name__)

PIECE_BYTES: Final = 262_144
"""The largest piece of a blob."""
CELL_STREAM: Final = f"KV_{CELL_BUCKET}"
CELL_SUBJECTS: Final = f"$KV.{CELL_BUCKET}.>"

NO_STORAGE: Final = 10047
NO_ACCOUNT_STORAGE: Final = 10028
TRIES: Final = 5
"""How often a stream is made that others make, or remove, at the same moment."""
PAUSE_S: Final = 0.1
HEADERS_BYTES: Final = 4_096
"""Room for headers: the server counts them into a message's size."""
COPIES_ON_A_CLUSTER: Final = 3
_AS_ADMIN: Final = "with the credentials of shoal cluster admin"


class StreamSettings(Struct, frozen=True):
    """How the streams are made if they are missing; those that are there keep what they have.

    `replicas` is 3 on a cluster of three or more servers. The limits are in bytes, and the server reserves them.
    `entries_max` is how many entries the log takes of one job: one with so many is in a loop, and would fill it. Requesters
    end a job before that, while there is room for its end.
    """

    replicas: int = 1
    entries_max: int = 100_000
    log_bytes: int = 20_000_000_000
    blob_bytes: int = 16_000_000_000
    cell_bytes: int = 64_000_000


VITAL: Final[dict[str, dict[str, object]]] = {
    LOG_STREAM: {
        "subjects": [LOG_SUBJECTS],
        # Full means that new entries are refused; dropping the oldest would drop whole jobs.
        "discard": "new",
        # Several entries in one commit.
        "allow_atomic": True,
        # A log that outlives its messages, or drops them by age or count, is none.
        "max_age": 0,
        "max_msgs": -1,
    },
    BLOB_STREAM: {"subjects": [BLOB_SUBJECTS], "discard": "new", "max_age": 0, "max_msgs": -1},
    CELL_STREAM: {"subjects": [CELL_SUBJECTS], "discard": "new", "max_age": 0, "max_msgs": -1},
}
"""What the promises of the bus depend on, beside `CLOSED_DOORS`."""

CLOSED_DOORS: Final[dict[str, object]] = {
    "storage": "file",
    "retention": "limits",
    "deny_delete": True,
    # Each of these lets one header empty or rewrite the stream.
    "allow_rollup_hdrs": False,
    "allow_msg_schedules": False,
    "allow_msg_ttl": False,
    # Acknowledges before the disk has it.
    "persist_mode": "default",
    "no_ack": False,
    "sealed": False,
}
_UNSET: Final[dict[str, object]] = {"persist_mode": "default", "max_age": 0, "max_msgs": -1}
"""What it means when the server leaves a setting out of its answer; for all others it means false."""


def configurations(settings: StreamSettings) -> dict[str, dict[str, object]]:
    """The settings of every stream, as JetStream's API takes them."""
    common: dict[str, object] = {
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": settings.replicas,
        "deny_delete": True,
        "deny_purge": False,
        "allow_rollup_hdrs": False,
        # Reads that precede a guarded write must come from the leader.
        "allow_direct": False,
    }
    log: dict[str, object] = {
        "max_bytes": settings.log_bytes,
        "max_msg_size": ENTRY_MAX_BYTES + HEADERS_BYTES,
        "max_msgs_per_subject": settings.entries_max,
        "discard_new_per_subject": True,
        "max_consumers": 256,
        "allow_atomic": True,
    }
    blobs: dict[str, object] = {"max_bytes": settings.blob_bytes, "max_msg_size": PIECE_BYTES + HEADERS_BYTES}
    cells: dict[str, object] = {"max_bytes": settings.cell_bytes}
    return {
        LOG_STREAM: {"name": LOG_STREAM, "subjects": [LOG_SUBJECTS], **common, **log},
        BLOB_STREAM: {
            "name": BLOB_STREAM,
            "subjects": [BLOB_SUBJECTS],
            **common,
            "max_msgs_per_subject": 1,
            **blobs,
        },
        CELL_STREAM: {
            "name": CELL_STREAM,
            "subjects": [CELL_SUBJECTS],
            **common,
            "max_msgs_per_subject": 1,
            **cells,
        },
    }


def entries_of_one_job(config: dict[str, Any]) -> int:
    """How many the log takes of one job, 0 for any number."""
    # Without a limit the server says -1, or nothing.
    return max(int(config.get("max_msgs_per_subject", 0)), 0)


def complaints(stream: str, config: dict[str, Any]) -> list[str]:
    """What is wrong with a stream that is there already, in words; empty if it will do."""
    wanted = CLOSED_DOORS | VITAL[stream]
    return [
        f"{name} is {config.get(name)!r} and must be {value!r}"
        for name, value in wanted.items()
        if config.get(name, _UNSET.get(name, False)) != value
    ]


async def prepare(wire: Wire, settings: StreamSettings, wait_s: float = 0) -> None:
    """Make the streams that are missing and check those that are there.

    Raises `Broken` (a stream has settings that break a promise), `Exhausted` (no room to reserve), and `Unavailable` if
    JetStream has not answered after `wait_s` seconds.
    """
    until = asyncio.get_running_loop().time() + wait_s
    for name, wanted in configurations(settings).items():
        info = await _patiently(wire, name, wanted, until)
        if name == LOG_STREAM:
            _tell_of_few_entries(info.config, settings)
        if copies := copies_to_have(info, settings.replicas):
            _log.warning(
                "the stream has too few copies: when a server that has it is lost, so is what it holds",
                stream=name,
                copies=info.config.get("num_replicas", 1),
                hint=f"nats stream edit {name} --replicas {copies}, {_AS_ADMIN}; and --replicas {copies} for all requesters",
            )
        if faults := complaints(name, info.config):
            raise Broken(
                f"the stream {name} is there, but {'; '.join(faults)}",
                hint=f"Change it with `nats stream edit {name}`, or use a NATS account of its own for shoal.",
            )


def copies_to_have(info: StreamInfo, asked: int) -> int:
    """How many copies a stream should have that has fewer than were `asked` for, or one on a cluster; 0 if it will do.

    Streams that are there keep what they have, so whoever forgot to ask for three when they were made has one.
    """
    copies = int(info.config.get("num_replicas", 1))
    if copies < asked:
        return asked
    return COPIES_ON_A_CLUSTER if copies == 1 and info.on_a_cluster else 0


def _tell_of_few_entries(config: dict[str, Any], settings: StreamSettings) -> None:
    """Say that an earlier version made the log: a requester may not change it."""
    entries = entries_of_one_job(config)
    if 0 < entries < settings.entries_max:
        _log.warning(
            "the log takes fewer entries of one job than a new log does, and a job that comes near that is ended",
            entries=entries,
            new=settings.entries_max,
            hint=f"nats stream edit {LOG_STREAM} --max-msgs-per-subject {settings.entries_max}, {_AS_ADMIN}",
        )


async def _patiently(wire: Wire, name: str, wanted: dict[str, object], until: float) -> StreamInfo:
    """The stream, asked for again while nobody answers: a cluster that elects a leader is silent for some seconds."""
    while True:
        try:
            return await _info_or_make(wire, name, wanted)
        except Unavailable as fault:
            if asyncio.get_running_loop().time() >= until:
                raise
            _log.warning("waiting for JetStream", stream=name, reason=fault.message)
            await asyncio.sleep(AGAIN_S)


async def _info_or_make(wire: Wire, name: str, wanted: dict[str, object]) -> StreamInfo:
    """The stream as it is. Others may be making it at the same time; the server then counts its room twice for a moment."""
    refusal: ApiError | None = None
    for _ in range(TRIES):
        try:
            return await attempt(wire, f"STREAM.INFO.{name}", StreamInfo, again_s=AGAIN_S)
        except ApiError as error:
            if error.error.err_code != NO_STREAM:
                raise unavailable(error) from error
        try:
            info = await attempt(wire, f"STREAM.CREATE.{name}", StreamInfo, wanted)
        except ApiError as error:
            refusal = error
            await asyncio.sleep(PAUSE_S)
        else:
            _log.info(
                "stream made", stream=name, replicas=wanted["num_replicas"], max_bytes=wanted["max_bytes"]
            )
            return info
    if refusal is not None and refusal.error.err_code in (NO_STORAGE, NO_ACCOUNT_STORAGE):
        raise Exhausted(
            f"the NATS server has no room for the stream {name} of {wanted['max_bytes']} bytes ({refusal})",
            hint="Raise max_file_store in nats.conf, or make the streams smaller.",
        ) from refusal
    raise Unavailable(f"the stream {name} cannot be made: {refusal}") from refusal
