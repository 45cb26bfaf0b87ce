"""The log stream, taken apart and taken up again, without a daemon."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.engines.contract import Chunk
from compute.engines.docker.frames import NS, PIECE_BYTES, Frame, Frames, Pace, Place
from protocol.errors import Broken, Unavailable

START_NS = 1_800_000_000 * NS


def encode(frame: Frame) -> bytes:
    """A frame as the daemon sends it."""
    second = datetime.fromtimestamp(frame.at_ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    body = f"{second}.{frame.at_ns % NS:09d}Z ".encode() + frame.data
    return bytes([frame.stream, 0, 0, 0]) + len(body).to_bytes(4) + body


@st.composite
def logs(draw: st.DrawFn) -> list[Frame]:
    """A log as two copiers write it: times grow within each stream, and may be slightly out of step between them."""
    at = {1: START_NS, 2: START_NS}
    frames = []
    for stream, step_ns, data in draw(
        st.lists(
            st.tuples(st.sampled_from([1, 2]), st.sampled_from([0, 1, 1000]), st.binary(max_size=20)),
            max_size=30,
        )
    ):
        at[stream] += step_ns
        frames.append(Frame(stream, at[stream], data))
    return frames


def text(chunks: list[Chunk], stream: int) -> bytes:
    """What went to one stream."""
    return b"".join(chunk.data for chunk in chunks if chunk.stream == stream)


@given(logs(), st.lists(st.integers(0, 2000), max_size=8))
def test_pieces_do_not_matter(frames: list[Frame], cuts: list[int]) -> None:
    """Wherever the connection's pieces end, the same frames come out."""
    data = b"".join(encode(frame) for frame in frames)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parser = Frames()

    found = [frame for start, end in pairwise(edges) for frame in parser.feed(data[start:end])]

    assert found == frames
    assert parser.complete


@given(logs(), st.lists(st.integers(0, 30), max_size=4))
def test_after_a_break_everything_comes_once(frames: list[Frame], breaks: list[int]) -> None:
    """A log that breaks off anywhere, any number of times, is told completely and without repetition."""
    place, told = Place(), []
    for end in [*breaks, len(frames)]:
        since = place.resume()
        whole, _, part = since.partition(".")
        since_ns = int(whole or 0) * NS + int(part or 0)
        answer = [frame for frame in frames[:end] if frame.at_ns >= since_ns]
        told += place.fresh(answer)

    for stream in (1, 2):
        assert text(told, stream) == b"".join(frame.data for frame in frames if frame.stream == stream)


def test_neighbours_become_one_chunk() -> None:
    """Lines of one stream that come together are one chunk, with the time of the first."""
    frames = [Frame(1, START_NS, b"a\n"), Frame(1, START_NS + 5, b"b\n"), Frame(2, START_NS + 6, b"c\n")]

    chunks = Place().fresh(frames)

    assert chunks == [Chunk(1, START_NS / NS, b"a\nb\n"), Chunk(2, (START_NS + 6) / NS, b"c\n")]


PIECE = b"x" * PIECE_BYTES


@pytest.mark.parametrize(
    ("frames", "written"),
    [
        ([PIECE, b"rest", b"next\n"], PIECE + b"rest\nnext\n"),
        ([PIECE, b"", b"next\n"], PIECE + b"\nnext\n"),
        ([PIECE, PIECE, b"rest", PIECE, b"rest", b"end"], PIECE + PIECE + b"rest\n" + PIECE + b"rest\nend"),
        ([PIECE, b"rest\n", b"next\n"], PIECE + b"rest\nnext\n"),
        ([PIECE[:-1] + b"\n", b"next\n"], PIECE[:-1] + b"\nnext\n"),
        ([PIECE, b"rest"], PIECE + b"rest"),
        ([b"no end"], b"no end"),
    ],
)
def test_line_breaks_that_docker_loses(frames: list[bytes], written: bytes) -> None:
    """The end of a long line, which Docker 20.10 drops, is put back, and none is put where there was none."""
    chunks = Place().fresh([Frame(1, START_NS + at, data) for at, data in enumerate(frames)])

    assert text(chunks, 1) == written


def test_half_a_frame_is_noticed() -> None:
    """A stream that ends in the middle of a frame is not taken for complete."""
    parser = Frames()

    assert parser.feed(encode(Frame(1, START_NS, b"text"))[:-1]) == []
    assert not parser.complete


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\n", bytes([1, 0, 0, 0, 0, 0, 0, 2]) + b"hi"])
def test_what_is_no_log(data: bytes) -> None:
    """Bytes that are no log are a fault, not output."""
    with pytest.raises(Broken):
        Frames().feed(data)


def test_the_daemons_own_words_are_a_fault() -> None:
    """What the daemon itself says in a log is not taken for the program's output."""
    body = b"error grabbing logs"

    with pytest.raises(Unavailable, match="grabbing"):
        Frames().feed(bytes([3, 0, 0, 0]) + len(body).to_bytes(4) + body)


@pytest.mark.parametrize(
    ("chunks", "behind_s", "outrun"),
    [
        (1_000, 30.0, True),
        (1_000, 0.1, False),  # it was read as it came
        (10, 30.0, False),  # all of it is kept
    ],
)
def test_who_may_have_outrun_its_log(chunks: int, behind_s: float, outrun: bool) -> None:
    """A program may have lost output if it wrote more than one file of its log holds and was read late; else it has not."""
    pace = Pace(100 * 1024 * 1024)
    lines = b"x" * 100 + b"\n"
    for number in range(chunks):
        pace.see(Chunk(1, float(number), lines * 1_000), number + behind_s)

    assert pace.outrun is outrun
