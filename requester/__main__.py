"""``python -m requester`` and ``shoal``: the same program."""

import sys


def main() -> int:
    """Run the command line; the exit code."""
    from requester.cli.app import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
