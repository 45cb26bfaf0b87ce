"""The HTTP server of the `local` publisher: archives by a link that is hard to guess and has an end.

Knows: a folder of archives, and what stands in a link. Must not know: who publishes, how a link is vouched for
(`storage.result_links`), how a file is sent (`storage.file_sending`), or which archives go; it says which are being served
(`storage.kept`).

``GET /<token>/<name>.tar.gz`` is all it answers. Whoever has the link has the result, while it is good.
"""

import contextlib
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from aiohttp import web

from protocol.clock import Clock
from protocol.errors import Denied, NotFound
from storage.archive import SUFFIX
from storage.file_sending import send_file
from storage.kept import GONE_HINT, Kept
from storage.result_links import TOKEN, check
from storage.tree import open_inside

IDLE_S: Final = 75.0
"""A connection on which nobody asks (on) for this long is closed: each takes a descriptor, and a node has so many."""
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}" + re.escape(SUFFIX))


@contextlib.contextmanager
def being_served(kept: Kept, name: str, clock: Clock) -> Iterator[None]:
    """While this is open, the archive does not go."""
    kept.begin(name)
    try:
        yield
    finally:
        kept.end(name, clock.now())


@contextlib.asynccontextmanager
async def serving(
    folder: Path, key: bytes, kept: Kept, clock: Clock, host: str, port: int
) -> AsyncIterator[int]:
    """Serve `folder` on the address `host` and yield the port; 0 takes any free one. Raises ``OSError``."""

    async def result(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        try:
            check(key, name, request.match_info["token"], clock.now())
        except NotFound as fault:
            raise web.HTTPNotFound(text=f"{fault.message}\n") from fault
        except Denied as fault:
            raise web.HTTPForbidden(text=f"{fault.message} {fault.hint}\n") from fault
        with being_served(kept, name, clock), _opened(folder, name) as file:
            return await send_file(request, file, "application/gzip")

    app = web.Application()
    app.router.add_get(f"/{{token:{TOKEN}}}/{{name}}", result)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=IDLE_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def _opened(folder: Path, name: str) -> Iterator[int]:
    """A descriptor to read an archive with. Raises aiohttp's 404 for one that is not there; its link is one of ours, so it
    was."""
    try:
        if not _NAME.fullmatch(name):
            raise FileNotFoundError
        file = open_inside(folder, name)
    except FileNotFoundError as error:
        raise web.HTTPNotFound(text=f"This result is not kept any more. {GONE_HINT}\n") from error
    try:
        yield file
    finally:
        os.close(file)
