"""``python -m requester`` and ``shoal``: the same program.

Knows: what a short command's time goes into. Must not know: commands (`requester.cli.app`).
"""

import gc
import sys


def main() -> int:
    """Run the command line; the exit code."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        # Before anything else is imported: the one command whose time people feel as the program's own.
        from requester.version import installed_version

        print(installed_version())
        return 0
    try:
        return _run(sys.argv[1:])
    except KeyboardInterrupt:
        # Before the command line could: much of a short command's time goes into loading it.
        return 130


def _run(arguments: list[str]) -> int:
    # What is loaded now stays: looking through it for garbage, again and again, would be a tenth of a short command's time.
    gc.disable()
    from requester.cli.app import main as run

    gc.freeze()
    gc.enable()
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
