"""An entry is read as it was written, and what cannot be read is told."""

import zlib

import pytest

from protocol import entries
from protocol.entries import Entry, Queued, Snapshot, read_entry, write_entry
from protocol.errors import Broken, Failure
from protocol.ids import JobId
from protocol.messages import encode

JOB = JobId("j-5d41196f-643a-8f25-9e3e-1ff45286b942")

GOLDEN = (
    b'{"job":"j-5d41196f-643a-8f25-9e3e-1ff45286b942","op":"op-1","by":"r1","at":7.0,"events":[],"snapshot":{"moment'
    b's":[],"created_at":1.0,"forgotten":0,"count":1,"packed":"eJyrVkotS80rKVayiq5WKqksSFWyUiosTS1NTVHSUSpKTSzOz1Oyq'
    b'lZKzk8BybhWZCSWFpeAJXNTi4sT00GiEGUKBkq1tbFA8fxcqIHRBjoGeqaxsbUA2J8hsg=="}}'
)


def an_entry(count: int) -> Entry:
    events: list[entries.Event] = [
        Queued(Failure("Exhausted", f"reason {number}")) for number in range(count)
    ]
    moments = [(number, 0.5) for number in range(count)]
    return Entry(JOB, "op-1", "r1", 7.0, events, Snapshot(moments, 1.0, 0, count))


def packed(plain: bytes) -> bytes:
    """An entry that has packed this."""
    return encode(Entry(JOB, "op-1", "r1", 7.0, [], Snapshot([], 1.0, 0, 1, packed=plain)))


@pytest.mark.parametrize("count", [1, 20_000], ids=["as it is", "packed"])
def test_a_snapshot_is_read_as_it_was_written(count: int) -> None:
    """Small or packed, its events and their moments come back, and it takes no more than the log does."""
    entry = an_entry(count)
    data = write_entry(entry)

    assert (b'"packed"' in data) == (count > 1)
    assert len(data) <= entries.PLAIN_MAX_BYTES
    assert read_entry(data) == entry


def test_a_packed_snapshot_of_this_version_stays_readable() -> None:
    """What the log has is read by later versions as well."""
    assert read_entry(GOLDEN) == an_entry(1)


def test_what_is_packed_wrongly_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are not deflated, are cut off or become too many are a fault, and do not fill the memory."""
    whole = zlib.compress(b'{"events":[],"moments":[]}')
    for wrong in (b"no", whole[:-3], zlib.compress(b"{}")):
        with pytest.raises(Broken):
            read_entry(packed(wrong))
    monkeypatch.setattr(entries, "UNPACKED_MAX_BYTES", 10)
    with pytest.raises(Broken, match="more than 10 bytes"):
        read_entry(packed(whole))
