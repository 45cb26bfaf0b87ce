"""The `local` publisher, and the server behind its links."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import msgspec
import pytest
import stamina
from yarl import URL

from protocol.clock import ManualClock
from protocol.errors import Invalid, NotFound, Unavailable
from protocol.ids import ExecutionId, NodeId
from storage import results_server
from storage.addresses import read_policy
from storage.contract import Drivers, Label, Publisher, Share, Source, silent
from storage.drivers import open_drivers
from storage.kept import SERVED_S
from storage.local_publisher import (
    LocalPublisher,
    LocalPublisherParams,
    choose_address,
    kept_bytes,
    open_local_publisher,
    own_addresses,
)
from storage.settings import LocalPublishing, StorageSettings
from storage.url import UrlParams
from tests.contracts.publisher import EXECUTION, JOB, PublisherContract
from tests.contracts.trees import plant
from tests.storage.fault_proxy import fault_proxy

LABEL = Label(job=JOB, execution=EXECUTION, node=NodeId("n-1"), at=0.0)
NONE = LocalPublisherParams()


@pytest.fixture
def node(tmp_path: Path) -> StorageSettings:
    """A node that publishes on a free port of loopback."""
    local = LocalPublishing(tmp_path / "results", port=0)
    return StorageSettings(tmp_path / "own", local_publishing=local, addresses=read_policy(["loopback"]))


@pytest.fixture
async def drivers(node: StorageSettings) -> AsyncIterator[Drivers]:
    """Its drivers."""
    async with open_drivers(node) as opened:
        yield opened


class TestLocalPublisher(PublisherContract):
    """An archive by a link."""

    archived = True

    @pytest.fixture
    def publisher(self, drivers: Drivers) -> Publisher[Any]:
        return drivers.publishers["local"]

    @pytest.fixture
    def publish_params(self) -> LocalPublisherParams:
        return NONE

    @pytest.fixture
    def sources(self, drivers: Drivers) -> dict[str, Source[Any]]:
        return drivers.sources


async def publish(drivers: Drivers, tmp_path: Path, label: Label = LABEL) -> str:
    """Publish a small result; its link."""
    folder = tmp_path / f"result-{label.execution}"
    if not folder.exists():
        plant({"stdout": b"hello\n"}, folder)
    spec = await drivers.publishers["local"].publish(folder, NONE, label, silent)
    assert spec.type == "urlDownload"
    url: str = spec.params["URL"]
    return url


async def status_of(url: str) -> int:
    """What a GET is answered with."""
    async with aiohttp.ClientSession() as client, client.get(url) as answer:
        return answer.status


class TestLinks:
    """What is told to others."""

    async def test_a_link_ends_in_the_execution(self, drivers: Drivers, tmp_path: Path) -> None:
        """Bacalhau's command line names the download by it."""
        url = await publish(drivers, tmp_path)

        assert url.startswith("http://127.0.0.1:")
        assert url.endswith(f"/{EXECUTION}.tar.gz")

    async def test_links_cannot_be_guessed_from_each_other(self, drivers: Drivers, tmp_path: Path) -> None:
        """A link is signed for one execution and one time, by a key that each node has for itself."""
        url = await publish(drivers, tmp_path)
        second = msgspec.structs.replace(LABEL, execution=ExecutionId("e-2"))
        other = await publish(drivers, tmp_path, second)
        token, end = url.split("/")[3], url.split("/")[3].partition("-")[0]
        later = f"{int(end, 16) + 9999:08x}-{token.partition('-')[2]}"
        foreign = f"{end}-{'0' * 32}"
        forged = [
            url.replace(token, each) for each in (other.split("/")[3], later, foreign, f"{end}-", "-" * 41)
        ]

        assert [await status_of(each) for each in (url, other)] == [200, 200]
        assert [await status_of(each) for each in forged] == [404] * len(forged)

    async def test_links_end(self, tmp_path: Path) -> None:
        """A link that is over says so; the publisher makes new ones whenever it is asked."""
        local = LocalPublishing(tmp_path / "results", port=0, link_s=-1.0)
        async with open_drivers(StorageSettings(tmp_path / "own", local_publishing=local)) as drivers:
            url = await publish(drivers, tmp_path)
            assert await status_of(url) == 403
        async with open_drivers(
            StorageSettings(tmp_path / "own", local_publishing=msgspec.structs.replace(local, link_s=60.0))
        ) as drivers:
            publisher = drivers.publishers["local"]
            assert isinstance(publisher, LocalPublisher)
            assert await status_of(publisher.link(EXECUTION)) == 200

    async def test_publishing_again_keeps_one_archive(self, drivers: Drivers, tmp_path: Path) -> None:
        """Repeating takes no more room."""
        await publish(drivers, tmp_path)
        await publish(drivers, tmp_path)

        assert [path.name for path in (tmp_path / "results").iterdir() if path.suffix == ".gz"] == [
            f"{EXECUTION}.tar.gz"
        ]

    async def test_links_outlive_a_restart(self, tmp_path: Path) -> None:
        """On the same port: the key is kept, so a link of yesterday's process is one of today's."""
        local = LocalPublishing(tmp_path / "results", port=0)
        async with open_drivers(StorageSettings(tmp_path / "own", local_publishing=local)) as drivers:
            before = await publish(drivers, tmp_path)
        async with open_drivers(StorageSettings(tmp_path / "own", local_publishing=local)) as drivers:
            after = await publish(drivers, tmp_path)
            assert await status_of("/".join(after.split("/")[:3] + before.split("/")[3:])) == 200


class TestServer:
    """What the server gives."""

    async def test_ranges_are_served(self, drivers: Drivers, tmp_path: Path) -> None:
        """A client may ask for a part, and gets it as a part."""
        url = await publish(drivers, tmp_path)

        async with aiohttp.ClientSession(auto_decompress=False) as client:
            async with client.get(url) as whole:
                data = await whole.read()
            async with client.get(url, headers={"Range": "bytes=2-9"}) as part:
                assert (part.status, await part.read()) == (206, data[2:10])

        assert whole.headers["Content-Type"] == "application/gzip"
        assert "Content-Encoding" not in whole.headers
        assert "ETag" in whole.headers

    async def test_a_range_of_another_version_is_the_whole(self, drivers: Drivers, tmp_path: Path) -> None:
        """Whoever goes on with an archive that was replaced meanwhile gets the new one from its beginning, not a mixture."""
        url = await publish(drivers, tmp_path)
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            async with client.get(url) as first:
                etag = first.headers["ETag"]
            (tmp_path / f"result-{EXECUTION}" / "stdout").write_bytes(b"another\n")
            await publish(drivers, tmp_path)
            async with client.get(url, headers={"Range": "bytes=2-9", "If-Range": etag}) as answer:
                assert (answer.status, len(await answer.read())) == (200, kept_bytes(tmp_path / "results"))

    async def test_a_download_that_is_cut_goes_on(self, drivers: Drivers, tmp_path: Path) -> None:
        """Whoever fetches by a link needs no byte twice, however often the line breaks."""
        plant({"noise": Random(3).randbytes(5 << 20)}, tmp_path / f"result-{EXECUTION}")
        url = URL(await publish(drivers, tmp_path))
        source = drivers.sources["urldownload"]
        async with fault_proxy(str(url.origin())) as proxy:
            proxy.plan = lambda request, number: "cut" if 0 < number < 5 else ""
            params = UrlParams(proxy.endpoint + url.path)
            with stamina.set_testing(True, attempts=4, cap=True):
                fetched = await source.fetch(
                    params, await source.resolve(params, Share()), tmp_path / "in", silent
                )

        name = f"{EXECUTION}.tar.gz"
        assert (fetched.path / name).read_bytes() == (tmp_path / "results" / name).read_bytes()
        starts = [int(each[6:-1]) for each in proxy.ranges[2:]]
        assert starts == sorted(set(starts))
        assert len(starts) == 4

    @pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHo"])
    async def test_who_asks_for_nothing_is_let_go(
        self, node: StorageSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
    ) -> None:
        """A connection takes a descriptor of the node: one that says nothing, or never ends its request, is closed."""
        monkeypatch.setattr(results_server, "IDLE_S", 0.1)
        async with open_drivers(node) as drivers:
            port = int((await publish(drivers, tmp_path)).split(":")[2].split("/")[0])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            async with asyncio.timeout(60):
                assert await reader.read() == b""
            writer.close()

    async def test_nothing_else_is_served(self, drivers: Drivers, tmp_path: Path) -> None:
        """No listing, no key, nothing above the folder, no other method, and no word on whether a token exists."""
        url = await publish(drivers, tmp_path)
        root, token = url.rsplit("/", 2)[0], url.split("/")[3]
        plant({"a.tar.gz": b"secret"}, tmp_path / "around")
        paths = ["", "/", "/.key", f"/{token}", f"/{token}/", f"/{token}/.key", f"/{token}/..%2f.key"]
        paths += [
            f"/{token}/..%2f..%2faround%2fa.tar.gz",
            "/../around/a.tar.gz",
            f"/{'0' * 32}/{EXECUTION}.tar.gz",
            f"/{EXECUTION}.tar.gz",
        ]

        async with aiohttp.ClientSession() as client:
            statuses = []
            for path in paths:
                async with client.get(root + path) as answer:
                    statuses.append(answer.status)
            async with client.delete(url) as answer:
                deleted = answer.status

        assert statuses == [404] * len(paths)
        assert deleted == 405

    async def test_a_port_that_is_taken_does_not_stop_the_node(
        self, drivers: Drivers, tmp_path: Path
    ) -> None:
        """The publisher is offered as unavailable, with the reason; other drivers work."""
        taken = int((await publish(drivers, tmp_path)).split(":")[2].split("/")[0])
        second = LocalPublishing(tmp_path / "second", port=taken)
        async with open_drivers(StorageSettings(tmp_path / "o", local_publishing=second)) as others:
            offer = await others.publishers["local"].probe()

            with pytest.raises(Unavailable, match=str(taken)):
                await publish(others, tmp_path)

        assert not offer.available
        assert str(taken) in offer.reason
        assert offer.hint

    async def test_a_failed_packing_leaves_nothing(self, drivers: Drivers, tmp_path: Path) -> None:
        """A result that cannot be packed leaves no half archive in the folder."""
        folder = plant({"ok": b"x" * 10_000}, tmp_path / "bad")
        (folder / "z").symlink_to("/etc/passwd")

        with pytest.raises(Invalid, match="'z'"):
            await drivers.publishers["local"].publish(folder, NONE, LABEL, silent)

        assert [path.name for path in (tmp_path / "results").iterdir()] == [".key"]


class TestKeeping:
    """How long archives stay. Time is moved by hand."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def keeping(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Drivers]:
        """A publisher whose links are good for 60 s, and which keeps archives for 1000 s."""
        local = LocalPublishing(tmp_path / "results", port=0, link_s=60.0, keep_s=1000.0)
        async with open_local_publisher(
            StorageSettings(tmp_path / "own", local_publishing=local), clock
        ) as opened:
            yield opened

    async def test_an_archive_goes_when_its_time_is_over(
        self, keeping: Drivers, clock: ManualClock, tmp_path: Path
    ) -> None:
        """Not before; then a link to it, and a requester that asks for it, hear why and what to do."""
        publisher = local_of(keeping)
        await publish(keeping, tmp_path)
        await clock.advance(999)
        await publisher.prune()
        assert kept_bytes(tmp_path / "results") > 0

        await clock.advance(1)
        await publisher.prune()

        assert [path.name for path in (tmp_path / "results").iterdir()] == [".key"]
        with pytest.raises(NotFound, match="not kept on this node") as fault:
            await publisher.read(EXECUTION, 0, 10)
        assert "KeepFor" in fault.value.hint
        async with aiohttp.ClientSession() as client, client.get(publisher.link(EXECUTION)) as answer:
            assert (answer.status, "KeepFor" in await answer.text()) == (404, True)

    async def test_the_oldest_go_when_room_is_needed(
        self, keeping: Drivers, clock: ManualClock, tmp_path: Path
    ) -> None:
        """As many as are needed, the oldest first, and none whose first link is still good."""
        publisher = local_of(keeping)
        for n in range(4):
            if n == 3:
                await clock.advance(60)
            await publish(keeping, tmp_path, msgspec.structs.replace(LABEL, execution=ExecutionId(f"e-{n}")))
        size_bytes = kept_bytes(tmp_path / "results") // 4

        await publisher.make_room(size_bytes + 1)
        after_some = names_in(tmp_path)
        await publisher.make_room(1 << 40)

        assert after_some == ["e-2.tar.gz", "e-3.tar.gz"]
        assert names_in(tmp_path) == ["e-3.tar.gz"]

    async def test_what_is_being_served_stays(
        self, keeping: Drivers, clock: ManualClock, tmp_path: Path
    ) -> None:
        """A download ends whatever the disk needs, and one that goes on a little later finds the rest."""
        plant({"noise": Random(1).randbytes(16 << 20)}, tmp_path / f"result-{EXECUTION}")
        url = await publish(keeping, tmp_path)
        publisher = local_of(keeping)
        size_bytes = kept_bytes(tmp_path / "results")

        async with aiohttp.ClientSession() as client, client.get(url) as answer:
            first = await answer.content.readany()
            await clock.advance(5000)
            await publisher.prune()
            await publisher.make_room(1 << 40)
            assert names_in(tmp_path) == [f"{EXECUTION}.tar.gz"]
            assert len(first + await answer.read()) == size_bytes

        await publisher.read(EXECUTION, 0, 10)
        await clock.advance(SERVED_S - 1)
        await publisher.prune()
        assert names_in(tmp_path) == [f"{EXECUTION}.tar.gz"]
        await clock.advance(1)
        await publisher.prune()
        assert names_in(tmp_path) == []

    async def test_a_new_process_goes_on_keeping(self, tmp_path: Path) -> None:
        """It knows what the last one kept and since when, and removes what that one had not ended."""
        local = LocalPublishing(tmp_path / "results", port=0, keep_s=1000.0)
        settings = StorageSettings(tmp_path / "own", local_publishing=local)
        async with open_local_publisher(settings) as drivers:
            await publish(drivers, tmp_path)
        for name in (".packing-0", ".leaving-0", ".arriving-0"):
            (tmp_path / "results" / name).write_bytes(b"half")
        came_at = (tmp_path / "results" / f"{EXECUTION}.tar.gz").stat().st_mtime
        clock = ManualClock(came_at + 999)
        async with open_local_publisher(settings, clock) as drivers:
            await local_of(drivers).prune()
            assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
                ".key",
                f"{EXECUTION}.tar.gz",
            ]
            await clock.advance(1)
            await local_of(drivers).prune()
            assert names_in(tmp_path) == []


def local_of(drivers: Drivers) -> LocalPublisher:
    """The publisher as a node knows it."""
    publisher = drivers.publishers["local"]
    assert isinstance(publisher, LocalPublisher)
    return publisher


def names_in(tmp_path: Path) -> list[str]:
    """The archives that are kept, and what is on its way out."""
    return sorted(path.name for path in (tmp_path / "results").iterdir() if path.name != ".key")


class TestAddresses:
    """Which address is told."""

    OWN = ("127.0.0.1", "::1", "fe80::1", "2606:4700::1", "169.254.3.4", "10.1.2.3", "1.2.3.4")

    @pytest.mark.parametrize(
        ("wanted", "address"),
        [
            ("", "127.0.0.1"),
            ("local", "127.0.0.1"),
            ("private", "10.1.2.3"),
            ("Public", "1.2.3.4"),
            ("node7.example.org", "node7.example.org"),
            ("10.9.9.9", "10.9.9.9"),
        ],
    )
    def test_symbols_become_addresses(self, wanted: str, address: str) -> None:
        """A link with the word ``public`` in it would lead nowhere."""
        assert choose_address(wanted, self.OWN) == address

    @pytest.mark.parametrize("wanted", ["private", "public"])
    def test_a_machine_without_such_an_address_says_so(self, wanted: str) -> None:
        """Rather than telling others what they cannot reach."""
        with pytest.raises(Invalid, match=f"no {wanted} address"):
            choose_address(wanted, ("127.0.0.1", "fe80::1"))

    def test_the_machine_has_loopback(self) -> None:
        """The addresses come from the network interfaces."""
        assert "127.0.0.1" in own_addresses()
