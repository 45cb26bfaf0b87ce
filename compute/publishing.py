"""The result of a program: put where others can get it, and recorded file by file.

Knows: the result folder, publishers, and that reading it goes on beside publishing. Must not know: what comes before or
after.
"""

import asyncio
from collections.abc import Awaitable
from functools import partial
from pathlib import Path

from compute.admission import Plan
from compute.events import Published
from compute.execution import Execution
from compute.faults import StepFailed, publisher_failure
from compute.output import write_streams
from compute.shop import Shop
from protocol import failpoints
from protocol.errors import Fault, TimedOut
from protocol.ids import NodeId
from protocol.jobs import EVERYWHERE, Spec
from protocol.messages import Run, Written
from storage.contract import Label, Progress
from storage.threads import in_thread


async def publish(
    execution: Execution, plan: Plan, folder: Path, shop: Shop, progress: Progress
) -> Published:
    """Publish what is in the result `folder`, with the program's output. Raises `StepFailed`."""
    run = execution.run
    publisher, params = plan.publisher or (None, None)
    assert publisher is not None, "only tasks with a publisher come here"
    log = shop.logs.of(execution.id)
    await write_streams(folder, log, execution.output.exit_code if execution.output else 0)
    label = label_of(run, shop.node, shop.clock.now(), folder.parent)
    limit_s = shop.limits.publishing_s
    record = partial(shop.manifests.record, execution.id, folder)
    failpoints.reached("node.publish.begun")
    try:
        async with asyncio.timeout(limit_s):
            publishing = publisher.publish(folder, params, label, progress)
            result, written = await _beside(publishing, in_thread(record))
    except TimeoutError as error:
        fault: Exception = TimedOut(f"it took longer than {limit_s:g} s", kind="Publishing")
        raise StepFailed(publisher_failure(fault, run.task.publisher, shop.node)) from error
    except (Fault, OSError) as error:
        raise StepFailed(publisher_failure(error, run.task.publisher, shop.node)) from error
    failpoints.reached("node.publish.done")
    return Published(result, written)


def label_of(run: Run, node: NodeId, at: float, notes: Path | None = None) -> Label:
    """What a publisher is told of an execution that publishes `at` that time (unix seconds)."""
    return Label(
        job=run.job,
        execution=run.execution,
        node=node,
        at=at,
        partition=run.partition,
        attempt=run.attempt,
        version=run.version,
        everywhere=run.job_type in EVERYWHERE,
        notes=notes,
    )


async def _beside(publishing: Awaitable[Spec], recording: Awaitable[Written]) -> tuple[Spec, Written]:
    """Both, side by side. Where both fail it is the publisher's fault that is told."""
    reading = asyncio.ensure_future(recording)
    try:
        result = await publishing
        return result, await reading
    except BaseException:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        raise
