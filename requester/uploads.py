"""Gives nodes leave to upload results to the managed bucket, whose account they do not have.

Knows: which execution may be uploaded by which node. Must not know: S3. Links are made when they are asked for, are
good for one object and a short time, and stand in no entry of the log.
"""

import asyncio
from typing import Final, Protocol

import structlog

from protocol import subjects
from protocol.bus import Bus, Message
from protocol.errors import Denied, Fault, Invalid, Unavailable
from protocol.ids import NodeId, key_of
from protocol.messages import decode, encode
from protocol.questions import UploadAnswer, UploadRequest
from requester.jobs import Jobs

_log = structlog.get_logger(__name__)

MANAGED: Final = "s3managed"
ANSWER_S: Final = 14.0
"""A node waits a little longer (`compute.uploads`), and asks again."""
_AT_ONCE: Final = 256
"""More than a store that does not answer will keep waiting: links are made without it."""


class Bucket(Protocol):
    """The managed bucket: see `storage.s3.managed.Grants`, which this is.

    `prepare` does what the first who asks would wait for, if there is a bucket at all; it raises what asking would.
    """

    async def prepare(self) -> None: ...
    async def put(self, job: str, execution: str) -> str: ...
    async def begin(self, job: str, execution: str) -> str: ...
    async def parts(self, job: str, execution: str, upload: str, first: int, count: int) -> list[str]: ...
    async def complete(self, job: str, execution: str, upload: str, etags: list[str]) -> None: ...
    async def abort(self, job: str, execution: str, upload: str) -> None: ...


async def serve_uploads(bus: Bus, jobs: Jobs, bucket: Bucket) -> None:
    """Answer nodes until cancelled, some at once."""
    limit = asyncio.Semaphore(_AT_ONCE)
    async with (
        bus.subscribe(subjects.ALL_UPLOADS, group=subjects.REQUESTER_GROUP) as messages,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(_prepare(bucket))
        async for message in messages:
            await limit.acquire()
            task = tasks.create_task(_serve(message, jobs, bucket))
            task.add_done_callback(lambda _: limit.release())


async def _prepare(bucket: Bucket) -> None:
    """Have the bucket ready before a job needs it; whoever runs the requester hears if it cannot be used."""
    try:
        async with asyncio.timeout(ANSWER_S):
            await bucket.prepare()
    except Fault as fault:
        _log.warning("the managed bucket cannot be used", reason=fault.message, hint=fault.hint)
    except TimeoutError:
        _log.warning("the managed bucket cannot be used", reason=f"no answer within {ANSWER_S:g} s")
    except OSError as error:
        # Of its account's files: each upload says so too, and a requester is more than its bucket.
        _log.warning("the managed bucket cannot be used", reason=str(error))


async def _serve(message: Message, jobs: Jobs, bucket: Bucket) -> None:
    if message.respond is None:
        return
    try:
        asked = decode(message.data, UploadRequest)
        check(asked, subjects.node_in(message.subject), jobs)
        async with asyncio.timeout(ANSWER_S):
            answer = await _done(asked, bucket)
    except TimeoutError:
        mute = Unavailable(f"the managed bucket's server did not answer the requester within {ANSWER_S:g} s")
        answer = UploadAnswer(failure=mute.failure())
    except Fault as fault:
        answer = UploadAnswer(failure=fault.failure())
    try:
        await message.respond(encode(answer))
    except Fault:
        return


def check(asked: UploadRequest, node: NodeId, jobs: Jobs) -> None:
    """Raise `Denied` unless the node runs that execution and its job publishes here, `Unavailable` if nobody knows yet."""
    key = key_of(asked.job)
    live = jobs.get(key) if key else None
    execution = live.record.executions.get(asked.execution) if live and live.record else None
    if live is None or live.record is None or execution is None:
        raise Unavailable(f"execution {asked.execution} is not known here yet")
    if execution.node != node or not execution.open:
        raise Denied(f"execution {asked.execution} is not for {node} to publish", kind="Execution")
    if live.record.spec_of(execution).task.publisher.type.lower() != MANAGED:
        raise Denied(f"job {asked.job} does not publish to the managed bucket", kind="Publisher")


async def _done(asked: UploadRequest, bucket: Bucket) -> UploadAnswer:
    job, execution = asked.job, asked.execution
    match asked.what:
        case "put":
            return UploadAnswer([await bucket.put(job, execution)])
        case "begin":
            return UploadAnswer(upload=await bucket.begin(job, execution))
        case "parts":
            return UploadAnswer(await bucket.parts(job, execution, asked.upload, asked.first, asked.count))
        case "complete":
            await bucket.complete(job, execution, asked.upload, asked.etags)
        case "abort":
            await bucket.abort(job, execution, asked.upload)
        case other:
            raise Invalid(f"{other!r} is nothing that can be asked about an upload")
    return UploadAnswer()
