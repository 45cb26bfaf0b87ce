"""What must hold when all is over: invariants I1 to I3, I6, I7, I10 and I12.

Knows: what every part of a requester and a node may still hold then: nothing. Must not know: what happened before.
"""

from collections.abc import Collection
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from protocol.entries import read_entry
from protocol.ids import JobKey, NodeId
from protocol.messages import decode, encode
from protocol.states import ENDS
from requester.core.fold import fold
from requester.core.membership import DELETED, REJECTED
from requester.core.model import JobRecord
from requester.notes import NodeCell
from requester.read_queries import load
from requester.service import Service
from tests.simulation.processes import NodeProcess, RequesterProcess

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

TASKS_MAX = {"requester": 27, "node": 16}
"""So many tasks a process has that has nothing to do; one more for each job would show."""


def going_on(cluster: "Cluster") -> list[str]:
    """What has not come to its end yet; nothing of it is wrong as long as it ends."""
    found: list[str] = []
    for key, history in cluster.checker.jobs.items():
        if history.state is None:
            found.append(f"job {history.id} ({key}) is open: {history.attempts}")
        if cluster.hub.by_key[key][0] < history.first and not _is_kept_for_the_older(cluster):
            found.append(f"the log has entries of an earlier job of {history.id}'s name")
    found += [
        f"nobody has answered {call.action.what} {call.action.text}"
        for call in cluster.people.calls
        if not call.answer
    ]
    found += [
        f"nothing is kept of {node.node}" for node in cluster.nodes if node.node not in cluster.hub.cells
    ]
    found += _remembered(cluster)
    for process in cluster.processes.values():
        if not process.alive:
            found.append(f"{process.name} is not there")
        elif process.loop.paused:
            found.append(f"{process.name} stands still")
        elif isinstance(process, NodeProcess):
            found += [f"{process.name}: {each}" for each in _node(process)]
            found += _wrong_twin(process, cluster)
        elif isinstance(process, RequesterProcess):
            found += [f"{process.name}: {each}" for each in _requester(process, cluster)]
    return found


def _is_kept_for_the_older(cluster: "Cluster") -> bool:
    """Whether a requester of the version before is there: it does not say what it has written, so all of the log stays."""
    requesters = (each for each in cluster.processes.values() if isinstance(each, RequesterProcess))
    return any(each.older for each in requesters)


def _remembered(cluster: "Cluster") -> list[str]:
    """What is kept of nodes that never come back, where nodes are forgotten soon; a word against one is kept for ever."""
    if not cluster.scenario.forget_s:
        return []
    there: set[str] = {node.node for node in cluster.nodes}
    cells = {cell.name: decode(cell.data, NodeCell) for cell in cluster.hub.cells.values()}
    against = {
        name
        for name, cell in cells.items()
        if cell.membership == REJECTED or (cell.membership != DELETED and cell.cordon is not None)
    }
    found = [f"a cell of {name}, which is gone for good" for name in cells.keys() - there - against]
    for requester in cluster.requesters:
        if requester.service is not None:
            known = {str(id_) for id_ in requester.service._jobs.fleet.nodes}
            found += [f"{requester.name} knows {name}, which is gone" for name in known - there - against]
    return sorted(found)


def _node(node: NodeProcess) -> list[str]:
    agent = node.agent
    if agent is None or not agent.ready.is_set():
        return ["the node is not ready"]
    found = [f"runner {runner.execution}" for runner in agent.runners.values()]
    found += [f"program {name}" for name in node.world.programs]
    folder = node.folder / "executions"
    found += [f"folder {path.name}" for path in folder.iterdir()]
    ledger = agent._room.ledger
    if ledger.held or ledger.waiting:
        found.append(f"held {dict(ledger.held)}, waiting {ledger.waiting}")
    assert node.journal is not None
    rows = [row[0] for row in node.journal._db.execute("SELECT id FROM work")]
    found += [f"journal row {row}" for row in rows]
    if node.journal._dirty or node.journal._waiting:
        found.append("the journal has something to write")
    return found


def _wrong_twin(node: NodeProcess, cluster: "Cluster") -> list[str]:
    """Of several processes that are one node the last one counts, and each other has been told."""
    last = cluster.speaker(node.node)
    if node is last:
        return [f"{node.name} stands aside for nobody"] if node.stands_aside else []
    return [] if node.stands_aside else [f"{node.name} does not know that {last and last.name} is the node"]


def _requester(requester: RequesterProcess, cluster: "Cluster") -> list[str]:
    service = requester.service
    if service is None:
        return ["it does not serve"]
    jobs, orchestrator = service._jobs, service._orchestrator
    found = [f"open job {key}: {live.record}" for key, live in jobs.open.items()]
    if service._follower.position < cluster.hub.newest():
        found.append(f"folded {service._follower.position} of {cluster.hub.newest()}")
    held = {node: dict(jobs.fleet.held(node)) for node in jobs.fleet.holders()}
    for what, there in {
        "queue": list(jobs.queue.keys()),
        "away": jobs.away,
        "executions known": jobs.key_of_execution,
        "told": jobs.told_at,
        "running": jobs.running_since,
        "everywhere": jobs.everywhere,
        "held (I7)": held,
        "waiting appends": list(service._orchestrator._committer._waiting),
        "early reports": service._duties._reports._early,
        "commands on their way": orchestrator.dispatch._on_their_way,
        "looks": list(orchestrator._agenda._looks),
        "lacking room": orchestrator._backlog._full_for,
        "inputs": [live.key for live in jobs.closed if live.busy],
        "waiters for the log": service._follower._waiting,
    }.items():
        if there:
            found.append(f"{what}: {there}")
    found += [f"the word about {node} is not known" for node in _unheard(service, cluster)]
    found += _free(service, cluster)
    if service._recorder.written != service._follower.position:
        found.append(f"read model at {service._recorder.written}")
    return found


def _unheard(service: Service, cluster: "Cluster") -> list[str]:
    """The nodes of which a requester knows another word than their cells have."""
    nodes = service._jobs.fleet.nodes
    cells = {cell.name: decode(cell.data, NodeCell) for cell in cluster.hub.cells.values()}
    return [
        name
        for name, cell in cells.items()
        if (node := nodes.get(NodeId(name))) is not None
        and (node.membership, node.cordon) != (cell.membership, cell.cordon)
    ]


def wrong_at_the_end(cluster: "Cluster") -> list[str]:
    """What may not be once all is quiet."""
    found = _lost_calls(cluster)
    folded = _folded(cluster)
    found += _against_history(cluster, folded)
    thinned = cluster.hub.thinned
    wanted = {key: _digest(record, thinned) for key, record in folded.items()}
    for requester in cluster.requesters:
        service = requester.service
        assert service is not None
        for key, record in folded.items():
            live = service._jobs.get(key)
            if live is not None and (live.record is None or _digest(live.record, thinned) != wanted[key]):
                found.append(f"I10: {requester.name} sees {live.record}, the log says {record}")
            assert service._recorder._reader is not None
            kept = load(service._recorder._reader, key)
            if kept is None or _digest(kept, thinned) != wanted[key]:
                found.append(f"I10: the read model of {requester.name} has {kept}, the log says {record}")
    for process in cluster.processes.values():
        kind = "node" if isinstance(process, NodeProcess) else "requester"
        tasks = process.loop.tasks()
        if len(tasks) > TASKS_MAX[kind]:
            found.append(f"I12: {process.name} has {len(tasks)} tasks: {tasks}")
    return found


def _lost_calls(cluster: "Cluster") -> list[str]:
    """I1, I2: whatever was accepted is in the log, with its end."""
    found = []
    for call in cluster.people.calls:
        if not call.job:
            continue
        history = cluster.checker.newest(call.job)
        if call.lost:
            continue
        if history is None or history.version < call.version:
            found.append(f"I2: {call.job} version {call.version} was accepted and is lost")
    for history in cluster.checker.every():
        versions = [version for version, _ in history.closings]
        if len(versions) != len(set(versions)):
            found.append(f"I4: {history.id} was closed twice: {history.closings}")
        if history.version not in versions:
            found.append(f"I1: {history.id} version {history.version} has no final state")
    return found


def _folded(cluster: "Cluster") -> dict[Any, JobRecord]:
    """The whole log, folded by a reader who begins at its beginning."""
    records: dict[Any, JobRecord | None] = {}
    for entry in cluster.hub.entries:
        if entry is not None:
            record = entry.record
            records[record.key] = fold(records.get(record.key), read_entry(record.data), record.seq)
    return {key: record for key, record in records.items() if record is not None}


def _against_history(cluster: "Cluster", folded: dict[Any, JobRecord]) -> list[str]:
    """The fold says what the checker says, in its own words."""
    found = []
    for key, history in cluster.checker.jobs.items():
        record = folded.get(key)
        if record is None or (record.id, record.version, record.state) != (
            history.id,
            history.version,
            history.state,
        ):
            found.append(f"the fold has {record}, the log says {history}")
            continue
        for attempt in history.attempts.values():
            execution = record.executions.get(attempt.id)
            if execution is None and attempt.version < record.version and key in cluster.hub.thinned:
                continue
            if execution is None and attempt.id in cluster.snapshots.left_out:
                continue
            if execution is None or execution.state is not attempt.state or execution.node != attempt.node:
                found.append(f"the fold has {execution}, the log says {attempt}")
            elif attempt.state not in ENDS:
                found.append(f"I1: {attempt} is open in a closed job")
    return found


def _free(service: Service, cluster: "Cluster") -> list[str]:
    """I7: every node is seen, and all of it is free again."""
    fleet = service._jobs.fleet
    found = []
    for node in cluster.nodes:
        if node is not cluster.speaker(node.node):
            continue
        known = [each for id_, each in fleet.nodes.items() if id_ == node.node]
        if not known or not known[0].connected:
            found.append(f"it does not see {node.name}")
        elif known[0].info.labels != node.labels:
            found.append(f"it knows other labels of {node.name}: {known[0].info.labels}")
        elif fleet.host(known[0].info.id).free != node.capacity:
            found.append(f"I7: it sees {fleet.host(known[0].info.id).free} free on {node.name}")
    return found


def _digest(record: JobRecord, thinned: Collection[JobKey]) -> str:
    """What two readers have to agree in: all of it, but for versions that one of them may have come too late for."""
    if record.key in thinned:
        executions = {each.id: each for each in record.current()}
        record = replace(record, executions=executions, created_at=0.0, forgotten=0, entries=0)
    return sha256(encode(record)).hexdigest()
