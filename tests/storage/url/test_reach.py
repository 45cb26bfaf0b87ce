"""Where a URL may lead a node, what the node sends there, and what of it people see."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from protocol.errors import Denied, Invalid, NotFound, Unavailable
from storage.addresses import AddressPolicy
from storage.contract import Source
from storage.credentials import read_credentials
from storage.settings import StorageSettings
from storage.url import UrlParams, open_url
from tests.storage.faulty_http import FaultyServer
from tests.storage.url.conftest import bring


class TestAddresses:
    """Where downloads may not lead; `test_addresses.py` has all the spellings."""

    @pytest.mark.parametrize(
        "host",
        ["169.254.169.254", "[::ffff:169.254.169.254]", "2852039166", "127.1", "localhost", "10.0.0.1"],
    )
    async def test_the_node_s_own_network_is_out_of_reach(
        self, node: StorageSettings, server: FaultyServer, tmp_path: Path, host: str
    ) -> None:
        """Metadata services, loopback and private networks are refused before anything is connected to."""
        strict = msgspec.structs.replace(node, addresses=AddressPolicy())
        async with open_url(strict) as drivers:
            with pytest.raises(Denied, match="does not let jobs reach"):
                await bring(
                    drivers.sources["urldownload"], server.url("/f").replace("127.0.0.1", host), tmp_path
                )

        assert server.requests == {}

    @pytest.mark.parametrize(
        "to", ["http://169.254.169.254/x", "http://0xA9FEA9FE/x", "http://[::ffff:a9fe:a9fe]/"]
    )
    async def test_nor_by_redirect(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path, to: str
    ) -> None:
        """Each step of a redirect is checked."""
        with pytest.raises(Denied):
            await bring(source, server.url(f"/faults/redirect/a?to={to}"), tmp_path)


class TestProxies:
    """A node behind a proxy, which its environment names."""

    @pytest.fixture
    async def asked(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
        """What a proxy is asked for: it brings a file, and makes no tunnels."""
        asked: list[str] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append((await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")[0])
            tunnel = asked[-1].startswith("CONNECT")
            told = b"403 Not for you" if tunnel else b"200 OK"
            writer.write(b"HTTP/1.1 " + told + b"\r\nContent-Length: 5\r\n\r\nhello")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
            for name in ("http_proxy", "https_proxy"):
                monkeypatch.setenv(name, f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
            monkeypatch.setenv("no_proxy", "near.invalid")
            yield asked

    @pytest.fixture
    async def behind(self, asked: list[str], node: StorageSettings) -> AsyncIterator[Source[UrlParams]]:
        """The driver of that node, whose owner allows nothing by name."""
        async with open_url(msgspec.structs.replace(node, addresses=AddressPolicy())) as drivers:
            yield drivers.sources["urldownload"]

    async def test_it_is_asked(self, behind: Source[UrlParams], asked: list[str], tmp_path: Path) -> None:
        """As S3 is, and as Bacalhau does; the proxy looks names up."""
        assert await bring(behind, "http://data.invalid/f", tmp_path) == {"f": b"hello"}
        assert asked == ["GET http://data.invalid/f HTTP/1.1"] * 2

    async def test_it_is_not_asked_for_a_cluster_s_own(
        self, asked: list[str], node: StorageSettings, tmp_path: Path
    ) -> None:
        """A person's client goes to nodes as it does to the requester: directly."""
        async with open_url(msgspec.structs.replace(node, url_proxies=False)) as drivers:
            with pytest.raises(Unavailable):
                await bring(drivers.sources["urldownload"], "http://node.invalid/f", tmp_path)

        assert asked == []

    async def test_what_it_answers_is_told(self, behind: Source[UrlParams], tmp_path: Path) -> None:
        """A refusal of its own is not taken for the server's."""
        with pytest.raises(Unavailable, match="its proxy answers 403 Not for you") as caught:
            await bring(behind, "https://data.invalid/f", tmp_path)
        assert "https_proxy" in caught.value.hint

    @pytest.mark.parametrize(
        ("proxy", "told"),
        [
            ("http://127.0.0.1:1", r"through its proxy 127\.0\.0\.1:1: Connection refused"),
            ("http://nowhere.invalid:1", r"cannot be reached: nowhere\.invalid: "),
        ],
    )
    async def test_one_that_is_not_there_is_told(
        self,
        asked: list[str],
        node: StorageSettings,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        proxy: str,
        told: str,
    ) -> None:
        """Who looks for the fault hears that it is not the server's."""
        monkeypatch.setenv("http_proxy", proxy)
        async with open_url(node) as drivers:
            with pytest.raises(Unavailable, match=told):
                await bring(drivers.sources["urldownload"], "http://data.invalid/f", tmp_path)

    @pytest.mark.parametrize(
        "host", ["169.254.169.254", "10.0.0.1", "127.0.0.1", "localhost", "near.invalid"]
    )
    async def test_it_opens_nothing_that_is_closed(
        self, behind: Source[UrlParams], asked: list[str], tmp_path: Path, host: str
    ) -> None:
        """Addresses are judged as without it; this machine, and what ``no_proxy`` names, are not asked for through it."""
        with pytest.raises((Denied, Unavailable)):
            await bring(behind, f"http://{host}/f", tmp_path)

        assert asked == []


class TestCredentials:
    """Credentials of the node, by name."""

    @pytest.fixture
    def lines(self, server: FaultyServer, tmp_path: Path) -> dict[str, str]:
        (tmp_path / "token").write_text("hush-file\n")
        where = server.root.removesuffix("/")
        return {
            "lab": f"{where} bearer hush-token",
            "old": f"{where} basic me:hush",
            "file": f"{where} bearer @{tmp_path / 'token'}",
            "else": "data.example.com bearer hush",
        }

    @pytest.fixture
    async def source(self, node: StorageSettings, lines: dict[str, str]) -> AsyncIterator[Source[UrlParams]]:
        async with open_url(
            msgspec.structs.replace(node, url_credentials=read_credentials(lines))
        ) as drivers:
            yield drivers.sources["urldownload"]

    @pytest.mark.parametrize(
        ("name", "sent"),
        [
            ("lab", "Bearer hush-token"),
            ("old", "Basic bWU6aHVzaA=="),
            ("file", "Bearer hush-file"),
            ("", None),
        ],
    )
    async def test_they_are_sent_to_their_server(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path, name: str, sent: str | None
    ) -> None:
        """A job names them; the node knows them; the server gets them."""
        server.files["/f"] = b"x"

        await bring(source, UrlParams(server.url("/f"), credentials=name), tmp_path)

        assert {each.get("Authorization") for each in server.headers} == {sent}

    @pytest.mark.parametrize(
        ("name", "word"), [("else", "are for https://data"), ("no", "no credentials named")]
    )
    async def test_no_other_server_gets_them(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path, name: str, word: str
    ) -> None:
        """A job cannot have them sent to a server of its own; what is refused is not asked for, and shows no secret."""
        with pytest.raises(Denied, match=word) as caught:
            await bring(source, UrlParams(server.url("/f"), credentials=name), tmp_path)

        assert server.requests == {}
        assert "hush" not in str(caught.value.failure())

    async def test_a_redirect_does_not_carry_them_away(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """Another host (here by another name of it) gets the request without them."""
        server.files["/f"] = b"x"
        other = server.url("/f").replace("127.0.0.1", "localhost")

        await bring(
            source, UrlParams(server.url(f"/faults/redirect/a?to={other}"), credentials="lab"), tmp_path
        )

        assert [each.get("Authorization") for each in server.headers] == ["Bearer hush-token", None] * 2

    @pytest.mark.parametrize(
        "line", ["", "host", "host bearer", "host digest x", "host:0 bearer x", "h/p bearer x"]
    )
    def test_a_line_that_cannot_be_read_keeps_its_secret(self, line: str) -> None:
        """A slip in the settings is told by the credentials' name alone."""
        with pytest.raises(Invalid, match="'lab' cannot be read") as caught:
            read_credentials({"lab": line})

        assert not line or line not in str(caught.value.failure())
        assert "hush" not in repr(read_credentials({"a": "h bearer hush"}))


class TestSecrets:
    """What people see of a URL."""

    async def test_passwords_and_signatures_stay_out_of_messages(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """A fault names the file, not what opens it."""
        url = server.url("/nothing?signature=hush").replace("http://", "http://me:hush@")

        with pytest.raises(NotFound) as caught:
            await bring(source, url, tmp_path)

        assert "hush" not in str(caught.value.failure())
