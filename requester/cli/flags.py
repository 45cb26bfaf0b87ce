"""Flags that several commands about a job have, each with its one help text.

Knows: names and texts. Must not know: what a command does with them.
"""

from typing import Annotated

from cyclopts import Parameter

JobRef = Annotated[str, Parameter(name="JOB", help="The job's name, id or the beginning of its id.")]
Namespace = Annotated[str, Parameter(help="The job's namespace, where its name alone is not enough.")]
Version = Annotated[int, Parameter(alias="-v", help="An earlier version of the job.")]
