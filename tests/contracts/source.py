"""What every source promises, asked of each: see `storage.contract.Source`.

A driver's test inherits the class that fits, and supplies its fixtures:

- `SourceContract`: any source;
- `OutsideSourceContract`: the data lies outside the params, so it can be missing, change or vanish;
- `ServedSourceContract`: somebody serves the data, who may be away.

Fixtures a driver supplies, where `P` is its params Struct:

==========  ======================================  =====================================================================
source      ``Source[P]``                           the driver
params      ``P``                                   names `content`, and has put it there
content     ``Tree``                                what a fetch must bring
hostile     ``Sequence[P]``                         data whose names try to get out of their folder: at least one
missing     ``tuple[P, str]``                       something that is not there, and the name its fault must contain
change      ``Callable[[], Awaitable[P]]``          puts other bytes there, or elsewhere; answers with what names them
vanish      ``Callable[[], Awaitable[None]]``       takes away what `params` name
away        ``tuple[Source[P], P]``                 a source, and params, whose server is not there
==========  ======================================  =====================================================================

The first four are asked of all, the next three of outside sources, the last of served ones.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from protocol.errors import Broken, Fault, NotFound, TimedOut, Unavailable
from protocol.nodes import Offer
from storage.contract import Fetched, Share, Source, silent
from tests.contracts.trees import Link, Tree, leads_inside, plant, size_bytes, snapshot, with_folders

ALL = Share()
BYSTANDERS: Tree = {"sentinel": b"do not touch", "folder/other": b"nor this"}


class SourceContract:
    """The promises of any source."""

    @pytest.fixture
    def room(self, tmp_path: Path) -> Path:
        """The folder to fetch into; its neighbours must stay as they are."""
        plant(BYSTANDERS, tmp_path / "around")
        room = tmp_path / "around" / "room"
        room.mkdir()
        return room

    async def test_brings_exactly_the_bytes_that_were_named(
        self, source: Source[Any], params: Any, content: Tree, room: Path
    ) -> None:
        """A fetch brings the same files, folders, links and bytes, and nothing beside them."""
        resolved = await source.resolve(params, ALL)

        fetched = await source.fetch(params, resolved, room / "in", silent)

        assert with_folders(content) == snapshot(fetched.path)
        assert_at_home(room, fetched)

    async def test_names_the_same_bytes_alike(self, source: Source[Any], params: Any) -> None:
        """The same unchanged data gives an equal answer, and the identity says something; to keep it may pay only later."""
        first, again = await source.resolve(params, ALL), await source.resolve(params, ALL)

        assert again == replace(first, cacheable=again.cacheable)
        assert again.cacheable >= first.cacheable
        assert first.identity

    async def test_tells_the_true_size_or_none(self, source: Source[Any], params: Any, content: Tree) -> None:
        """A size that is told is the size of the data."""
        resolved = await source.resolve(params, ALL)

        assert resolved.size_bytes in (None, size_bytes(content))

    async def test_can_be_fetched_twice(
        self, source: Source[Any], params: Any, content: Tree, room: Path
    ) -> None:
        """Two fetches of one answer, side by side, bring the same."""
        resolved = await source.resolve(params, ALL)

        one, two = await asyncio.gather(
            source.fetch(params, resolved, room / "one", silent),
            source.fetch(params, resolved, room / "two", silent),
        )

        assert with_folders(content) == snapshot(one.path) == snapshot(two.path)

    async def test_progress_only_grows(self, source: Source[Any], params: Any, room: Path) -> None:
        """Progress is told in bytes that never go back and never exceed a total."""
        told: list[tuple[int, int | None]] = []
        resolved = await source.resolve(params, ALL)

        await source.fetch(params, resolved, room / "in", lambda done, total: told.append((done, total)))

        done = [each for each, _ in told]
        assert sorted(done) == done
        assert all(total is None or each <= total for each, total in told)

    @pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55])
    async def test_a_cancelled_fetch_leaves_nothing(
        self, source: Source[Any], params: Any, content: Tree, room: Path, steps: int
    ) -> None:
        """Cancelled at whatever moment, a fetch leaves nothing behind; if it was done already, it is complete."""
        resolved = await source.resolve(params, ALL)
        task = asyncio.ensure_future(source.fetch(params, resolved, room / "in", silent))
        for _ in range(steps):
            await asyncio.sleep(0)

        task.cancel()

        await assert_nothing_or_all(task, content, room)

    async def test_a_fetch_cancelled_half_way_leaves_nothing(
        self, source: Source[Any], params: Any, content: Tree, room: Path
    ) -> None:
        """Cancelled when the first bytes have come, a fetch leaves nothing behind."""
        resolved = await source.resolve(params, ALL)

        def cancel(done_bytes: int, total_bytes: int | None) -> None:
            task.cancel()

        task = asyncio.ensure_future(source.fetch(params, resolved, room / "in", cancel))

        await assert_nothing_or_all(task, content, room)

    async def test_no_name_leads_outside(
        self, source: Source[Any], hostile: Sequence[Any], room: Path
    ) -> None:
        """Data with names that try to get out is refused, or stays inside; nothing else on the disk changes."""
        assert hostile
        for number, params in enumerate(hostile):
            own = room / str(number)
            own.mkdir()
            fetched = None
            with contextlib.suppress(Fault):
                fetched = await source.fetch(params, await source.resolve(params, ALL), own / "in", silent)

            assert list(own.iterdir()) in ([], [own / "in"] if fetched else [])
            assert_all_links_inside(own)
        assert_neighbours_untouched(room)

    async def test_probing_never_raises(self, source: Source[Any]) -> None:
        """A probe answers with an offer of the source's own type."""
        offer = await source.probe()

        assert_an_offer(offer, source.type)


class OutsideSourceContract(SourceContract):
    """The promises of a source whose data lies outside the params."""

    async def test_what_is_missing_is_named(
        self, source: Source[Any], missing: tuple[Any, str], room: Path
    ) -> None:
        """Something that is not there is `NotFound`, by the name it was asked for, and leaves nothing."""
        params, name = missing

        with pytest.raises(NotFound) as caught:
            await source.fetch(params, await source.resolve(params, ALL), room / "in", silent)

        assert name in caught.value.message
        assert list(room.iterdir()) == []

    async def test_other_bytes_have_another_identity(
        self, source: Source[Any], params: Any, change: Callable[[], Awaitable[Any]]
    ) -> None:
        """Different bytes never share an identity."""
        before = await source.resolve(params, ALL)

        after = await source.resolve(await change(), ALL)

        assert before.identity != after.identity

    async def test_a_fetch_that_fails_leaves_nothing(
        self, source: Source[Any], params: Any, vanish: Callable[[], Awaitable[None]], room: Path
    ) -> None:
        """Data that vanishes between resolving and fetching is a clear fault, and nothing of it stays."""
        resolved = await source.resolve(params, ALL)
        await vanish()

        with pytest.raises((NotFound, Broken)):
            await source.fetch(params, resolved, room / "in", silent)

        assert list(room.iterdir()) == []


class ServedSourceContract(OutsideSourceContract):
    """The promises of a source that is served by somebody, who may be away."""

    async def test_a_server_that_is_away_is_said_so(self, away: tuple[Source[Any], Any], room: Path) -> None:
        """A server that cannot be reached is `Unavailable` in bounded time, probing still answers, and nothing is left."""
        source, params = away
        assert_an_offer(await source.probe(), source.type)

        with pytest.raises((Unavailable, TimedOut)):
            await source.fetch(params, await source.resolve(params, ALL), room / "in", silent)

        assert list(room.iterdir()) == []


def assert_at_home(room: Path, fetched: Fetched) -> None:
    """What was fetched is in the room alone, or lies elsewhere and is not ours; the neighbours are untouched."""
    found = list(room.iterdir())
    assert found in ([fetched.path], []) if fetched.owned else found == []
    assert_neighbours_untouched(room)


def assert_neighbours_untouched(room: Path) -> None:
    """Beside the room everything is as `BYSTANDERS` has it."""
    around = {
        path: content for path, content in snapshot(room.parent).items() if not path.startswith("room/")
    }
    assert with_folders({**BYSTANDERS, "room": None}) == around


def assert_all_links_inside(folder: Path) -> None:
    """No link below a folder leads out of it, even by way of another."""
    for path, content in snapshot(folder).items():
        if isinstance(content, Link):
            assert leads_inside(folder, path)


async def assert_nothing_or_all(task: "asyncio.Future[Fetched]", content: Tree, room: Path) -> None:
    """The fetch was cancelled and left nothing, or was done before and is complete."""
    try:
        fetched = await task
    except asyncio.CancelledError:
        assert list(room.iterdir()) == []
    else:
        assert with_folders(content) == snapshot(fetched.path)


def assert_an_offer(offer: Offer, type: str) -> None:
    """An offer names its type, and a reason if it is none."""
    assert type == offer.type
    assert offer.available or offer.reason
