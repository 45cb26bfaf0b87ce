"""The HTTP server of the `local` publisher: archives by a link that is hard to guess and has an end.

Knows: a folder of archives, and how to serve a file (ranges, sendfile). Must not know: who publishes, or how a link is
vouched for (`storage.result_links`).

``GET /<token>/<name>.tar.gz`` is all it answers. Whoever has the link has the result, while it is good.
"""

import contextlib
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from aiohttp import web

from protocol.errors import Denied, NotFound
from storage.archive import SUFFIX
from storage.result_links import TOKEN, check

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}" + re.escape(SUFFIX))


@contextlib.asynccontextmanager
async def serving(folder: Path, key: bytes, host: str, port: int) -> AsyncIterator[int]:
    """Serve `folder` on the address `host` and yield the port; 0 takes any free one. Raises ``OSError``."""

    async def result(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = folder / name
        try:
            check(key, name, request.match_info["token"], time.time())
        except NotFound as fault:
            raise web.HTTPNotFound(text=f"{fault.message}\n") from fault
        except Denied as fault:
            raise web.HTTPForbidden(text=f"{fault.message} {fault.hint}\n") from fault
        if not _NAME.fullmatch(name) or not path.is_file():
            raise web.HTTPNotFound(text="There is no such result.\n")
        # Said here, or the file would be served as a tar with a content encoding, and clients would unpack half of it.
        return web.FileResponse(path, chunk_size=1 << 20, headers={"Content-Type": "application/gzip"})

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
