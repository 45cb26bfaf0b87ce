"""The environment a program finds: the task's own, and the names that the system sets.

Knows: names and where their values come from. Must not know: engines. The system's names win; a task cannot set names that
begin with ``BACALHAU_`` (reading its spec sees to that).
"""

from collections.abc import Mapping

from compute.admission import Policy, host_values
from protocol.messages import Run


def environment(
    run: Run, policy: Policy, host: Mapping[str, str], ports: Mapping[str, tuple[int, int]]
) -> dict[str, str]:
    """All variables of an execution. `ports` maps a name to (host port, port the program sees).

    Raises `Denied` for a value ``env:NAME`` that the node does not give.
    """
    values = host_values(run.task, policy, host)
    values |= {
        "BACALHAU_JOB_ID": run.job,
        "BACALHAU_JOB_NAME": run.job_name,
        "BACALHAU_JOB_NAMESPACE": run.namespace,
        "BACALHAU_JOB_TYPE": run.job_type,
        "BACALHAU_EXECUTION_ID": run.execution,
        "BACALHAU_NODE_ID": run.node,
        "BACALHAU_PARTITION_INDEX": str(run.partition),
        "BACALHAU_PARTITION_COUNT": str(run.partitions),
    }
    for name, (outside, inside) in ports.items():
        values[f"BACALHAU_PORT_{name}"] = str(inside)
        values[f"BACALHAU_HOST_PORT_{name}"] = str(outside)
    return values
