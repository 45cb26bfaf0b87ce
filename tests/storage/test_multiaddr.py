"""Where a Kubo node listens, as people write it."""

import asyncio
from typing import cast

import dns.asyncresolver
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

import storage.ipfs.dns
from protocol.errors import Invalid, NotFound, Unavailable
from storage.ipfs.cid import same_peer
from storage.ipfs.dns import located, lookup_txt
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
        ("/unix/run/kubo.sock", "http://localhost:80", ""),
        (f"/unix/run/kubo.sock/p2p/{PEER}", "http://localhost:80", PEER),
        (f"/dnsaddr/kubo.example.com/p2p/{PEER}", "http://kubo.example.com:80", PEER),
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
        ("/unix/", "socket"),
        (f"/unix/{'a' * 108}", "socket"),
        ("/unix/run/kubo.sock/p2p/short", "short"),
        ("/dnsaddr", "begins with"),
        ("/dnsaddr/-bad-", "-bad-"),
        ("/dnsaddr/kubo.example.com/tcp/5001", "/tcp/5001"),
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
    [
        "ip4",
        "ip6",
        "dns",
        "dnsaddr",
        "unix",
        "tcp",
        "127.0.0.1",
        "::1",
        "5001",
        "p2p",
        PEER,
        "http",
        "",
        "é",
        "%2F",
    ]
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


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/unix/run/kubo.sock", "/run/kubo.sock"),
        ("/unix/%2Frun%2Fkubo.sock", "/run/kubo.sock"),
        ("/unix/run/a%20b/http", "/run/a b"),
        (f"/unix/run/kubo.sock/http/p2p/{PEER}", "/run/kubo.sock"),
    ],
)
def test_a_socket_is_named_by_its_path(text: str, path: str) -> None:
    """In both spellings, with and without what follows."""
    assert parse_endpoint(text).socket == path


@pytest.mark.parametrize(
    ("text", "family"), [("/ip6/::1/tcp/1", 6), ("/dns4/a/tcp/1", 4), ("/dns/a/tcp/1", 0)]
)
def test_a_kind_of_address_is_held_to(text: str, family: int) -> None:
    """``dns4`` and ``dns6`` say which addresses of a name will do."""
    assert parse_endpoint(text).family == family


RECORDS = {
    "_dnsaddr.one.test": [
        "dnsaddr=/ip4/192.0.2.1/udp/4001/quic-v1",
        "v=spf1 -all",
        f"dnsaddr=/ip4/192.0.2.2/tcp/5001/p2p/{PEER}",
        "dnsaddr=/dnsaddr/two.test",
    ],
    "_dnsaddr.two.test": ["dnsaddr=/ip6/2001:db8::1/tcp/443/https"],
    "_dnsaddr.circle.test": ["dnsaddr=/dnsaddr/circle.test"],
}


async def records(name: str) -> list[str]:
    return RECORDS.get(name, [])


async def test_addresses_that_stand_in_dns_are_found() -> None:
    """Records that lead to an RPC API count, also by way of further names; what was written as peer holds for all."""
    other = "12D3KooWRH9Gi4pWRKbVuJ1ef14ztEE1cTY3HcdFWcBDAKx2enLd"

    found = await located(parse_endpoint("/dnsaddr/one.test"), records)
    named = await located(parse_endpoint(f"/dnsaddr/one.test/p2p/{other}"), records)

    assert [(each.url, each.peer) for each in found] == [
        ("http://192.0.2.2:5001", PEER),
        ("https://[2001:db8::1]:443", ""),
    ]
    assert [(each.url, each.peer) for each in named] == [("https://[2001:db8::1]:443", other)]
    for text in ("/dnsaddr/nowhere.test", "/dnsaddr/circle.test"):
        with pytest.raises(NotFound, match=text.split("/")[-1]):
            await located(parse_endpoint(text), records)


async def test_records_come_from_the_servers_that_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real question over UDP: texts in pieces are joined, a missing name has none, a mute server is `Unavailable`."""

    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
            question = dns.message.from_wire(data)
            name = question.question[0].name
            answer = dns.message.make_response(question)
            if name.to_text() == "_dnsaddr.one.test.":
                answer.answer.append(
                    dns.rrset.from_text(name, 60, "IN", "TXT", '"dnsaddr=/ip4/192.0." "2.1/tcp/1"')
                )
            elif name.to_text() == "none.test.":
                answer.set_rcode(dns.rcode.NXDOMAIN)
            else:
                return
            cast(asyncio.DatagramTransport, self.transport).sendto(answer.to_wire(), sender)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
    monkeypatch.setattr(storage.ipfs.dns, "LOOKUP_S", 0.5)
    try:
        assert await lookup_txt("_dnsaddr.one.test") == ["dnsaddr=/ip4/192.0.2.1/tcp/1"]
        assert await lookup_txt("none.test") == []
        with pytest.raises(Unavailable, match=r"mute\.test"):
            await lookup_txt("mute.test")
    finally:
        transport.close()
