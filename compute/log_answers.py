"""Answers whoever asks for a node's output.

Knows: requests for logs and how long one may wait. Must not know: where output is kept (`compute.logs`) or who writes it.

Flow control is the asker's: it asks again with the cursor of the last answer, and waits for more if it says so.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from compute.logs import Logs
from protocol import messages
from protocol.bus import Message
from protocol.errors import Broken, Exhausted, Fault
from protocol.questions import LogsAnswer, LogsRequest

WAIT_MAX_S: Final = 30.0
ASKED_MAX: Final = 256
"""Requests answered at once, waiting ones included."""


class LogAnswers:
    """Answers requests for the output in `logs`."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._asking = 0

    async def serve(self, asked: AsyncIterator[Message], tasks: asyncio.TaskGroup) -> None:
        """Answer each message of `asked`, for ever, each in a task of its own."""
        async for message in asked:
            if message.respond is not None:
                tasks.create_task(self._answer(message))

    async def _answer(self, message: Message) -> None:
        try:
            answer = await self._read(messages.decode(message.data, LogsRequest))
        except (Fault, OSError) as error:
            fault = error if isinstance(error, Fault) else Broken(f"the output cannot be read: {error}")
            answer = LogsAnswer(0, ended=True, failure=fault.failure())
        if message.respond is not None:
            with contextlib.suppress(Fault):
                await message.respond(messages.encode(answer))

    async def _read(self, request: LogsRequest) -> LogsAnswer:
        if self._asking >= ASKED_MAX:
            raise Exhausted("too many follow this node's output", hint="Ask again in a moment.", kind="Logs")
        self._asking += 1
        try:
            answer = self._logs.answer(request.execution, request.cursor, request.limit_bytes)
            wait_s = min(request.wait_s, WAIT_MAX_S)
            if answer.chunks or answer.ended or wait_s <= 0:
                return answer
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._logs.find(request.execution).news()
            return self._logs.answer(request.execution, answer.cursor, request.limit_bytes)
        finally:
            self._asking -= 1
