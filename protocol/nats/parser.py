"""Cuts what the server sends into messages, in a little more than half of the time that nats-py's own parser takes.

Knows: the two lines that begin a message. Must not know: what is done with one. All other lines (a few a minute) are left to
nats-py's parser, of which this is a kind.
"""

from collections.abc import Callable
from typing import Any, Final

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

Deliver = Callable[[int, bytes, bytes, bytes, bytes], None]
"""Takes a subscription's number, and subject, reply subject, data and header block of a message for it. It never raises."""

LINE_MAX_BYTES: Final = 1 << 20
"""A line that has not ended by then is not the server's."""
_END: Final = b"\r\n"
_END_BYTES: Final = len(_END)
_MESSAGES: Final = (b"MSG ", b"HMSG")


class MessageParser(Parser):
    """The parser of one connection: messages go to `deliver`, all else to nats-py's `client`."""

    def __init__(self, client: Any, deliver: Deliver) -> None:
        self._deliver = deliver
        self._needed = 0
        self._resets = 0
        super().__init__(client)

    def reset(self) -> None:
        """Forget what came: there is a new connection."""
        super().reset()
        self._needed = 0
        self._resets += 1

    async def parse(self, data: bytes = b"") -> None:
        """Take the next bytes. Raises `ProtocolError` for what is none of NATS's."""
        if self.buf:
            self.buf += data
            if len(self.buf) < self._needed:
                # So a large message is put together once, not with each of its pieces.
                return
            data = bytes(self.buf)
            self.buf.clear()
        begin = 0
        while (line_end := data.find(_END, begin)) >= 0:
            if data.startswith(_MESSAGES, begin):
                after = self._take(data, begin, line_end)
                if not after:
                    break
                begin = after
                continue
            line, begin = data[begin : line_end + _END_BYTES], line_end + _END_BYTES
            resets = self._resets
            self.buf += line
            await super().parse()
            if resets != self._resets:
                return
        else:
            self._needed = 0
            if len(data) - begin > LINE_MAX_BYTES:
                raise ProtocolError
        self.buf += data[begin:]

    def _take(self, data: bytes, begin: int, line_end: int) -> int:
        """Deliver the message whose line is there; where the next one begins, or 0 if not all of it has come.

        ``MSG <subject> <number> [reply] <bytes>``, or ``HMSG`` with the size of the headers before that of the whole.
        """
        words = data[begin:line_end].split()
        headed = words[0] == b"HMSG"
        starts = line_end + _END_BYTES
        try:
            headers_end = starts + int(words[-2]) if headed else starts
            end = starts + int(words[-1])
            number = int(words[2])
        except (ValueError, IndexError) as error:
            raise ProtocolError from error
        after = end + _END_BYTES
        if len(data) < after:
            self._needed = after - begin
            return 0
        reply = words[3] if len(words) == 5 + headed else b""
        self._deliver(number, words[1], reply, data[headers_end:end], data[starts:headers_end])
        return after
