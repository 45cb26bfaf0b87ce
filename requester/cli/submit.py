"""``shoal submit FILE`` (= ``job run``) and ``shoal validate FILE``.

Knows: where specs come from. Must not know: what is in them (`protocol.spec`).
"""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from protocol.errors import Invalid, NotFound
from protocol.spec import Reading, read_spec
from protocol.spec.bounds import TEXT_MAX_BYTES
from requester.cli.endpoint import Api
from requester.cli.exits import Exit, tell
from requester.cli.waiting import Waiting, submit_and_wait

Spec = Annotated[str, Parameter(name="SPEC", help="A job spec in YAML or JSON; - reads standard input.")]


def submit(
    spec: Spec = "-",
    /,
    *,
    how: Waiting = Waiting(),
    api: Api = Api(),
) -> int:
    """Submit a job and wait for it.

    Ends with 0 only if the job did what it should: 10 it failed, 11 it was stopped, 12 no node can run it, 124 the time
    to wait was over, 2 the spec is wrong.
    """
    reading = read(spec)
    with api.client() as client:
        return submit_and_wait(client, reading, how)


def validate(spec: Spec = "-", /) -> int:
    """Check a job spec without a server; every fault is told at once, with its line and column."""
    reading = read(spec)
    for warning in reading.warnings:
        tell(f"Warning: {warning}")
    print("OK")
    return Exit.OK


def read(spec: str) -> Reading:
    """Read a spec from a file or, as ``-``, from standard input. Raises `NotFound`, `Invalid`."""
    if spec == "-":
        if sys.stdin.isatty():
            tell("Reading a job spec from the terminal; end it with Ctrl+D.")
        return read_spec(_text(sys.stdin.buffer.read(TEXT_MAX_BYTES + 1), "standard input"), file="<stdin>")
    path = Path(spec)
    try:
        with path.open("rb") as file:
            data = file.read(TEXT_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no file {spec}", hint="give the path of a job spec, or - for standard input"
        ) from error
    except OSError as error:
        raise Invalid(f"{spec} cannot be read: {error.strerror}") from error
    return read_spec(_text(data, spec), file=spec)


def _text(data: bytes, name: str) -> str:
    if len(data) > TEXT_MAX_BYTES:
        raise Invalid(
            f"{name} is larger than {TEXT_MAX_BYTES} bytes",
            hint="put large data into S3 or IPFS, not in the spec",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"{name} is not UTF-8 text (byte {error.start})") from error
