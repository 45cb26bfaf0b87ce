"""The `inline` source."""

import base64
import gzip
import hashlib
import io
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from protocol.errors import Broken, Exhausted, Invalid, NotFound, TimedOut, Unavailable
from protocol.spec.blobs import BlobUrl
from storage.archive import pieces
from storage.contract import Resolved, Share, silent
from storage.inline import BlobReader, InlineParams, InlineSource, open_inline
from storage.params import read_params
from storage.settings import StorageSettings
from storage.tree import Limits
from tests.contracts.source import OutsideSourceContract, SourceContract
from tests.contracts.trees import Link, Run, Tree, plant, snapshot

ALL = Share()
TREE: Tree = {"a/b": b"1" * 400_000, "tool": Run(b"#!"), "l": Link("a/b"), "e": None}


def data_url(data: bytes, media_type: str = "") -> str:
    """A data URL in base64."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def archive_of(tree: Tree, tmp_path: Path, name: str) -> bytes:
    """A tree as a tar.gz."""
    return b"".join(pieces(plant(tree, tmp_path / "packing" / name)))


def sly_archive(name: str, target: str = "") -> bytes:
    """An archive with one member that wants out."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        member = tarfile.TarInfo(name)
        if target:
            member.type, member.linkname = tarfile.SYMTYPE, target
        file.addfile(member)
    return gzip.compress(buffer.getvalue())


@pytest.fixture
def hostile() -> list[InlineParams]:
    """Archives that want out, for every suite below."""
    bad = [sly_archive("../../x"), sly_archive("/x"), sly_archive("l", "../.."), sly_archive("l", "/etc")]
    return [InlineParams(data_url(data, "application/gzip")) for data in bad]


class TestInlineFile(SourceContract):
    """A data URL of any media type is a single file."""

    @pytest.fixture
    def source(self) -> InlineSource:
        return InlineSource(None, Limits(), 5.0)

    @pytest.fixture
    def content(self) -> Tree:
        return {"": bytes(range(256)) * 10}

    @pytest.fixture
    def params(self, content: Tree) -> InlineParams:
        data = content[""]
        assert isinstance(data, bytes)
        return InlineParams(data_url(data, "application/octet-stream"))


class TestInlineArchive(TestInlineFile):
    """A data URL of a tar.gz is a folder."""

    @pytest.fixture
    def content(self) -> Tree:
        return TREE

    @pytest.fixture
    def params(self, content: Tree, tmp_path: Path) -> InlineParams:
        return InlineParams(data_url(archive_of(content, tmp_path, "one"), "application/gzip"))


class Store:
    """Blobs by digest: a working twin of the bus, as far as reading goes."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def put(self, data: bytes, media_type: str) -> InlineParams:
        """Keep the data; the params that name it."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return InlineParams(str(BlobUrl(digest, media_type, len(data))))

    async def read(self, digest: str, offset: int, limit_bytes: int) -> tuple[int, bytes]:
        """As `protocol.bus.Bus.get_blob`."""
        if digest not in self.blobs:
            raise NotFound(f"no blob {digest}")
        return len(self.blobs[digest]), self.blobs[digest][offset : offset + limit_bytes]


class TestInlineBlob(OutsideSourceContract):
    """Data that travelled beside its job, larger than one piece."""

    @pytest.fixture
    def store(self) -> Store:
        return Store()

    @pytest.fixture
    def source(self, store: Store) -> InlineSource:
        return InlineSource(store.read, Limits(), 5.0)

    @pytest.fixture
    def content(self) -> Tree:
        return {"": b"0123456789" * 100_000}

    @pytest.fixture
    def params(self, store: Store, content: Tree) -> InlineParams:
        data = content[""]
        assert isinstance(data, bytes)
        return store.put(data, "text/plain")

    @pytest.fixture
    def missing(self) -> tuple[InlineParams, str]:
        return InlineParams(str(BlobUrl("0123" * 16, "text/plain", 7))), "0123012301"

    @pytest.fixture
    def change(self, store: Store) -> Callable[[], Awaitable[InlineParams]]:
        async def change() -> InlineParams:
            return store.put(b"other", "text/plain")

        return change

    @pytest.fixture
    def vanish(self, store: Store) -> Callable[[], Awaitable[None]]:
        async def vanish() -> None:
            store.blobs.clear()

        return vanish


class TestInlineBlobArchive(TestInlineBlob):
    """The same for a tar.gz."""

    @pytest.fixture
    def content(self) -> Tree:
        return TREE

    @pytest.fixture
    def params(self, store: Store, content: Tree, tmp_path: Path) -> InlineParams:
        return store.put(archive_of(content, tmp_path, "one"), "application/gzip")


async def bring(
    params: InlineParams, tmp_path: Path, read: BlobReader | None = None, limits: Limits | None = None
) -> Tree:
    """Resolve and fetch; what came, and nothing beside it."""
    source = InlineSource(read, limits or Limits(), 0.05)
    room = tmp_path / "room"
    room.mkdir()
    try:
        fetched = await source.fetch(params, await source.resolve(params, ALL), room / "in", silent)
        return snapshot(fetched.path)
    finally:
        assert {path.name for path in room.iterdir()} <= {"in"}


class TestForms:
    """Data URLs as people write them."""

    @pytest.mark.parametrize(
        ("url", "data"),
        [
            ("data:,hello%20world", b"hello world"),
            ("data:text/plain,a,b", b"a,b"),
            ("data:;base64,aGVsbG8=", b"hello"),
            ("DATA:text/plain;charset=utf-8;base64,aGVsbG8", b"hello"),
            ("data:,", b""),
            ("data:text/plain;charset=utf-8," + quote("träume"), "träume".encode()),
        ],
    )
    async def test_every_form_of_rfc_2397_is_read(self, tmp_path: Path, url: str, data: bytes) -> None:
        """Plain and base64, with or without a media type."""
        assert await bring(InlineParams(url), tmp_path) == {"": data}

    @pytest.mark.parametrize("media", ["application/gzip", "Application/GZip", "application/x-gzip;x=y"])
    async def test_gzip_is_an_archive(self, tmp_path: Path, media: str) -> None:
        """The media type decides, in any case and with any parameters."""
        assert await bring(
            InlineParams(data_url(archive_of({"f": b"x"}, tmp_path, "p"), media)), tmp_path
        ) == {"f": b"x"}

    @pytest.mark.parametrize(
        "url", ["data:", "data:text/plain", "data:;base64,a", "data:;base64,ä!", "blob:sha256:00;a/b"]
    )
    async def test_a_url_that_cannot_be_read_is_invalid(self, tmp_path: Path, url: str) -> None:
        """Without repeating megabytes of data."""
        with pytest.raises(Invalid) as caught:
            await bring(InlineParams(url), tmp_path)

        assert len(caught.value.message) < 200

    @pytest.mark.parametrize("url", ["", "http://x", "file:///etc/passwd"])
    def test_another_url_is_refused_with_its_field(self, url: str) -> None:
        """Only data travels inline."""
        with pytest.raises(Invalid, match=r"source inline: .*data URL"):
            read_params({"url": url}, InlineParams, "source inline")

    async def test_a_file_and_an_archive_of_the_same_bytes_differ(self, tmp_path: Path) -> None:
        """The same bytes unpacked or not are two inputs."""
        data = archive_of({"f": b"x"}, tmp_path, "p")
        source = InlineSource(None, Limits(), 5.0)
        identities = [
            (await source.resolve(InlineParams(data_url(data, media)), ALL)).identity
            for media in ("application/gzip", "application/octet-stream")
        ]

        assert len(set(identities)) == 2


class TestFaults:
    """Data that does not come as it should."""

    async def test_an_archive_that_is_none_is_broken(self, tmp_path: Path) -> None:
        """A media type of gzip over other bytes is a clear fault, which says what to write for a file."""
        with pytest.raises(Broken, match="archive") as caught:
            await bring(InlineParams(data_url(b"text", "application/gzip")), tmp_path)
        assert "application/octet-stream" in caught.value.hint

    async def test_a_bomb_meets_the_limit(self, tmp_path: Path) -> None:
        """A small archive that unpacks to much is refused at the limit."""
        bomb = archive_of({"zeros": bytes(5_000_000)}, tmp_path, "p")

        with pytest.raises(Exhausted, match="more than 1000000 bytes"):
            await bring(
                InlineParams(data_url(bomb, "application/gzip")),
                tmp_path,
                limits=Limits(size_bytes=1_000_000),
            )

    async def test_what_an_archive_unpacks_to_is_told_and_can_be_too_much(self, tmp_path: Path) -> None:
        """Progress hears of the files' bytes, not only of the packed ones; what it raises ends the unpacking."""
        params = InlineParams(
            data_url(archive_of({"zeros": b"\0" * 30_000_000}, tmp_path, "much"), "application/gzip")
        )
        source = InlineSource(None, Limits(), 5.0)
        resolved = await source.resolve(params, ALL)
        told: list[int] = []

        def enough(done_bytes: int, total_bytes: int | None) -> None:
            told.append(done_bytes)
            if done_bytes > 1_000_000:
                raise Exhausted("that is too much")

        with pytest.raises(Exhausted, match="too much"):
            await source.fetch(params, resolved, tmp_path / "in", enough)

        assert told == sorted(told)
        assert not (tmp_path / "in").exists()

    async def test_a_large_file_meets_the_limit(self, tmp_path: Path) -> None:
        """A node's limit on one input holds for plain data as well, before any of it moves."""
        with pytest.raises(Exhausted, match="more than 10 bytes"):
            await bring(InlineParams(data_url(b"x" * 11)), tmp_path, limits=Limits(size_bytes=10))

    async def test_blobs_without_a_reader_are_unavailable(self, tmp_path: Path) -> None:
        """A process that cannot read blobs says so."""
        with pytest.raises(Unavailable):
            await bring(Store().put(b"x", "text/plain"), tmp_path)

    async def test_other_bytes_are_broken(self, tmp_path: Path) -> None:
        """A blob is compared with its digest."""
        store = Store()
        params = store.put(b"right", "text/plain")
        store.blobs = dict.fromkeys(store.blobs, b"wrong")

        with pytest.raises(Broken, match="other bytes"):
            await bring(params, tmp_path, store.read)

    @pytest.mark.parametrize("wrong", [b"", b"much longer"])
    async def test_another_length_is_broken(self, tmp_path: Path, wrong: bytes) -> None:
        """A blob of another size is noticed at its first piece, and an empty piece ends nothing."""
        store = Store()
        params = store.put(b"right", "text/plain")
        store.blobs = dict.fromkeys(store.blobs, wrong)

        with pytest.raises(Broken, match="not 5"):
            await bring(params, tmp_path, store.read)

    async def test_silence_has_an_end(self, tmp_path: Path) -> None:
        """A reader that never answers is a fault that says how many bytes came."""
        first = True

        async def read(digest: str, offset: int, limit_bytes: int) -> tuple[int, bytes]:
            nonlocal first
            if first:
                first = False
                return 5, b"ri"
            raise TimeoutError

        with pytest.raises(TimedOut, match="after 2 bytes"):
            await bring(Store().put(b"right", "text/plain"), tmp_path, read)


async def test_it_opens_with_the_node_s_settings(tmp_path: Path) -> None:
    """The limits of the settings are those of the source."""
    async with open_inline(StorageSettings(tmp_path, max_bytes=3)) as drivers:
        source = drivers.sources["inline"]

        with pytest.raises(Exhausted):
            await source.resolve(InlineParams("data:,long"), ALL)
        assert isinstance(await source.resolve(InlineParams("data:,ok"), ALL), Resolved)
