"""Where a job may lead its node: spellings of addresses, and what a node's owner says of them."""

import ipaddress
import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Denied, Invalid
from storage.addresses import AddressPolicy, read_address, read_policy
from storage.resolver import CheckedResolver, environment_proxies

CLOSED = [
    *("169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fe80::1", "fd20:ce::254"),
    *("127.0.0.1", "127.255.0.9", "::1", "0.0.0.0", "0.1.2.3", "::"),
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fdff::1", "fec0::1"),
    *("100.64.0.1", "100.127.255.255"),
    *("224.0.0.1", "239.1.1.1", "255.255.255.255", "ff02::1"),
    *(
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.7",
        "203.0.113.1",
        "240.0.0.1",
        "2001:db8::1",
        "2001::1",
        "64:ff9b:1::1",
    ),
]
OPEN = [
    "8.8.8.8",
    "172.32.0.1",
    "100.128.0.1",
    "1.1.1.1",
    "2606:4700::1111",
    "2001:4860::8888",
    "64:ff9b::808:808",
]

Spelling = Callable[[ipaddress.IPv4Address], str]


def _parts(address: ipaddress.IPv4Address, form: str) -> str:
    return ".".join(format(byte, form) for byte in address.packed)


SPELLINGS: dict[str, Spelling] = {
    "decimal": lambda address: str(int(address)),
    "hexadecimal": lambda address: hex(int(address)),
    "capital hexadecimal": lambda address: f"0X{int(address):X}",
    "octal": lambda address: f"0{int(address):o}",
    "octal parts": lambda address: _parts(address, "04o"),
    "hexadecimal parts": lambda address: ".".join(hex(byte) for byte in address.packed),
    "three parts": lambda a: f"{a.packed[0]}.{a.packed[1]}.{int.from_bytes(a.packed[2:])}",
    "two parts": lambda a: f"{a.packed[0]}.{int.from_bytes(a.packed[1:])}",
    "dot at the end": lambda address: f"{address}.",
    "full width": lambda address: "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in str(address)),
    "ideographic dots": lambda address: str(address).replace(".", "\u3002"),
    "mapped": lambda address: f"::ffff:{address}",
    "mapped, in brackets": lambda address: f"[::ffff:{address}]",
    "mapped, in full": lambda address: ipaddress.IPv6Address(f"::ffff:{address}").exploded,
    "compatible": lambda address: f"::{address}",
    "NAT64": lambda address: f"64:ff9b::{address}",
    "SIIT": lambda address: f"::ffff:0:{address}",
    "6to4": lambda address: str(ipaddress.IPv6Address(0x2002 << 112 | int(address) << 80 | 1)),
    "ISATAP": lambda address: f"2606:4700::5efe:{address}",
    "zone": lambda address: f"::ffff:{address}%eth0",
}


def denied(policy: AddressPolicy, host: str, address: str = "", port: int = 80) -> bool:
    """Whether a policy keeps a job from there."""
    try:
        if address:
            policy.check(host, address, port)
        else:
            policy.check_host(host, port)
    except Denied:
        return True
    return False


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    "address", ["169.254.169.254", "127.0.0.1", "10.0.0.1", "192.168.0.10", "100.64.1.1"]
)
def test_a_closed_address_is_closed_however_it_is_spelt(address: str, spelling: str) -> None:
    """No other way to write an address leads to it."""
    assert denied(AddressPolicy(), SPELLINGS[spelling](ipaddress.IPv4Address(address)))


@given(address=st.ip_addresses(), spelling=st.sampled_from(sorted(SPELLINGS)))
def test_a_spelling_is_judged_as_what_it_means(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, spelling: str
) -> None:
    """Whatever is denied in its plain form is denied in every other."""
    policy = AddressPolicy()
    if isinstance(address, ipaddress.IPv6Address):
        assert denied(policy, str(address)) == denied(policy, f"[{address.exploded.upper()}%1].")
        return
    if denied(policy, str(address)):
        assert denied(policy, SPELLINGS[spelling](address))


@given(st.text(alphabet="0123456789abcdefxX.:[]%", max_size=24))
def test_what_the_system_reads_as_an_address_is_read_so_here(text: str) -> None:
    """No text is a name for us and an address for the resolver, which does not ask anybody for those."""
    try:
        found = socket.getaddrinfo(text, 80, flags=socket.AI_NUMERICHOST, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return
    theirs = {ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found}

    assert read_address(text) in theirs or (text == "" and read_address(text) is None)


@pytest.mark.parametrize("address", CLOSED)
def test_what_is_not_the_internet_is_closed_unless_allowed(address: str) -> None:
    """By default a job reaches no metadata service, loopback, private or special network; its owner may open each."""
    assert denied(AddressPolicy(), address)
    assert denied(AddressPolicy(), "a.name", address)
    assert not denied(read_policy([address]), address)
    assert denied(read_policy([address], [address]), address)


@pytest.mark.parametrize("address", OPEN)
def test_the_internet_is_open_unless_denied(address: str) -> None:
    """Ordinary addresses pass; an owner may close them."""
    assert not denied(AddressPolicy(), address)
    assert not denied(AddressPolicy(), "a.name", address)
    assert denied(read_policy([], ["0.0.0.0/0", "::/0"]), address)


@pytest.mark.parametrize(
    ("allowed", "forbidden", "host", "address", "open_"),
    [
        (["private"], [], "h", "10.1.1.1", True),
        (["private"], [], "h", "127.0.0.1", False),
        (["private", "loopback", "shared"], [], "h", "fd00:ec2::254", False),
        (["private", "loopback", "shared"], [], "h", "100.100.100.200", False),
        (["0.0.0.0/0"], [], "h", "10.1.1.1", False),
        (["10.0.0.0/8"], ["10.2.0.0/16"], "h", "10.2.0.1", False),
        (["10.2.3.0/24"], ["10.2.0.0/16"], "h", "10.2.3.1", True),
        (["10.0.0.5:9000"], [], "h", "10.0.0.5", False),
        (["10.0.0.5:80"], [], "h", "10.0.0.5", True),
        (["[fd00::5]:80"], [], "h", "fd00::5", True),
        (["*.corp"], [], "a.corp", "10.0.0.5", True),
        (["*.corp"], [], "A.Corp.", "10.0.0.5", True),
        (["*.corp"], [], "a.corp.evil", "10.0.0.5", False),
        (["*.corp:443"], [], "a.corp", "10.0.0.5", False),
        (["*.corp"], [], "a.corp", "169.254.169.254", False),
        (["*.corp"], ["10.0.0.0/24"], "a.corp", "10.0.0.5", False),
        ([], ["*.evil"], "x.evil", "8.8.8.8", False),
    ],
)
def test_the_narrowest_rule_decides(
    allowed: list[str], forbidden: list[str], host: str, address: str, open_: bool
) -> None:
    """Leave and denial count as routes do: the narrower network; a host's name opens no metadata service."""
    assert denied(read_policy(allowed, forbidden), host, address) is not open_


def test_the_owners_own_endpoints_are_trusted() -> None:
    """What an owner names as an endpoint is reached, on that port alone."""
    policy = AddressPolicy().trusting(
        ["http://10.0.0.5:9000", "/ip4/127.0.0.1/tcp/5001", "http://store.corp", ""]
    )

    assert not denied(policy, "10.0.0.5", port=9000)
    assert not denied(policy, "127.0.0.1", port=5001)
    assert not denied(policy, "store.corp", "10.9.9.9", port=80)
    assert denied(policy, "10.0.0.5", port=9001)
    assert denied(policy, "127.0.0.1", port=22)


def test_a_denial_says_what_would_open_it() -> None:
    """A person reads where the name leads, what that is, and which setting allows it."""
    with pytest.raises(Denied, match=r"store leads to 10\.0\.0\.5, a private address") as caught:
        AddressPolicy().check("store", "10.0.0.5", 9000)

    assert "Compute.Addresses.Allow: ['10.0.0.5:9000']" in caught.value.hint
    assert not denied(read_policy(["10.0.0.5:9000"]), "store", "10.0.0.5", port=9000)


@pytest.mark.parametrize(
    "line", ["10.0.0.0/99", "1.2.3", "10.0.0.1:0", "a b", "http://x", "::1:x", "[::1", "h:99999"]
)
def test_a_line_that_cannot_be_read_is_told(line: str) -> None:
    """A slip in the settings opens nothing in silence."""
    with pytest.raises(Invalid, match="cannot be read"):
        read_policy([line])


async def test_a_name_leads_only_to_what_is_allowed_of_it() -> None:
    """Of several addresses those that are allowed are connected to; where none is, the name is denied."""
    some = CheckedResolver(read_policy(["127.0.0.1"]))
    none = CheckedResolver(AddressPolicy())

    assert {each["host"] for each in await some.resolve("localhost", 80)} == {"127.0.0.1"}
    with pytest.raises(Denied, match="localhost leads to"):
        await none.resolve("localhost", 80)
    await some.close()
    await none.close()


def test_proxies_of_the_environment_are_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy with its password is known by host and port."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@10.0.0.9:3128")

    assert environment_proxies() == ["http://10.0.0.9:3128"]
