"""Identifiers: their form, and how one follows from another.

Knows: the textual form of every id and which ids are derived from which. Must not know: clocks or randomness; the random
part of a job's id is made at the edge and passed in.

A job's id is a version 8 UUID (RFC 9562, section 5.8) after ``j-``. Its first 60 free bits are a hash of namespace and
name, its last 62 are random. The hash alone, 15 hexadecimal digits, is the job's **key**, the token in its subject: so the
guard on that one subject also makes names unique, and an id leads to its subject without a look-up.
"""

import re
from hashlib import blake2b
from typing import Final, NewType

JobId = NewType("JobId", str)
"""``j-`` and a UUID of version 8."""
JobKey = NewType("JobKey", str)
"""15 lower-case hexadecimal digits: the token of a job's subject."""
ExecutionId = NewType("ExecutionId", str)
"""``e-`` and a UUID of version 8, derived from job, version, partition and attempt."""
NodeId = NewType("NodeId", str)
"""``n-`` and a UUID, or the name a person gave the node: a single subject token."""
RequesterId = NewType("RequesterId", str)
"""``r-`` and a UUID, or a given name: a single subject token."""

RANDOM_BITS: Final = 62
SHORT_LENGTH: Final = 10
"""Characters of a shortened id: prefix, dash and eight digits, as Bacalhau prints it."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_JOB: Final = re.compile(r"j-[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def job_key(namespace: str, name: str) -> JobKey:
    """The 60-bit hash of a job's identity. Collisions are found by comparing the stored name."""
    digest = blake2b(f"{namespace}\0{name}".encode(), digest_size=8).hexdigest()
    return JobKey(digest[:15])


def job_id(key: JobKey, random: int) -> JobId:
    """Put a key and 62 random bits together. Raises ``ValueError`` if `random` has more bits."""
    if random >> RANDOM_BITS or random < 0:
        raise ValueError("the random part of a job id has 62 bits")
    return JobId("j-" + _uuid8(int(key, 16), random))


def key_of(job: str) -> JobKey | None:
    """The key inside a whole job id, or None if `job` is not one (a name, or a prefix)."""
    return JobKey(job[2:10] + job[11:15] + job[17:20]) if _JOB.fullmatch(job) else None


def key_prefix(beginning: str) -> str:
    """What the keys of all jobs begin with whose ids begin so. Ids have the order of their keys."""
    digits = beginning.removeprefix("j").replace("-", "")
    return digits[:12] + digits[13:16]


def nameless_key(random: int) -> JobKey:
    """The key of a job that has no name: 60 random bits."""
    return JobKey(f"{random & ((1 << 60) - 1):015x}")


def execution_id(
    job: JobId, version: int, partition: int, attempt: int, node: NodeId | None = None
) -> ExecutionId:
    """The id of one attempt at one partition of one version of a job; of one that runs everywhere, on a `node`.

    Derived, not random: two requesters that decide the same thing at once name it alike, and deciding needs no randomness.
    A job's id is never used twice, so neither is this one.
    """
    place = partition if node is None else f"{partition}/{node}"
    digest = blake2b(f"{job}/{version}/{place}/{attempt}".encode(), digest_size=16).digest()
    number = int.from_bytes(digest)
    return ExecutionId("e-" + _uuid8(number >> 68, number & ((1 << RANDOM_BITS) - 1)))


def short(identifier: str) -> str:
    """The short form that people read and type: ``j-1a2b3c4d``."""
    return identifier[:SHORT_LENGTH] if re.match(r"[a-z]-[0-9a-f]{8}-", identifier) else identifier


def is_token(text: str) -> bool:
    """Whether `text` may stand in a subject as one token: 1 to 64 letters, digits, ``_`` or ``-``."""
    return _TOKEN.fullmatch(text) is not None


def uuid4_text(digits: str) -> str:
    """A UUID of version 4 from 32 hexadecimal digits, of which six bits give way to what says so."""
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _uuid8(high: int, low: int) -> str:
    digits = f"{high:015x}"
    tail = f"{(0b10 << RANDOM_BITS) | low:016x}"
    return f"{digits[:8]}-{digits[8:12]}-8{digits[12:]}-{tail[:4]}-{tail[4:]}"
