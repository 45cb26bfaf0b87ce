"""A file that a person names, read no further than it may be large.

Knows: how what cannot be read is told. Must not know: what is in it.
"""

from pathlib import Path

from protocol.errors import Invalid, NotFound


def read_start(path: str, what: str, *, at_most_bytes: int, hint: str) -> bytes:
    """The first bytes of a file, one more than it may have where it has more. `what` is a person's word for it.

    Raises `NotFound` with the hint, and `Invalid`.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(at_most_bytes + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no {what} {path}", hint=hint) from error
    except (OSError, ValueError) as error:
        # A name with a NUL in it is a ValueError.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Invalid(f"the {what} {path} cannot be read: {reason}") from error
