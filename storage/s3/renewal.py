"""An account that ends while it is used, and the one that takes its place.

Knows: botocore's credentials, and that only some of them renew themselves. Must not know: what is asked for as whom, or
where an account comes from.

What has an end that botocore knows is renewed before it. A session token that some program writes into the credentials file
has none: botocore reads it once. So when S3 says that an account is over, the AWS chain is read anew, and what was refused
is asked for again if there is another by now.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from storage.s3.signing import Credentials

READ_S: Final = 30.0
"""How long to wait for the credential chain after a refusal: a ``credential_process`` may ask a server."""
LATELY_S: Final = 5.0


class Renewal:
    """The account of one connection. `held` are the credentials that botocore's client has as well; `read` asks the chain
    anew, None where the account was given and there is no chain to ask. Raises what they raise."""

    def __init__(self, held: Any, read: Callable[[], Awaitable[Any]] | None) -> None:
        self._held = held
        self._read = read
        self._lock = asyncio.Lock()
        self._reads = 0
        self._read_at = asyncio.get_running_loop().time()

    @property
    def may_pass(self) -> bool:
        """Whether there may be another account than this one some day."""
        return self._read is not None

    @property
    def ends(self) -> bool:
        """Whether the account has an end that is known, and renews itself before it."""
        return hasattr(self._held, "refresh_needed")

    async def now(self) -> Credentials:
        """The account as it is."""
        frozen = await self._held.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token or "")

    async def after(self, over: Credentials) -> Credentials:
        """What there is now that S3 has said that `over` is over: the same if there is nothing else. All that were refused
        before the chain is read have it read once: a ``credential_process`` may take seconds, and its server may count.
        Whoever is refused while it is read may know better, and has it read again."""
        reads = self._reads
        async with self._lock:
            if self._reads == reads and await self.now() == over:
                await self._read_anew()
            return await self.now()

    async def lately(self) -> Credentials:
        """The account as it was at most `LATELY_S` ago: for what is signed here and used elsewhere, of which nobody hears
        that it was refused."""
        async with self._lock:
            if asyncio.get_running_loop().time() - self._read_at > LATELY_S:
                await self._read_anew()
            return await self.now()

    async def _read_anew(self) -> None:
        if self._read is None or self.ends:
            return
        self._reads += 1
        self._read_at = asyncio.get_running_loop().time()
        async with asyncio.timeout(READ_S):
            found = await self._read()
            frozen = await found.get_frozen_credentials() if found is not None else None
        if frozen is not None:
            self._held.access_key = frozen.access_key
            self._held.secret_key = frozen.secret_key
            self._held.token = frozen.token
