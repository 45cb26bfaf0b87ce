"""What a job published, as the requester tells it: one `Result` for each execution.

Knows: the answers of ``/results``, and which results are archives. Must not know: how one is fetched or looked into.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from msgspec import Struct

from protocol.errors import NotFound, Unavailable
from protocol.ids import short
from protocol.jobs import Spec
from requester.cli.stores import LINKED
from requester.client import JOBS, Client, Endpoint

Json = dict[str, Any]

ARCHIVE_END: Final = ".tar.gz"


class Result(Struct, frozen=True):
    """What one execution published. `relay`: where a requester brings it from its node; empty for what lies elsewhere.

    `sha256` is that of the list of its files (`storage.sha256sum`), empty if nobody has told.
    """

    execution: str
    spec: Spec
    relay: str = ""
    sha256: str = ""


def published(client: Client, record: Json, *, links: bool = False) -> list[Result]:
    """What a job's executions published; with `links`, trees of objects in S3 come with a link for each, if they can."""
    answer = client.call("GET", f"{JOBS}/{record['ID']}/results", links="true" if links else "")
    return [_result(client.endpoint, record["ID"], each) for each in answer["Items"] or []]


def _result(endpoint: Endpoint, job: str, item: Json) -> Result:
    spec = Spec(item["Type"], item.get("Params") or {})
    kept = spec.type.lower() == "urldownload"
    relay = f"{endpoint}{JOBS}/{job}/results/{item['ExecutionID']}{ARCHIVE_END}" if kept else ""
    return Result(item["ExecutionID"], spec, relay, (item.get("Written") or {}).get("SHA256", ""))


@contextmanager
def told_if_gone(result: Result) -> Iterator[None]:
    """What a requester's status does not say: that a node does not keep a result any more, or is not connected."""
    from storage.kept import GONE_HINT

    what = f"the result of execution {short(result.execution)}"
    try:
        yield
    except NotFound as fault:
        if not result.relay:
            raise
        message = f"{what} is not kept on its node any more"
        raise NotFound(message, hint=GONE_HINT, kind="Results") from fault
    except Unavailable as fault:
        if not result.relay or f"{result.relay} answers 503" not in fault.message:
            raise
        message = f"{what} is kept by its node, which is not connected"
        raise Unavailable(message, hint="Start the node again, or publish to S3 or IPFS.") from fault


def is_archive(spec: Spec) -> bool:
    """Whether a result is one: what nodes keep always is; on S3 it is if the key or the link says so, else a tree."""
    keys = [str(value) for name, value in spec.params.items() if name.lower() == "key"]
    if spec.type.lower() == LINKED:
        return not spec.params.get("Objects")
    return spec.type.lower() == "urldownload" or any(key.endswith(ARCHIVE_END) for key in keys)
