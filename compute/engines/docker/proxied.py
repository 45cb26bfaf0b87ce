"""What a program asks a proxy for.

Knows: how requests to a proxy begin (RFC 9112 and 9110 section 9.3.6). Must not know: sockets, or who asks. Plain functions.
"""

from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from protocol.errors import Invalid

HEAD_END: Final = b"\r\n\r\n"
_OF_ONE_HOP: Final = ("connection", "keep-alive", "proxy-connection", "proxy-authorization", "host")
_HINT: Final = "Ask for http://HOST/PATH, or CONNECT HOST:PORT."


class Asked(Struct, frozen=True):
    """Where a program wants to go. `head` is what is said there first: nothing, where it says all itself (CONNECT)."""

    host: str
    port: int
    head: bytes = b""


def read_asked(head: bytes) -> Asked:
    """What a request asks for, by all up to its first empty line. Raises `Invalid` for what is no request to a proxy."""
    first, *fields = head.removesuffix(HEAD_END).decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise Invalid("this is no HTTP/1 request", hint=_HINT)
    method, target, version = words
    if method == "CONNECT":
        return Asked(*_place(f"//{target}", None))
    if not target.lower().startswith("http://"):
        raise Invalid(f"a proxy is not asked for {target[:100]!r}", hint=_HINT)
    host, port = _place(target, 80)
    parts = urlsplit(target)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {path} {version}", f"Host: {parts.netloc.rpartition('@')[2]}"]
    lines += [each for each in fields if _name_of(each) not in _OF_ONE_HOP]
    # One request a connection: what comes next on it might be meant for another host.
    lines.append("Connection: close")
    return Asked(host, port, "\r\n".join(lines).encode("latin-1") + HEAD_END)


def refusal(status: int, reason: str, text: str) -> bytes:
    """An answer to the program instead of the host's, as a person reads it in the program's output."""
    body = f"{text}\n".encode()
    lines = (
        f"HTTP/1.1 {status} {reason}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join(lines).encode("latin-1") + HEAD_END + body


def _place(url: str, usual: int | None) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or usual
    except ValueError:
        host, port = None, None
    if not host or port is None:
        raise Invalid(f"{url[:100]!r} names no host and port", hint=_HINT)
    return host, port


def _name_of(field: str) -> str:
    name, colon, _ = field.partition(":")
    if not colon or not name.strip() or name != name.strip():
        raise Invalid(f"{field[:100]!r} is no header", hint=_HINT)
    return name.lower()
