"""What a program wrote, in the forms others want it: the beginning for a report, files for a result.

Knows: those two forms. Must not know: where the bytes come from or go to.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Final

from compute.engines.contract import Chunk
from compute.logs import OutputLog
from protocol.messages import RunOutput
from protocol.questions import STDERR, STDOUT
from storage.threads import Stop, in_thread

HEAD_BYTES: Final = 2_048
"""How much of each stream travels in a report: Bacalhau's limit, and it is the first bytes."""
INLINE_BYTES: Final = 262_144
"""Up to this, copying is cheaper than handing it to a thread."""


class Head:
    """The first bytes of both streams."""

    def __init__(self) -> None:
        self._streams = {STDOUT: bytearray(), STDERR: bytearray()}
        self._truncated = {STDOUT: False, STDERR: False}

    @property
    def anything(self) -> bool:
        """Whether the program wrote anything."""
        return any(self._streams.values())

    def add(self, chunk: Chunk) -> None:
        """Take what still has a place."""
        kept = self._streams[STDERR if chunk.stream == STDERR else STDOUT]
        room = HEAD_BYTES - len(kept)
        if len(chunk.data) > room:
            self._truncated[chunk.stream] = True
        if room > 0:
            kept += chunk.data[:room]

    def output(self, exit_code: int, error_message: str) -> RunOutput:
        """The form for a report. Bytes that are no text are shown as replacement characters."""
        return RunOutput(
            stdout=self._streams[STDOUT].decode(errors="replace"),
            stdout_truncated=self._truncated[STDOUT],
            stderr=self._streams[STDERR].decode(errors="replace"),
            stderr_truncated=self._truncated[STDERR],
            exit_code=exit_code,
            error_message=error_message,
        )


async def write_streams(folder: Path, log: OutputLog, exit_code: int) -> None:
    """Put ``stdout``, ``stderr`` and ``exitCode`` into a result folder, as Bacalhau lays it out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "exitCode").write_text(str(exit_code))
    if log.size_bytes <= INLINE_BYTES:
        _split(folder, log, lambda: None)
    else:
        await in_thread(lambda stop: _split(folder, log, stop))


def _split(folder: Path, log: OutputLog, stop: Stop) -> None:
    with ExitStack() as files:
        streams = {
            number: files.enter_context((folder / name).open("wb"))
            for number, name in ((STDOUT, "stdout"), (STDERR, "stderr"))
        }
        for frame in log.frames():
            streams.get(frame.stream, streams[STDOUT]).write(frame.data)
            stop()
