"""How botocore's requests travel: those that carry no bulk data, and have an end.

Knows: that aiobotocore limits the silence between two bytes, and neither the whole of a call nor the size of its answer, and
that it follows redirects by itself, past what an address policy says of them. Must not know: what is asked.

So a call has a limit of time, an answer one of size as it comes, and a redirect is followed nowhere: S3's own name the
bucket's region, and botocore asks again there; any other is a fault.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiobotocore.httpsession import AIOHTTPSession
from aiohttp import ClientResponse, ClientSession
from botocore.exceptions import ReadTimeoutError
from yarl import URL

from protocol.errors import Broken, Invalid

ANSWER_MAX_BYTES: Final = 1 << 22
"""A thousand keys or uploads, the most that a call asks for, take less."""
ERROR_MAX_BYTES: Final = 1 << 18
"""S3's own errors take less than a hundredth."""
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
REGION: Final = "x-amz-bucket-region"
_PIECE_BYTES: Final = 1 << 16


def session_within(call_s: float, check_url: Callable[[str], None]) -> type[Any]:
    """The class of sessions whose calls, with the whole of their answers, end after so many seconds.

    `check_url` raises what is against a request: with a bucket's name in it a host may be another than its endpoint's.
    """

    class Session(AIOHTTPSession):  # type: ignore[misc]
        async def send(self, request: Any) -> Any:
            try:
                async with asyncio.timeout(call_s):
                    return await super().send(request)
            except TimeoutError as error:
                raise ReadTimeoutError(endpoint_url=request.url, error=error) from error

        async def _get_session(self, proxy_url: str | None) -> "_Calls":
            return _Calls(await super()._get_session(proxy_url), check_url)

    return Session


class _Calls:
    """As much of aiohttp's session as aiobotocore uses."""

    def __init__(self, session: ClientSession, check_url: Callable[[str], None]) -> None:
        self._session = session
        self._check_url = check_url

    async def request(self, method: str, url: URL, **more: Any) -> "_Answer":
        """Ask once. Raises `Invalid` for a redirect that is not S3's own, which names the bucket's region."""
        self._check_url(str(url))
        answer = await self._session.request(method, url, allow_redirects=False, **more)
        if answer.status in REDIRECTS and REGION not in answer.headers:
            answer.close()
            raise _elsewhere(answer)
        return _Answer(answer)


class _Answer:
    """An answer, whose body is read as far as any of S3's goes."""

    def __init__(self, answer: ClientResponse) -> None:
        self._answer = answer

    def __getattr__(self, name: str) -> Any:
        """All else is aiohttp's."""
        return getattr(self._answer, name)

    async def read(self) -> bytes:
        """The body. Raises `Broken` for one without end."""
        limit = ANSWER_MAX_BYTES if self._answer.status < 300 else ERROR_MAX_BYTES
        body = bytearray()
        try:
            async for piece in self._answer.content.iter_chunked(_PIECE_BYTES):
                body += piece
                if len(body) > limit:
                    raise _endless(self._answer, limit)
        except BaseException:
            self._answer.close()
            raise
        return bytes(body)


def _elsewhere(answer: ClientResponse) -> Invalid:
    said = f"{answer.url.origin()} redirects (status {answer.status}), which S3 requests do not follow"
    return Invalid(said, hint="Name the address that it redirects to as Endpoint.", kind="Redirect")


def _endless(answer: ClientResponse, limit: int) -> Broken:
    said = f"{answer.url.origin()} answers {answer.status} with more than {limit:,} bytes"
    return Broken(said, hint="Is this the address of an S3 server?")
