"""The `local` source."""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from protocol.errors import Denied, Invalid, NotFound
from storage.contract import Fetched, Share, silent
from storage.local import LocalParams, LocalSource, open_local
from storage.params import read_params
from storage.settings import StorageSettings
from tests.contracts.source import OutsideSourceContract
from tests.contracts.trees import Link, Tree, plant

ALL = Share()


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[LocalSource]:
    """A node that allows some folders below its ``data``."""
    (tmp_path / "data").mkdir()
    allowed = (f"{tmp_path}/data/ro/**", f"{tmp_path}/data/rw/**:rw")
    async with AsyncExitStack() as stack:
        drivers = await stack.enter_async_context(
            open_local(StorageSettings(tmp_path / "own", allowed_paths=allowed))
        )
        found = drivers.sources["local"]
        assert isinstance(found, LocalSource)
        yield found


class TestLocal(OutsideSourceContract):
    """A folder that is mounted as it is."""

    @pytest.fixture
    def content(self) -> Tree:
        return {"a/b": b"1", "c": b"22", "l": Link("c"), "e": None}

    @pytest.fixture
    def params(self, source: LocalSource, tmp_path: Path, content: Tree) -> LocalParams:
        return LocalParams(str(plant(content, tmp_path / "data" / "ro" / "in")))

    @pytest.fixture
    def hostile(self, source: LocalSource, tmp_path: Path) -> list[LocalParams]:
        plant({"f": b""}, tmp_path / "elsewhere")
        plant({"out": Link("../../elsewhere"), "etc": Link("/etc")}, tmp_path / "data" / "ro")
        root = tmp_path / "data" / "ro"
        return [
            LocalParams(f"{root}/{name}") for name in ("out", "out/f", "etc/passwd", "../../elsewhere", "..")
        ]

    @pytest.fixture
    def missing(self, tmp_path: Path) -> tuple[LocalParams, str]:
        path = str(tmp_path / "data" / "ro" / "nothing")
        return LocalParams(path), path

    @pytest.fixture
    def change(self, params: LocalParams) -> Callable[[], Awaitable[LocalParams]]:
        async def change() -> LocalParams:
            Path(params.source_path, "a", "b").write_bytes(b"2")
            return params

        return change

    @pytest.fixture
    def vanish(self, params: LocalParams) -> Callable[[], Awaitable[None]]:
        async def vanish() -> None:
            shutil.rmtree(params.source_path)

        return vanish


class TestLocalFile(TestLocal):
    """A single file likewise."""

    @pytest.fixture
    def content(self) -> Tree:
        return {"": b"a file"}

    @pytest.fixture
    def change(self, params: LocalParams) -> Callable[[], Awaitable[LocalParams]]:
        async def change() -> LocalParams:
            Path(params.source_path).write_bytes(b"another")
            return params

        return change

    @pytest.fixture
    def vanish(self, params: LocalParams) -> Callable[[], Awaitable[None]]:
        async def vanish() -> None:
            Path(params.source_path).unlink()

        return vanish


class TestPermission:
    """What a node lets jobs see."""

    async def test_a_path_that_is_not_listed_is_denied(self, source: LocalSource, tmp_path: Path) -> None:
        """The refusal names the path, whether it exists or not."""
        for path in (tmp_path / "data", tmp_path / "nothing", Path("/etc/passwd")):
            with pytest.raises(Denied, match=f"{path} is not allowed"):
                await source.resolve(LocalParams(str(path)), ALL)

    async def test_dots_are_gone_before_the_list_is_asked(self, source: LocalSource, tmp_path: Path) -> None:
        """``ro/../..`` is what it leads to."""
        with pytest.raises(Denied):
            await source.resolve(LocalParams(f"{tmp_path}/data/ro/../../own"), ALL)

    async def test_a_link_out_of_the_list_is_denied(self, source: LocalSource, tmp_path: Path) -> None:
        """A link inside an allowed folder opens nothing that is not allowed itself; the refusal says where it leads."""
        plant({"secret": b""}, tmp_path / "elsewhere")
        plant({"sly": Link("../../elsewhere")}, tmp_path / "data" / "ro")

        with pytest.raises(Denied, match=r"a link to .*elsewhere"):
            await source.fetch(
                LocalParams(f"{tmp_path}/data/ro/sly"),
                await source.resolve(LocalParams(f"{tmp_path}/data/ro"), ALL),
                tmp_path / "in",
                silent,
            )

    async def test_a_link_within_the_list_is_fine(self, source: LocalSource, tmp_path: Path) -> None:
        """What it leads to is mounted, so that turning the link later changes nothing."""
        plant({"real/f": b"x", "link": Link("real")}, tmp_path / "data" / "ro")

        fetched = await fetch(source, LocalParams(f"{tmp_path}/data/ro/link"), tmp_path)

        assert fetched.path == tmp_path / "data" / "ro" / "real"

    async def test_the_list_may_name_a_link(self, tmp_path: Path) -> None:
        """A node's owner who allows a link means what it leads to."""
        plant({"disk/in/f": b"x", "data": Link("disk")}, tmp_path / "n")
        async with open_local(StorageSettings(tmp_path, allowed_paths=(f"{tmp_path}/n/data/**",))) as drivers:
            fetched = await drivers.sources["local"].fetch(
                LocalParams(f"{tmp_path}/n/data/in"),
                await drivers.sources["local"].resolve(LocalParams(f"{tmp_path}/n/data/in"), ALL),
                tmp_path / "in",
                silent,
            )

        assert fetched.path == tmp_path / "n" / "disk" / "in"

    async def test_writing_must_be_allowed(self, source: LocalSource, tmp_path: Path) -> None:
        """ReadWrite needs a line with ``:rw``; without ReadWrite the mount is read-only."""
        plant({"ro/x": b"", "rw/x": b""}, tmp_path / "data" / "sub")
        plant({"x": b""}, tmp_path / "data" / "ro")
        plant({"x": b""}, tmp_path / "data" / "rw")

        with pytest.raises(Denied, match="for reading only"):
            await fetch(source, LocalParams(f"{tmp_path}/data/ro/x", read_write=True), tmp_path)

        assert not (
            await fetch(source, LocalParams(f"{tmp_path}/data/rw/x", read_write=True), tmp_path)
        ).read_only
        assert (await fetch(source, LocalParams(f"{tmp_path}/data/rw/x"), tmp_path)).read_only

    async def test_a_node_without_a_list_says_so(self, tmp_path: Path) -> None:
        """The offer of a node that allows nothing gives the reason and what to do."""
        async with open_local(StorageSettings(tmp_path)) as drivers:
            offer = await drivers.sources["local"].probe()

        assert not offer.available
        assert offer.reason
        assert offer.hint


class TestCreating:
    """CreateAs."""

    @pytest.mark.parametrize("create_as", ["dir", "file", "Dir"])
    async def test_what_is_missing_is_made(self, source: LocalSource, tmp_path: Path, create_as: str) -> None:
        """A missing path is made as it was asked for, with the folders above; twice is harmless."""
        params = LocalParams(f"{tmp_path}/data/rw/a/new", read_write=True, create_as=create_as)

        for _ in range(2):
            fetched = await fetch(source, params, tmp_path)

            assert fetched.path.is_dir() == (create_as.lower() == "dir")
            assert not fetched.read_only
            assert not fetched.owned

    async def test_nothing_is_made_before_it_is_fetched(self, source: LocalSource, tmp_path: Path) -> None:
        """Resolving only looks."""
        params = LocalParams(f"{tmp_path}/data/rw/new", read_write=True, create_as="dir")

        assert (await source.resolve(params, ALL)).size_bytes == 0
        assert not (tmp_path / "data" / "rw").exists()

    async def test_what_is_missing_is_not_made_unasked(self, source: LocalSource, tmp_path: Path) -> None:
        """Without CreateAs a missing path is a fault with a hint."""
        with pytest.raises(NotFound) as caught:
            await fetch(source, LocalParams(f"{tmp_path}/data/rw/new", read_write=True), tmp_path)

        assert "CreateAs" in caught.value.hint

    async def test_a_slip_is_told_with_what_may_be_meant(self, source: LocalSource, tmp_path: Path) -> None:
        """The nearest name beside it, if a job may read that; nothing of what it may not."""
        data = tmp_path / "data"
        (data / "rot").mkdir()
        with pytest.raises(NotFound) as caught:
            await source.resolve(LocalParams(f"{data}/ro/models"), ALL)
        assert "Did you mean" not in caught.value.hint
        plant({"models": None, "logs/access.csv": b"x"}, data / "ro")
        for slip, meant in (
            ("model", "models"),
            ("lgos/access.csv", "logs"),
            ("logs/acess.csv", "logs/access.csv"),
        ):
            with pytest.raises(NotFound) as caught:
                await source.resolve(LocalParams(f"{data}/ro/{slip}"), ALL)
            assert f"Did you mean '{data}/ro/{meant}'?" in caught.value.hint

    async def test_a_link_to_nothing_is_called_that(self, source: LocalSource, tmp_path: Path) -> None:
        """Whoever sees the name on the node is not told that it is not there, or asked whether they meant it."""
        plant({"newest": Link("gone")}, tmp_path / "data" / "ro")

        with pytest.raises(NotFound, match="newest is a link to what does not exist") as caught:
            await source.resolve(LocalParams(f"{tmp_path}/data/ro/newest"), ALL)

        assert "Did you mean" not in caught.value.hint

    async def test_a_folder_below_a_file_cannot_be_made(self, source: LocalSource, tmp_path: Path) -> None:
        """The file in the way is named."""
        plant({"file": b""}, tmp_path / "data" / "rw")
        params = LocalParams(f"{tmp_path}/data/rw/file/new", read_write=True, create_as="dir")

        with pytest.raises((Invalid, NotFound), match="file"):
            await fetch(source, params, tmp_path)


class TestParams:
    """The params as people write them."""

    @pytest.mark.parametrize(
        ("params", "word"),
        [
            ({"SourcePath": "data"}, "not an absolute path"),
            ({"SourcePath": "/a", "CreateAs": "folder"}, "noCreate, dir, file"),
            ({"SourcePath": "/a", "CreateAs": "dir"}, "needs ReadWrite"),
            ({}, "SourcePath is missing"),
            ({"SourcePath": "/a", "Path": "/b"}, "unknown field Path"),
        ],
    )
    def test_wrong_params_are_told(self, params: dict[str, str], word: str) -> None:
        """Each fault says which field is wrong and why."""
        with pytest.raises(Invalid, match=word):
            read_params(params, LocalParams, "source local")

    def test_params_in_any_case_are_read(self) -> None:
        """As the command line writes them."""
        params = read_params(
            {"sourcepath": "/a", "readwrite": "true", "createas": "dir"}, LocalParams, "source local"
        )

        assert params == LocalParams("/a", read_write=True, create_as="dir")


async def test_odd_things_in_a_folder_do_no_harm(source: LocalSource, tmp_path: Path) -> None:
    """Pipes, sockets and folders that cannot be listed are the program's business: the folder can be mounted."""
    root = plant({"f": b"123", "closed/f": b"12"}, tmp_path / "data" / "ro" / "in")
    os.mkfifo(root / "pipe")

    assert (await source.resolve(LocalParams(str(root)), ALL)).size_bytes == 5


async def test_both_names_are_offered(tmp_path: Path) -> None:
    """`localDirectory` is the older name of the same."""
    async with open_local(StorageSettings(tmp_path)) as drivers:
        assert {name: source.type for name, source in drivers.sources.items()} == {
            "local": "local",
            "localdirectory": "localDirectory",
        }


async def fetch(source: LocalSource, params: LocalParams, tmp_path: Path) -> Fetched:
    """Resolve and fetch."""
    return await source.fetch(params, await source.resolve(params, ALL), tmp_path / "in", silent)
