"""Finds the job that a person means: by name, by id, or by the beginning of an id.

Knows: where jobs are found, in memory and in the read model. Must not know: what is done with them.
"""

from collections.abc import Awaitable, Callable

from protocol.errors import Conflict, NotFound
from protocol.ids import JobKey, job_key, key_of
from requester.core.model import JobRecord
from requester.jobs import Jobs
from requester.read_queries import find
from requester.recorder import Recorder

DEFAULT_NAMESPACE = "default"


class Lookup:
    """Records by reference, each the newest that this requester knows. `settle` brings the read model up to that."""

    def __init__(self, jobs: Jobs, recorder: Recorder, settle: Callable[[], Awaitable[None]]) -> None:
        self._jobs = jobs
        self._recorder = recorder
        self._settle = settle

    async def by_key(self, key: JobKey) -> JobRecord | None:
        """The job of a key: from memory, else from the read model."""
        live = self._jobs.get(key)
        if live is not None and live.record is not None:
            return live.present()
        if live is not None and live.deleted is not None:
            # The tables may still have it: the log's reader has not come so far.
            return None
        return await self._recorder.load(key)

    async def job(self, ref: str, namespace: str) -> JobRecord:
        """The job that `ref` names. Raises `NotFound`, and `Conflict.MultipleJobsFound` with the candidates."""
        if key_of(ref) is not None:
            record = await self._with_id(ref, namespace) or await self._named(ref, namespace)
        else:
            record = await self._named(ref, namespace) or await self._with_id(ref, namespace)
        if record is None:
            raise NotFound(f"job {ref} not found", kind="Job", hint="list jobs with: job list")
        return record

    async def _named(self, name: str, namespace: str) -> JobRecord | None:
        if not name:
            return None
        wanted = DEFAULT_NAMESPACE if namespace in ("", "*") else namespace
        found = await self.by_key(job_key(wanted, name))
        if found is not None and found.spec.name == name and found.spec.namespace == wanted:
            return found
        if namespace not in ("", "*"):
            return None
        await self._settle()
        named = await self._recorder.read(lambda database: find(database, name=name))
        return await self._only(name, [record for record in named if record.id != name])

    async def _with_id(self, ref: str, namespace: str) -> JobRecord | None:
        key = key_of(ref)
        if key is not None:
            found = await self.by_key(key)
            matches = [found] if found is not None and found.id == ref else []
        elif ref.startswith("j-"):
            await self._settle()
            matches = await self._recorder.read(lambda database: find(database, prefix=ref))
        else:
            return None
        if namespace not in ("", "*"):
            matches = [record for record in matches if record.spec.namespace == namespace]
        return await self._only(ref, matches)

    async def _only(self, ref: str, found: list[JobRecord]) -> JobRecord | None:
        if len(found) > 1:
            raise Conflict(
                f"{ref} could be any of {len(found)} jobs",
                kind="MultipleJobsFound",
                hint="use more of the id, or the namespace",
                details={record.id: f"{record.spec.name} in {record.spec.namespace}" for record in found},
            )
        return await self.by_key(found[0].key) if found else None
