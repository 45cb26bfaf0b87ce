"""The pure rules under the NATS bus: what an answer means, what a look into the stream means, what bytes say."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bus import BATCH_MAX, Outcome, Refused, Stale, Stored
from protocol.nats.api import Kept, StreamInfo
from protocol.nats.frames import Answer, frame, header, header_value, positions_in, status_of, status_text
from protocol.nats.guarded import BATCH_BYTES, Doubt, Finding, Put, commits, examine, judge
from protocol.nats.streams import StreamSettings, complaints, configurations, copies_to_have

PLAIN = b"NATS/1.0\r\n"


def refused(code: int, err_code: int, description: str) -> Answer:
    """JetStream's refusal of a write."""
    text = f'{{"error":{{"code":{code},"err_code":{err_code},"description":"{description}"}},"stream":"JOBS","seq":0}}'
    return Answer(b"", text.encode())


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (Answer(b"", b'{"stream":"JOBS","seq":7}'), Stored(7)),
        (Answer(b"", b'{"stream":"JOBS","seq":9,"batch":"b","count":3}'), Stored(9)),
        (refused(400, 10071, "wrong last sequence: 12"), Stale(12)),
        (refused(400, 10071, "wrong last sequence"), Stale(0)),
        (refused(400, 10164, "wrong last sequence: in flight"), Doubt.NOT_TAKEN),
        (refused(503, 10077, "maximum bytes exceeded"), Refused("maximum bytes exceeded", full=True)),
        (
            refused(500, 10047, "insufficient storage resources"),
            Refused("insufficient storage resources", full=True),
        ),
        (
            refused(503, 10077, "write: no space left on device"),
            Refused("write: no space left on device", full=True),
        ),
        (
            refused(503, 10077, "maximum messages per subject exceeded"),
            Refused("maximum messages per subject exceeded"),
        ),
        (
            refused(400, 10054, "message size exceeds maximum allowed"),
            Refused("message size exceeds maximum allowed"),
        ),
        (refused(503, 10008, "JetStream system temporarily unavailable"), Doubt.NOT_TAKEN),
        (Answer(b"NATS/1.0 503\r\n\r\n", b""), Doubt.NOT_TAKEN),
        (Answer(b"", b"not json"), Doubt.UNANSWERED),
        (None, Doubt.UNANSWERED),
    ],
)
def test_every_answer_to_a_write_has_one_meaning(answer: Answer | None, meaning: Outcome | Doubt) -> None:
    """Stored, stale and refused are told apart from what may be stored and what certainly is not."""
    assert judge(answer) == meaning


def kept(seq: int, op: str) -> Kept:
    """A message of ours in the stream."""
    return Kept("job.k", seq, b"", base64.b64encode(PLAIN + header("Shoal-Op", op) + b"\r\n").decode())


@pytest.mark.parametrize(
    ("guard", "newest", "finding"),
    [
        (0, None, Finding.ABSENT),
        (5, None, Finding.PASSED),
        (5, kept(5, "other"), Finding.ABSENT),
        (5, kept(4, "other"), Finding.PASSED),
        (5, kept(6, "ours"), Finding.OURS),
        (0, kept(6, "ours"), Finding.OURS),
        (5, kept(6, "other"), Finding.OVERTAKEN),
    ],
)
def test_the_newest_message_says_what_became_of_a_write(
    guard: int, newest: Kept | None, finding: Finding
) -> None:
    """The four cases of the module's docstring."""
    assert examine(Put("job.k", guard, "ours", b""), newest) is finding


@given(st.lists(st.sampled_from([0, 300, 40_000, 500_000, BATCH_BYTES - 300, BATCH_BYTES + 1]), max_size=600))
def test_a_group_is_cut_into_bounded_commits_in_order(sizes: list[int]) -> None:
    """Each commit is at most 256 writes and 4 MiB, unless one write alone is larger; together they are the group."""
    bodies = {size: bytes(size) for size in set(sizes)}
    puts = [Put("job.k", 0, str(number), bodies[size]) for number, size in enumerate(sizes)]

    cut = list(commits(puts))

    assert [put.op for together in cut for put in together] == [put.op for put in puts]
    for together in cut:
        assert 1 <= len(together) <= BATCH_MAX
        assert len(together) == 1 or sum(len(put.data) for put in together) <= BATCH_BYTES


@given(
    data=st.binary(max_size=200),
    headers=st.dictionaries(st.from_regex(r"[A-Z][a-z-]{0,9}", fullmatch=True), st.integers(0)),
)
def test_a_frame_holds_exactly_its_headers_and_data(data: bytes, headers: dict[str, int]) -> None:
    """The sizes in a frame's first line cut it where its parts end, whatever the data."""
    lines = b"".join(header(name, value) for name, value in headers.items())
    first, _, rest = frame("a.b", data, lines, "in.1").partition(b"\r\n")
    words = first.split()

    if headers:
        assert words[:3] == [b"HPUB", b"a.b", b"in.1"]
        size, total = int(words[3]), int(words[4])
        block, body = rest[:size], rest[size:total]
        assert {name: header_value(block, name) for name in headers} == {
            n: str(v) for n, v in headers.items()
        }
        assert block.endswith(b"\r\n\r\n")
        assert status_of(block) == 0
    else:
        assert words[:3] == [b"PUB", b"a.b", b"in.1"]
        total, body = int(words[3]), rest[: int(words[3])]
    assert body == data
    assert rest[total:] == b"\r\n"


def test_a_status_is_read_from_the_first_line() -> None:
    """What the server says in place of a message, with and without text and further headers."""
    block = b"NATS/1.0 409 Message Size Exceeds MaxBytes\r\nNats-Pending-Messages: 12\r\n\r\n"

    assert status_of(block) == 409
    assert status_text(block) == "Message Size Exceeds MaxBytes"
    assert header_value(block, "Nats-Pending-Messages") == "12"
    assert status_of(b"NATS/1.0 503\r\n\r\n") == 503
    assert status_of(b"") == status_of(PLAIN + b"Status: 503\r\n\r\n") == 0


@pytest.mark.parametrize(
    "reply",
    [
        b"$JS.ACK.JOBS.c.1.70.8.1700000000000000000.3",
        b"$JS.ACK._.hash.JOBS.c.1.70.8.1700000000000000000.3",
        b"$JS.ACK.hub.hash.JOBS.c.1.70.8.1700000000000000000.3.random",
    ],
)
def test_a_delivery_says_its_places_in_stream_and_consumer(reply: bytes) -> None:
    """All forms of the reply subject give the same two sequences."""
    assert positions_in(reply) == (70, 8)


def test_a_reply_that_is_no_delivery_is_refused() -> None:
    """Anything else is an error, not a wrong position."""
    with pytest.raises(ValueError, match="_INBOX"):
        positions_in(b"_INBOX.x.y")


@pytest.mark.parametrize("stream", list(configurations(StreamSettings())))
def test_what_we_make_we_accept(stream: str) -> None:
    """No stream is made in a way that the check would complain about."""
    assert complaints(stream, dict(configurations(StreamSettings())[stream])) == []


@pytest.mark.parametrize(
    ("copies", "cluster", "asked", "should"),
    [
        (1, None, 1, 0),
        (1, None, 3, 3),
        (1, {"leader": "n"}, 1, 0),
        (1, {"name": "c"}, 1, 3),
        (1, {"name": "c"}, 3, 3),
        (3, {"name": "c"}, 1, 0),
        (3, {"name": "c"}, 3, 0),
        (3, {"name": "c"}, 5, 5),
    ],
)
def test_too_few_copies_are_told(
    copies: int, cluster: dict[str, Any] | None, asked: int, should: int
) -> None:
    """A stream with fewer copies than were asked for, or with one on a cluster, is told of with how many it should have."""
    assert copies_to_have(StreamInfo(config={"num_replicas": copies}, cluster=cluster), asked) == should


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("allow_msg_schedules", True),
        ("allow_msg_ttl", True),
        ("persist_mode", "async"),
        ("retention", "workqueue"),
        ("sealed", True),
        ("subjects", ["job.>"]),
    ],
)
def test_each_dangerous_setting_is_named(setting: str, value: Any) -> None:
    """A complaint says which setting is wrong, what it is and what it must be."""
    (complaint,) = complaints("JOBS", {**configurations(StreamSettings())["JOBS"], setting: value})

    assert complaint.startswith(f"{setting} is {value!r} and must be ")
