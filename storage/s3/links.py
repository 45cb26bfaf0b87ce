"""Objects by links that were signed by somebody else: what is asked by them, and newer ones where they end.

Knows: how a link is read in ranges, how long it says that it is good, and that one which is refused may have ended sooner:
an account's session that is over takes its links with it. Must not know: who signs, or what the objects are of.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

from aiohttp.abc import AbstractResolver

from protocol.errors import Broken, Denied, Fault
from storage.lanes import Again, Lane, Request, Task
from storage.parts import PARTIAL
from storage.ranged import Limits, Refusal
from storage.route import Route, find_route
from storage.s3.bulk import refusal_of
from storage.s3.keys import Object
from storage.wire import Head, Line

LIFE_S: Final = 1800.0
"""How long a link is good that does not say it."""
RENEW_S: Final = 30.0
"""How long a link that was refused waits for a newer one."""

Newer = Callable[[], Awaitable[Mapping[str, str]]]
"""Links to the same objects that are made now. Raises `Fault`, also where nobody makes any."""


async def route_of(link: str, limits: Limits, resolver: AbstractResolver) -> Route:
    """How the server of a link is reached; whom it may be certified by says the environment, as for S3 with an account.
    Raises as `find_route`."""
    return await find_route(link, limits, resolver, os.environ.get("AWS_CA_BUNDLE", ""))


class Links:
    """The newest link of each object, by its key."""

    def __init__(self, links: Mapping[str, str], newer: Newer, told_at: float) -> None:
        """`told_at` is when they were made, by the loop's clock."""
        self._links = dict(links)
        self._newer = newer
        self._loop = asyncio.get_running_loop()
        self._told_at = told_at
        self._lock = asyncio.Lock()
        self._used = threading.local()

    def use(self, key: str) -> str:
        """The link to ask by now; of what this thread used last, `after` says whether there is a newer one."""
        link = self._used.link = self._links[key]
        return link

    @property
    def any(self) -> str:
        """One of them: all lead to the same place."""
        return next(iter(self._links.values()))

    @property
    def life_s(self) -> float:
        """How long the first is good from when it was made, in seconds: all are made alike."""
        told = parse_qs(urlsplit(self.any).query).get("X-Amz-Expires", [""])[0]
        return float(told) if told.isascii() and told.isdecimal() else LIFE_S

    def after(self, key: str) -> bool:
        """In a lane's thread, whose last request was refused: whether there is another link than the one it used."""
        asked = asyncio.run_coroutine_threadsafe(self._after(key, self._used.link), self._loop)
        try:
            return asked.result(RENEW_S)
        except TimeoutError:
            asked.cancel()
            return False

    async def _after(self, key: str, refused: str) -> bool:
        async with self._lock:
            if self._links[key] == refused:
                await self.renew()
            return self._links[key] != refused

    async def renew(self) -> None:
        """Have newer links, where there are any; that nobody tells them now says nothing of the old ones."""
        try:
            newer = await self._newer()
        except Fault:
            return
        self._links |= {key: url for key, url in newer.items() if key in self._links}
        self._told_at = self._loop.time()

    async def renew_if_old(self) -> None:
        """As `renew`, where half of their life is over."""
        if self._loop.time() - self._told_at > self.life_s / 2:
            await self.renew()

    @asynccontextmanager
    async def kept_new(self) -> AsyncIterator[None]:
        """While this is open, they are renewed before they end."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(self.life_s / 2)
                await self.renew()

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])


class Link:
    """An object's bytes by its link, the newest of those for its key: a `storage.parts.Far`."""

    def __init__(self, found: Object, links: Links) -> None:
        self._links = links
        self._where = urlsplit(links.any).netloc
        self._etag = found.etag
        self.name = found.key
        self.size_bytes = found.size_bytes

    def request(self, start: int, end: int) -> Request:
        """A part of it."""
        headers = {"If-Match": self._etag} if self._etag else {}
        parts = urlsplit(self._links.use(self.name))
        target = f"{parts.path}?{parts.query}"
        if start == 0 and end == self.size_bytes:
            return Request("GET", target, headers)
        return Request("GET", target, {**headers, "Range": f"bytes={start}-{end - 1}"}, (), (PARTIAL,))

    def check(self, headers: Mapping[str, str]) -> None:
        """What is answered is what was looked at."""
        etag = headers.get("etag", "")
        if etag and self._etag and etag.strip('"') != self._etag.strip('"'):
            raise Broken(f"{self.name} was changed while it was being read", kind="Changed")

    def refused(self, status: int, body: bytes) -> Refusal:
        """S3's error; a link that is refused has most often expired, and is done without if there is a newer one."""
        refusal = refusal_of(self.name, status, body, self._where, signed=True)
        if not isinstance(refusal.fault, Denied):
            return refusal
        refusal.fault.hint = "The link may have expired: ask for the results again."
        return Refusal(refusal.fault, again=self._links.after(self.name))


class Look:
    """Asks for an object's first byte, which tells its size and ETag: a link for reading it is none for a look."""

    size_bytes = 0
    moved_bytes = 0

    def __init__(self, name: str, links: Links) -> None:
        self._link = Link(Object(name, -1), links)
        self.name = name
        self.found = Object(name, 0)

    def request(self) -> Request:
        """The first byte; of an empty object there is none (416)."""
        asked = self._link.request(0, 1)
        return Request(asked.method, asked.target, asked.headers, (), (200, PARTIAL, 416))

    def refused(self, status: int, body: bytes) -> Refusal:
        """As the link says."""
        return self._link.refused(status, body)

    def answered(self, head: Head, line: Line, lane: Lane) -> None:
        """Take the size from wherever it stands."""
        total = head.headers.get("content-range", "").rpartition("/")[2]
        if head.status == 200:
            total = head.headers.get("content-length", "")
        elif head.status == 416:
            total = "0"
        if not total.isdecimal():
            raise Again(Broken(f"{self.name}: the server does not say how large it is"))
        etag = head.headers.get("etag", "")
        if not etag and head.status != 416:
            # Somebody's page about an error has a length as well.
            raise Broken(f"{self.name}: what answers tells no ETag, as S3 does")
        if head.status != 200:
            line.rest(1 << 16)
        self.found = Object(self.name, int(total), etag)


if TYPE_CHECKING:

    def _fits(task: Look) -> Task:
        return task
