"""What a job says of an input's bytes, where they are others: another attempt would meet the same.

Knows: how that is told, with both values. Must not know: whose bytes they are, or how they came. Only for bytes that are
sure to be all of one version: what was cut or has changed half-way says nothing of the job's words.
"""

from typing import Final

from protocol.errors import Broken

KIND: Final = "Mismatch"


def mismatch(what: str, found: str, field: str, said: str) -> Broken:
    """That `what` has `found`, where the job's `field` says something else."""
    hint = f"Correct {field}, or leave it out; if it is right, the data is not what it was."
    return Broken(f"{what} has {found}, and {field} says {said}", hint=hint, kind=KIND)
