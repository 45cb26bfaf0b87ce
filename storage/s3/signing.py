"""Signatures of AWS, version 4, for the requests that move bulk data.

Knows: the recipe (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).
Must not know: where the account comes from, or what is asked. botocore signs a request in half a millisecond, in which a
small object is brought; this takes a twentieth of it, and a test compares the two.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from msgspec import Struct

UNSIGNED: Final = "UNSIGNED-PAYLOAD"
"""What stands for the body: its bytes are vouched for by a checksum of their own among the signed headers, and by TLS."""


class Credentials(Struct, frozen=True):
    """An account. Its text form shows no secret."""

    access_key: str
    secret_key: str
    session_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.access_key[:4]}…)"


class Scope(Struct, frozen=True):
    """What a signature is good for besides its day."""

    region: str
    service: str = "s3"


class Signer:
    """Signs as `account`, which may be replaced at any time; from any thread."""

    def __init__(self, account: Credentials, scope: Scope) -> None:
        self.account = account
        self._scope = scope
        self._key: tuple[str, Credentials, bytes] = ("", account, b"")

    def signed(
        self, method: str, host: str, target: str, headers: Mapping[str, str], at: float | None = None
    ) -> dict[str, str]:
        """The headers with a signature of all of them. `target` is path and query, quoted; `host` as it will be sent."""
        account = self.account
        clock = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
        day = clock[:8]
        found = {**headers, "x-amz-content-sha256": UNSIGNED, "x-amz-date": clock}
        if account.session_token:
            found["x-amz-security-token"] = account.session_token
        named = sorted([(name.lower(), value) for name, value in found.items()] + [("host", host)])
        names = ";".join(name for name, _ in named)
        path, _, query = target.partition("?")
        lines = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in named)
        request = f"{method}\n{path}\n{_in_order(query)}\n{lines}\n{names}\n{UNSIGNED}"
        scope = f"{day}/{self._scope.region}/{self._scope.service}/aws4_request"
        signature = self._signature(request, clock, scope, account)
        found["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={account.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return found

    def link(self, method: str, host: str, target: str, expires_s: int, at: float | None = None) -> str:
        """The target of a request that anybody can make for so long: path and query with a signature in it."""
        account = self.account
        clock = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
        scope = f"{clock[:8]}/{self._scope.region}/{self._scope.service}/aws4_request"
        path, _, query = target.partition("?")
        own = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{account.access_key}/{scope}",
            "X-Amz-Date": clock,
            "X-Amz-Expires": str(expires_s),
            "X-Amz-SignedHeaders": "host",
            **({"X-Amz-Security-Token": account.session_token} if account.session_token else {}),
        }
        query = _in_order("&".join(filter(None, (query, query_of(own)))))
        request = f"{method}\n{path}\n{query}\nhost:{host}\n\nhost\n{UNSIGNED}"
        return f"{path}?{query}&X-Amz-Signature={self._signature(request, clock, scope, account)}"

    def _signature(self, request: str, clock: str, scope: str, account: Credentials) -> str:
        text = f"AWS4-HMAC-SHA256\n{clock}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        return hmac.new(self._key_of(clock[:8], account), text.encode(), hashlib.sha256).hexdigest()

    def _key_of(self, day: str, account: Credentials) -> bytes:
        kept = self._key
        if kept[0] != day or kept[1] is not account:
            key = f"AWS4{account.secret_key}".encode()
            for part in (day, self._scope.region, self._scope.service, "aws4_request"):
                key = hmac.new(key, part.encode(), hashlib.sha256).digest()
            kept = self._key = (day, account, key)
        return kept[2]


def quoted_path(key: str) -> str:
    """A key as it stands in a path: slashes stay."""
    return quote(key, safe="/~")


def query_of(values: Mapping[str, str]) -> str:
    """Names and values as a query, quoted as signatures want them."""
    return "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in values.items()
    )


def _in_order(query: str) -> str:
    """A query as the recipe wants it: in the order of names, and a name without a value with an empty one."""
    if not query:
        return ""
    return "&".join(sorted(each if "=" in each else f"{each}=" for each in query.split("&")))
