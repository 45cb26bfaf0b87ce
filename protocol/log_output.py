"""How our programs' own logs look: for people on a terminal, one JSON object a line elsewhere.

Knows: structlog and the standard library's logging, which libraries use. Must not know: what is logged.
"""

import contextlib
import logging
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import Processor


class _Lossy:
    """A stream on a disk that may be full, or to a reader who may be gone: then lines are lost, and nothing else is.

    What writes a line is in the middle of something that must not fail for it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def set_up(form: str, level: str) -> None:
    """Log to standard error from `level` on. `form` is ``console`` or ``json``; any other decides by the terminal."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    console = form == "console" or (form != "json" and sys.stderr.isatty())
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if console
        else structlog.processors.JSONRenderer()
    )
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not console:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Lossy(sys.stderr))),
    )
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
