"""Whatever a server does, the file arrives whole or not at all, and the fault says what happened."""

import asyncio
import contextlib
from pathlib import Path

import msgspec
import pytest

from protocol.errors import Broken, Denied, Exhausted, Fault, Invalid, NotFound, TimedOut, Unavailable
from storage.contract import Source, silent
from storage.settings import StorageSettings
from storage.url import UrlParams, open_url
from tests.storage.faulty_http import BODY, FaultyServer
from tests.storage.url.conftest import ALL, bring


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

    @pytest.mark.parametrize("around", [b"5;word=", b"0\r\nX-Word: "])
    async def test_what_is_no_part_of_a_body_is_silence(
        self, source: Source[UrlParams], tmp_path: Path, around: bytes
    ) -> None:
        """Words around a chunk, or behind the last one, that come a byte at a time for ever do not keep a fetch waiting."""
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"

        async def wordy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + around)
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"w")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            writer.close()

        async with await asyncio.start_server(wordy, "127.0.0.1", 0) as wordy_server:
            url = f"http://127.0.0.1:{wordy_server.sockets[0].getsockname()[1]}/f"
            async with asyncio.timeout(60):
                with pytest.raises(TimedOut, match=r"silent for 0\.3 s, after 5 bytes"):
                    await bring(source, url, tmp_path)

    async def test_a_head_may_be_long(self, source: Source[UrlParams], tmp_path: Path) -> None:
        """Signed links and policies of tens of kilobytes are no reason not to take a file."""

        async def wordy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 200 OK\r\nX-Policy: " + b"w" * 60_000 + b"\r\nContent-Length: 5\r\n\r\nhello"
            )
            writer.close()

        async with await asyncio.start_server(wordy, "127.0.0.1", 0) as wordy_server:
            url = f"http://127.0.0.1:{wordy_server.sockets[0].getsockname()[1]}/f"
            assert await bring(source, url, tmp_path) == {"f": b"hello"}

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

    async def test_a_server_without_tls_is_called_that(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """Whoever writes https:// where the server has http:// hears so."""
        url = server.url("/faults/whole").replace("http://", "https://")

        with pytest.raises(Unavailable, match="does not speak TLS") as caught:
            await bring(source, url, tmp_path)

        assert "http://" in caught.value.hint

    async def test_a_name_that_leads_nowhere_is_unavailable(
        self, source: Source[UrlParams], tmp_path: Path
    ) -> None:
        """A host that is not there is told by its name."""
        with pytest.raises(Unavailable, match=r"http://no\.such\.host\.invalid/f"):
            await bring(source, "http://no.such.host.invalid/f", tmp_path)
