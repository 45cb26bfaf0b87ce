"""What a job published, as the requester tells it: one `Result` for each execution.

Knows: the answers of ``/results``, and which results are archives. Must not know: how one is fetched or looked into.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from msgspec import Struct

from protocol.errors import Denied, NotFound, Unavailable
from protocol.ids import short
from protocol.jobs import Spec
from requester.cli.stores import LINKED
from requester.client import JOBS, Client, Endpoint

Json = dict[str, Any]

ARCHIVE_END: Final = ".tar.gz"
AGAIN_S: Final = 5.0
"""Results are not asked for more often than that, however many of them want newer links."""


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


def executions_in(answer: Json) -> dict[str, Json]:
    """A job's executions by id, as its answer has them where it was asked to include them."""
    return {each["ID"]: each for each in (answer.get("Executions") or {}).get("Items") or []}


def _result(endpoint: Endpoint, job: str, item: Json) -> Result:
    spec = Spec(item["Type"], item.get("Params") or {})
    kept = spec.type.lower() == "urldownload"
    relay = f"{endpoint}{JOBS}/{job}/results/{item['ExecutionID']}{ARCHIVE_END}" if kept else ""
    return Result(item["ExecutionID"], spec, relay, (item.get("Written") or {}).get("SHA256", ""))


class NewLinks:
    """Links to a job's results that are asked for anew, because those that were told first end after a while.

    `ask` tells all results again; it blocks.
    """

    def __init__(self, ask: Callable[[], list[Result]]) -> None:
        self._ask = ask
        self._asked_at: float | None = None
        self._links: dict[tuple[str, str, str], dict[str, str]] = {}

    async def of(self, result: Any) -> dict[str, str]:
        """Those of a result (`storage.s3.presigned.PreSignedParams`), by their keys: a `Renew`."""
        now = asyncio.get_running_loop().time()
        if self._asked_at is None or now - self._asked_at > AGAIN_S:
            self._links = await asyncio.to_thread(self._told)
            self._asked_at = now
        return self._links.get(result.of, {})

    def _told(self) -> dict[tuple[str, str, str], dict[str, str]]:
        from storage.params import read_params
        from storage.s3.presigned import PreSignedParams

        found = [each.spec for each in self._ask() if each.spec.type.lower() == LINKED]
        read = [read_params(each.params, PreSignedParams, f"result {LINKED}") for each in found]
        return {each.of: each.links for each in read}


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


@contextmanager
def told_whose(spec: Spec) -> Iterator[None]:
    """What a refusal does not say: that a result was published with an account which neither the requester nor the person
    has shown to the store, or has more objects than the requester gives links to."""
    from storage.s3.results import OBJECTS_MAX

    try:
        yield
    except Denied as fault:
        count = (spec.params.get("Listing") or {}).get("Count", 0)
        if spec.type.lower() == "s3" and count > OBJECTS_MAX:
            fault.hint = (
                f"It has {count:,} objects, and a requester gives links to at most {OBJECTS_MAX:,} of a result: read it "
                "with an account of yours (AWS_PROFILE=…), or let the job publish one archive (Encoding: gzip)."
            )
        profile = spec.params.get("Profile") or (spec.params.get("SourceSpec") or {}).get("Profile")
        if profile:
            fault.hint = (
                f"Its node published it with the AWS profile {profile!r}. Give the requester that profile and leave to use "
                f"it (Publishers.Types.S3.AllowedProfiles: [{profile}]), or read it with an account of yours: AWS_PROFILE=…"
            )
        raise


def is_archive(spec: Spec) -> bool:
    """Whether a result is one: what nodes keep always is; on S3 it is if the key or the link says so, else a tree."""
    keys = [str(value) for name, value in spec.params.items() if name.lower() == "key"]
    if spec.type.lower() == LINKED:
        return not spec.params.get("Objects")
    return spec.type.lower() == "urldownload" or any(key.endswith(ARCHIVE_END) for key in keys)
