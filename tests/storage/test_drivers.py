"""The table of drivers."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import tests.storage
from protocol.errors import Invalid
from storage.drivers import open_drivers
from storage.settings import LocalPublishing, StorageSettings
from tests.contracts.publisher import PublisherContract
from tests.contracts.source import SourceContract


async def test_every_driver_is_under_its_own_type(tmp_path: Path) -> None:
    """The names by which jobs ask are those that the drivers give themselves, in lower case."""
    async with open_drivers(
        StorageSettings(tmp_path, local_publishing=LocalPublishing(tmp_path / "r", port=0))
    ) as drivers:
        for table in (drivers.sources, drivers.publishers):
            assert {name: driver.type.lower() for name, driver in table.items()} == {
                name: name for name in table
            }
        assert {"local", "localdirectory", "inline", "urldownload"} <= set(drivers.sources)
        assert "local" in drivers.publishers


async def test_a_client_publishes_nothing(tmp_path: Path) -> None:
    """Without the setting there is no server: a command line that downloads opens no port."""
    async with open_drivers(StorageSettings(tmp_path)) as drivers:
        assert "local" not in drivers.publishers


async def test_settings_that_cannot_be_read_keep_a_node_from_starting(tmp_path: Path) -> None:
    """A slip in a policy is not passed over."""
    with pytest.raises(Invalid):
        async with open_drivers(StorageSettings(tmp_path, allowed_paths=("relative",))):
            pass


async def test_every_driver_passes_its_suite(tmp_path: Path) -> None:
    """A driver is finished when a test class of its own inherits the contract's suite."""
    settings = StorageSettings(
        tmp_path,
        ipfs_connect="/ip4/127.0.0.1/tcp/5001",
        local_publishing=LocalPublishing(tmp_path / "r", port=0),
    )
    modules = [
        importlib.import_module(f"tests.storage.{found.name}")
        for found in pkgutil.iter_modules(tests.storage.__path__)
        if found.name.startswith("test_")
    ]
    tested = {
        (suite, used)
        for module in modules
        for suite in (SourceContract, PublisherContract)
        if any(inspect.isclass(each) and issubclass(each, suite) for each in vars(module).values())
        for used in vars(module).values()
        if inspect.isclass(used)
    }

    async with open_drivers(settings) as drivers:
        untested = [
            driver
            for suite, table in ((SourceContract, drivers.sources), (PublisherContract, drivers.publishers))
            for driver in table.values()
            if not {(suite, driver.params), (suite, type(driver))} & tested
        ]

    assert untested == []
