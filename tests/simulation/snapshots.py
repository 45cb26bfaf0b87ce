"""What a snapshot may say, and what may be taken out of the log for it: invariant I14.

Knows: every entry that was ever in the log. Must not know: why something is told or left out (`requester.core.snapshots`).

A snapshot says nothing new: each of its events was written before, at the moment that it names. It leaves out nothing that
goes on, and never says that the log has less of the job than it has. What an open job's log begins with is the job's first
entry or a snapshot.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from protocol.bus import Append, Record
from protocol.entries import Assigned, Entry, Event, Snapshot, Submitted, read_entry
from protocol.states import ENDS
from tests.simulation.checker import Checker, History

if TYPE_CHECKING:
    from protocol.ids import ExecutionId, JobKey


class Snapshots:
    """Looks at the snapshots of one simulation and says what is `wrong`."""

    def __init__(self, wrong: Callable[[str], None], checker: Checker) -> None:
        self._wrong = wrong
        self._checker = checker
        self._entries: dict[JobKey, dict[int, Entry]] = {}
        self.left_out: set[ExecutionId] = set()
        """Executions that have ended and that a snapshot does not tell of."""
        self.written = 0
        self.thinned = 0
        """How often something was taken out of the log for them."""

    def stored(self, append: Append, seq: int, sequences: Sequence[int]) -> None:
        """An entry is in the log from now on, which has these of its job."""
        entry = read_entry(append.data)
        known = self._entries.setdefault(append.key, {})
        known[seq] = entry
        if entry.snapshot is None:
            return
        self.written += 1
        job = self._checker.jobs.get(append.key)
        if job is None or job.id != entry.job or job.state is not None:
            self._wrong(f"I14: snapshot {seq} is of no open job")
            return
        # Not what a deleted job of the same name has left.
        ours = [each for each in sequences if each not in known or known[each].job == entry.job]
        for fault in self._faults(entry, entry.snapshot, job, known, ours):
            self._wrong(f"I14: {fault} (snapshot {seq} of {entry.job})")

    def _faults(
        self,
        entry: Entry,
        snapshot: Snapshot,
        job: History,
        known: dict[int, Entry],
        sequences: Sequence[int],
    ) -> list[str]:
        found = []
        if len(entry.events) != len(snapshot.moments) or snapshot.moments != sorted(snapshot.moments):
            found.append("its moments are not those of its events, in order")
        for event, (seq, at) in zip(entry.events, snapshot.moments, strict=False):
            before = known.get(seq)
            said = [_plain(each) for each in before.events] if before is not None else []
            if before is None or before.at != at or before.job != entry.job or event not in said:
                found.append(f"it tells what was not said at {seq}: {event}")
        if not any(isinstance(each, Submitted) and each.version == job.version for each in entry.events):
            found.append(f"it does not tell of version {job.version}")
        told = {each.execution for each in entry.events if isinstance(each, Assigned)}
        for attempt in job.attempts.values():
            if attempt.id in told:
                continue
            self.left_out.add(attempt.id)
            if attempt.state not in ENDS:
                found.append(f"it does not tell of {attempt}")
        if snapshot.count < len(sequences):
            found.append(f"it says that the log has {snapshot.count} entries, which are {len(sequences)}")
        if sequences[0] < snapshot.since:
            found.append(f"it says that the log has nothing before {snapshot.since}, but {sequences[0]}")
        return found

    def says_all(self, first: Record) -> bool:
        """Something was taken out of the log: whether what comes first now says all that mattered of it."""
        entry = read_entry(first.data)
        if entry.snapshot is None:
            job = self._checker.jobs.get(first.key)
            # Not what an earlier job of its name has left.
            ours = job is not None and job.id == entry.job and job.state is None
            if ours and not isinstance(entry.first, Submitted):
                self._wrong(f"I14: what the log has of {entry.job} begins with entry {first.seq}")
            return False
        self.thinned += 1
        return True

    def begin_again(self, last: int) -> None:
        """The log is another one from now on, with what there was up to `last`."""
        for key, known in self._entries.items():
            self._entries[key] = {seq: entry for seq, entry in known.items() if seq <= last}


def _plain(event: Event) -> Event:
    """An event as a snapshot says it: nobody is to begin anew with one of its."""
    return replace(event, anew=False) if isinstance(event, Submitted) else event
