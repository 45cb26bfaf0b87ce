"""Whether a result is the one that its job's program writes: invariant I5.

Knows: what the noop engine prints and the simulated publisher keeps. Must not know: how either came to be.
"""

from typing import Any

from protocol.jobs import Job
from protocol.messages import Report
from tests.simulation.checker import Attempt
from tests.simulation.drivers import Shelf


def wrong_result(spec: Job, report: Report, attempt: Attempt, shelf: Shelf) -> str:
    """What is wrong with what an execution reports as its result; "" if nothing is."""
    params = spec.task.engine.params
    wanted = params.get("Stdout", "") + "".join(
        f"{name}={value}\n" for name, value in _environment(params, report, attempt)
    )
    output = report.output
    if output is None or output.stdout != wanted or output.exit_code != params.get("ExitCode", 0):
        return f"I5: the output is {output and output.stdout!r}, not {wanted!r}"
    if spec.task.publisher.type:
        result = report.result
        if result is None or result.params.get("Execution") != report.execution:
            return f"I5: the result is another one's: {result}"
        if result.params.get("Digest") != shelf.results.get(report.execution):
            return f"I5: the result's digest is {result.params.get('Digest')}"
    return ""


def _environment(params: dict[str, Any], report: Report, attempt: Attempt) -> list[tuple[str, str]]:
    values = {
        "BACALHAU_JOB_ID": report.job,
        "BACALHAU_PARTITION_INDEX": str(attempt.partition),
        "BACALHAU_EXECUTION_ID": report.execution,
    }
    return [(name, values.get(name, "")) for name in params.get("PrintsEnv", [])]
