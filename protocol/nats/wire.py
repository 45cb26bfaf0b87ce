"""One connection to NATS: frames out in groups, messages in without a task each, and questions with their answers.

Knows: nats-py, which no other module does but its parser's. Must not know: streams, jobs, or what travels.

nats-py keeps the connection: handshake, credentials, TLS, pings, servers of a cluster, reconnecting. Its way of moving
messages (a queue and a task for each subscription, two tasks for a request, a dictionary for each header, patterns tried
on each line) costs more than all of ours together, so `Wire` has a parser of its own (`protocol.nats.parser`) and writes its
own frames. It overrides `_connect_to_server`, `_process_err` and `_process_op_err`, and uses `_ps`, `_subs`, `_sid` and
`_transport` of nats-py 2.16.0, the version that the project pins; ``tests/protocol_bus`` fails if another version works
differently.
"""

import asyncio
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Final, cast

import structlog
from nats import errors
from nats.aio.client import Client, Srv
from nats.aio.subscription import Subscription

from protocol.errors import Denied, Fault, Invalid, Unavailable
from protocol.nats.addresses import addresses, user_in, without_passwords
from protocol.nats.credentials import HINT, Credentials
from protocol.nats.frames import Answer, Request, frame
from protocol.nats.parser import MessageParser
from protocol.nats.refusals import VIOLATION, Refusals, refused_subject
from protocol.nats.volley import Volley
from protocol.together import within

_log = structlog.get_logger(__name__)

Handler = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes subject, reply subject, data and header block of a message. It must not wait and must not raise."""

SEND_S: Final = 10.0
"""How long the connection may take no bytes before a sender gives up."""
PING_S: Final = 10
"""A server that answers two pings late is given up, so a dead connection is noticed within half a minute."""
CONFIRM_S: Final = 5.0
BACKLOG_BYTES: Final = 1 << 20


class Wire(Client):
    """A connection that is kept up for ever once it was made."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = MessageParser(self, self._deliver)
        self._handlers: dict[int, Handler] = {}
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._inbox = ""
        self._inbox_length = 0
        self._token = 0
        self._asked: dict[bytes, tuple[Volley, int]] = {}
        self._volleys: set[Volley] = set()
        self._refusals = Refusals()
        self._up = asyncio.Event()
        self._opening = True
        self._proven = False
        self._shut = False
        self._loss_hooks: set[Callable[[], None]] = set()
        self.losses = 0
        """How often the connection was lost."""

    @property
    def connected(self) -> bool:
        """Whether the server can be reached just now, all subscriptions known to it."""
        return self._up.is_set() and not self._shut

    async def open(
        self,
        url: str,
        *,
        name: str,
        inbox: str,
        wait_s: float,
        credentials: Credentials | None = None,
        user: str | None = None,
        password: str | None = None,
    ) -> None:
        """Connect to one of the servers in `url` (separated by commas), by `credentials`, else as `user`, else as nobody.

        Raises `Invalid` (not such a URL), `Denied` (the server refuses these credentials) and `Unavailable` (no server
        within `wait_s`).
        """
        # None would have nats-py look for one for ever, without letting anyone else run.
        servers = addresses(url)
        # Not left in the URL: the servers of a cluster tell of each other, and those addresses have no user in them.
        user, password = user_in(servers) or (user, password)
        self._proven = credentials is not None
        try:
            connecting = self.connect(
                servers,
                name=name,
                user=user,
                password=password,
                user_jwt_cb=credentials.jwt if credentials else None,
                signature_cb=credentials.sign if credentials else None,
                inbox_prefix=inbox,
                error_cb=self._on_error,
                reconnected_cb=self._on_connected,
                max_reconnect_attempts=-1,
                # Different for every process, so that a fleet does not come back all at once.
                reconnect_time_wait=cast(int, random.uniform(0.2, 0.5)),
                ping_interval=PING_S,
            )
            await within(wait_s, connecting)
        except (TimeoutError, errors.Error, ValueError, Denied) as error:
            fault = self._unopened(error, without_passwords(servers))
            if not isinstance(fault, Invalid):
                # Else nothing was begun, and nats-py cannot close what has no servers.
                await self.shut()
            raise fault from error
        self._opening = False
        self._inbox = f"{inbox}.{os.urandom(9).hex()}."
        self._inbox_length = len(self._inbox)
        self._up.set()
        await self.listen(f"{self._inbox}*", self._on_answer)

    def _unopened(self, error: Exception, servers: str) -> Fault:
        """What it means that no connection was made."""
        match error:
            case Denied():
                return Denied(f"the NATS server at {servers} {error.message}", hint=error.hint)
            case TimeoutError():
                return Unavailable(
                    f"no NATS server answers at {servers} ({self.last_error or 'no answer'})",
                    hint="Start one with `nats-server -c nats.conf`, or name its address.",
                )
        return Invalid(f"{servers} is not an address of NATS servers: {error}")

    async def shut(self) -> None:
        """Close for good. Harmless twice."""
        self._write_out()
        self._shut = True
        self._lost()
        self._up.set()
        try:
            async with asyncio.timeout(2):
                await self.close()
        except TimeoutError:
            self._abort()

    # Out

    def send(self, data: bytes) -> None:
        """Write frames with all others of this turn of the event loop; they are lost if the connection is."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._write_out)
        self._out.append(data)
        self._out_bytes += len(data)

    async def drain(self) -> None:
        """Wait while more is to be written than should pile up. Raises `Unavailable`."""
        if self._out_bytes < BACKLOG_BYTES and not self._piled_up():
            return
        self._write_out()
        if self._transport is None:
            return
        try:
            async with asyncio.timeout(SEND_S):
                await self._transport.drain()  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError) as error:
            raise Unavailable(
                f"the NATS server took no bytes for {SEND_S:g} s, or the connection was lost"
            ) from error

    def _piled_up(self) -> bool:
        transport = self._raw_transport()
        return transport is not None and transport.get_write_buffer_size() > BACKLOG_BYTES

    def _write_out(self) -> None:
        out, self._out, self._out_bytes = self._out, [], 0
        if out and self.is_connected and self._transport is not None and not self._ended():
            self._transport.writelines(out)

    def _ended(self) -> bool:
        """Whether the connection has ended; nats-py learns it a turn of the event loop later."""
        transport = self._raw_transport()
        return transport is not None and transport.is_closing()

    # In

    async def listen(self, subject: str, handler: Handler, group: str = "") -> int:
        """Give every message on a subject to `handler`, from the moment this returns; the number to `unlisten` with."""
        self._sid += 1
        number = self._sid
        # nats-py subscribes to what is in here again, whenever it has connected again.
        self._subs[number] = Subscription(self, number, subject, queue=group)
        self._handlers[number] = handler
        self.send(f"SUB {subject} {group} {number}\r\n".encode())
        self._write_out()
        if self.connected and not await self._taken():
            _log.warning("a subscription was not confirmed; it is repeated on reconnecting", subject=subject)
        return number

    async def _taken(self) -> bool:
        """Whether the server has taken all frames so far: it answers a ping, before the connection is lost or `CONFIRM_S`.

        nats-py's `flush` breaks a connection whose answer comes after its deadline.
        """
        loop = asyncio.get_running_loop()
        pong, lost = loop.create_future(), loop.create_future()
        forget = self.on_loss(lambda: None if lost.done() else lost.set_result(None))
        self._pongs.append(pong)
        self.send(b"PING\r\n")
        self._write_out()
        try:
            await asyncio.wait((pong, lost), timeout=CONFIRM_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            forget()
        return pong.done()

    async def may_listen(self, subject: str) -> bool:
        """Whether the server lets this user listen on a subject; also if it does not say so in time."""
        number = await self.listen(subject, _ignore)
        self.unlisten(number)
        return self._refusals.lets_hear(subject)

    def unlisten(self, number: int) -> None:
        """Stop listening."""
        self._handlers.pop(number, None)
        if self._subs.pop(number, None) is not None and self.is_connected:
            self.send(f"UNSUB {number}\r\n".encode())

    def _deliver(self, number: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        handler = self._handlers.get(number)
        if handler is None:
            return
        try:
            handler(subject, reply, data, headers)
        except Exception:  # noqa: BLE001  the read loop would end without a word
            _log.exception("a message could not be handled", subject=subject.decode(errors="replace"))

    # Questions

    async def ask(
        self, requests: Sequence[Request], *, timeout_s: float, again_s: float = inf
    ) -> list[Answer | None]:
        """Send requests together; the answers in their order. None stands for one that did not come: the deadline passed, or
        the connection was lost in between.

        What has no answer is asked again every `again_s`, which counts as the same question: the first answer is the one.
        A server that has died answers nothing of what it was asked, and the one in its place was not asked.

        Raises `Unavailable` if there is no connection, and then nothing was sent; `Denied` if this user may not ask there.
        """
        with self.asking(requests) as volley:
            now = asyncio.get_running_loop().time
            until = now() + timeout_s
            while not volley.ended and (left_s := until - now()) > 0:
                if not await volley.within(min(again_s, left_s)) and again_s < left_s:
                    self._put_out(volley)
        return volley.told()

    @contextmanager
    def asking(self, requests: Sequence[Request], *, ahead: bytes = b"") -> Iterator[Volley]:
        """Send requests together, after the frames `ahead`, and listen for the answers until this is left. They are on their
        way at once: who is asked can begin while this turn of the event loop goes on. Raises `Unavailable` as `ask` does.
        """
        if not self.connected:
            raise Unavailable(
                "there is no connection to NATS", hint="It is tried again and again; try again too."
            )
        tokens = range(self._token, self._token + len(requests))
        self._token = tokens.stop
        volley = Volley(requests, tokens)
        for index, token in enumerate(tokens):
            self._asked[b"%d" % token] = volley, index
        self._volleys.add(volley)
        try:
            self._put_out(volley, ahead)
            yield volley
        finally:
            self._volleys.discard(volley)
            if None in volley.answers:
                for token in tokens:
                    self._asked.pop(b"%d" % token, None)

    def _put_out(self, volley: Volley, ahead: bytes = b"") -> None:
        frames = [ahead] if ahead else []
        for token, request, answer in zip(volley.tokens, volley.requests, volley.answers, strict=True):
            if answer is None:
                frames.append(frame(request.subject, request.data, request.headers, f"{self._inbox}{token}"))
        self.send(b"".join(frames))
        self._write_out()

    def _on_answer(self, subject: bytes, _reply: bytes, data: bytes, headers: bytes) -> None:
        asked = self._asked.pop(subject[self._inbox_length :], None)
        if asked is not None:
            volley, index = asked
            volley.take(index, Answer(headers, data))

    # Losing and finding the server

    async def until_connected(self) -> bool:
        """Wait for a connection; False if the wire was shut instead."""
        await self._up.wait()
        return not self._shut

    def on_loss(self, hook: Callable[[], None]) -> Callable[[], None]:
        """Call `hook` whenever the connection is lost or closed; returns how to stop that."""
        self._loss_hooks.add(hook)
        return lambda: self._loss_hooks.discard(hook)

    async def _on_connected(self) -> None:
        _log.info("connected to NATS again", server=self.connected_url.netloc if self.connected_url else "")
        self._up.set()

    def _lost(self) -> None:
        if self._up.is_set():
            self.losses += 1
        self._up.clear()
        self._refusals.forget()
        for volley in list(self._volleys):
            volley.end()
        for hook in list(self._loss_hooks):
            hook()

    def _raw_transport(self) -> asyncio.WriteTransport | None:
        writer = getattr(self._transport, "_io_writer", None)
        return writer.transport if writer is not None else None

    def _abort(self) -> None:
        transport = self._raw_transport()
        if transport is not None:
            transport.abort()

    async def _connect_to_server(self, s: Srv) -> None:
        # nats-py forgets a connection whose handshake failed, and leaves it open.
        self._abort()
        await super()._connect_to_server(s)

    async def _process_op_err(self, e: Exception) -> None:
        if self.is_closed or self.is_reconnecting:
            return
        if self._up.is_set():
            _log.warning("the connection to NATS is lost; reconnecting", reason=str(e))
        self._lost()
        # nats-py would wait until a server that no longer reads has taken what is still to be written.
        self._abort()
        await super()._process_op_err(e)

    async def _process_err(self, err_msg: str) -> None:
        text = err_msg.strip("'")
        if VIOLATION in text:
            self._on_violation(text)
        else:
            # nats-py closes for ever on any other error, also on those that pass (a limit, a reload, a shutdown).
            await self._process_op_err(errors.Error(text))

    def _on_violation(self, text: str) -> None:
        self._refusals.tell(text)
        subject = refused_subject(text)
        for volley in list(self._volleys):
            for request in volley.requests:
                if request.subject.lower() == subject:
                    volley.end(refusal=request.subject)

    async def _on_error(self, error: Exception) -> None:
        text = str(error)
        if self._opening and "authorization" in text.lower():
            if self._proven:
                raise Denied(
                    "refuses these credentials",
                    hint="They were revoked, or are another cluster's: `shoal cluster list` shows whose keys count.",
                )
            raise Denied(
                "wants to know who this is",
                hint=f"Give --credentials FILE (SHOAL_NATS_CREDENTIALS): {HINT}",
            )
        _log.debug("NATS connection", error=text or type(error).__name__)


def _ignore(_subject: bytes, _reply: bytes, _data: bytes, _headers: bytes) -> None:
    """Nobody wants what comes."""
