"""Redirects are followed so far as they may be, and the file is called as people expect."""

from pathlib import Path

import pytest

from protocol.errors import Broken
from storage.contract import Source
from storage.url import UrlParams
from tests.storage.faulty_http import FaultyServer, answering
from tests.storage.url.conftest import bring


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
