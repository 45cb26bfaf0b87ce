"""The table of drivers."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import msgspec
import pytest

import tests.storage
from protocol.errors import Denied, Invalid
from storage.addresses import read_policy
from storage.contract import Share
from storage.drivers import open_drivers
from storage.ipfs import GatewaySource, IpfsSource
from storage.params import read_params
from storage.s3 import S3Source
from storage.settings import LocalPublishing, StorageSettings
from tests.contracts.publisher import PublisherContract
from tests.contracts.source import SourceContract


@pytest.fixture
def node(tmp_path: Path) -> StorageSettings:
    """A node with everything; nobody is asked before a driver is used."""
    local = LocalPublishing(tmp_path / "results", port=0)
    return StorageSettings(tmp_path / "own", ipfs_connect="/ip4/127.0.0.1/tcp/5001", local_publishing=local)


async def test_every_driver_is_under_its_own_type(node: StorageSettings) -> None:
    """The names by which jobs ask are those that the drivers give themselves, in lower case."""
    async with open_drivers(node) as drivers:
        for table in (drivers.sources, drivers.publishers):
            assert all(name == driver.type.lower() for name, driver in table.items())
        assert set(drivers.sources) == {"local", "localdirectory", "inline", "urldownload", "s3", "ipfs"}
        assert set(drivers.publishers) == {"local", "s3", "ipfs"}


async def test_every_probe_answers(node: StorageSettings) -> None:
    """Whatever is there or not, a node can say what it offers."""
    async with open_drivers(node) as drivers:
        offers = {name: await source.probe() for name, source in drivers.sources.items()}
        offers |= {f"to {name}": await publisher.probe() for name, publisher in drivers.publishers.items()}

    assert [name.removeprefix("to ") for name in offers] == [offer.type.lower() for offer in offers.values()]
    assert all(offer.available or (offer.reason and offer.hint) for offer in offers.values())


async def test_a_client_publishes_nothing(tmp_path: Path) -> None:
    """Without the setting there is no server: a command line that downloads opens no port."""
    async with open_drivers(StorageSettings(tmp_path)) as drivers:
        assert "local" not in drivers.publishers


async def test_settings_that_cannot_be_read_keep_a_node_from_starting(tmp_path: Path) -> None:
    """A slip in a policy is not passed over."""
    with pytest.raises(Invalid):
        async with open_drivers(StorageSettings(tmp_path, allowed_paths=("relative",))):
            pass


async def test_what_a_node_allows_reaches_the_servers_drivers(node: StorageSettings) -> None:
    """Limits on silence and size, and networks that are closed, hold for S3 and IPFS too."""
    told = msgspec.structs.replace(
        node, connect_s=1.5, silence_s=2.5, max_bytes=5, max_entries=6, addresses=read_policy(["10.0.0.0/8"])
    )
    async with open_drivers(told) as drivers:
        ipfs, s3 = drivers.sources["ipfs"], drivers.sources["s3"]
        assert isinstance(ipfs, IpfsSource)
        assert isinstance(s3, S3Source)
        kubo, client = ipfs._kubo.settings, s3._client.settings
    assert (kubo.connect_s, kubo.silence_s, kubo.max_bytes, kubo.entries) == (1.5, 2.5, 5, 6)
    assert (client.connect_s, client.silence_s, client.max_bytes, client.objects) == (1.5, 2.5, 5, 6)
    assert client.addresses == read_policy(["10.0.0.0/8"])


async def test_every_driver_passes_its_suite(node: StorageSettings) -> None:
    """A driver is finished when a test class of its own inherits the contract's suite."""
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(tests.storage.__path__, "tests.storage.")
        if found.name.rpartition(".")[2].startswith("test_")
    ]
    tested = {
        (suite, used)
        for module in modules
        for suite in (SourceContract, PublisherContract)
        if any(inspect.isclass(each) and issubclass(each, suite) for each in vars(module).values())
        for used in vars(module).values()
        if inspect.isclass(used)
    }

    async with open_drivers(node) as drivers:
        untested = [
            driver
            for suite, table in ((SourceContract, drivers.sources), (PublisherContract, drivers.publishers))
            for driver in table.values()
            if not {(suite, driver.params), (suite, type(driver))} & tested
        ]

    assert untested == []


async def test_gateways_are_a_source_where_no_kubo_is_named(tmp_path: Path) -> None:
    """Named gateways bring data by CID and publish nothing; beside a Kubo they are not asked."""
    for connect, source, publishes in (
        ("", GatewaySource, False),
        ("/ip4/127.0.0.1/tcp/5001", IpfsSource, True),
    ):
        settings = StorageSettings(tmp_path, ipfs_connect=connect, ipfs_gateways=("https://example.com",))
        async with open_drivers(settings) as drivers:
            assert isinstance(drivers.sources["ipfs"], source)
            assert ("ipfs" in drivers.publishers) == publishes


async def test_a_node_may_take_only_what_is_there(tmp_path: Path) -> None:
    """With Locality local, data of the job and of the node's disk comes; what would have to be fetched is refused."""
    (tmp_path / "data").write_bytes(b"x")
    settings = StorageSettings(tmp_path / "own", allowed_paths=(f"{tmp_path}/**",), local_only=True)
    async with open_drivers(settings) as drivers:
        for name, params, here in (
            ("local", {"SourcePath": f"{tmp_path}/data"}, True),
            ("inline", {"URL": "data:,x"}, True),
            ("urldownload", {"URL": "http://192.0.2.1/x"}, False),
            ("s3", {"Bucket": "b", "Key": "k"}, False),
        ):
            source = drivers.sources[name]
            read = read_params(params, source.params, name)
            if here:
                assert (await source.resolve(read, Share())).identity
            else:
                with pytest.raises(Denied, match="already") as caught:
                    await source.resolve(read, Share())
                assert caught.value.kind == "Locality"
