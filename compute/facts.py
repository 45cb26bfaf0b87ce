"""What a node offers, looked at again and again.

Knows: which engines and drivers answer, and which did before. Must not know: who asks, what runs, or what the machine has
(`compute.machine`).
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import structlog

from compute.engines.contract import Engine
from protocol.clock import Clock
from protocol.errors import Fault
from protocol.nodes import NodeInfo, Offer
from storage.contract import Drivers

_log = structlog.get_logger(__name__)
PROBE_EVERY_S: Final = 15.0
PROBE_LOST_S: Final = 2.0
"""A part that was here and is missing is looked for more often: until it is back, jobs that need it wait."""
RESTART_S: Final = 30.0
"""How long jobs wait for a part that was here: it, or its machine, may be restarting. After that they are told that it is
gone. An engine that this very process has met is this machine's own, and is always awaited."""
ENGINE: Final = "engine"
SOURCE: Final = "source"
PUBLISHER: Final = "publisher"
PROBE_REST_S: Final = 1.0
"""The least time between two probes, however often somebody asks."""
PROBE_S: Final = 10.0
FIRST_PROBE_S: Final = 2.0
"""A node that starts does not wait longer for an engine or server that hangs."""
VERSION: Final = "0.2.0"
"""Raised with each release: nodes of one version are taken to read jobs alike (ADR 0022)."""


class Facts:
    """A node's facts as they are now. `info` is replaced when something has changed; `before` is the last process's."""

    def __init__(
        self,
        info: NodeInfo,
        engines: Mapping[str, Engine[Any]],
        drivers: Drivers,
        clock: Clock,
        *,
        before: NodeInfo | None = None,
    ) -> None:
        self.info = info
        self._engines = engines
        self._drivers = drivers
        self._clock = clock
        self._look = asyncio.Event()
        # Of all that was here: since when it is not, infinity where it is.
        self._gone_at: dict[tuple[str, str], float] = {}
        self._met: set[tuple[str, str]] = set()
        self._worked: dict[tuple[str, str], bool] = {}
        if before is not None:
            self._gone_at = {
                part: clock.elapsed() for part, offer in _parts(before) if offer.available or offer.lost
            }

    async def first_probe(self) -> None:
        """Ask once, for the node's first beat. Who takes longer than that is asked again beside the work."""
        await self.probe(FIRST_PROBE_S)
        if not all(offer.available for offer in self._offers()):
            self.look()

    async def probe(self, within_s: float = PROBE_S) -> bool:
        """Ask every engine and driver whether it works; returns whether any answer is new."""
        engines, sources, publishers = await asyncio.gather(
            _offers(self._engines, within_s),
            _offers(self._drivers.sources, within_s),
            _offers(self._drivers.publishers, within_s),
        )
        sources += self._drivers.absent_sources.values()
        publishers += self._drivers.absent_publishers.values()
        found = msgspec.structs.replace(self.info, engines=engines, sources=sources, publishers=publishers)
        told = {part: self._lost(part, offer) for part, offer in _parts(found)}
        for part, offer in told.items():
            self._log_if_new(part, offer)
        info = msgspec.structs.replace(
            found,
            engines=[told[ENGINE, each.type] for each in engines],
            sources=[told[SOURCE, each.type] for each in sources],
            publishers=[told[PUBLISHER, each.type] for each in publishers],
        )
        changed = info != self.info
        self.info = info
        return changed

    def _log_if_new(self, part: tuple[str, str], offer: Offer) -> None:
        """Tell the node's owner, once, what does not work: else they hear of a slip in a setting from who submits jobs."""
        worked = self._worked.get(part)
        self._worked[part] = offer.available
        if offer.available and worked is False:
            _log.info("offered", kind=part[0], type=part[1])
        elif not offer.available and worked is not False:
            log = _log.warning if worked else _log.info
            log("not offered", kind=part[0], type=part[1], reason=offer.reason, hint=offer.hint)

    def _lost(self, part: tuple[str, str], offer: Offer) -> Offer:
        """The offer, which says so if its part was here before and is still awaited."""
        if offer.available:
            self._gone_at[part] = math.inf
            self._met.add(part)
            return offer
        if part not in self._gone_at:
            return offer
        now = self._clock.elapsed()
        self._gone_at[part] = min(self._gone_at[part], now)
        awaited_s = math.inf if part[0] == ENGINE and part in self._met else RESTART_S
        return msgspec.structs.replace(offer, lost=now - self._gone_at[part] < awaited_s)

    def _offers(self) -> list[Offer]:
        return [offer for _, offer in _parts(self.info)]

    def look(self) -> None:
        """Probe soon, not only when it is time."""
        self._look.set()

    async def watch(self, changed: Callable[[], None]) -> None:
        """Probe every `PROBE_EVERY_S`, when asked to and when an engine says so, for ever; tell what has changed."""
        async with asyncio.TaskGroup() as tasks:
            for engine in self._engines.values():
                tasks.create_task(self._look_when_changed(engine))
            while True:
                with contextlib.suppress(TimeoutError):
                    lost = any(at < math.inf for at in self._gone_at.values())
                    async with asyncio.timeout(PROBE_LOST_S if lost else PROBE_EVERY_S):
                        await self._look.wait()
                self._look.clear()
                if await self.probe():
                    changed()
                await self._clock.sleep(PROBE_REST_S)

    async def _look_when_changed(self, engine: Engine[Any]) -> None:
        while True:
            await engine.changed()
            self.look()
            await self._clock.sleep(PROBE_REST_S)


def _parts(info: NodeInfo) -> list[tuple[tuple[str, str], Offer]]:
    """All that a node offers or not, by kind and type."""
    kinds = ((ENGINE, info.engines), (SOURCE, info.sources), (PUBLISHER, info.publishers))
    return [((kind, offer.type), offer) for kind, offers in kinds for offer in offers]


async def _offers(parts: Mapping[str, Any], within_s: float) -> list[Offer]:
    """The offers of engines, sources or publishers, by type."""
    return list(await asyncio.gather(*(_offer(name, part, within_s) for name, part in sorted(parts.items()))))


async def _offer(name: str, part: Any, within_s: float) -> Offer:
    try:
        async with asyncio.timeout(within_s):
            offer: Offer = await part.probe()
            return offer
    except TimeoutError:
        return Offer(name, available=False, reason=f"it did not answer within {within_s:g} s")
    except Fault as fault:
        return Offer(name, available=False, reason=fault.message, hint=fault.hint)
    except Exception as error:  # noqa: BLE001 (one part that fails as nobody foresaw must not end the node and all its work)
        _log.exception("a part of this node could not be asked whether it works", part=name)
        return Offer(name, available=False, reason=f"it could not be asked: {type(error).__name__}: {error}")
