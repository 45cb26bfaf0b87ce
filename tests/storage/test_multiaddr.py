"""Where a Kubo node listens, as people write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Invalid
from storage.ipfs.kubo import same_peer
from storage.multiaddr import Endpoint, is_loopback, parse_endpoint

PEER = "QmVcSqVEsvm5RR9mBLjwpb2XjFVn5bPdPL69mL8PH45pPC"


@pytest.mark.parametrize(
    ("text", "url", "peer"),
    [
        ("/ip4/127.0.0.1/tcp/5001", "http://127.0.0.1:5001", ""),
        (f"/ip4/127.0.0.1/tcp/5001/p2p/{PEER}", "http://127.0.0.1:5001", PEER),
        (f"/ip4/10.0.0.7/tcp/80/http/ipfs/{PEER}", "http://10.0.0.7:80", PEER),
        ("/ip4/127.0.0.1/tcp/5001/", "http://127.0.0.1:5001", ""),
        ("/ip6/::1/tcp/5001", "http://[::1]:5001", ""),
        ("/dns4/kubo.example.com/tcp/443/https", "https://kubo.example.com:443", ""),
        ("/dns/kubo/tcp/5001/tls/http", "https://kubo:5001", ""),
        ("/dns6/localhost/tcp/5001/http", "http://localhost:5001", ""),
        ("http://127.0.0.1:5001", "http://127.0.0.1:5001", ""),
        ("https://kubo.example.com/behind/proxy/", "https://kubo.example.com:443/behind/proxy", ""),
        ("http://[::1]:5001", "http://[::1]:5001", ""),
        ("  /ip4/127.0.0.1/tcp/5001\n", "http://127.0.0.1:5001", ""),
    ],
)
def test_an_address_leads_to_a_url(text: str, url: str, peer: str) -> None:
    """Multiaddresses as `ipfs` prints them, and URLs, are understood."""
    found = parse_endpoint(text)

    assert (found.url, found.peer) == (url, peer)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "neither"),
        ("127.0.0.1:5001", "neither"),
        ("ftp://127.0.0.1", "neither"),
        ("/", "begins with"),
        ("/ip4", "''"),
        ("/ip4/127.0.0.256/tcp/5001", "127.0.0.256"),
        ("/ip4/::1/tcp/5001", "::1"),
        ("/ip6/127.0.0.1/tcp/5001", "127.0.0.1"),
        ("/dns4/-bad-/tcp/5001", "-bad-"),
        ("/dns4/a b/tcp/5001", "a b"),
        ("/ip4/127.0.0.1", "nothing"),
        ("/ip4/127.0.0.1/udp/5001", "/udp"),
        ("/ip4/127.0.0.1/tcp", "TCP port"),
        ("/ip4/127.0.0.1/tcp/0", "'0'"),
        ("/ip4/127.0.0.1/tcp/65536", "65536"),
        ("/ip4/127.0.0.1/tcp/x", "'x'"),
        ("/ip4/127.0.0.1/tcp/٣", "TCP port"),
        ("/ip4/127.0.0.1/tcp/5001/quic", "/quic"),
        ("/ip4/127.0.0.1/tcp/5001/p2p/short", "short"),
        ("/unix/run/kubo.sock", "/unix"),
        ("http://", "host"),
        ("http://host:99999", "range"),
        ("http://host/?a=b", "query"),
    ],
)
def test_what_is_not_understood_is_named(text: str, named: str) -> None:
    """The fault quotes the part at fault, and the hint shows how to write it."""
    with pytest.raises(Invalid, match=named) as caught:
        parse_endpoint(text)

    assert "/ip4/127.0.0.1/tcp/5001" in caught.value.hint


def test_a_password_is_not_repeated() -> None:
    """A URL with a secret is refused without showing it."""
    with pytest.raises(Invalid) as caught:
        parse_endpoint("http://user:secret@host:5001")

    assert "secret" not in caught.value.message + caught.value.hint


PARTS = st.sampled_from(
    ["ip4", "ip6", "dns", "tcp", "127.0.0.1", "::1", "5001", "p2p", PEER, "http", "", "é"]
)


@given(st.text(max_size=40) | st.lists(PARTS, max_size=8).map("/".join))
def test_any_text_is_an_endpoint_or_a_clear_fault(text: str) -> None:
    """Whatever is written, the answer is an endpoint that reads again as itself, or `Invalid`."""
    try:
        found = parse_endpoint(text)
    except Invalid:
        return

    assert isinstance(found, Endpoint)
    assert parse_endpoint(found.url).url == found.url


def test_this_machine_is_known_by_its_names() -> None:
    """Loopback in all its spellings, and nothing else."""
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1", "LocalHost."))
    assert not any(is_loopback(host) for host in ("10.0.0.1", "kubo", "::", "0.0.0.0"))


def test_a_peer_has_several_spellings() -> None:
    """An id in base 58 and as a CID is the same peer; others are not."""
    one = "12D3KooWRH9Gi4pWRKbVuJ1ef14ztEE1cTY3HcdFWcBDAKx2enLd"

    assert same_peer(PEER, PEER)
    assert same_peer(
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe",
    )
    assert not same_peer(one, PEER)
    assert not same_peer("?", "!")
