"""What survives the node's process."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from compute.events import Admitted, CancelOrdered, Staged, Started
from compute.execution import advance, ordered
from compute.journal import GONE_KEPT_S, LOG_MAX_BYTES, Journal
from protocol.errors import Broken, Conflict, Exhausted, Invalid
from protocol.ids import NodeId
from tests.compute.twins import noop, order


async def test_what_is_committed_is_found_again(tmp_path: Path) -> None:
    """Executions, forgotten names and facts are there for the next process; what was not committed is not."""
    journal = Journal(tmp_path)
    assert journal.open(0.0).incarnation == 1
    kept, gone, lost = (ordered(order(number), 1.0)[0] for number in (1, 2, 3))
    journal.save(kept)
    journal.save(gone)
    await journal.commit()
    journal.forget(gone.id, 2, 10.0)
    journal.note("upto", "7")
    await journal.commit()
    journal.save(lost)
    journal.abandon()

    again = Journal(tmp_path)
    found = again.open(20.0)
    assert found.incarnation == 20_001
    assert found.executions == [kept]
    assert found.gone == {gone.id: 2}
    assert found.upto == 7
    again.abandon()


async def test_another_machine_is_a_later_life(tmp_path: Path) -> None:
    """A node's incarnation grows also when another machine takes its name, with a folder that knows of none before."""
    old = []
    for at in (100.0, 101.0, 102.0):
        journal = Journal(tmp_path / "old")
        old.append(journal.open(at).incarnation)
        journal.abandon()
    new = Journal(tmp_path / "new")
    assert [*old, new.open(200.0).incarnation] == [100_001, 101_001, 102_001, 200_001]
    new.abandon()


async def test_machines_that_start_in_the_same_second_are_told_apart(tmp_path: Path) -> None:
    """Two machines that are set up as one node in one second do not have one incarnation: the later one has a higher."""
    journals = [Journal(tmp_path / name) for name in ("one", "other")]
    one, other = (
        journal.open(at).incarnation for journal, at in zip(journals, (100.25, 100.75), strict=True)
    )
    for journal in journals:
        journal.abandon()
    assert one < other


async def test_a_journal_of_the_first_form_is_taken_over(tmp_path: Path) -> None:
    """A node goes on with what the version before it wrote, once."""
    kept = ordered(order(1), 1.0)[0]
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as first:
        first.execute("CREATE TABLE executions (id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID")
        first.execute("CREATE TABLE gone (id TEXT PRIMARY KEY, seq INTEGER, at REAL) WITHOUT ROWID")
        first.execute("INSERT INTO executions VALUES (?, ?)", (kept.id, msgspec.json.encode(kept)))
        first.execute("INSERT INTO gone VALUES ('e-old', 5, 10.0)")

    for incarnation in (20_001, 20_002):
        journal = Journal(tmp_path)
        found = journal.open(20.0)
        assert found.incarnation == incarnation
        assert found.executions == [kept]
        assert found.gone == {"e-old": 5}
        journal.forget(kept.id, 6, 21.0) if incarnation == 20_002 else journal.save(kept)
        await journal.close()
    again = Journal(tmp_path)
    assert again.open(22.0).gone == {"e-old": 5, kept.id: 6}
    again.abandon()


async def test_what_cannot_be_written_down_keeps_no_other_from_it(tmp_path: Path) -> None:
    """An execution that holds what is no data costs its own memory alone: those beside it are durable; the node goes on."""
    journal = Journal(tmp_path)
    journal.open(0.0)
    one, two = (ordered(order(number), 1.0)[0] for number in (1, 2))
    odd = noop({"no": object()})
    journal.save(replace(one, run=replace(one.run, task=odd)))
    journal.save(two)
    await journal.commit()
    await journal.close()

    again = Journal(tmp_path)
    assert again.open(20.0).executions == [two]
    again.abandon()


async def test_bytes_that_are_no_text_are_written_out(tmp_path: Path) -> None:
    """What a file system or a server called something in bytes beyond UTF-8 is kept, legibly."""
    journal = Journal(tmp_path)
    journal.open(0.0)
    execution, _ = ordered(order(1), 1.0)
    journal.save(replace(execution, run=replace(execution.run, node=NodeId("n\udcff"))))
    await journal.close()

    again = Journal(tmp_path)
    (kept,) = again.open(20.0).executions
    assert kept.run.node == "n\\xff"
    again.abandon()


async def test_a_crowd_shares_commits(tmp_path: Path) -> None:
    """Many orders at once cost one transaction."""
    journal = Journal(tmp_path)
    journal.open(0.0)
    before = journal.commits
    for number in range(100):
        journal.save(ordered(order(number), 1.0)[0])
    await journal.commit()
    assert journal.commits == before + 1
    await journal.close()


async def test_names_of_the_forgotten_fade(tmp_path: Path) -> None:
    """After an hour not even the name is known."""
    journal = Journal(tmp_path)
    journal.open(0.0)
    execution = ordered(order(), 1.0)[0]
    journal.forget(execution.id, 1, 10.0)
    await journal.close()
    again = Journal(tmp_path)
    assert again.open(10.0 + GONE_KEPT_S + 1).gone == {}
    await again.close()


async def test_what_is_saved_after_it_was_dropped_is_there(tmp_path: Path) -> None:
    """Of an execution that was dropped not even the name is kept; one that is ordered anew at once is kept whole."""
    journal = Journal(tmp_path)
    journal.open(0.0)
    dropped, anew = (ordered(order(number), 1.0)[0] for number in (1, 2))
    for each in (dropped, anew):
        journal.save(each)
    await journal.commit()
    for each in (dropped, anew):
        journal.drop(each.id)
    journal.save(anew)
    await journal.commit()
    journal.save(anew)
    await journal.close()
    again = Journal(tmp_path)
    found = again.open(2.0)
    assert (found.executions, found.gone) == ([anew], {})
    await again.close()


async def test_a_folder_is_one_nodes_own(tmp_path: Path) -> None:
    """A second node on the same folder is refused; after the first has ended it is not."""
    journal = Journal(tmp_path)
    with pytest.raises(Conflict, match="in use by another node"):
        Journal(tmp_path)
    await journal.close()
    Journal(tmp_path).abandon()


async def test_large_executions_do_not_fill_the_disk(tmp_path: Path) -> None:
    """What a journal takes on the disk has a bound, however much it is written: not the sum of all that ever was in it."""
    journal = Journal(tmp_path)
    journal.open(0.0)
    for number in range(80):
        execution = ordered(order(number, task=noop({"Stdout": "x" * (1 << 20)})), 1.0)[0]
        journal.save(execution)
        await journal.commit()
        journal.forget(execution.id, number, 2.0)
        if journal._checkpoint is not None:
            await asyncio.wait([journal._checkpoint])

    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2 * LOG_MAX_BYTES
    await journal.close()


async def test_a_file_that_is_no_journal_is_said(tmp_path: Path) -> None:
    """Damage is an error that names the file, not an empty journal."""
    (tmp_path / "journal.db").write_bytes(b"nonsense" * 1000)
    with pytest.raises(Broken, match=r"journal\.db"):
        Journal(tmp_path)
    with pytest.raises(Invalid, match="cannot be used"):
        Journal(tmp_path / "journal.db" / "below")


async def test_an_order_is_written_once(tmp_path: Path) -> None:
    """However much an execution's order carries, what becomes of it is written without that, and is found whole."""
    journal = Journal(tmp_path)
    journal.open(0.0)
    padding = "x" * 200_000
    ordered_first = ordered(order(task=noop({"Stdout": padding})), 1.0)[0]
    journal.save(ordered_first)
    await journal.commit()
    size_bytes = (tmp_path / "journal.db-wal").stat().st_size
    now = advance(advance(ordered_first, Admitted([3]), 2.0)[0], Staged(ports={"web": 20_001}), 3.0)[0]
    now = advance(advance(now, Started(), 4.0)[0], CancelOrdered("enough"), 5.0)[0]
    for _ in range(10):
        journal.save(now)
        await journal.commit()
    assert (tmp_path / "journal.db-wal").stat().st_size - size_bytes < len(padding)
    journal.abandon()

    again = Journal(tmp_path)
    assert again.open(6.0).executions == [now]
    again.forget(now.id, 1, 7.0)
    await again.close()
    last = Journal(tmp_path)
    assert last.open(8.0).executions == []
    assert last._db.execute("SELECT count(*) FROM later").fetchone() == (0,)
    last.abandon()


async def test_what_a_full_disk_did_not_take_is_written_whole_later(tmp_path: Path) -> None:
    """An execution whose first writing failed is written with its order once there is room again."""
    journal = Journal(tmp_path)
    journal.open(0.0)
    execution = ordered(order(task=noop({"Stdout": "x" * 200_000})), 1.0)[0]
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    journal.save(execution)
    with pytest.raises(Exhausted, match="no space left"):
        await journal.commit()
    journal._db.execute("PRAGMA max_page_count = 1000000")
    await journal.commit()
    journal.abandon()
    again = Journal(tmp_path)
    assert again.open(2.0).executions == [execution]
    again.abandon()
