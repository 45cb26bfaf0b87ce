"""Leave to upload to the requester's managed bucket, asked of a requester.

Knows: the request and its answer. Must not know: what is uploaded.
"""

from typing import Any, Final

from protocol import messages, subjects
from protocol.asking import ask_until_answered
from protocol.bus import Messages
from protocol.errors import fault_of
from protocol.ids import ExecutionId, JobId, NodeId
from protocol.questions import UploadAnswer, UploadRequest

ANSWER_S: Final = 15.0
PATIENCE_S: Final = 25.0
"""A requester that is restarted is back by then; `storage.s3.managed` waits a little longer."""
COMPLETE_S: Final = 300.0
"""A store may take minutes to put a large object together; the same question again is answered when it is done."""


class BusGrants:
    """Asks whichever requester answers: see `storage.s3.managed.Grants`."""

    def __init__(self, bus: Messages, node: NodeId) -> None:
        self._bus = bus
        self._subject = subjects.uploads(node)

    async def put(self, job: str, execution: str) -> str:
        (link,) = (await self._ask(job, execution, "put")).links
        return link

    async def begin(self, job: str, execution: str) -> str:
        return (await self._ask(job, execution, "begin")).upload

    async def parts(self, job: str, execution: str, upload: str, first: int, count: int) -> list[str]:
        return (await self._ask(job, execution, "parts", upload=upload, first=first, count=count)).links

    async def complete(self, job: str, execution: str, upload: str, etags: list[str]) -> None:
        await self._ask(job, execution, "complete", upload=upload, etags=etags)

    async def abort(self, job: str, execution: str, upload: str) -> None:
        await self._ask(job, execution, "abort", upload=upload)

    async def _ask(self, job: str, execution: str, what: str, **more: Any) -> UploadAnswer:
        """Ask until somebody answers: a requester may be gone, or not yet know of the execution."""
        asked = messages.encode(UploadRequest(JobId(job), ExecutionId(execution), what, **more))

        async def once() -> UploadAnswer:
            data = await self._bus.request(self._subject, asked, timeout_s=ANSWER_S)
            answer = messages.decode(data, UploadAnswer)
            if answer.failure is not None:
                raise fault_of(answer.failure)
            return answer

        return await ask_until_answered(once, COMPLETE_S if what == "complete" else PATIENCE_S)
