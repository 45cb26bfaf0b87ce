"""``shoal version``: this client's version and the server's."""

from typing import Annotated

from cyclopts import Parameter

from protocol.errors import Fault
from requester.cli.endpoint import Api
from requester.cli.exits import Exit, complain
from requester.cli.output import ListFormat, print_list
from requester.client import AGENT


def version(
    *,
    client: Annotated[bool, Parameter(help="Only this client's.")] = False,
    how: ListFormat = ListFormat(),
    api: Api = Api(),
) -> int:
    """Print versions."""
    row = {"client": client_version(), "server": ""}
    code = Exit.OK
    if not client:
        try:
            with api.client() as connection:
                answer = connection.call("GET", f"{AGENT}/version")
            row["server"] = answer.get("Shoal") or answer.get("GitVersion", "")
        except Fault as fault:
            complain(fault.message, fault.hint)
            code = Exit.ERROR
    columns = [("CLIENT", lambda each: str(each["client"]))]
    if not client:
        columns.append(("SERVER", lambda each: str(each["server"])))
    print_list([row], columns, how)
    return code


def client_version() -> str:
    """The installed version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("shoal")
    except PackageNotFoundError:
        return "0.0.0"
