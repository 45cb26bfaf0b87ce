"""Which nodes a job has no business on though they seem to fit: they have refused it, or read its words as one that has.

Knows: the refusals of a job's present version, and the versions of nodes. Must not know: what a job demands of a node
(`standing`), or where it goes instead.

What a node refuses for its own sake (a path that it does not give, its owner's rules) says nothing of others. That it
cannot read the job (`Invalid`) does: nodes of one version read alike, so the others of its version are not asked one by
one, unless one has read it. Those of another version are: they may know a field that this one does not. And a node that was
started anew is asked again, for it may have been upgraded; so is one whose refusal names another version than its own.
"""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from protocol.errors import Failure
from protocol.ids import NodeId, short
from protocol.states import ExecutionState
from requester.core.model import ExecutionRecord, JobRecord, NodeRecord
from requester.core.standing import Standing

S = ExecutionState
READ: Final = frozenset({S.STAGING, S.RUNNING, S.PUBLISHING, S.COMPLETED, S.FAILED})
"""Whatever has become of it: its node could read it."""
UNTOLD: Final = Failure(code="Broken", message="no reason given")


def refusals(record: JobRecord, nodes: Mapping[NodeId, NodeRecord]) -> dict[NodeId, Failure]:
    """The nodes that do not take the job's present version, each with the reason."""
    refused: dict[NodeId, Failure] = {}
    unread: dict[str, tuple[NodeId, Failure]] = {}
    current = record.current() if record.executions else []
    for execution in current:
        if execution.state is not S.REFUSED:
            continue
        node, failure = nodes.get(execution.node), execution.failure or UNTOLD
        if _unreadable(failure) and node is not None:
            if _started_anew(node, execution):
                continue
            version = execution.read_by or node.info.version
            unread[version] = execution.node, failure
            if version != node.info.version:
                continue
        refused[execution.node] = failure
    if unread:
        for execution in current:
            if execution.state in READ and execution.node in nodes:
                unread.pop(nodes[execution.node].info.version, None)
        for id_, node in nodes.items():
            told = unread.get(node.info.version)
            if told is not None and id_ not in refused:
                by, failure = told
                refused[id_] = _same(failure, by, still=by in refused)
    return refused


def unreadable(standing: Standing, refused: Mapping[NodeId, Failure]) -> bool:
    """Whether nobody is there, or is waited for, who could read the job."""
    if not any(_unreadable(failure) for failure in refused.values()):
        return False
    return all(node in refused for node in standing.fitting) and all(
        each.node in refused for each in standing.away
    )


def headline(record: JobRecord, nodes: Mapping[NodeId, NodeRecord], reason: Failure) -> Failure:
    """What a job is told that nobody takes: the refusal where there is but one, else `reason`, which names each node's.

    That a field is not known is not the whole of it where nodes of other versions are, and lack something else.
    """
    told = [each.failure or UNTOLD for each in record.current() if each.state is S.REFUSED]
    if not told or len({(each.code, each.message) for each in told}) > 1:
        return reason
    alike = not _unreadable(told[-1]) or len({node.info.version for node in nodes.values()}) <= 1
    return told[-1] if alike else reason


def _unreadable(failure: Failure) -> bool:
    return failure.code.partition(".")[0] == "Invalid" and not failure.retryable


def _started_anew(node: NodeRecord, execution: ExecutionRecord) -> bool:
    """Whether it is another process than the one that refused, as far as that is known of both."""
    return bool(node.incarnation and execution.incarnation and node.incarnation != execution.incarnation)


def _same(failure: Failure, by: NodeId, *, still: bool) -> Failure:
    which = "which is" if still else "which was"
    return replace(failure, message=f"{failure.message} ({short(by)} says so, {which} of the same version)")
