"""Flags that several of our programs have, each with its one help text.

Knows: names and texts. Must not know: what a program does with them.
"""

from typing import Annotated

from cyclopts import Parameter

from protocol.server_settings import NATS_DEFAULT, LogFormat, LogLevel

Nats = Annotated[
    list[str] | None,
    Parameter(help=f"NATS servers, repeatable or with commas; default {NATS_DEFAULT}.", negative=""),
]
Credentials = Annotated[
    str,
    Parameter(
        help="File that proves to the NATS servers who this is, made by `shoal … enroll`; it also gives the name."
    ),
]
Settings = Annotated[
    list[str] | None,
    Parameter(
        name="--config",
        alias="-c",
        help="A YAML file, or Key=Value with Bacalhau's keys; repeatable.",
        negative="",
    ),
]
Logs = Annotated[LogFormat | None, Parameter(help="auto (the default): console on a terminal, else JSON.")]
Level = Annotated[LogLevel | None, Parameter(help="The lowest level that is logged; default info.")]
