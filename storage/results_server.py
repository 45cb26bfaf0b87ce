"""The HTTP server of the `local` publisher: archives by a link that is hard to guess and has an end.

Knows: a folder of archives, and how to serve a file (ranges, sendfile). Must not know: who publishes, or how a link is
vouched for (`storage.result_links`), or which archives go; it says which are being served (`storage.kept`).

``GET /<token>/<name>.tar.gz`` is all it answers. Whoever has the link has the result, while it is good.
"""

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from protocol.clock import Clock
from protocol.errors import Denied, NotFound
from storage.archive import SUFFIX
from storage.kept import GONE_HINT, Kept
from storage.result_links import TOKEN, check

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}" + re.escape(SUFFIX))


@contextlib.contextmanager
def being_served(kept: Kept, name: str, clock: Clock) -> Iterator[None]:
    """While this is open, the archive does not go."""
    kept.begin(name)
    try:
        yield
    finally:
        kept.end(name, clock.now())


class _Served(web.FileResponse):
    """An archive, which stays while it is sent: aiohttp sends a file in `prepare`."""

    def __init__(self, folder: Path, name: str, kept: Kept, clock: Clock) -> None:
        # Said here, or the file would be served as a tar with a content encoding, and clients would unpack half of it.
        super().__init__(folder / name, chunk_size=1 << 20, headers={"Content-Type": "application/gzip"})
        self._being_served = being_served(kept, name, clock)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        with self._being_served:
            return await super().prepare(request)


@contextlib.asynccontextmanager
async def serving(
    folder: Path, key: bytes, kept: Kept, clock: Clock, host: str, port: int
) -> AsyncIterator[int]:
    """Serve `folder` on the address `host` and yield the port; 0 takes any free one. Raises ``OSError``."""

    async def result(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = folder / name
        try:
            check(key, name, request.match_info["token"], clock.now())
        except NotFound as fault:
            raise web.HTTPNotFound(text=f"{fault.message}\n") from fault
        except Denied as fault:
            raise web.HTTPForbidden(text=f"{fault.message} {fault.hint}\n") from fault
        if not _NAME.fullmatch(name) or not path.is_file():
            # The link is one of ours, so it was here.
            raise web.HTTPNotFound(text=f"This result is not kept any more. {GONE_HINT}\n")
        return _Served(folder, name, kept, clock)

    app = web.Application()
    app.router.add_get(f"/{{token:{TOKEN}}}/{{name}}", result)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
