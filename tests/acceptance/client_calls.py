"""Runs beside the tests, where Bacalhau's Python clients can be imported: makes the calls that it is told, one a line.

A line is ``[object, method, arguments, named arguments]``; the answer is a line too: ``{"returned": …}`` as the client
gives it, or ``{"refused": status, "body": …}``. An object with one key that begins with ``@`` is a model of the client's.
"""

import json
import sys
from importlib import import_module
from typing import Any


def main() -> None:
    """Answer until standard input ends."""
    objects = {"Jobs": import_module("bacalhau_sdk.jobs").Jobs()}
    client = import_module("bacalhau_apiclient")
    told = client.ApiClient(import_module("bacalhau_sdk.config").init_config())
    for name in ("ComputeNodeApi", "MiscApi", "OpsApi", "OrchestratorApi", "UtilsApi"):
        objects[name] = getattr(client, name)(told)
    refusal = import_module("bacalhau_apiclient.rest").ApiException
    # The SDK prints what it catches; answers are lines of their own.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        name, method, arguments, named = json.loads(line)
        call = getattr(objects[name], method)
        try:
            returned = call(*_made(arguments, client), **_made(named, client))
            answer = {"returned": _plain(returned)}
        except refusal as refused:
            answer = {"refused": refused.status, "body": json.loads(refused.body)}
        print(json.dumps(answer), file=answers, flush=True)


def _made(value: Any, client: Any) -> Any:
    """The value with models made of what stands for them."""
    if isinstance(value, list):
        return [_made(each, client) for each in value]
    if not isinstance(value, dict):
        return value
    made = {key: _made(each, client) for key, each in value.items()}
    match list(made):
        case [str(name)] if name.startswith("@"):
            return getattr(client, name[1:])(**made[name])
        case _:
            return made


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.to_dict() if hasattr(value, "to_dict") else value


if __name__ == "__main__":
    main()
