"""Errors over REST: one envelope for every answer that is not 200.

Knows: which fault has which HTTP status and which of Bacalhau's codes, and how a long list is told. Must not know: routes.
Source of codes and statuses: the reference of the peer's API, section 3.1.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from protocol.errors import (
    Broken,
    Conflict,
    Denied,
    Exhausted,
    Fault,
    Invalid,
    NotFound,
    TimedOut,
    Unavailable,
)
from storage.long_lists import each_of

T = TypeVar("T")

_STATUS: Final[dict[type[Fault], tuple[int, str]]] = {
    Invalid: (400, "ValidationError"),
    Denied: (403, "Forbidden"),
    NotFound: (404, "NotFound"),
    Conflict: (409, "Conflict"),
    Exhausted: (429, "ResourceExhausted"),
    TimedOut: (504, "TimeOut"),
    Unavailable: (503, "ServiceUnavailable"),
    Broken: (500, "InternalError"),
}

_KINDS: Final = {
    "Conflict.JobState": "ConflictJobState",
    "Conflict.MultipleJobsFound": "MultipleJobsFound",
    "Conflict.MultipleExecutionsFound": "MultipleExecutionsFound",
    "Conflict.MultipleNodesFound": "MultipleNodesFound",
    "Conflict.NoChanges": "NoChanges",
}
"""Where the peer, or a program that reads our answers, knows a more exact code than the fault's own."""

COMPONENT: Final = "Requester"
AT_ONCE: Final = 32
"""This many views take a few milliseconds."""
EXACT: Final = "Fault"
"""Under Details: our own code of the fault, with its kind."""


def answer(value: Any, *, status: int = 200) -> web.Response:
    """A JSON answer; success is always exactly 200, which Bacalhau's client insists on."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", charset="utf-8"
    )


async def listed(items: list[T], view: Callable[[T], Any]) -> Any:
    """How the items look, as a list for an `answer`; `view` is given frozen records and looks at nothing else. Of many none
    is left in `items`.

    They are worked out, put into one text and let go of beside the loop: each of these is else one call that takes long for
    thousands, and everything waits for it.
    """
    if len(items) <= AT_ONCE:
        return [view(each) for each in items]

    def told() -> msgspec.Raw:
        text = bytearray(b"[")
        for each in each_of(items):
            text += msgspec.json.encode(view(each))
            text += b","
        text[-1:] = b"]"
        return msgspec.Raw(text)

    return await asyncio.to_thread(told)


def refusal(
    status: int,
    code: str,
    message: str,
    *,
    hint: str = "",
    component: str = "APIServer",
    details: dict[str, str] | None = None,
    request_id: str = "",
) -> web.Response:
    """The envelope itself; Hint and Details are left out when empty."""
    body: dict[str, Any] = {
        "Status": status,
        "Message": message,
        "RequestID": request_id,
        "Code": code,
        "Component": component,
    }
    if hint:
        body["Hint"] = hint
    if details:
        body["Details"] = details
    return answer(body, status=status)


def of_fault(fault: Fault, *, request_id: str = "") -> web.Response:
    """The envelope of one of our faults: Bacalhau's code, and ours under Details."""
    status, code = next(
        (known for kind, known in _STATUS.items() if isinstance(fault, kind)), (500, "InternalError")
    )
    exact = fault.failure().code
    return refusal(
        status,
        _KINDS.get(exact, code),
        fault.message,
        hint=fault.hint,
        component=COMPONENT,
        details={**fault.details, EXACT: exact},
        request_id=request_id,
    )
