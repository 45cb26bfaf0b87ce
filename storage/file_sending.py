"""A file as the answer to a request: its bytes go from the disk to the connection, and not through this process.

Knows: sockets, and how long whoever asked may take nothing. Must not know: which file, or who may have it.

The event loop that nodes run (uvloop) has no ``sendfile``, so it is called here: by a thread, which waits for the disk and
never for the connection, whenever the connection takes something.
"""

import asyncio
import fcntl
import os
import struct
import termios
from functools import partial
from typing import Final

from aiohttp import web

from storage.http_part import TAKEN_S, Part, part_of
from storage.ranged import CRAWL_BYTES
from storage.threads import Stop, in_thread

TURN_BYTES: Final = 4 << 20
"""What one asker is sent before others have their turn with a thread."""


def version_of(seen: os.stat_result) -> str:
    """Changes whenever a file is replaced."""
    return f"{seen.st_mtime_ns:x}-{seen.st_size:x}"


async def send_file(
    request: web.Request, file: int, content_type: str, *, taken_s: float = TAKEN_S
) -> web.StreamResponse:
    """Answer with the open file, or the part of it that is asked for."""
    seen = os.fstat(file)
    etag = f'"{version_of(seen)}"'
    part = part_of(request.headers, seen.st_size, etag)
    said = {"Content-Type": content_type, **part.headers(seen.st_size, etag)}
    response = web.StreamResponse(status=part.status, headers=said)
    response.last_modified = seen.st_mtime
    if part.status != 304:
        response.content_length = part.size_bytes
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("whoever asked is gone")
    # The answer's head must be on its way before the file follows it: nothing may be held back.
    transport.set_write_buffer_limits(0)
    writer = await response.prepare(request)
    if request.method == "HEAD" or not part.size_bytes or writer is None:
        return response
    try:
        await writer.drain()
        await _send(transport, file, part, taken_s)
    except OSError:
        # The length has been told already: only a connection that is cut says that this is not all.
        transport.abort()
    return response


async def _send(transport: asyncio.Transport, file: int, part: Part, taken_s: float) -> None:
    """The loop watches its transport's own descriptor, and lets nobody else do so: hence one more."""
    connection = os.dup(transport.get_extra_info("socket").fileno())
    try:
        at = part.start
        while at < part.stop:
            await _until_taken(connection, taken_s)
            at += await in_thread(partial(_some, connection, file, at, part.stop))
    finally:
        os.close(connection)


def _some(connection: int, file: int, start: int, stop: int, _: Stop) -> int:
    """Send what is taken just now of the bytes from `start` on; how many that was."""
    at, stop = start, min(stop, start + TURN_BYTES)
    try:
        while at < stop:
            count = os.sendfile(connection, file, at, stop - at)
            if not count:
                raise OSError("the file became shorter while it was being sent")
            at += count
    except BlockingIOError:
        pass
    return at - start


async def _until_taken(connection: int, taken_s: float) -> None:
    """Wait until something can be sent. Raises ``TimeoutError`` when nothing was taken for `taken_s`.

    A system lets us go on when a good part of what it holds was taken, which takes a slow line long: so what it still holds
    is looked at.
    """
    loop = asyncio.get_running_loop()
    held_bytes = _held_bytes(connection)
    while True:
        ready = asyncio.Event()
        loop.add_writer(connection, ready.set)
        try:
            async with asyncio.timeout(taken_s):
                await ready.wait()
                return
        except TimeoutError:
            before, held_bytes = held_bytes, _held_bytes(connection)
            if before - held_bytes < CRAWL_BYTES:
                raise TimeoutError(f"nobody took anything for {taken_s:g} s") from None
        finally:
            loop.remove_writer(connection)


def _held_bytes(connection: int) -> int:
    """What was sent and not taken yet."""
    (held,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    return int(held)
