"""``shoal submit FILE`` (= ``job run``), ``shoal diff FILE`` and ``shoal validate FILE``.

Knows: where specs come from. Must not know: what is in them (`protocol.spec`).
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from protocol.errors import Invalid
from protocol.spec import Reading, read_spec
from protocol.spec.bounds import TEXT_MAX_BYTES
from protocol.spec.template import fill_in, values_of
from requester.cli.endpoint import Api
from requester.cli.exits import Exit, tell
from requester.cli.output import clean_text
from requester.cli.reading import read_start
from requester.cli.shipping import check_own, shipped_spec
from requester.cli.waiting import Submitting, submit_and_wait
from storage.forms import look

Spec = Annotated[str, Parameter(name="SPEC", help="A job spec in YAML or JSON; - reads standard input.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filling:
    """Flags of commands that read a spec: what goes into its {{.name}}."""

    template_vars: Annotated[
        list[str] | None,
        Parameter(alias="-V", help="A value for the spec's {{.name}}, name=value; repeatable."),
    ] = None
    template_envs: Annotated[
        str,
        Parameter(
            alias="-E", help="Values from your environment: the variables this regular expression finds."
        ),
    ] = ""
    no_template: Annotated[bool, Parameter(help="Leave {{ and }} in the spec as they are written.")] = False

    def fill_in(self, text: str, file: str) -> str:
        """The text with its values. Raises `Invalid`."""
        if self.no_template:
            return text
        return fill_in(text, values_of(self.template_vars or [], self.template_envs, os.environ), file=file)


def submit(
    spec: Spec = "-",
    /,
    *,
    filling: Filling = Filling(),
    how: Submitting = Submitting(),
    api: Api = Api(),
) -> int:
    """Submit a job and wait for it.

    Ends with 0 only if the job did what it should: 10 it failed, 11 it was stopped, 12 no node can run it, 124 the time
    to wait was over, 2 the spec is wrong.
    """
    reading = shipped_spec(read(spec, filling), _folder(spec), api.settings)
    with api.client() as client:
        return submit_and_wait(client, reading, how)


def diff(spec: Spec = "-", /, *, filling: Filling = Filling(), api: Api = Api()) -> int:
    """Tell what submitting a spec would change in the job of its name; nothing is submitted.

    Files of your own that the spec names (./folder) are put where submitting would put them, so that they can be compared.
    """
    reading = shipped_spec(read(spec, filling), _folder(spec), api.settings)
    with api.client() as client:
        text = client.diff(msgspec.to_builtins(reading.job))
    if text:
        print(clean_text(text))
    else:
        tell("No changes: the job of that name has this spec.")
    return Exit.OK


def validate(spec: Spec = "-", /, *, filling: Filling = Filling()) -> int:
    """Check a job spec without a server; every fault is told at once, with its line and column."""
    reading = read(spec, filling)
    check_own(reading, _folder(spec))
    for warning in reading.warnings:
        tell(f"Warning: {warning}")
    print("OK")
    return Exit.OK


def read(spec: str, filling: Filling) -> Reading:
    """Read a spec from a file or, as ``-``, from standard input. Raises `NotFound`, `Invalid`."""
    if spec == "-":
        if sys.stdin.isatty():
            tell("Reading a job spec from the terminal; end it with Ctrl+D.")
        text = _text(sys.stdin.buffer.read(TEXT_MAX_BYTES + 1), "standard input")
        return read_spec(filling.fill_in(text, "<stdin>"), file="<stdin>", look=look)
    hint = "Give the path of a job spec, or - for standard input."
    data = read_start(spec, "file", at_most_bytes=TEXT_MAX_BYTES, hint=hint)
    return read_spec(filling.fill_in(_text(data, spec), spec), file=spec, look=look)


def _folder(spec: str) -> Path:
    """Where the relative paths of a spec begin: beside its file, or where the person is."""
    return Path() if spec == "-" else Path(spec).parent


def _text(data: bytes, name: str) -> str:
    if len(data) > TEXT_MAX_BYTES:
        raise Invalid(
            f"{name} is larger than {TEXT_MAX_BYTES} bytes",
            hint="Put large data into S3 or IPFS, not in the spec.",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"{name} is not UTF-8 text (byte {error.start})") from error
