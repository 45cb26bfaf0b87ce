"""``shoal logs JOB``: what a program wrote, as it wrote it; of several executions with a word before each line.

Knows: what else is told beside it. Must not know: which executions there are (`requester.output`).
"""

import base64
import shlex
from typing import Annotated, Any

from cyclopts import Parameter

from protocol.errors import Invalid
from protocol.ids import short
from requester.cli.endpoint import Api
from requester.cli.exits import Exit, complain, tell
from requester.cli.flags import JobRef, Namespace
from requester.cli.following import tell_of_attempt
from requester.cli.lines import Lines
from requester.cli.output import put


def logs(
    job: JobRef,
    /,
    *,
    follow: Annotated[
        bool, Parameter(alias="-f", help="Go on until the program ends and is not tried again.")
    ] = False,
    tail: Annotated[
        bool, Parameter(alias="-t", help="Only what is written from now on (with --follow).")
    ] = False,
    execution_id: Annotated[str, Parameter(alias="-e", help="Only this execution.")] = "",
    all: Annotated[
        bool, Parameter(help="Of all executions, with the execution's id before each line.")
    ] = False,
    timestamps: Annotated[bool, Parameter(help="Put the time before each piece.")] = False,
    namespace: Namespace = "",
    api: Api = Api(),
) -> int:
    """Print a program's output: its standard output to ours, its standard error to ours."""
    if all and execution_id:
        raise Invalid("--all and --execution-id cannot be given together", hint="Leave one of them out.")
    code = Exit.OK
    lines = Lines()
    try:
        with api.client() as client:
            pieces = client.output(
                job,
                follow=follow,
                tail="true" if tail else "",
                execution_id=execution_id,
                all="true" if all else "",
                namespace=namespace,
            )
            for piece in pieces:
                if "Waiting" in piece:
                    first, *_ = piece["Waiting"].splitlines()
                    tell(f"It has no execution yet: {first}")
                elif piece.get("Executions", 0) > 1:
                    _tell_of_others(job, piece)
                elif "Attempt" in piece:
                    tell_of_attempt(piece, (piece.get("Before") or {}).get("Message", ""))
                elif "Failure" in piece:
                    complain(piece["Failure"]["Message"], piece["Failure"]["Hint"])
                    code = Exit.ERROR
                elif "Data" in piece:
                    at = f"{piece['Time']} " if timestamps else ""
                    data = base64.b64decode(piece["Data"])
                    if all:
                        lines.add(piece["ExecutionID"], piece["Stream"], data, at, whole=not follow)
                    else:
                        put(piece["Stream"], _with_word(data, at))
    except KeyboardInterrupt:
        lines.end()
        tell()
        return Exit.INTERRUPTED
    lines.end()
    return code


def _tell_of_others(job: str, piece: dict[str, Any]) -> None:
    """Which of several executions is shown, and how to see another."""
    id_, count, ref = short(piece["ExecutionID"]), piece["Executions"], shlex.quote(job)
    tell(f"This is the output of {id_}, one of {count} executions; of another one:")
    tell(f"\tshoal job executions {ref}\n\tshoal logs {ref} --execution-id ID\n\tshoal logs {ref} --all")


def _with_word(data: bytes, word: str) -> bytes:
    """The word before each line that begins there."""
    if not word:
        return data
    return b"".join(word.encode() + line for line in data.splitlines(keepends=True))
