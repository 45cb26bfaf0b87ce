"""What goes wrong in a simulation, carried out.

Knows: processes, links, disks, clocks and the server. Must not know: what is right or wrong, or what people ask.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.simulation.loop import THREAD_S, Loop, Scheduler
from tests.simulation.network import Link, SimulatedHub
from tests.simulation.processes import NodeProcess, Process, RequesterProcess
from tests.simulation.restoring import Restoring
from tests.simulation.scenario import Action
from tests.simulation.words import Words


class Faults:
    """Strikes at the processes of one simulation. One that never comes back leaves `processes`, and those of its kind."""

    def __init__(
        self,
        scheduler: Scheduler,
        hub: SimulatedHub,
        *,
        processes: dict[str, Process],
        requesters: list[RequesterProcess],
        nodes: list[NodeProcess],
        words: Words,
        restoring: Restoring,
        note: Callable[[str, str], None],
    ) -> None:
        self._scheduler = scheduler
        self._hub = hub
        self._processes = processes
        self._requesters = requesters
        self._nodes = nodes
        self._words = words
        self._restoring = restoring
        self._note = note

    def strike(self, action: Action) -> None:
        """Let something go wrong, if whom it befalls is not gone for good."""
        if action.who and action.who not in self._processes:
            return
        self._note(
            action.who, f"FAULT {action.what} {action.text} {action.number:g} for {action.seconds:.2f} s"
        )
        getattr(self, "_" + action.what.replace(" ", "_"))(action)

    def _twin(self, action: Action) -> None:
        """Another machine is set up as a node that is there: a copy of it, or a new one under its name."""
        node = self._of(action)
        assert isinstance(node, NodeProcess)
        twin = node.twin(copied=action.text == "copy")
        self._processes[twin.name] = twin
        self._nodes.append(twin)
        twin.start()

    def _of(self, action: Action) -> Process:
        return self._processes[action.who]

    def reached(self, name: str) -> None:
        """A process has come to a failpoint."""
        loop = asyncio._get_running_loop()
        process = self._processes.get(loop.name) if isinstance(loop, Loop) else None
        if process is None or process.failpoint is None or process.failpoint[0] != name:
            return
        point, visits = process.failpoint
        process.failpoint = (point, visits - 1) if visits > 1 else None
        if visits <= 1 and process.loop.fuse is None:
            self._note(process.name, f"has come to {name}")
            process.kill_after(0)

    def _kill(self, action: Action) -> None:
        process = self._of(action)
        process.killed = partial(self._scheduler.after, action.seconds, process.start)
        process.kill_after(int(action.number))

    def _kill_at(self, action: Action) -> None:
        process = self._of(action)
        process.killed = partial(self._scheduler.after, action.seconds, process.start)
        process.failpoint = (action.text, int(action.number))

    def _lose_power(self, action: Action) -> None:
        node = self._of(action)
        assert isinstance(node, NodeProcess)
        node.lose_power()
        self._scheduler.after(action.seconds, node.start)

    def _lose_machine(self, action: Action) -> None:
        node = self._of(action)
        assert isinstance(node, NodeProcess)
        node.lose_machine()
        self._scheduler.after(action.seconds, node.start)

    def _pause(self, action: Action) -> None:
        process = self._of(action)
        if process.alive and not process.loop.paused:
            process.loop.pause(action.seconds)

    def _slow(self, action: Action) -> None:
        loop = self._of(action).loop
        loop.drag_s = action.number
        self._scheduler.after(action.seconds, setattr, loop, "drag_s", 0.0)

    def _cut(self, action: Action) -> None:
        link = self._of(action).link
        link.up = link.up and action.text == "down"
        link.down = link.down and action.text == "up"
        link.noticed = bool(action.number) or link.revoked
        self._scheduler.after(action.seconds, self._heal, link)

    def _heal(self, link: Link) -> None:
        link.mend()
        self._hub.tell_readers()

    def _revoke(self, action: Action) -> None:
        """A node's credentials are taken away: servers cut it off, and no answer comes that is on its way, to nobody."""
        for name in (action.who, f"{action.who}-twin"):
            if name in self._processes:
                self._revoke_one(self._processes[name].link, action)

    def _revoke_one(self, link: Link, action: Action) -> None:
        link.revoked = True
        link.revocations += 1
        link.mend()
        self._hub.accounts += 1
        count = link.revocations
        # Another one, soon after it had got new ones, has a time of its own.
        self._words.revoked(action.who, lambda: link.revoked and link.revocations == count)
        self._scheduler.after(action.seconds, self._enroll, link)

    def _enroll(self, link: Link) -> None:
        """It has others, which its process reads when it connects again."""
        link.revoked = False
        self._heal(link)

    def _server_away(self, action: Action) -> None:
        self._hub.there = False
        self._scheduler.after(action.seconds, self._server_back)

    def _server_back(self) -> None:
        self._hub.there = True
        self._hub.tell_readers()

    def _back_up(self, action: Action) -> None:
        self._restoring.back_up()

    def _restore(self, action: Action) -> None:
        """The servers are lost, and come back as they were when the backup was made."""
        self._hub.there = False
        self._scheduler.after(action.seconds, self._restored)

    def _restored(self) -> None:
        self._note("", "the servers are back as they were when the backup was made")
        self._restoring.restore()
        self._server_back()

    def _lose_leader(self, action: Action) -> None:
        """The log has no leader: what it has taken is not answered, and it takes nothing more. Messages go on."""
        self._hub.log_there = False
        self._scheduler.after(action.seconds, self._leader_found)

    def _leader_found(self) -> None:
        self._hub.log_there = True
        self._hub.tell_readers()

    def _weather(self, name: str, action: Action) -> None:
        setattr(self._hub.weather, name, action.number)
        self._scheduler.after(action.seconds, setattr, self._hub.weather, name, 0.0)

    def _lose_answers(self, action: Action) -> None:
        self._weather("lose_answer", action)

    def _drop(self, action: Action) -> None:
        self._weather("drop", action)

    def _repeat(self, action: Action) -> None:
        self._weather("repeat", action)

    def _overtake(self, action: Action) -> None:
        self._weather("overtake", action)

    def _stray(self, action: Action) -> None:
        self._weather("stray", action)

    def _echo(self, action: Action) -> None:
        self._weather("echo", action)

    def _clock(self, action: Action) -> None:
        self._of(action).skew_s += action.number

    def _disk_full(self, action: Action) -> None:
        process = self._of(action)
        assert isinstance(process, RequesterProcess | NodeProcess)
        process.fill_disk(True)
        self._scheduler.after(action.seconds, process.fill_disk, False)

    def _slow_disk(self, action: Action) -> None:
        loop = self._of(action).loop
        loop.thread_s = action.number
        self._scheduler.after(action.seconds, setattr, loop, "thread_s", THREAD_S)

    def _doubt_the_log(self, action: Action) -> None:
        """A requester takes the log for another one, and reads it from its beginning."""
        bus = self._of(action).bus
        if bus is not None:
            bus.doubts = True
            self._hub.tell_readers()

    def _relabel(self, action: Action) -> None:
        """Somebody gives a node another label, and starts it again."""
        node = self._of(action)
        assert isinstance(node, NodeProcess)
        node.zone = action.text
        self._leave(action)

    def _upgrade(self, action: Action) -> None:
        """A process of the version before is replaced by one of this version."""
        self._of(action).older = False
        self._leave(action)

    def _log_full(self, action: Action) -> None:
        self._hub.limit_bytes = 0
        self._scheduler.after(action.seconds, setattr, self._hub, "limit_bytes", 1 << 40)

    def _lag(self, action: Action) -> None:
        link = self._of(action).link
        link.lag_s = action.number
        self._scheduler.after(action.seconds, setattr, link, "lag_s", 0.0)

    def _die(self, action: Action) -> None:
        """It never comes back; whatever it held is decided by others."""
        process = self._of(action)
        peers: Any = self._nodes if isinstance(process, NodeProcess) else self._requesters
        if len(peers) > 1:
            process.kill()
            process.gone = True
            # Whoever else is this node has credentials of its own.
            process.link.revoked = False
            peers.remove(process)
            del self._processes[action.who]

    def _leave(self, action: Action) -> None:
        process = self._of(action)
        process.leave()
        self._scheduler.after(action.seconds + 3.0, self._come_back, process)

    def _come_back(self, process: Process) -> None:
        """Start again, once it has ended: one that stands still takes its time."""
        process.start()
        if process.leaves and not process.gone:
            self._scheduler.after(1.0, self._come_back, process)

    def _forget(self, action: Action) -> None:
        """A requester's disk is lost with it."""
        process = self._of(action)
        assert isinstance(process, RequesterProcess)
        process.kill()
        process.forget_disk()
        self._scheduler.after(action.seconds, process.start)
