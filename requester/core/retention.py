"""What may be taken out of the log, and how much of it.

Knows: the rules of keeping. Must not know: how entries are taken out, or where candidates are found.

An old job leaves the log once nothing can still need its entries there: it has been closed for the keep time, every
requester that is there has written it into its read model, and no node still speaks of an execution of it. A deleted job
leaves under the same rules, but at once; only the entry that says so stays for the keep time, so that a requester that was
away learns of it too. If there is another job of its name by then, that one's first entry says it as well, and the log takes
only so many entries of both: then nothing of the deleted one stays. Entries behind the ones that were looked at are never
touched: a new version may have come meanwhile.

Large inline data lies beside the log, in blobs that jobs name by digest (docs/adr/0005). A blob goes when no job in the log
names it, and nobody has put it for a grace time that no submission lasts: a submission puts its blobs first, which makes
them new, and its entry comes after.
"""

from collections.abc import Collection, Sequence
from typing import Final

from msgspec import Struct

from protocol.ids import JobKey

RATE_MAX: Final = 50
"""Jobs taken out of the log in a second, by all requesters together: each costs the server 0.5 ms of its disk."""
RANK_S: Final = 60.0
"""How much later, for each rank, another requester does what the job's owner has not done."""


class Candidate(Struct, frozen=True):
    """A job that is over: its last sequence, when that was, and whether it was deleted.

    `cut` says that a deleted job's other entries are gone already, `again` that there is another job of its name.
    """

    key: JobKey
    last: int
    at: float
    deleted: bool = False
    cut: bool = False
    again: bool = False


class Purge(Struct, frozen=True):
    """Take a job's entries out up to and including sequence `upto`; `whole` if nothing is left of the job then."""

    key: JobKey
    upto: int
    whole: bool


def purge_of(
    job: Candidate, *, now: float, keep_s: float, safe: int, spoken_of: Collection[JobKey], rank: int
) -> Purge | None:
    """What to take out of the log for one job now, None for nothing.

    `safe` is the sequence that all requesters have in their read models, `spoken_of` the jobs with executions in nodes'
    beats, `rank` how many requesters come before this one. A `keep_s` of 0 keeps old jobs for ever.
    """
    # What nodes speak of is the new job, where there is one of the name.
    if job.last > safe or (job.key in spoken_of and not job.again):
        return None
    age = now - job.at - rank * RANK_S
    if (keep_s and age >= keep_s) or (job.again and age >= 0):
        return Purge(job.key, job.last, whole=True)
    if job.deleted and not job.cut and age >= 0:
        return Purge(job.key, job.last - 1, whole=False)
    return None


def blob_goes(at: float, *, now: float, grace_s: float) -> bool:
    """Whether a blob that no job names, and that was put last at `at`, may go. A `grace_s` of 0 keeps all of them."""
    return grace_s > 0 and now - at >= grace_s


def safe_position(own: int, others: Sequence[int]) -> int:
    """Up to where every requester that is there has the log in its read model; one of an older version says 0."""
    return min([own, *others])
