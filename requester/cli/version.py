"""``shoal version``: this client's version and the server's.

Knows: where each is told. Must not know: how answers come (`requester.client`).
"""

from typing import Annotated

from cyclopts import Parameter

from protocol.errors import Fault
from requester.cli.endpoint import Api
from requester.cli.exits import Exit, complain_of
from requester.cli.output import ListFormat, print_list
from requester.client import AGENT
from requester.version import installed_version


def version(
    *,
    client: Annotated[bool, Parameter(help="Only this client's.")] = False,
    how: ListFormat = ListFormat(),
    api: Api = Api(),
) -> int:
    """Print versions."""
    row = {"client": installed_version(), "server": ""}
    code = Exit.OK
    if not client:
        try:
            with api.client() as connection:
                answer = connection.call("GET", f"{AGENT}/version")
            row["server"] = answer.get("Shoal") or answer.get("GitVersion", "")
        except Fault as fault:
            complain_of(fault)
            code = Exit.ERROR
    columns = [("CLIENT", lambda each: str(each["client"]))]
    if not client:
        columns.append(("SERVER", lambda each: str(each["server"])))
    print_list([row], columns, how)
    return code
