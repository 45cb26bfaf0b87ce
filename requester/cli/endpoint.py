"""Which requester a command talks to: flags, then environment, then the default.

Knows: the flags and variables of Bacalhau's clients and our own. Must not know: what is called there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from protocol.errors import Invalid
from requester.client import Client, Endpoint


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Api:
    """Flags of every command that talks to a requester."""

    api_host: Annotated[str, Parameter(help="Address of the requester's API (BACALHAU_API_HOST).")] = ""
    api_port: Annotated[int, Parameter(help="Port of the requester's API (BACALHAU_API_PORT).")] = 0

    def endpoint(self) -> Endpoint:
        """Where to call. Raises `Invalid` for a port that is none."""
        host = self.api_host or _variable("API_HOST") or "127.0.0.1"
        port = self.api_port or _port(_variable("API_PORT")) or 1234
        tls = host.startswith("https://") or _variable("API_TLS_USETLS").lower() in {"1", "true"}
        host = host.removeprefix("https://").removeprefix("http://").rstrip("/")
        # A listener's "any address" is no address to call.
        return Endpoint(host="127.0.0.1" if host == "0.0.0.0" else host, port=port, tls=tls)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client for the length of a command."""
        client = Client(self.endpoint())
        try:
            yield client
        finally:
            client.close()


def _variable(name: str) -> str:
    return os.environ.get(f"SHOAL_{name}") or os.environ.get(f"BACALHAU_{name}") or ""


def _port(text: str) -> int:
    if not text:
        return 0
    if not text.isdigit() or not 0 < int(text) < 65_536:
        raise Invalid(
            f"the API port {text!r} is not a port", hint="BACALHAU_API_PORT is a number from 1 to 65535"
        )
    return int(text)
