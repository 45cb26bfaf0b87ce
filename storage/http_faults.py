"""What a web server's status or a broken connection means, as our faults.

Knows: HTTP statuses and the HTTP client's errors. Must not know: what was asked for; `what` names it, without secrets.
"""

import os
from typing import Final

import aiohttp

from protocol.errors import Broken, Denied, Fault, Invalid, NotFound, TimedOut, Unavailable
from storage.mismatch import KIND as MISMATCH
from storage.route import insecure

FINAL: Final = "Final"
"""Kind of a fault that another attempt would only repeat."""
_PROXY_HINT: Final = "Check http_proxy, https_proxy and no_proxy of this process's environment."


def may_pass(error: Exception) -> bool:
    """Whether another attempt may do better."""
    return isinstance(error, Fault) and error.retryable and error.kind not in (FINAL, MISMATCH)


def check_status(what: str, status: int, reason: str, *wanted: int) -> None:
    """Raise the fault that a status stands for, unless it is one of those `wanted`."""
    if status in wanted:
        return
    message = f"{what} answers {status} {header_text(reason)}".rstrip()
    if status in (404, 410):
        raise NotFound(message, hint="Check the URL.")
    if status in (401, 403, 407):
        raise Denied(message, hint="The server wants credentials, or the URL's signature has expired.")
    if status in (408, 425, 429) or status >= 500:
        raise Unavailable(message, hint="The server is ill or busy; try again later.")
    if 400 <= status < 500:
        raise Invalid(message, hint="Check the URL.")
    raise Broken(f"{message}, which is not the file", kind=FINAL)


def header_text(told: str) -> str:
    """A header or reason as text. What is no UTF-8 is Latin-1, as in HTTP it once was; aiohttp leaves it as what cannot be
    written down.
    """
    try:
        told.encode()
    except UnicodeEncodeError:
        return told.encode(errors="surrogateescape").decode("latin-1")
    return told


def fault_for(what: str, error: Exception, done: int, *, connect_s: float, silence_s: float) -> Fault:
    """Ours for an error of the HTTP client, after `done` bytes."""
    match error:
        case aiohttp.ServerTimeoutError() | TimeoutError() if done or isinstance(
            error, aiohttp.SocketTimeoutError
        ):
            return TimedOut(f"{what} was silent for {silence_s:g} s, after {done} bytes")
        case aiohttp.ConnectionTimeoutError():
            return TimedOut(f"{what} could not be connected to within {connect_s:g} s")
        case TimeoutError():
            return TimedOut(f"{what} did not answer within {connect_s + silence_s:g} s")
        case aiohttp.ClientPayloadError():
            return Broken(f"{what} ended early, after {done} bytes")
        case aiohttp.InvalidURL():
            return Invalid(f"{what} is not a URL that can be asked for")
        case aiohttp.ClientConnectorCertificateError():
            said, hint = insecure(error.certificate_error)
            return Unavailable(f"{what}: {error.host}:{error.port} {said}", hint=hint)
        case aiohttp.ClientConnectorSSLError():
            said, hint = insecure(error.os_error)
            return Unavailable(f"{what}: {error.host}:{error.port} {said}", hint=hint)
        case aiohttp.ClientProxyConnectionError():
            said = f"its proxy {error.host}:{error.port}: {_reason(error.os_error)}"
            return Unavailable(f"{what} cannot be reached through {said}", hint=_PROXY_HINT)
        case aiohttp.ClientHttpProxyError():
            said = f"its proxy answers {error.status} {header_text(error.message)}"
            return Unavailable(f"{what} cannot be reached: {said}", hint=_PROXY_HINT)
        case aiohttp.ClientConnectorDNSError():
            hint = "Check the name, and that this node may look it up. Redirects and proxies have names too."
            return Unavailable(
                f"{what} cannot be reached: {error.host}: {_reason(error.os_error)}", hint=hint
            )
        case aiohttp.ClientConnectorError():
            hint = "Check the host and port, and that this node may reach it."
            return Unavailable(f"{what} cannot be reached: {_reason(error.os_error)}", hint=hint)
        case aiohttp.ClientResponseError():
            said = error.message.strip().partition("\n")[0].rstrip(":")
            return Broken(f"{what} answers what is not HTTP: {said}")
        case ValueError():
            return Invalid(f"{what} cannot be asked for: {error}")
        case _:
            return Unavailable(f"{what} broke off the connection, after {done} bytes: {error}")


def _reason(error: OSError) -> str:
    """The system's own words. An event loop puts others in their place, which say what it called."""
    code = error.errno or 0
    return os.strerror(code) if code > 0 else error.strerror or str(error)
