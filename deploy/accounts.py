"""Tells the NATS servers of a cluster what changed in its accounts.

Knows: the one request by which servers take a signed account, and what they answer. Must not know: what changed.

Any server of a cluster hands the request on to all; each keeps what it was told on its disk, and one that was away takes
it over from the others when it is back. A user whose key is revoked is cut off by the server it is connected to.

A server compares a new connection with the account first and counts it among its connections after that; when it is told of
a change in between, it looks for whom to cut off among the others alone (nats-server 2.15, `auth.go` and `accounts.go`), and
one that was cut off a moment ago at another server comes in just then. So each change is told twice, signed anew, and the
second time when the first was answered.
"""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct, field

from protocol.errors import Denied, Unavailable
from protocol.nats.credentials import Credentials
from protocol.nats.frames import NO_RESPONDERS, frame, status_of
from protocol.nats.wire import Wire

_log = structlog.get_logger(__name__)

UPDATE: Final = "$SYS.REQ.CLAIMS.UPDATE"
ANSWER_S: Final = 5.0
MORE_S: Final = 0.5
"""How long further servers may take to answer after the first."""
CONNECT_S: Final = 5.0


class _Server(Struct, frozen=True):
    name: str = ""


class _Word(Struct, frozen=True):
    code: int = 0
    message: str = ""
    description: str = ""


class _Answer(Struct, frozen=True):
    server: _Server = _Server()
    data: _Word | None = None
    error: _Word | None = field(default=None)


async def push(url: str, messenger: str, signed: Sequence[Mapping[str, str]]) -> list[str]:
    """Give the servers at `url` these signed accounts, one signing after the other, as one with the credentials `messenger`;
    the names of those that took them all.

    Raises `Denied` (a server refuses an account) and `Unavailable` (none answers).
    """
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        path = Path(folder) / "keys.creds"
        path.touch(mode=0o600)
        path.write_text(messenger)
        proof = Credentials(path)
        wire = Wire()
        await wire.open(url, name="shoal keys", inbox="_INBOX", wait_s=CONNECT_S, credentials=proof)
        try:
            took = [await _update(wire, name, jwt) for accounts in signed for name, jwt in accounts.items()]
        finally:
            await wire.shut()
    return sorted(set.intersection(*took)) if took else []


async def _update(wire: Wire, name: str, jwt: str) -> set[str]:
    answers: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
    inbox = wire.new_inbox()
    number = await wire.listen(
        inbox, lambda _subject, _reply, data, headers: answers.put_nowait((data, headers))
    )
    took: set[str] = set()
    try:
        wire.send(frame(UPDATE, jwt.encode(), reply=inbox))
        while True:
            async with asyncio.timeout(MORE_S if took else ANSWER_S):
                data, headers = await answers.get()
            if status_of(headers) == NO_RESPONDERS:
                raise Unavailable(
                    "these NATS servers keep no accounts of their own", hint="Start them with nats.conf."
                )
            answer = msgspec.json.decode(data, type=_Answer)
            if answer.error is not None:
                raise Denied(f"a NATS server refuses the account {name}: {answer.error.description}")
            took.add(answer.server.name)
    except TimeoutError:
        if not took:
            raise Unavailable(f"no NATS server took the account {name} within {ANSWER_S:g} s") from None
        return took
    finally:
        wire.unlisten(number)
