"""The beat of a process that cannot do anything yet: its node is there again.

Knows: what the journal says of the last process. Must not know: engines and drivers, whose modules are not loaded then.

The rest of a start takes a quarter of a second of a processor, and seconds on a machine that has much else to do: with those
in which the last process ended that is as long as a node may be silent, and its work would be given away. So a new
process speaks first as the last one did, and as one that is leaving: what is there stays, and nothing new comes.
"""

import contextlib
from pathlib import Path

import msgspec

from compute import journal
from protocol import messages, subjects
from protocol.bus import Messages
from protocol.clock import Clock
from protocol.errors import Fault
from protocol.ids import NodeId
from protocol.messages import Beat
from protocol.nodes import NodeInfo
from protocol.process import held


async def tell(bus: Messages, folder: Path, node: NodeId, clock: Clock) -> None:
    """Say so, unless there is nothing to say: the folder is new, in use, or of another node. Raises nothing."""
    with contextlib.suppress(Fault, OSError):
        if (beat := last_words(folder, node, clock.now())) is not None:
            await bus.publish(subjects.beats(node), messages.encode(beat))


def last_words(folder: Path, node: NodeId, now: float) -> Beat | None:
    """What the last process on this folder would say at `now` (unix seconds) as it leaves; None if that is not known.

    Raises `Conflict` if the folder is in use, and `Broken` if the journal cannot be read.
    """
    if not (folder / journal.FILE).exists():
        return None
    with held(folder, journal.OWNER), journal.looked_into(folder) as db:
        facts = journal.facts(db)
        executions = {each.id: each.state for _, each in journal.executions(db, folder / journal.FILE)}
    info = read_info(facts.get(journal.INFO, ""))
    if info is None or info.id != node:
        return None
    incarnation, upto = int(facts.get("incarnation", 0)), int(facts.get("upto", 0))
    return Beat(info, incarnation, now, upto, leaving=True, executions=executions)


def read_info(text: str) -> NodeInfo | None:
    """What a process noted of its node, None if it did not."""
    try:
        return msgspec.json.decode(text, type=NodeInfo)
    except msgspec.DecodeError:
        return None
