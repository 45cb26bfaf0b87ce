"""What people want changed about jobs: submitted, stopped, deleted, run again.

Knows: which job is meant, and which event its log is asked to take. Must not know: HTTP, or what is decided because of it.
Job ids are made here and nowhere further in, from the randomness that is passed in (`randbits`).
"""

from collections.abc import Callable

from protocol import failpoints
from protocol.bus import Bus
from protocol.clock import Clock
from protocol.entries import Event, StopRequested, Submitted
from protocol.errors import Conflict, Exhausted, NotFound, Unavailable
from protocol.ids import RANDOM_BITS, JobId, job_id, job_key, nameless_key
from protocol.jobs import Job
from protocol.spec.blobs import large_inline, with_blob
from protocol.spec.changes import changes
from protocol.states import JobState
from requester.core import requests
from requester.core.model import JobRecord
from requester.duties import Duties
from requester.intake import ROOM_HINT, Intake
from requester.jobs import Jobs
from requester.live import Live
from requester.lookup import Lookup
from requester.orchestrator import Orchestrator
from requester.settings import Settings
from requester.verbs import Submission


class JobChanges:
    """How one requester carries them out; see `requester.verbs.Verbs` for what each promises."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        settings: Settings,
        *,
        jobs: Jobs,
        orchestrator: Orchestrator,
        lookup: Lookup,
        intake: Intake,
        duties: Duties,
        randbits: Callable[[int], int],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._jobs = jobs
        self._orchestrator = orchestrator
        self._lookup = lookup
        self._intake = intake
        self._duties = duties
        self._randbits = randbits

    async def submit(self, job: Job, *, warnings: list[str], client: str, force: bool = False) -> Submission:
        """See `Verbs.submit`."""
        if self._duties.log_share >= self._settings.log_full:
            raise Exhausted(
                f"the log is {self._duties.log_share:.0%} full and takes no new jobs",
                hint=ROOM_HINT,
            )
        failpoints.reached("requester.submit.received")
        job = await self._without_large_data(job)
        named = bool(job.name)
        key = job_key(job.namespace, job.name) if named else nameless_key(self._randbits(60))
        fresh = job_id(key, self._randbits(RANDOM_BITS))
        live = await self._intake.live(key) if named else self._jobs.make(key)

        made: tuple[JobId, Submitted] | None = None

        def submitted(record: JobRecord | None) -> Event:
            nonlocal made
            event = requests.submitted(record, job, warnings, client, force, self._orchestrator.entries_max)
            made = (record.id if record is not None else fresh, event)
            return event

        await self._intake.written(live, submitted, fresh)
        assert made is not None
        # Not what the record says now: another's submission may have been folded meanwhile.
        id_, event = made
        return Submission(id_, event.version, warnings)

    async def _without_large_data(self, job: Job) -> Job:
        """Move what is too large for the log into blobs."""
        for inline in large_inline(job, self._settings.inline_max_bytes):
            digest = await self._bus.put_blob(inline.data)
            job = with_blob(job, inline.input, digest, len(inline.data), inline.media_type)
        return job

    async def stop(self, ref: str, *, namespace: str, reason: str, client: str) -> JobRecord:
        """See `Verbs.stop`."""
        record = await self._lookup.job(ref, namespace)
        live = await self._intake.live(record.key)

        def stopped(_: JobRecord | None) -> Event:
            _meant(live, record)
            return StopRequested(reason, client)

        until = self._clock.elapsed() + self._settings.submit_timeout_s
        while live.record is not None and not live.record.closed:
            if await self._intake.written(live, stopped) is None:
                # It is being stopped already.
                if self._clock.elapsed() >= until:
                    raise Unavailable(
                        f"job {record.id} is being stopped and has not ended yet",
                        hint="See what is left of it: job describe",
                    )
                await self._clock.sleep(self._settings.tick_s)
            live = await self._intake.still(live)
        if live.record is None:
            self._jobs.forget(live)
            raise NotFound(f"job {record.id} has ended and left the log", kind="Job")
        record = _meant(live, record)
        if record.state is not JobState.STOPPED:
            raise Conflict(
                f"cannot stop job in state {record.state.capitalize()}",
                kind="JobState",
                details={"JobID": record.id, "State": record.state},
            )
        return record

    async def delete(self, ref: str, *, namespace: str, reason: str, client: str) -> JobRecord:
        """See `Verbs.delete`."""
        record = await self._lookup.job(ref, namespace)

        def deleted(now: JobRecord | None) -> Event:
            return requests.deleted(_meant_now(now, live, record), reason, client)

        live = await self._intake.live(record.key)
        while live.record is not None and live.record.id == record.id:
            await self._intake.written(live, deleted, record.id)
            live = await self._intake.still(live)
        self._orchestrator.forget_gone(live)
        return record

    async def rerun(self, ref: str, *, namespace: str, version: int, reason: str, client: str) -> Submission:
        """See `Verbs.rerun`."""
        record = await self._lookup.job(ref, namespace)
        wanted = (await self._lookup.at_version(record, version)) if version else None
        live = await self._intake.live(record.key)
        made: Submitted | None = None

        def again(now: JobRecord | None) -> Event:
            nonlocal made
            made = requests.rerun(
                _meant_now(now, live, record),
                wanted,
                reason,
                client,
                anew=now is None,
                entries_max=self._orchestrator.entries_max,
            )
            return made

        await self._intake.written(live, again, record.id)
        assert made is not None
        return Submission(record.id, made.version, made.warnings)

    async def compared(self, job: Job) -> str:
        """See `Verbs.changes`."""
        record = await self._lookup.job(job.name, job.namespace) if job.name else None
        if record is None or record.spec.name != job.name:
            raise NotFound(
                f"there is no job of the name {job.name!r}", kind="Job", hint="Give the job a Name."
            )
        return changes(record.spec, await self._without_large_data(job))


def _meant_now(now: JobRecord | None, live: Live, record: JobRecord) -> JobRecord:
    """The same, when something is to be written about the job, which is `now` like this."""
    return now if now is not None and now.id == record.id else _meant(live, record)


def _meant(live: Live, record: JobRecord) -> JobRecord:
    """The job that a person means as it is now, or as it was if it has left the log. Raises `NotFound` if it was deleted, or
    if its end was missed here: others know versions that this requester has never seen.
    """
    if live.is_deleted or (live.record is not None and live.record.id != record.id):
        raise NotFound(f"job {record.id} was deleted", kind="Job")
    if live.record is None and not record.closed:
        raise requests.missed(f"job {record.id}")
    return live.record or record
