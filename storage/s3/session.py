"""How botocore's requests travel: those that carry no bulk data, and have an end.

Knows: that aiobotocore limits the silence between two bytes and not the whole of a call, so that an answer of one byte now
and then would hold a job for ever. Must not know: what is asked.
"""

import asyncio
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ReadTimeoutError


def session_within(call_s: float) -> type[Any]:
    """The class of sessions whose calls, with the whole of their answers, end after so many seconds."""

    class Session(AIOHTTPSession):  # type: ignore[misc]
        async def send(self, request: Any) -> Any:
            try:
                async with asyncio.timeout(call_s):
                    return await super().send(request)
            except TimeoutError as error:
                raise ReadTimeoutError(endpoint_url=request.url, error=error) from error

    return Session
