"""What a job may say of a URL, and what is refused with the field it stands in."""

from pathlib import Path
from typing import Any

import pytest

from protocol.errors import Broken, Invalid
from storage.contract import Source
from storage.mismatch import KIND as MISMATCH
from storage.params import read_params
from storage.url import UrlParams
from tests.storage.faulty_http import BODY, FaultyServer
from tests.storage.url.conftest import ALL, bring, digest


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
            ({"sha256": "0" * 64}, f"has the SHA-256 {digest(BODY)}, and SHA256 says {'0' * 64}"),
            ({"size_bytes": len(BODY) - 1}, rf"{len(BODY)} bytes, and Size says {len(BODY) - 1}"),
            ({"size_bytes": len(BODY) + 1}, rf"{len(BODY)} bytes, and Size says {len(BODY) + 1}"),
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
        """Other bytes than those the job names are never delivered, also under status 200; both values are told, and nobody
        tries again.
        """
        server.files["/f"] = BODY

        with pytest.raises(Broken, match=word) as caught:
            await bring(source, UrlParams(server.url(path), **options), tmp_path)

        assert caught.value.kind == MISMATCH
        assert server.requests[path] <= 2

    @pytest.mark.parametrize(
        "options",
        [{"Name": "a/b"}, {"Name": ".."}, {"SHA256": "abc"}, {"Size": -1}, {"Size": "much"}, {"Digest": "x"}],
    )
    def test_what_can_never_fit_is_refused(self, options: dict[str, Any]) -> None:
        """A slip in an option is told with the field."""
        with pytest.raises(Invalid, match=rf"source urlDownload: .*{next(iter(options))}"):
            read_params({"URL": "http://x/y", **options}, UrlParams, "source urlDownload")


@pytest.mark.parametrize(
    "url", ["", "file.txt", "ftp://host/f", "file:///etc/passwd", "http://", "http:///x", "http://[::1/"]
)
def test_another_url_is_refused_with_its_field(url: str) -> None:
    """Only absolute http and https URLs are taken."""
    with pytest.raises(Invalid, match=r"source urlDownload: (URL|invalid IPv6 URL)"):
        read_params({"url": url}, UrlParams, "source urlDownload")
