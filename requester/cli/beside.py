"""Starts a program that ends when its parent does, however that ends: ``python -m requester.cli.beside MODULE ARG...``.

Knows: how Linux is asked for that. Must not know: what is started. Elsewhere the parent's own clearing up must do.
"""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Become ``python -m MODULE ARG...``."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            # It ended before the wish was known.
            sys.exit(0)
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])


if __name__ == "__main__":
    main()
