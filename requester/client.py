"""A client of the REST API, as the command line needs it: one blocking call at a time, and two streams.

Knows: paths, the error envelope, lines of JSON. Must not know: how anything is shown. Plain ``http.client``, so that a
command starts in a fraction of the time that an event loop and its library take to load.
"""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from msgspec import Struct

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

JOBS = "/api/v1/orchestrator/jobs"
NODES = "/api/v1/orchestrator/nodes"
AGENT = "/api/v1/agent"

Json = dict[str, Any]

_FAULTS: dict[int, type[Fault]] = {
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
    """Where a requester's API is. `answer_s` bounds one call, `silence_s` the pause between two lines of a stream."""

    host: str = "127.0.0.1"
    port: int = 1234
    tls: bool = False
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
            "GET", f"{JOBS}/{_token(ref)}", include=include, namespace=namespace, job_version=version or ""
        )

    def call(self, method: str, path: str, *, body: Any = None, **query: Any) -> Json:
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
            raise Broken(f"{self.endpoint} answered {method} {path} with something that is not a JSON object")
        return answer

    def watch(self, ref: str, *, namespace: str = "", until: float | None = None) -> Iterator[Json]:
        """A job's changes and progress, until it is closed.

        Reconnects when the connection breaks: a requester that is restarted, or the next behind the same address, goes on
        with the job as it then is. Raises `TimedOut` at `until` (monotonic seconds).
        """
        return self._stream(f"{JOBS}/{_token(ref)}/watch", {"namespace": namespace}, until, again=True)

    def output(self, ref: str, *, follow: bool, until: float | None = None, **query: Any) -> Iterator[Json]:
        """An execution's output in pieces (``Stream``, base64 ``Data``), or a ``Failure``."""
        query["follow"] = "true" if follow else ""
        return self._stream(f"{JOBS}/{_token(ref)}/output", query, until, again=False)

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
                    f"{self.endpoint} did not answer within {self.endpoint.answer_s:g} s"
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

    def _stream(self, path: str, query: Json, until: float | None, *, again: bool) -> Iterator[Json]:
        failures = 0
        while True:
            connection = _open(self.endpoint, min(self.endpoint.silence_s, _left(until)))
            try:
                connection.request("GET", _target(path, query), headers=self.endpoint.headers)
                response = connection.getresponse()
                if response.status != 200:
                    data = response.read()
                    raise _fault(response.status, _decoded(data), data, self.endpoint)
                while line := response.readline():
                    _left(until)
                    failures = 0
                    if view := json.loads(line):
                        yield view
                return
            except (OSError, http.client.HTTPException, ValueError, Unavailable) as error:
                _left(until)
                failures += 1
                if not again or failures > 30:
                    raise error if isinstance(error, Fault) else _unreachable(self.endpoint, error) from error
                time.sleep(min(0.1 * failures, 1.0))
            finally:
                connection.close()


def _token(ref: str) -> str:
    return quote(ref, safe="")


def _target(path: str, query: Json) -> str:
    pairs = [(name, value) for name, value in query.items() if value not in ("", None)]
    return f"{path}?{urlencode(pairs, doseq=True)}" if pairs else path


def _left(until: float | None) -> float:
    """Seconds until then. Raises `TimedOut` when there are none."""
    if until is None:
        return float("inf")
    left = until - time.monotonic()
    if left <= 0:
        raise TimedOut("the time to wait is over", kind="Wait")
    return left


def _open(endpoint: Endpoint, timeout_s: float) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if endpoint.tls else http.client.HTTPConnection
    return kind(endpoint.host, endpoint.port, timeout=max(timeout_s, 0.001) if timeout_s < 1e6 else None)


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _fault(status: int, answer: Any, data: bytes, endpoint: Endpoint) -> Fault:
    kind = _FAULTS.get(status, Broken)
    if not isinstance(answer, dict) or "Message" not in answer:
        text = data[:200].decode(errors="replace").strip()
        return kind(f"{endpoint} answered {status}: {text}", hint="is this the address of a requester's API?")
    code = str(answer.get("Code", ""))
    details = {str(name): str(value) for name, value in (answer.get("Details") or {}).items()}
    return kind(str(answer["Message"]), hint=str(answer.get("Hint", "")), kind=code, details=details)


def _unreachable(endpoint: Endpoint, error: Exception | None) -> Fault:
    why = "no such host" if isinstance(error, socket.gaierror) else str(error or "the connection was closed")
    return Unavailable(
        f"no requester answers at {endpoint} ({why})",
        hint="start one with `python -m requester serve` or `shoal devstack`, or name it with --api-host and --api-port "
        "(or BACALHAU_API_HOST and BACALHAU_API_PORT)",
    )
