"""A client of the REST API, as the command line needs it: one blocking call at a time, and two streams.

Knows: paths, the error envelope, lines of JSON. Must not know: how anything is shown. Plain ``http.client``, so that a
command starts in a fraction of the time that an event loop and its library take to load.
"""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote, urlencode

from msgspec import Struct

from protocol.errors import (
    Broken,
    Conflict,
    Denied,
    Exhausted,
    Failure,
    Fault,
    Invalid,
    NotFound,
    TimedOut,
    Unavailable,
    fault_of,
)

JOBS: Final = "/api/v1/orchestrator/jobs"
NODES: Final = "/api/v1/orchestrator/nodes"
AGENT: Final = "/api/v1/agent"
RECONNECTS: Final = 30
"""Tries to watch on after a connection broke, some 25 s in all."""

Json = dict[str, Any]

_NOT_OURS: Final = "Is this the address of a requester's API?"
_FAULTS: Final[dict[int, type[Fault]]] = {
    400: Invalid,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
    413: Exhausted,
    429: Exhausted,
    503: Unavailable,
    504: TimedOut,
}


class Endpoint(Struct, frozen=True):
    """Where a requester's API is. `answer_s` bounds one call, `silence_s` the pause between two lines of a stream. Without
    `verify` any certificate is taken for the server's.
    """

    host: str = "127.0.0.1"
    port: int = 1234
    tls: bool = False
    verify: bool = True
    answer_s: float = 35.0
    silence_s: float = 30.0
    headers: dict[str, str] = {}

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


class Client:
    """Calls to one endpoint. The connection is kept between calls; a stream has one of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._kept: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Let go of the connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def submit(self, job: Json, *, force: bool = False) -> Json:
        """Submit a job in canonical form. Raises `Invalid` with all that is wrong, `Conflict` when nothing changed."""
        return self.call("PUT", JOBS, body={"Job": job, "Force": force})

    def job(self, ref: str, *, include: str = "", namespace: str = "", version: int = 0) -> Json:
        """A job, with ``executions`` and ``history`` if included."""
        return self.call(
            "GET", job_path(ref), include=include, namespace=namespace, job_version=version or ""
        )

    def diff(self, job: Json) -> str:
        """What submitting this would change. Raises `NotFound` if there is no job of its name."""
        return str(self.call("PUT", f"{JOBS}/diff", body={"Job": job})["Diff"])

    def rerun(self, ref: str, *, version: int = 0, reason: str = "", namespace: str = "") -> Json:
        """Run a job once more, as it was in that version (0: the newest)."""
        body = {"JobVersion": version, "Reason": reason}
        return self.call("PUT", job_path(ref, "rerun"), body=body, namespace=namespace)

    def call(self, method: str, path: str, /, *, body: Any = None, **query: Any) -> Json:
        """One call, decoded. Empty query parameters are left out.

        Raises the fault that the envelope tells, `Unavailable` when nobody answers, `Broken` for an answer that is not
        this API's.
        """
        status, data = self._exchange(method, _target(path, query), body)
        try:
            answer = json.loads(data) if data else {}
        except ValueError:
            answer = None
        if status != 200:
            raise _fault(status, answer, data, self.endpoint)
        if not isinstance(answer, dict):
            raise Broken(
                f"{self.endpoint} answered {method} {path} with something that is not a JSON object",
                hint=_NOT_OURS,
            )
        return answer

    def watch(self, ref: str, *, namespace: str = "", until: float | None = None) -> Iterator[Json]:
        """A job's changes (``Job``, ``Executions``) and ``Progress``, until it is closed.

        Reconnects when the connection breaks: a requester that is restarted, or the next behind the same address, goes on
        with the job as it then is. Raises `TimedOut` at `until` (monotonic seconds), `Unavailable` when nobody has answered
        for a while.
        """
        broken = 0
        while True:
            try:
                for view in self._stream(job_path(ref, "watch"), {"namespace": namespace}, until):
                    if "Failure" in view:
                        raise fault_in(view["Failure"])
                    broken = 0
                    yield view
                return
            except Unavailable:
                broken += 1
                if broken > RECONNECTS:
                    raise
            rest(broken, until)

    def output(self, ref: str, *, follow: bool, until: float | None = None, **query: Any) -> Iterator[Json]:
        """An execution's output in pieces (``Stream``, base64 ``Data``), or a ``Failure``."""
        query["follow"] = "true" if follow else ""
        return self._stream(job_path(ref, "output"), query, until)

    def _exchange(self, method: str, target: str, body: Any) -> tuple[int, bytes]:
        data = b"" if body is None else json.dumps(body).encode()
        for fresh in (False, True):
            connection = self._connection(self.endpoint.answer_s, fresh=fresh)
            reused = not fresh and self._kept is connection and connection.sock is not None
            try:
                connection.request(
                    method, target, data, {"Content-Type": "application/json", **self.endpoint.headers}
                )
                response = connection.getresponse()
                return response.status, response.read()
            except TimeoutError as error:
                self.close()
                raise TimedOut(
                    f"{self.endpoint} did not answer within {self.endpoint.answer_s:g} s",
                    hint="Try again, or ask another requester.",
                ) from error
            except (OSError, http.client.HTTPException) as error:
                self.close()
                # A kept connection that the server closed meanwhile fails before it has taken anything.
                if reused and isinstance(
                    error, (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)
                ):
                    continue
                raise _unreachable(self.endpoint, error) from error
        raise _unreachable(self.endpoint, None)

    def _connection(self, timeout_s: float, *, fresh: bool = False) -> http.client.HTTPConnection:
        if self._kept is not None and not fresh:
            return self._kept
        self._kept = _open(self.endpoint, timeout_s)
        return self._kept

    def _stream(self, path: str, query: Json, until: float | None) -> Iterator[Json]:
        """Lines of JSON on a connection of their own. Raises `Unavailable` when it breaks or falls silent."""
        connection = _open(self.endpoint, min(self.endpoint.silence_s, _left(until)))
        try:
            connection.request("GET", _target(path, query), headers=self.endpoint.headers)
            sock = connection.sock
            response = connection.getresponse()
            if response.status != 200:
                data = response.read()
                raise _fault(response.status, _decoded(data), data, self.endpoint)
            while True:
                sock.settimeout(min(self.endpoint.silence_s, _left(until)))
                view = json.loads(response.readline() or "null")
                if view is None:
                    raise http.client.IncompleteRead(b"")
                if "Ended" in view:
                    return
                if view:
                    yield view
        except (OSError, http.client.HTTPException, ValueError) as error:
            _left(until)
            raise _unreachable(self.endpoint, error) from error
        finally:
            connection.close()


def job_path(ref: str, part: str = "") -> str:
    """The path of a job, or of a part of it; a name may hold anything."""
    return f"{JOBS}/{quote(ref, safe='')}" + (f"/{part}" if part else "")


def node_path(ref: str) -> str:
    """The path of a node."""
    return f"{NODES}/{quote(ref, safe='')}"


def _target(path: str, query: Json) -> str:
    pairs = [(name, value) for name, value in query.items() if value not in ("", None)]
    return f"{path}?{urlencode(pairs, doseq=True)}" if pairs else path


def rest(broken: int, until: float | None) -> None:
    """Wait before the next connection, after so many have broken in a row. Raises `TimedOut` at `until` (monotonic
    seconds)."""
    time.sleep(min(0.1 * broken, 1.0, _left(until)))


def _left(until: float | None) -> float:
    """Seconds until then. Raises `TimedOut` when there are none."""
    if until is None:
        return float("inf")
    left = until - time.monotonic()
    if left <= 0:
        raise TimedOut("the time to wait is over", kind="Wait")
    return left


def _open(endpoint: Endpoint, timeout_s: float) -> http.client.HTTPConnection:
    if not endpoint.tls:
        return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout_s)
    import ssl

    context = ssl.create_default_context()
    if not endpoint.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=timeout_s, context=context)


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _fault(status: int, answer: Any, data: bytes, endpoint: Endpoint) -> Fault:
    """The fault that an answer tells; the requester's own code, if it gives one, is more exact than the status."""
    kind = _FAULTS.get(status, Broken)
    if not isinstance(answer, dict) or "Message" not in answer:
        text = data[:200].decode(errors="replace").strip()
        return kind(f"{endpoint} answered {status}: {text}", hint=_NOT_OURS)
    details = {str(name): str(value) for name, value in (answer.get("Details") or {}).items()}
    code = details.pop("Fault", "") or kind.code
    return fault_of(
        Failure(code=code, message=str(answer["Message"]), hint=str(answer.get("Hint", "")), details=details)
    )


def fault_in(failure: Json) -> Fault:
    """The fault that a ``Failure`` object of this API tells."""
    return fault_of(Failure(failure["Code"], failure["Message"], failure["Hint"], details=failure["Details"]))


def _unreachable(endpoint: Endpoint, error: Exception | None) -> Fault:
    match error:
        case socket.gaierror():
            why = "no such host"
        case ConnectionRefusedError():
            why = "nobody listens there"
        case TimeoutError():
            why = f"it said nothing for {endpoint.silence_s:g} s"
        case None | http.client.HTTPException():
            why = "the connection broke off"
        case OSError() if error.strerror:
            why = error.strerror.lower()
        case _:
            why = str(error) or type(error).__name__
    return Unavailable(
        f"no requester answers at {endpoint} ({why})",
        hint="Start one with `shoal serve` or a whole cluster with `shoal devstack`; name another with --api-host and "
        "--api-port, or BACALHAU_API_HOST and BACALHAU_API_PORT.",
    )
