"""What every bus promises about cells and blobs: see `protocol.bus.Bus`."""

import asyncio
import secrets
import time
from hashlib import sha256

import pytest

from protocol.errors import Invalid, NotFound
from tests.contracts.bus_steps import (
    Buses,
)


class StoreContract:
    """The promises about cells and blobs."""

    @pytest.fixture
    def buses(self) -> Buses:
        """Two buses connected to one hub or server."""
        raise NotImplementedError

    async def test_a_cell_is_created_once(self, buses: Buses) -> None:
        """Revision 0 means "it does not exist": the second creator gets None, and the first one's value stays."""
        one, other = buses
        name = secrets.token_hex(6)
        assert await one.get_cell(name) is None

        revision = await one.put_cell(name, b"mine", revision=0)

        assert revision
        assert await other.put_cell(name, b"yours", revision=0) is None
        found = await other.get_cell(name)
        assert found is not None
        assert (found.name, found.data, found.revision) == (name, b"mine", revision)

    async def test_a_cell_changes_only_at_its_newest_revision(self, buses: Buses) -> None:
        """Compare and set: a change that knows the newest revision passes, any other gets None and changes nothing."""
        one, other = buses
        name = secrets.token_hex(6)
        first = await one.put_cell(name, b"1", revision=0)
        assert first
        second = await other.put_cell(name, b"2", revision=first)
        assert second
        assert second > first

        assert await one.put_cell(name, b"old", revision=first) is None
        found = await one.get_cell(name)
        assert found is not None
        assert (found.data, found.revision) == (b"2", second)

    async def test_exactly_one_of_two_racing_changes_wins(self, buses: Buses) -> None:
        """Two who change a cell at once: one wins, every time."""
        name, revision = secrets.token_hex(6), 0
        for _ in range(50):
            results = await asyncio.gather(*(bus.put_cell(name, b"x", revision=revision) for bus in buses))
            (revision,) = [result for result in results if result is not None]

    async def test_all_cells_are_listed_with_their_newest_values(self, buses: Buses) -> None:
        """The list holds each cell once, as `get_cell` shows it, whatever the last list held."""
        one, other = buses
        mark = secrets.token_hex(6)
        names = {f"{mark}-{number}" for number in range(30)}
        for name in names:
            first = await one.put_cell(name, b"old", revision=0)
            assert first
            assert any(cell.name == name and cell.data == b"old" for cell in await other.list_cells())
            assert await one.put_cell(name, name.encode(), revision=first)

        listed = [cell for cell in await other.list_cells() if cell.name.startswith(mark)]

        assert {cell.name for cell in listed} == names
        assert len(listed) == len(names)
        for cell in listed:
            assert cell == await other.get_cell(cell.name)

    async def test_a_cell_is_removed_as_it_was_known(self, buses: Buses) -> None:
        """One that was changed since stays; of one that is gone nothing is left, and revision 0 makes it anew. Others are as
        they were.
        """
        one, other = buses
        name, beside = secrets.token_hex(6), secrets.token_hex(6)
        first = await one.put_cell(name, b"1", revision=0)
        assert await one.put_cell(beside, b"stays", revision=0)
        assert first
        second = await other.put_cell(name, b"2", revision=first)
        assert second

        await one.remove_cell(name, first)
        found = await one.get_cell(name)
        assert found is not None
        assert found.data == b"2"

        for _ in range(2):
            await one.remove_cell(name, second)
            assert await other.get_cell(name) is None
        names = {cell.name for cell in await other.list_cells()}
        assert name not in names
        assert beside in names
        assert await other.put_cell(name, b"3", revision=second) is None
        again = await other.put_cell(name, b"3", revision=0)
        assert again
        assert again > second
        await one.remove_cell(name, second)
        assert (await one.get_cell(name)) is not None

    @pytest.mark.parametrize("name", ["", "a.b", "a b", "*", ">", "x" * 65])
    async def test_a_cell_s_name_is_one_token(self, buses: Buses, name: str) -> None:
        """Any other name is `Invalid`."""
        with pytest.raises(Invalid):
            await buses[0].put_cell(name, b"", revision=0)
        with pytest.raises(Invalid):
            await buses[0].get_cell(name)

    @pytest.mark.parametrize("size_bytes", [0, 1, 262_144, 262_145, 1_500_000])
    async def test_a_blob_comes_back_byte_for_byte(self, buses: Buses, size_bytes: int) -> None:
        """Bytes of any size are stored under their SHA-256 and read back in pieces of any length."""
        one, other = buses
        data = secrets.token_bytes(size_bytes)

        digest = await one.put_blob(data)

        assert digest == sha256(data).hexdigest()
        read = b""
        while True:
            size, piece = await other.get_blob(digest, len(read), 100_000)
            assert size == size_bytes
            assert len(piece) <= 100_000
            if not piece:
                break
            read += piece
        assert read == data

    async def test_a_piece_of_a_blob_can_be_read_from_anywhere(self, buses: Buses) -> None:
        """Offset and limit choose exactly these bytes, across whatever pieces it is kept in; beyond the end is nothing."""
        one, other = buses
        data = secrets.token_bytes(700_000)
        digest = await one.put_blob(data)

        for offset, limit in [
            (0, 1),
            (262_143, 2),
            (262_144, 262_144),
            (100, 600_000),
            (699_999, 10),
            (700_000, 10),
        ]:
            assert await other.get_blob(digest, offset, limit) == (700_000, data[offset : offset + limit])

    async def test_storing_the_same_blob_again_is_harmless(self, buses: Buses) -> None:
        """Two who store the same bytes, at once or later, get the same digest, and it stays readable."""
        data = secrets.token_bytes(600_000)

        digests = await asyncio.gather(*(bus.put_blob(data) for bus in buses))

        assert await buses[0].put_blob(data) == digests[0] == digests[1]
        assert await buses[1].get_blob(digests[0], 0, len(data)) == (len(data), data)

    async def test_a_blob_that_is_not_there_is_not_found(self, buses: Buses) -> None:
        """`NotFound` names the digest."""
        digest = sha256(secrets.token_bytes(8)).hexdigest()

        with pytest.raises(NotFound, match=digest):
            await buses[0].get_blob(digest, 0, 10)

    async def test_a_blob_is_known_by_when_it_was_put_last(self, buses: Buses) -> None:
        """A look tells the time, and each time it is put makes it newer; all are listed, once each."""
        one, other = buses
        small, large = secrets.token_bytes(9), secrets.token_bytes(600_000)
        digests = [await one.put_blob(data) for data in (small, large)]
        for digest, data in zip(digests, (small, large), strict=True):
            first = await other.look_blob(digest)
            assert await other.put_blob(data) == digest
            second = await one.look_blob(digest)
            assert first
            assert second
            assert abs(time.time() - second.at) < 600
            assert second.at >= first.at
            assert second.revision > first.revision
        listed = await one.list_blobs()
        assert set(digests) <= set(listed)
        assert len(listed) == len(set(listed))
        assert await one.look_blob(sha256(secrets.token_bytes(8)).hexdigest()) is None

    @pytest.mark.parametrize("size_bytes", [0, 600_000])
    async def test_a_blob_is_removed_as_it_was_seen(self, buses: Buses, size_bytes: int) -> None:
        """Nothing is left of it, and it can be put again. One that was put since it was looked at stays."""
        one, other = buses
        data = secrets.token_bytes(size_bytes)
        digest = await one.put_blob(data)
        seen = await other.look_blob(digest)
        assert seen
        await one.put_blob(data)
        assert not await other.remove_blob(digest, seen)
        assert await one.get_blob(digest, 0, size_bytes) == (size_bytes, data)

        seen = await other.look_blob(digest)
        assert seen
        assert await other.remove_blob(digest, seen)

        assert digest not in await one.list_blobs()
        with pytest.raises(NotFound):
            await one.get_blob(digest, 0, 10)
        await other.put_blob(data)
        assert await one.get_blob(digest, 0, size_bytes) == (size_bytes, data)

    async def test_what_is_put_while_it_is_removed_is_there(self, buses: Buses) -> None:
        """However putting and removing the same bytes meet, whoever was told that they are stored can read them all."""
        one, other = buses
        data = secrets.token_bytes(600_000)
        digest = await one.put_blob(data)
        for turn in range(20):
            seen = await other.look_blob(digest)
            assert seen

            async def put(after: int) -> None:
                for _ in range(after):
                    await asyncio.sleep(0)
                assert await one.put_blob(data) == digest

            await asyncio.gather(other.remove_blob(digest, seen), put(turn % 7))

            assert await other.get_blob(digest, 0, len(data)) == (len(data), data), turn
