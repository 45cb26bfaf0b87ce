"""What programs ask a proxy for, and what their jobs let them reach."""

import pytest

from compute.engines.docker.proxied import Asked, read_asked, refusal
from compute.engines.domains import named
from protocol.errors import Invalid


def head(*lines: str) -> bytes:
    return "\r\n".join((*lines, "", "")).encode("latin-1")


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("CONNECT x.com:443 HTTP/1.1", Asked("x.com", 443)),
        ("CONNECT [::1]:8443 HTTP/1.0", Asked("::1", 8443)),
        ("CONNECT X.com:443 HTTP/1.1", Asked("x.com", 443)),
    ],
)
def test_a_tunnel(line: str, asked: Asked) -> None:
    """CONNECT names a host and a port, and says nothing to them."""
    assert read_asked(head(line, "Proxy-Connection: keep-alive")) == asked


def test_a_request_is_passed_on_as_the_host_wants_it() -> None:
    """A whole URL becomes a path and a Host, what was for the proxy alone is left out, and the connection ends with it."""
    asked = read_asked(
        head(
            "GET http://me:secret@x.com:8080/a/b?c=d HTTP/1.1",
            "Host: other.com",
            "Accept: */*",
            "Proxy-Authorization: Basic abc",
            "Proxy-Connection: keep-alive",
            "Connection: keep-alive",
        )
    )

    assert (asked.host, asked.port) == ("x.com", 8080)
    assert asked.head == head("GET /a/b?c=d HTTP/1.1", "Host: x.com:8080", "Accept: */*", "Connection: close")
    assert read_asked(head("GET http://x.com HTTP/1.1")).head.startswith(b"GET / HTTP/1.1\r\nHost: x.com\r\n")


@pytest.mark.parametrize(
    "lines",
    [
        ("GET / HTTP/1.1",),
        ("GET http://x.com/",),
        ("GET http:///a HTTP/1.1",),
        ("GET http://x.com:port/ HTTP/1.1",),
        ("GET https://x.com/ HTTP/1.1",),
        ("CONNECT x.com HTTP/1.1",),
        ("CONNECT x.com:99999 HTTP/1.1",),
        ("CONNECT :443 HTTP/1.1",),
        ("GET http://x.com/ HTTP/1.1", "no header"),
        ("GET http://x.com/ HTTP/1.1", " folded: yes"),
        ("\x16\x03\x01",),
        ("",),
    ],
)
def test_what_is_no_request_to_a_proxy(lines: tuple[str, ...]) -> None:
    """Anything else is refused with a word that says what to ask."""
    with pytest.raises(Invalid) as told:
        read_asked(head(*lines))
    assert told.value.message


@pytest.mark.parametrize(
    ("host", "domains", "may"),
    [
        ("x.com", ["x.com"], True),
        ("X.COM.", ["x.com"], True),
        ("a.x.com", ["x.com"], False),
        ("x.com", [".x.com"], True),
        ("a.b.x.com", [".x.com"], True),
        ("ax.com", [".x.com"], False),
        ("x.com.evil.org", [".x.com", "x.com"], False),
        ("x.com", ["x.com."], True),
        ("10.0.0.5", ["10.0.0.5"], True),
        ("::1", ["::1"], True),
        ("x.com", [], False),
    ],
)
def test_which_hosts_a_job_has_named(host: str, domains: list[str], may: bool) -> None:
    """A domain means itself; with a dot before it also all below it; and no other host that looks like it."""
    assert named(host, domains) is may


def test_a_refusal_is_an_answer() -> None:
    """What a program gets instead is a whole answer, which says whose word it is."""
    assert refusal(403, "Forbidden", "shoal: no") == (
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 10\r\n"
        b"Connection: close\r\n\r\nshoal: no\n"
    )
