"""What people say about nodes, and what must come of it: invariant I11.

Knows: words, who was asked, and what is written in nodes' cells. Must not know: how a requester keeps a word, or decides.

- A word that was answered was kept, and a node's cell changes by words alone: of two words in a row both hold.
- No requester gives work to a node of which it knows that it was taken out, nor gives one up as silent that it hears.
- Where nothing goes wrong but at nodes, a node that was taken out gets no new work once everybody knows, and work that has
  to leave it is gone soon after its time; what a node had whose credentials were revoked is given up as if it were silent.
"""

from collections.abc import Callable, Iterable

from msgspec import Struct

from protocol.bus import Append, Cell
from protocol.entries import Assigned, Lost, read_entry
from protocol.ids import NodeId
from protocol.messages import decode
from protocol.states import ENDS
from requester.core.fleet import Fleet
from requester.core.giving_up import NODE_LOST
from requester.core.membership import APPROVED, DELETED, PENDING, REJECTED
from requester.notes import NodeCell
from tests.simulation.checker import Checker
from tests.simulation.loop import Scheduler

ABOUT_CORDON = ("cordon", "drain", "uncordon")
ABOUT_MEMBERSHIP = {"approve": APPROVED, "reject": REJECTED, "remove": DELETED}
ABOUT_NODES = (*ABOUT_CORDON, *ABOUT_MEMBERSHIP)
SILENCE_S = 4.0
"""`processes.PATIENCE` gives a node up that is silent for so long."""
HEARD_S = 1.0
ROUNDS = 5
"""A person's word may take so long to be everywhere, and what was decided before it to be in the log: so many of the longest
ways through the network, and a while for the requesters.
"""


class Word(Struct, eq=False):
    """A word that a requester was asked to keep; `kept` once it stands in the node's cell."""

    what: str
    node: str
    who: str
    kept: bool = False

    def says(self, cell: NodeCell) -> bool:
        """Whether a cell says this too."""
        cordon = cell.cordon
        match self.what:
            case "cordon":
                return cordon is not None and cordon.drain_by is None
            case "drain":
                return cordon is not None and cordon.drain_by is not None
            case "uncordon":
                return cordon is None
        return cell.membership == ABOUT_MEMBERSHIP[self.what]


class Words:
    """Follows the cells and says what is `wrong`; where it is `punctual`, nothing goes wrong but at nodes. `way_s` is the
    longest that the way through the network takes.
    """

    def __init__(
        self,
        wrong: Callable[[str], None],
        checker: Checker,
        scheduler: Scheduler,
        *,
        punctual: bool,
        way_s: float,
    ) -> None:
        self._wrong = wrong
        self.checker = checker
        self._scheduler = scheduler
        self._punctual = punctual
        self._heard_s = HEARD_S + ROUNDS * way_s
        self._open: list[Word] = []
        self.cells: dict[str, NodeCell] = {}
        """What is kept of each node, as the server has it."""
        self._removed: dict[str, set[int]] = {}
        """The lives of each node that people have removed."""
        self._lost: set[str] = set()
        """The nodes of which something was kept when the servers were lost, and nothing is in their backup: what a requester
        remembers of them is written down once more."""

    def begin_again(self, cells: Iterable[Cell]) -> None:
        """The cells are these from now on."""
        before, self.cells = self.cells, {cell.name: decode(cell.data, NodeCell) for cell in cells}
        self._lost = set(before) - set(self.cells)
        self._removed = {
            node: {cell.deleted} for node, cell in self.cells.items() if cell.membership == DELETED
        }

    def ask(self, what: str, node: str, who: str) -> Word:
        """A requester is asked to keep a word."""
        word = Word(what, node, who)
        self._open.append(word)
        return word

    def over(self, word: Word, *, answered: bool) -> None:
        """It has answered, or given up. One that was killed meanwhile may still be heard."""
        self._open.remove(word)
        if answered and not word.kept:
            self._wrong(f"I11: {word.who} answered {word.what} {word.node}, and nothing of it is written")

    def written(self, who: str, cell: Cell) -> None:
        """A node's cell has changed."""
        node, now = cell.name, decode(cell.data, NodeCell)
        was, self.cells[node] = self.cells.get(node), now
        again = was is None and node in self._lost
        self._lost.discard(node)
        said = [word for word in self._open if (word.who, word.node) == (who, node) and word.says(now)]
        for word in said:
            word.kept = True
        fresh = was is None or was.membership == DELETED
        changed = (None if was is None or fresh else was.cordon) != now.cordon
        if changed and now.membership != DELETED and not again:
            self._by_word(said, ABOUT_CORDON, f"{who} changes the cordon of {node} to {now.cordon}")
        if was is not None and was.membership != now.membership and not (fresh and _joins(now)):
            self._by_word(said, tuple(ABOUT_MEMBERSHIP), f"{who} makes {node} {now.membership}")
        removed = self._removed.setdefault(node, set())
        if now.membership == DELETED:
            removed.add(now.deleted)
        elif now.incarnation in removed:
            self._wrong(f"I11: {who} takes {node} in again in the life {now.incarnation}, which was removed")
        self._follow(node, now)

    def removed(self, who: str, node: str) -> None:
        """A node was away for so long that it is forgotten: never one against which a word stands."""
        was = self.cells.pop(node)
        if was.membership == REJECTED or (was.membership != DELETED and was.cordon is not None):
            self._wrong(f"I11: {who} forgets {node}, which is {was.membership} and {was.cordon}")
        self.checker.barred.pop(node, None)
        self._removed.pop(node, None)

    def _by_word(self, said: list[Word], about: tuple[str, ...], what: str) -> None:
        if not any(word.what in about for word in said):
            self._wrong(f"I11: {what}, and nobody said so")

    def _follow(self, node: str, now: NodeCell) -> None:
        """From now on no new work, and a time for what is there."""
        barred = self.checker.barred
        # One that was removed is free to come back as a new one.
        if now.membership == DELETED or (now.membership == APPROVED and now.cordon is None):
            barred.pop(node, None)
            return
        since = barred.setdefault(node, self._scheduler.now + self._heard_s)
        cordon = now.cordon
        if now.membership == REJECTED:
            self._scheduler.after(self._heard_s, self._check_empty, node, now, since)
        elif cordon is not None and cordon.drain_by is not None:
            wait_s = cordon.drain_by - cordon.since + self._heard_s
            self._scheduler.after(wait_s, self._check_empty, node, now, since)

    def _check_empty(self, node: str, then: NodeCell, since: float) -> None:
        now = self.cells.get(node)
        if (
            now is not None
            and self._punctual
            # It may have been taken in again and out meanwhile.
            and self.checker.barred.get(node) == since
            and (now.membership, now.cordon) == (then.membership, then.cordon)
        ):
            for id_ in self.work_on(node):
                self._wrong(f"I11: {id_} is still on {node}, which is {then.membership} and {then.cordon}")

    def revoked(self, node: str, still: Callable[[], bool]) -> None:
        """A node's credentials were taken away: all it had is given up in time, if that is so `still`."""
        if self._punctual:
            self._scheduler.after(SILENCE_S + HEARD_S + self._heard_s, self._check_given_up, node, still)

    def _check_given_up(self, node: str, still: Callable[[], bool]) -> None:
        if still():
            for id_ in self.work_on(node):
                self._wrong(f"I11: {id_} is still on {node}, whose credentials were revoked")

    def work_on(self, node: str) -> list[str]:
        """The executions that a node has, as the log has it."""
        return [
            each.id
            for job in self.checker.jobs.values()
            for each in job.attempts.values()
            if each.node == node and each.state not in ENDS
        ]

    def leaves(self, node: str) -> bool:
        """Whether what a node has must leave it sooner or later."""
        cell = self.cells.get(node)
        if cell is None:
            return False
        drained = cell.cordon is not None and cell.cordon.drain_by is not None
        return drained or cell.membership in (REJECTED, DELETED)

    def decided(self, who: str, fleet: Fleet, append: Append) -> None:
        """A requester has decided upon an entry: by what it knows just now."""
        entry = read_entry(append.data)
        for event in entry.events if entry.snapshot is None else ():
            if isinstance(event, Assigned):
                node = fleet.nodes.get(NodeId(event.node))
                if node is None or node.membership != APPROVED or node.cordon is not None:
                    self._wrong(f"I11: {who} gives work to {event.node}, of which it knows {node}")
            elif isinstance(event, Lost) and event.failure.code == NODE_LOST:
                node = fleet.nodes.get(event.node)
                if node is not None and node.connected:
                    self._wrong(f"I11: {who} gives {event.node} up for its silence, and hears it")


def _joins(cell: NodeCell) -> bool:
    """Whether a cell says what every new node's does."""
    return cell.membership in (APPROVED, PENDING)
