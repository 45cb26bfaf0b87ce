"""The `local` publisher, and the server behind its links."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from protocol.errors import Invalid, Unavailable
from protocol.ids import ExecutionId, NodeId
from storage.contract import Drivers, Label, Publisher, Source, silent
from storage.drivers import open_drivers
from storage.local_publisher import LocalPublisherParams, choose_address, own_addresses
from storage.settings import LocalPublishing, StorageSettings
from tests.contracts.publisher import EXECUTION, JOB, PublisherContract
from tests.contracts.trees import plant

LABEL = Label(job=JOB, execution=EXECUTION, node=NodeId("n-1"), at=0.0)
NONE = LocalPublisherParams()


@pytest.fixture
def node(tmp_path: Path) -> StorageSettings:
    """A node that publishes on a free port of loopback."""
    return StorageSettings(tmp_path / "own", local_publishing=LocalPublishing(tmp_path / "results", port=0))


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


class TestLinks:
    """What is told to others."""

    async def test_a_link_ends_in_the_execution(self, drivers: Drivers, tmp_path: Path) -> None:
        """Bacalhau's command line names the download by it."""
        url = await publish(drivers, tmp_path)

        assert url.startswith("http://127.0.0.1:")
        assert url.endswith(f"/{EXECUTION}.tar.gz")

    async def test_links_cannot_be_guessed_from_each_other(self, drivers: Drivers, tmp_path: Path) -> None:
        """Each execution has a token of 128 bits of its own, and another node's differ."""
        urls = {await publish(drivers, tmp_path)}
        urls.add(
            await publish(drivers, tmp_path, msgspec.structs.replace(LABEL, execution=ExecutionId("e-2")))
        )
        other = StorageSettings(tmp_path / "o", local_publishing=LocalPublishing(tmp_path / "other", port=0))
        async with open_drivers(other) as more:
            urls.add(await publish(more, tmp_path))

        assert len({url.split("/")[3] for url in urls}) == 3
        assert all(len(url.split("/")[3]) == 32 for url in urls)

    async def test_publishing_again_keeps_the_link_and_one_archive(
        self, drivers: Drivers, tmp_path: Path
    ) -> None:
        """Repeating takes no more room, over a restart of the node too."""
        first = await publish(drivers, tmp_path)
        again = await publish(drivers, tmp_path)
        settings = StorageSettings(
            tmp_path / "own", local_publishing=LocalPublishing(tmp_path / "results", port=0)
        )
        async with open_drivers(settings) as restarted:
            later = await publish(restarted, tmp_path)

        assert first == again
        assert first.split("/")[3:] == later.split("/")[3:]
        assert len([path for path in (tmp_path / "results").rglob("*") if path.suffix == ".gz"]) == 1


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
