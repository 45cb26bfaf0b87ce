"""One request to a holder of blocks, its answer taken in a thread.

Knows: how a request fails, and whether the same holder may answer better another time. Must not know: what is asked for.
"""

from collections.abc import Callable
from typing import Final, Self
from urllib.parse import urlsplit

from protocol.errors import Broken, Fault, TimedOut, Unavailable
from storage.ipfs.holders import CAR_TYPE, Ask, Holder
from storage.ipfs.trailers import words_of
from storage.lanes import Lane, Lanes, Request
from storage.ranged import Limits, Refusal
from storage.route import Route
from storage.threads import Stopped
from storage.wire import Head, Line, LineFault, Silent

NOBODY_HINT: Final = "Perhaps no node that can be reached has it: pin it somewhere, or name another gateway."

Take = Callable[[Line, Lane], None]
"""Takes the body of a good answer, in a lane's thread."""


class Failed(Exception):
    """A request failed: `fault` says how; `lasting` if the same holder would answer the same, `no_car` if it knows none."""

    def __init__(self, fault: Fault, *, lasting: bool = False, no_car: bool = False) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.lasting = lasting
        self.no_car = no_car


class _Raised(Exception):
    """What was raised by who takes an answer or is told of progress: not the holder's fault."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Exchanges:
    """Makes requests over connections that are kept; a context manager."""

    def __init__(self, limits: Limits) -> None:
        # Who is asked next, and for what, is not decided by a lane.
        self._limits = Limits(limits.connect_s, limits.silence_s, tries=1, silent_tries=1)
        self._lanes = Lanes(self._limits)
        self._routes: dict[str, Route] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._lanes.close()

    async def ask(
        self,
        holder: Holder,
        ask: Ask,
        media_type: str,
        what: str,
        take: Take,
        moved: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Have an answer of `media_type` taken; `moved` is told on the loop what the lane moved.

        Raises `Failed`, and whatever `take` and `moved` raise.
        """

        def tell(size: int) -> None:
            try:
                moved(size)
            except BaseException as error:
                raise _Raised(error) from error

        exchange = _Exchange(holder, ask, media_type, what, take, self._limits.silence_s)
        try:
            route = self._routes.get(holder.name)
            if route is None:
                route = self._routes[holder.name] = await holder.route(self._limits)
            await self._lanes.move(iter([exchange]), route, 1, tell)
        except _Raised as raised:
            raise raised.cause from None
        except Fault as fault:
            self._routes.pop(holder.name, None)
            if isinstance(fault, TimedOut):
                raise exchange.silent() from fault
            raise Failed(fault) from fault


class _Exchange:
    """A request: a `storage.lanes.Task`."""

    size_bytes = 0

    def __init__(
        self, holder: Holder, ask: Ask, media_type: str, what: str, take: Take, silence_s: float
    ) -> None:
        self.name = what
        self.moved_bytes = 0
        self._holder = holder
        self._ask = ask
        self._media_type = media_type
        self._take = take
        self._silence_s = silence_s

    def request(self) -> Request:
        """As the holder wants it."""
        parts = urlsplit(self._ask.url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        return Request(self._ask.method, target, self._ask.headers)

    def answered(self, head: Head, line: Line, lane: Lane) -> None:
        """Let the answer be taken, if it is of the kind that was asked for."""
        found = head.headers.get("content-type", "")
        if self._ask.method == "GET" and not found.startswith(self._media_type):
            said = f"{self.name}: {self._holder.name} answered with {found[:100]!r}, not {self._media_type}"
            hint = "Is this the address of a trustless gateway?"
            raise Failed(Unavailable(said, hint=hint), lasting=True)
        try:
            self._take(line, lane)
        except Failed as failed:
            # Why a body ended early is told behind it, in words that say more than its length.
            told = self._told_behind(line)
            if told is None or failed.lasting:
                raise
            raise told from failed
        except Stopped:
            raise
        except Silent as error:
            lane.check()
            raise self.silent() from error
        except LineFault as error:
            lane.check()
            said = f"{self.name}: the connection to {self._holder.name} broke"
            raise Failed(Broken(said, kind="Cut")) from error
        except BaseException as error:
            raise _Raised(error) from error
        told = self._told_behind(line)
        if told is not None:
            raise told

    def silent(self) -> Failed:
        """Nothing came, or no more."""
        silence = f"{self.name}: nothing came for {self._silence_s:g} s ({self._holder.name})"
        return Failed(TimedOut(silence, hint=NOBODY_HINT), lasting=True)

    def _told_behind(self, line: Line) -> Failed | None:
        """What the trailers of an answer tell of, once all of its body was read."""
        words = words_of(line.trailers)
        fault = self._holder.refusal(self.name, 500, words) if words else None
        return None if fault is None else Failed(fault, lasting=not fault.retryable)

    def refused(self, status: int, body: bytes) -> Refusal:
        """As the holder's words say."""
        fault = self._holder.refusal(self.name, status, body)
        no_car = self._media_type == CAR_TYPE and self._holder.knows_no_car(status)
        raise Failed(fault, lasting=not fault.retryable and not no_car, no_car=no_car)
