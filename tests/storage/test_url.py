"""The `urlDownload` source, against a server that goes wrong in every way."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import stamina
from aiohttp import web

from deploy.processes import free_ports
from protocol.errors import Broken, Denied, Exhausted, Fault, Invalid, NotFound, TimedOut, Unavailable
from storage.addresses import AddressPolicy, read_policy
from storage.contract import Share, Source, silent
from storage.credentials import read_credentials
from storage.params import read_params
from storage.settings import StorageSettings
from storage.url import UrlParams, open_url
from tests.contracts.source import ServedSourceContract
from tests.contracts.trees import Tree, snapshot
from tests.storage.fault_proxy import FaultProxy, fault_proxy
from tests.storage.faulty_http import BODY, FaultyServer, answering, faulty_server
from tests.storage.s3_world import serving

ALL = Share()


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Attempts follow each other at once; their number stays."""
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    """The server."""
    async with faulty_server() as running:
        yield running


@pytest.fixture
def node(tmp_path: Path) -> StorageSettings:
    """A node with short patience."""
    return StorageSettings(
        tmp_path / "own", connect_s=2.0, silence_s=0.3, redirects=3, addresses=read_policy(["loopback"])
    )


@pytest.fixture
async def source(node: StorageSettings) -> AsyncIterator[Source[UrlParams]]:
    """The driver."""
    async with open_url(node) as drivers:
        yield drivers.sources["urldownload"]


def closed_port() -> int:
    """A port on loopback where nobody listens."""
    (port,) = free_ports(1)
    return port


class TestUrl(ServedSourceContract):
    """A file on a healthy server."""

    @pytest.fixture
    def content(self) -> Tree:
        return {"file.bin": BODY}

    @pytest.fixture
    def params(self, server: FaultyServer, content: Tree) -> UrlParams:
        server.files["/data/file.bin"] = BODY
        return UrlParams(server.url("/data/file.bin"))

    @pytest.fixture
    def hostile(self, server: FaultyServer) -> list[UrlParams]:
        names = [
            "/%2e%2e",
            "/x%2F..%2F..%2Fy",
            "/..%2F..%2Fevil",
            "/%00",
            "/" + "n" * 300,
            "/%2e",
            "/a%5c..%5cb",
        ]
        server.files.update(dict.fromkeys(names, b"sly"))
        named = [server.url(f"/faults/named/?as={name}") for name in ("../../evil", "..", "/etc/evil")]
        return [UrlParams(url) for url in [*map(server.url, names), *named]]

    @pytest.fixture
    def missing(self, server: FaultyServer) -> tuple[UrlParams, str]:
        return UrlParams(server.url("/nothing/here")), "/nothing/here"

    @pytest.fixture
    def change(self, server: FaultyServer, params: UrlParams) -> Callable[[], Awaitable[UrlParams]]:
        async def change() -> UrlParams:
            server.files["/data/file.bin"] = BODY[::-1]
            return params

        return change

    @pytest.fixture
    def vanish(self, server: FaultyServer, params: UrlParams) -> Callable[[], Awaitable[None]]:
        async def vanish() -> None:
            server.files.clear()

        return vanish

    @pytest.fixture
    def away(self, source: Source[UrlParams]) -> tuple[Source[Any], UrlParams]:
        return source, UrlParams(f"http://127.0.0.1:{closed_port()}/file")


class TestUrlEmpty(TestUrl):
    """An empty file is a file."""

    @pytest.fixture
    def content(self) -> Tree:
        return {"file.bin": b""}

    @pytest.fixture
    def params(self, server: FaultyServer, content: Tree) -> UrlParams:
        server.files["/data/file.bin"] = b""
        return UrlParams(server.url("/data/file.bin"))


def digest(data: bytes) -> str:
    """What `sha256sum` prints."""
    return hashlib.sha256(data).hexdigest()


async def bring(source: Source[UrlParams], url: str | UrlParams, tmp_path: Path) -> Tree:
    """Resolve and fetch; nothing is left on a fault."""
    room = tmp_path / "room"
    room.mkdir()
    params = UrlParams(url) if isinstance(url, str) else url
    try:
        await source.fetch(params, await source.resolve(params, ALL), room / "in", silent)
    except Fault:
        assert list(room.iterdir()) == []
        raise
    assert [path.name for path in room.iterdir()] == ["in"]
    return snapshot(room / "in")


class TestFaults:
    """What a server may do."""

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (404, NotFound),
            (410, NotFound),
            (401, Denied),
            (403, Denied),
            (400, Invalid),
            (416, Invalid),
            (429, Unavailable),
            (500, Unavailable),
            (503, Unavailable),
            (201, Broken),
            (204, Broken),
            (206, Broken),
            (300, Broken),
            (304, Broken),
        ],
    )
    async def test_only_status_200_is_data(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path, status: int, kind: type[Fault]
    ) -> None:
        """An error page, an empty answer or an unasked part is never taken for the file; URL and status are told."""
        url = server.url(f"/faults/status/{status}")

        with pytest.raises(kind) as caught:
            await bring(source, url, tmp_path)

        assert url in caught.value.message
        assert str(status) in caught.value.message

    @pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (204, 1), (500, 4), (503, 4)])
    async def test_only_what_may_pass_is_tried_again(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path, status: int, asked: int
    ) -> None:
        """A server that is ill is asked again, a bounded number of times; a clear no is taken at once."""
        with pytest.raises(Fault):
            await bring(source, server.url(f"/faults/status/{status}"), tmp_path)

        assert server.requests == {f"/faults/status/{status}": asked}

    async def test_a_server_that_recovers_is_forgiven(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """Status 500 and then the file: the file."""
        assert await bring(source, server.url("/faults/flaky"), tmp_path) == {"flaky": BODY}

    @pytest.mark.parametrize("fault", ["cut", "cut_chunked"])
    async def test_a_short_body_is_never_the_file(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path, fault: str
    ) -> None:
        """A connection that is cut is noticed, with and without an announced length."""
        with pytest.raises((Broken, Unavailable), match=f"{fault} ") as caught:
            await bring(source, server.url(f"/faults/{fault}"), tmp_path)

        assert "bytes" in caught.value.message

    async def test_attempts_are_never_mixed(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """After a cut the file is fetched anew from its first byte."""
        assert await bring(source, server.url("/faults/cut_once"), tmp_path) == {"cut_once": BODY}

    async def test_progress_does_not_go_back(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """A second attempt is told only when it gets further than the first."""
        params = UrlParams(server.url("/faults/cut_once"))
        resolved = await source.resolve(params, ALL)
        told: list[int] = []

        await source.fetch(params, resolved, tmp_path / "in", lambda done, total: told.append(done))

        assert told == sorted(set(told))
        assert told[-1] == len(BODY)

    @pytest.mark.parametrize(
        ("fault", "word"), [("stall", f"after {len(BODY) // 2} bytes"), ("mute", "after 0 bytes")]
    )
    async def test_silence_has_an_end(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path, fault: str, word: str
    ) -> None:
        """A server that says nothing more is given up; the fault tells how many bytes came."""
        with pytest.raises(TimedOut, match=word):
            await bring(source, server.url(f"/faults/{fault}"), tmp_path)

    async def test_a_stalled_fetch_can_be_cancelled(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """Cancelled in the middle of the body, nothing is left."""
        params = UrlParams(server.url("/faults/stall"))
        resolved = await source.resolve(params, ALL)
        task = asyncio.ensure_future(source.fetch(params, resolved, tmp_path / "in", silent))
        await server.stalled.wait()
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task

        assert list(tmp_path.iterdir()) == []

    async def test_a_body_without_end_meets_the_limit(
        self, node: StorageSettings, server: FaultyServer, tmp_path: Path
    ) -> None:
        """However little a server tells of its size, the limit holds."""
        async with open_url(msgspec.structs.replace(node, max_bytes=3_000_000)) as drivers:
            with pytest.raises(Exhausted, match="more than 3000000 bytes"):
                await bring(drivers.sources["urldownload"], server.url("/faults/endless"), tmp_path)

    async def test_a_size_that_is_told_is_enough(
        self, node: StorageSettings, server: FaultyServer, tmp_path: Path
    ) -> None:
        """A file that is too large by its own header is refused when it is resolved."""
        server.files["/large"] = BODY
        async with open_url(msgspec.structs.replace(node, max_bytes=len(BODY) - 1)) as drivers:
            with pytest.raises(Exhausted, match="/large has more than"):
                await drivers.sources["urldownload"].resolve(UrlParams(server.url("/large")), ALL)

    async def test_what_changed_since_is_refused(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """Other bytes than those that were resolved are not delivered."""
        with pytest.raises(Broken, match="has changed since"):
            await bring(source, server.url("/faults/changing"), tmp_path)

        assert server.requests == {"/faults/changing": 2}

    async def test_a_name_that_leads_nowhere_is_unavailable(
        self, source: Source[UrlParams], tmp_path: Path
    ) -> None:
        """A host that is not there is told by its name."""
        with pytest.raises(Unavailable, match=r"http://no\.such\.host\.invalid/f"):
            await bring(source, "http://no.such.host.invalid/f", tmp_path)


class TestRedirects:
    """Redirects."""

    async def test_they_are_followed(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """To the file, which is called as it is there."""
        server.files["/300.jpg"] = b"x"

        found = await bring(source, server.url(f"/faults/redirect/300?to={server.url('/300.jpg')}"), tmp_path)

        assert found == {"300.jpg": b"x"}

    async def test_relative_ones_too(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """A location without a host is on the same one."""
        server.files["/real"] = b"x"

        assert await bring(source, server.url("/faults/redirect/a?to=/real"), tmp_path) == {"real": b"x"}

    async def test_circles_have_an_end(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """A server that sends us round is told so after the limit, once."""
        with pytest.raises(Broken, match="redirects more than 3 times"):
            await bring(source, server.url("/faults/circle"), tmp_path)

        assert server.requests == {"/faults/circle": 4}

    @pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://x/y", "mailto:x"])
    async def test_they_stay_on_http(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path, to: str
    ) -> None:
        """A redirect to a file of this node, or anything else, is not followed."""
        with pytest.raises(Broken, match="no http URL"):
            await bring(source, server.url(f"/faults/redirect/a?to={to}"), tmp_path)


class TestNames:
    """What the file is called."""

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("/a/file.csv?x=1", "file.csv"),
            ("/a/tr%C3%A4ume%20x", "träume x"),
            ("/a/", "download"),
            ("/a%2Fb", "b"),
            ("/%2e%2e", "download"),
        ],
    )
    async def test_it_is_the_last_element_of_the_path(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path, path: str, name: str
    ) -> None:
        """Decoded, without its query; never a path, never empty."""
        server.files[path.partition("?")[0]] = b"x"

        assert await bring(source, server.url(path), tmp_path) == {name: b"x"}

    async def test_else_it_is_what_the_server_says(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """Content-Disposition counts where the path ends in a slash."""
        assert await bring(source, server.url("/faults/named/?as=said.txt"), tmp_path) == {
            "said.txt": b"named"
        }

    async def test_a_name_in_latin_1_is_read_as_one(self, source: Source[UrlParams], tmp_path: Path) -> None:
        """What is no UTF-8 in Content-Disposition is what a browser would take it for."""
        said = b'HTTP/1.1 200 OK\r\nContent-Disposition: attachment; filename="caf\xe9.txt"'
        async with answering(said, b"x") as url:
            assert await bring(source, url, tmp_path) == {"café.txt": b"x"}

    async def test_the_path_goes_before_the_server(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """Whoever wrote the job knows the name from the URL."""
        assert await bring(source, server.url("/faults/named/mine?as=said"), tmp_path) == {"mine": b"named"}

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("/12345?to=/faults/named/9f86d0?as=Adult.csv", "Adult.csv"),
            ("/data.csv?to=/faults/named/", "data.csv"),
            ("/?to=/faults/named/", "download"),
        ],
    )
    async def test_where_redirects_lead_the_server_goes_first(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path, path: str, name: str
    ) -> None:
        """The last URL of a file on a CDN is often a mere number; what was asked for is the name if there is no other."""
        assert await bring(source, server.url(f"/faults/redirect{path}"), tmp_path) == {name: b"named"}


class TestVersions:
    """What makes an identity."""

    async def test_a_server_without_versions_is_never_taken_for_the_same(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """Without ETag and Last-Modified each answer is its own, and the file arrives all the same."""
        params = UrlParams(server.url("/faults/chunked"))

        assert (await source.resolve(params, ALL)).identity != (await source.resolve(params, ALL)).identity
        assert await bring(source, params.url, tmp_path) == {"chunked": BODY}

    async def test_another_query_is_another_identity(
        self, source: Source[UrlParams], server: FaultyServer
    ) -> None:
        """Two URLs never share an identity, though what may be secret in them is not shown."""
        server.files["/f"] = b"x"
        one, two = [
            await source.resolve(UrlParams(server.url(f"/f?key={key}")), ALL) for key in ("abc", "xyz")
        ]

        assert one.identity != two.identity
        assert "abc" not in one.identity

    async def test_packed_bodies_stay_packed(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """We ask for the bytes as they are, and keep them as they come."""
        assert await bring(source, server.url("/faults/packed"), tmp_path) == {"packed": b"\x1f\x8b packed"}
        assert server.headers[0]["Accept-Encoding"] == "identity"


class TestOptions:
    """What a job may say beside the URL."""

    async def test_a_name_of_its_own(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """The name in the spec goes before the URL's and the server's."""
        server.files["/a"] = b"x"

        assert await bring(source, UrlParams(server.url("/a"), name="mine.txt"), tmp_path) == {
            "mine.txt": b"x"
        }

    async def test_a_digest_and_a_size_that_fit(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """The digest is the identity, wherever the bytes are and whatever the server says of versions."""
        server.files |= {"/one/f": BODY, "/two/f": BODY}
        one, two = [
            UrlParams(server.url(path), sha256=digest(BODY), size_bytes=len(BODY))
            for path in ("/one/f", "/faults/chunked?/f")
        ]

        assert (await source.resolve(one, ALL)).identity == f"url:sha256:{digest(BODY)}|f"
        assert (await source.resolve(two, ALL)).size_bytes == len(BODY)
        assert (await source.resolve(one, ALL)).cacheable
        assert await bring(source, two, tmp_path) == {"chunked": BODY}

    @pytest.mark.parametrize(
        ("options", "word"),
        [
            ({"sha256": "0" * 64}, "has the SHA-256"),
            ({"size_bytes": len(BODY) - 1}, "more than the"),
            ({"size_bytes": len(BODY) + 1}, "not the"),
        ],
    )
    @pytest.mark.parametrize("path", ["/f", "/faults/chunked"])
    async def test_one_that_does_not_fit_is_refused(
        self,
        source: Source[UrlParams],
        server: FaultyServer,
        tmp_path: Path,
        options: Any,
        word: str,
        path: str,
    ) -> None:
        """Other bytes than those the job names are never delivered, also under status 200; it is not tried again."""
        server.files["/f"] = BODY

        with pytest.raises(Broken, match=word):
            await bring(source, UrlParams(server.url(path), **options), tmp_path)

        assert server.requests[path] <= 2

    @pytest.mark.parametrize(
        "options",
        [{"Name": "a/b"}, {"Name": ".."}, {"SHA256": "abc"}, {"Size": -1}, {"Size": "much"}, {"Digest": "x"}],
    )
    def test_what_can_never_fit_is_refused(self, options: dict[str, Any]) -> None:
        """A slip in an option is told with the field."""
        with pytest.raises(Invalid, match=rf"source urlDownload: .*{next(iter(options))}"):
            read_params({"URL": "http://x/y", **options}, UrlParams, "source urlDownload")


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


class TestTransfer:
    """A transfer through a proxy that goes wrong, from a server that has versions and ranges."""

    @pytest.fixture
    async def proxy(self, tmp_path: Path) -> AsyncIterator[FaultProxy]:
        (tmp_path / "served").mkdir()
        (tmp_path / "served" / "f").write_bytes(BODY)

        async def file(request: web.Request) -> web.StreamResponse:
            return web.FileResponse(tmp_path / "served" / "f")

        async with serving(file) as upstream, fault_proxy(upstream) as proxy:
            yield proxy

    @pytest.mark.parametrize(
        "fault",
        [
            *("cut", "stall", "short", "long", "range", "etag", "500", "503", "204", "mute", "whole", "xml"),
            *("lost", "ended", "flip", "trickle"),
        ],
    )
    @pytest.mark.parametrize(
        ("when", "named"), [("once", "version"), ("once", "digest"), ("always", "version")]
    )
    async def test_equal_bytes_or_an_error(
        self, source: Source[UrlParams], proxy: FaultProxy, tmp_path: Path, fault: str, when: str, named: str
    ) -> None:
        """Whatever goes wrong on the way, the file is whole and right or nothing is there; a passing fault is got over."""
        params = UrlParams(proxy.endpoint + "/f", sha256=digest(BODY) if named == "digest" else "")
        proxy.plan = lambda request, number: fault if number == 1 or (number > 1 and when == "always") else ""
        passing = {"cut", "stall", "500", "503", "mute", "lost", "ended", "trickle", "whole"}

        try:
            found = await bring(source, params, tmp_path)
        except Fault:
            found = None
            assert fault not in passing - {"whole"} or when == "always"

        if fault == "flip" and named == "version":
            # Nobody can tell; whoever wants to be sure names a digest.
            return
        assert found in (None, {"f": BODY})
        assert found or fault not in passing or when == "always"

    async def test_what_has_come_need_not_come_again(
        self, source: Source[UrlParams], proxy: FaultProxy, tmp_path: Path
    ) -> None:
        """After each cut the transfer goes on where it was, however often, as long as it moves."""
        proxy.plan = lambda request, number: "cut" if 0 < number < 7 else ""
        params = UrlParams(proxy.endpoint + "/f")

        assert await bring(source, params, tmp_path) == {"f": BODY}
        starts = [int(each[6:-1]) for each in proxy.ranges[2:]]
        assert starts == sorted(set(starts))
        assert len(starts) == 6

    async def test_a_rest_of_which_nobody_knows_the_version_is_not_taken(
        self, source: Source[UrlParams], tmp_path: Path
    ) -> None:
        """A server that answers a range without an ETag is asked for the whole file again."""
        asked: list[str] = []

        async def sloppy(request: web.Request) -> web.StreamResponse:
            asked.append(request.headers.get("Range", ""))
            half = len(BODY) // 2
            if asked[-1]:
                told = {"Content-Range": f"bytes {half}-{len(BODY) - 1}/{len(BODY)}"}
                return web.Response(status=206, body=b"?" * half, headers=told)
            if len(asked) != 2:
                return web.Response(body=BODY, headers={"ETag": '"1"'})
            response = web.StreamResponse(headers={"ETag": '"1"'})
            response.content_length = len(BODY)
            await response.prepare(request)
            await response.write(BODY[:half])
            assert request.transport is not None
            request.transport.close()
            return response

        async with serving(sloppy) as url:
            assert await bring(source, f"{url}/f", tmp_path) == {"f": BODY}
        assert asked == ["", "", f"bytes={len(BODY) // 2}-", ""]


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


@pytest.mark.parametrize(
    "url", ["", "file.txt", "ftp://host/f", "file:///etc/passwd", "http://", "http:///x", "http://[::1/"]
)
def test_another_url_is_refused_with_its_field(url: str) -> None:
    """Only absolute http and https URLs are taken."""
    with pytest.raises(Invalid, match=r"source urlDownload: (URL|invalid IPv6 URL)"):
        read_params({"url": url}, UrlParams, "source urlDownload")
