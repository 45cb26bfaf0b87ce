"""Whether the daemon was restarted, and whether it saw a container end.

Knows: the signs of it that the API shows. The default network is made anew whenever a daemon starts, except that one with
live-restore keeps it while containers run. Of what happens a daemon remembers the newest until it ends; that a container
had ended before it started is no event. Must not know: what a restart means for whom.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from aiodocker import Docker, DockerError
from msgspec import Struct, field

from compute.engines.docker.daemon import Daemon
from protocol.errors import Unavailable

DEFAULT_NETWORK: Final = "bridge"
EVENTS_KEPT: Final = 256
"""What a daemon remembers (moby's ``eventsLimit``)."""


class Actor(Struct, frozen=True):
    """What an event happened to."""

    id: str = field(default="", name="ID")


class Happened(Struct, frozen=True):
    """An event, as far as it matters here: `action`, to which container, when (unix time in nanoseconds)."""

    action: str = field(default="", name="Action")
    actor: Actor = field(default=Actor(), name="Actor")
    at_ns: int = field(default=0, name="timeNano")


async def restarted_since(daemon: Daemon, moment: str, *, unknown: bool) -> bool:
    """Whether the daemon was started after `moment` (as the API writes times); `unknown` if it has no default network.

    Raises `Unavailable`.
    """
    try:
        network = await _ask(daemon, f"networks/{DEFAULT_NETWORK}")
    except DockerError as error:
        if error.status == 404:
            return unknown
        raise Unavailable(f"Docker cannot show its default network ({error.message})") from error
    return datetime.fromisoformat(network["Created"]) > datetime.fromisoformat(moment)


async def lives_on(daemon: Daemon) -> bool:
    """Whether containers outlive the daemon (live-restore). Raises `Unavailable`."""
    return bool((await _about(daemon))["LiveRestoreEnabled"])


async def saw_end(daemon: Daemon, container: str, state: dict[str, Any]) -> bool:
    """Whether the daemon that is there now was there when a container ended, of which it says `state`. Raises `Unavailable`.

    Where so much has happened since that it remembers no more, it was unless there is a sign of a restart.
    """
    events = await _remembered(daemon)
    seen = is_remembered(events, container, datetime.fromisoformat(state["FinishedAt"]).timestamp())
    return seen if seen is not None else not await restarted_since(daemon, state["StartedAt"], unknown=True)


async def made(daemon: Daemon, container: str) -> bool:
    """Whether the daemon that is there now made a container, as far as it remembers. One that the daemon before it made, and
    that is told as never started, may have been: the end of that daemon came before it wrote so. Raises `Unavailable`.
    """
    return any(each.action == "create" and each.actor.id == container for each in await _remembered(daemon))


def is_remembered(events: Sequence[Happened], container: str, ended_at: float) -> bool | None:
    """Whether a daemon that remembers `events`, the oldest first, saw the container end at that time (unix seconds); None if
    that may be what it has forgotten."""
    if any(each.action == "die" and each.actor.id == container for each in events):
        return True
    complete = len(events) < EVENTS_KEPT or events[0].at_ns / 1e9 < ended_at
    return False if complete else None


async def _about(daemon: Daemon) -> Any:
    try:
        return await _ask(daemon, "info")
    except DockerError as error:
        raise Unavailable(f"Docker cannot tell of itself ({error.message})") from error


async def _ask(daemon: Daemon, path: str) -> Any:
    def request(docker: Docker) -> Any:
        return docker._query_json(path)  # noqa: SLF001 - the library's own calls ask twice

    return await daemon.insist("tell of itself", request)


async def _remembered(daemon: Daemon) -> list[Happened]:
    # By its own clock: one on another machine may have another time, and would leave out what was last, or wait for it.
    now = datetime.fromisoformat((await _about(daemon))["SystemTime"])
    until = f"{now.timestamp():.6f}"
    try:
        text = await daemon.insist("tell what happened", lambda docker: _events(docker, until))
    except DockerError as error:
        raise Unavailable(f"Docker cannot tell what happened ({error.message})") from error
    return [msgspec.json.decode(line, type=Happened) for line in text.splitlines() if line]


async def _events(docker: Docker, until: str) -> str:
    # The library's own events go on for ever.
    async with docker._query("events", params={"since": "0", "until": until}) as answer:  # noqa: SLF001
        return await answer.text()
