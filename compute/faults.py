"""How what went wrong on a node is told: which part of which execution, what to do, and whether to try again.

Knows: the wording. Must not know: what is done about it.
"""

from typing import Final

import msgspec

from protocol.errors import TAKEN, Broken, Exhausted, Failure, Fault, Unavailable
from protocol.ids import NodeId
from protocol.jobs import Input, Spec
from protocol.process import FULL
from storage.locality import KIND as LOCALITY
from storage.mismatch import KIND as MISMATCH
from storage.url.params import shown_url

NODES_OWN: Final = frozenset({"local", "localdirectory"})
"""Sources whose data is this node's own: another node may well have it."""
_NAMES: Final = {
    "s3": lambda params: f"s3://{params.get('bucket', '')}/{params.get('key', '')}",
    "ipfs": lambda params: f"ipfs://{params.get('cid', '')}",
    "urldownload": lambda params: shown_url(str(params.get("url", ""))),
    "local": lambda params: str(params.get("sourcepath", "")),
    "localdirectory": lambda params: str(params.get("sourcepath", "")),
}


class StepFailed(Exception):
    """A step ended with this failure; `refused` if the reason lasts on this node."""

    def __init__(self, failure: Failure, *, refused: bool = False) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.refused = refused


def failure_of(error: Exception, node: NodeId, doing: str) -> Failure:
    """The failure for anything that was raised while `doing` something on `node`."""
    if isinstance(error, Fault):
        failure = error.failure()
        if failure.code == "Exhausted.Disk":
            return msgspec.structs.replace(
                failure, message=f"no space left on node {node}: {failure.message}", retryable=True
            )
        return failure
    if isinstance(error, OSError) and error.errno in FULL:
        hint = "Free some space in the node's data folder, or use a node with a larger disk."
        fault: Fault = Exhausted(f"no space left on node {node} while {doing}", hint=hint, kind="Disk")
        return msgspec.structs.replace(fault.failure(), retryable=True)
    if isinstance(error, OSError):
        fault = Unavailable(f"node {node}, {doing}: {error.strerror or error}", kind="Node")
    else:
        fault = Broken(f"node {node}, {doing}: unexpected {type(error).__name__}: {error}", kind="Internal")
    return fault.failure()


def input_failure(error: Exception, index: int, wanted: Input, node: NodeId) -> StepFailed:
    """What to raise when an input cannot be had: the message names its target and where it comes from."""
    failure = failure_of(error, node, f"fetching input {wanted.target}")
    source = wanted.source.type
    place = place_of(wanted.source)
    where = "" if place.removeprefix("ipfs://") in failure.message else f" ({place})"
    told = msgspec.structs.replace(
        failure,
        message=f"input {wanted.target}{where}: {failure.message}",
        retryable=failure.retryable and failure.code != f"Broken.{MISMATCH}",
        details={**failure.details, "input": str(index), "target": wanted.target, "source": source},
    )
    kind = failure.code.partition(".")[0]
    here_only = source.lower() in NODES_OWN and kind in ("Denied", "NotFound")
    here_only |= failure.code == f"Denied.{LOCALITY}"
    return StepFailed(told, refused=kind == "Invalid" or here_only)


def publisher_failure(error: Exception, publisher: Spec, node: NodeId) -> Failure:
    """The failure of a result that could not be published."""
    failure = failure_of(error, node, "publishing the result")
    return msgspec.structs.replace(
        failure,
        message=f"publisher {place_of(publisher)}: {failure.message}",
        retryable=failure.retryable and failure.code != TAKEN,
        details={**failure.details, "publisher": publisher.type},
    )


def place_of(spec: Spec) -> str:
    """A source or publisher as people name it: ``s3://bucket/key``, ``ipfs://CID``, a URL, a path, or its type."""
    params = {key.lower(): value for key, value in spec.params.items()}
    name = _NAMES.get(spec.type.lower())
    text = name(params) if name is not None and params else spec.type
    return text if len(text) <= 200 else text[:200] + "…"
