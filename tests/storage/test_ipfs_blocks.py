"""Blocks to trees: CARs, dag-pb and UnixFS from anybody."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.errors import Broken, Exhausted, Fault, Invalid
from storage.ipfs.car import BLOCK_MAX_BYTES, ROOM_BYTES, CarReader
from storage.ipfs.cid import check_block, cid_like, cid_text, inlined, parts_of, read_cid
from storage.ipfs.dag_pb import Type, read_node, without_link
from storage.ipfs.murmur3 import murmur3
from storage.ipfs.sink import Sink
from storage.ipfs.taking import Taking, Untrue
from storage.ipfs.unixfs import Want, expand
from storage.tree import Limits
from tests.contracts.trees import Link, Tree, leads_inside, plant, snapshot
from tests.storage import dags

NAMES = st.sampled_from(["a", "b", "träume", "n" * 255, "..", ".", "", "a/b", "a\0", "c d", "n" * 256])
TARGETS = st.sampled_from(["a", "../a", "/etc/passwd", "../../x", "a/../../..", "", "b/c"])
PIECES = st.lists(st.binary(max_size=40), max_size=4)
LEAVES = st.one_of(
    st.binary(max_size=50).map(lambda data: [dags.raw(data)]),
    st.binary(max_size=20).map(lambda data: [dags.inline(data)]),
    PIECES.map(dags.file),
    TARGETS.map(dags.link),
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(st.tuples(NAMES, inner), max_size=4).map(dags.folder), max_leaves=8
)


def taken(car: bytes, root: bytes, into: Path, *, step: int = 1 << 20) -> None:
    """Put what the CAR holds below `root` at `into`, fed in pieces; raises as a transfer would."""
    with Sink(into, "data", Limits(entries=1000)) as sink:
        taking = Taking([Want(root)], sink, "somebody")
        taking.begin()
        try:
            for at in range(0, len(car), step):
                give(taking, car[at : at + step])
            taking.end()
        except Untrue as untrue:
            raise untrue.fault from untrue
        if taking.left():
            raise Broken("not all came")


def give(taking: Taking, data: bytes) -> None:
    """Put bytes where they are wanted, as far as there is room each time."""
    while data:
        room = taking.room()
        size = min(len(room), len(data))
        room[:size] = data[:size]
        taking.came(size, lambda: None)
        data = data[size:]


def fed(reader: CarReader, data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The blocks that are whole once a reader was given these bytes."""
    while data:
        room = reader.room()
        size = min(len(room), len(data))
        room[:size] = data[:size]
        data = data[size:]
        yield from reader.came(size)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    plant({"sentinel": b"untouched"}, tmp_path / "around")
    return tmp_path / "around"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(blocks=TREES, step=st.sampled_from([1, 7, 1000, 1 << 20]), data=st.data())
def test_a_car_brings_the_same_tree_or_a_fault(
    blocks: list[dags.Block], step: int, data: st.DataObject, room: Path
) -> None:
    """Whatever a tree holds and in whatever pieces it comes, it is complete or refused, and stays inside; damage anywhere
    gives the same tree or a fault."""
    root = blocks[0][0]
    car = dags.car(block for block in blocks if inlined(block[0]) is None)
    first, second = room / f"one-{len(list(room.iterdir()))}", room / f"two-{len(list(room.iterdir()))}"
    whole: Tree | None = None
    try:
        taken(car, root, first, step=step)
        whole = snapshot(first)
    except Fault:
        pass
    place = data.draw(st.integers(0, len(car) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    try:
        taken(car[:place] + bytes([car[place] ^ bit]) + car[place + 1 :], root, second)
    except Fault:
        pass
    else:
        assert snapshot(second) == whole

    outside = [path for path in room.iterdir() if not path.name.startswith(("one-", "two-"))]
    assert [path.read_bytes() for path in outside] == [b"untouched"]
    for tree in (first, second):
        if tree.is_dir():
            assert all(
                leads_inside(tree, path) for path, kind in snapshot(tree).items() if isinstance(kind, Link)
            )


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 1 << 12, ROOM_BYTES, 1 << 20, BLOCK_MAX_BYTES]), max_size=5),
    step=st.integers(1 << 12, 1 << 22),
)
def test_blocks_of_any_size_come_as_they_were_sent(sizes: list[int], step: int) -> None:
    """Small ones and those that are as large as may be, whatever the pieces that they come in."""
    blocks = [dags.raw(bytes([number]) * size) for number, size in enumerate(sizes)]
    car = dags.car(blocks)
    reader = CarReader()

    found = [
        (cid, bytes(block))
        for at in range(0, len(car), step)
        for cid, block in fed(reader, car[at : at + step])
    ]
    reader.close()

    assert found == blocks


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(junk: bytes) -> None:
    """What is no CAR, no dag-pb or no CID is a fault, never another error."""
    for read in (lambda: list(fed(CarReader(), junk)), lambda: read_node(junk), lambda: parts_of(junk)):
        with suppress(Fault):
            read()
    with suppress(Fault):
        expand(Want(dags.cid_of(junk, 0x70)), junk)


def test_a_car_without_duplicates_brings_what_it_has(tmp_path: Path) -> None:
    """A sender that leaves out what it sent before is understood: the rest is still wanted."""
    one, two = dags.file([b"same", b"other"]), [dags.raw(b"last")]
    blocks = dags.folder([("a", one), ("b", one), ("c", two)])
    without = dags.car(list(dict(blocks).items()))
    with Sink(tmp_path / "in", "data", Limits()) as sink:
        taking = Taking([Want(blocks[0][0])], sink, "somebody")
        give(taking, without)
        taking.end()

        (left,) = taking.left()
        assert (left.path, left.cid) == ("b", one[0][0])
        again = Taking([left], sink, "somebody")
        give(again, dags.car(one))

    assert snapshot(tmp_path / "in") == {"a": b"sameother", "b": b"sameother", "c": b"last"}


def test_other_bytes_than_the_cid_names_are_told_by_the_block(tmp_path: Path) -> None:
    """The fault names the block and who sent it."""
    blocks = dags.file([b"true", b"false"])
    wrong = [blocks[0], blocks[1], (blocks[2][0], b"FALSE")]

    with pytest.raises(Broken, match=cid_text(blocks[2][0])) as caught:
        taken(dags.car(wrong), blocks[0][0], tmp_path / "in")

    assert "somebody" in caught.value.message


LEAF = dags.raw(b"four")
LIES = [
    dags.node(Type.FILE, [("", LEAF[0], 4)], size=5, sizes=[5]),
    dags.node(Type.FILE, [("", LEAF[0], 4)], size=9, sizes=[4]),
    dags.node(Type.FILE, [("", LEAF[0], 4)], size=4, sizes=[4, 0]),
    dags.node(Type.DIRECTORY, [("a", LEAF[0], 3)]),
    dags.node(Type.SHARD, [("0", LEAF[0], 4)], fanout=256),
    dags.node(Type.SHARD, [("00a", LEAF[0], 4)], fanout=255),
    dags.node(Type.SHARD, [("00", LEAF[0], 4)], fanout=256),
    dags.node(Type.METADATA),
    dags.node(Type.DIRECTORY, [("a", LEAF[0], 4), ("a", LEAF[0], 4)]),
    dags.node(Type.DIRECTORY, [(b"\xff", LEAF[0], 4)]),
]


@pytest.mark.parametrize("lie", LIES)
def test_a_block_that_contradicts_another_is_refused(lie: dags.Block, tmp_path: Path) -> None:
    """Sizes, shards and names that do not fit are a fault that names the block, though every hash is right; it is final,
    because the same CID will never name anything better."""
    with pytest.raises(Invalid) as caught:
        taken(dags.car([lie, LEAF]), lie[0], tmp_path / "in")

    assert "block" in caught.value.message


def test_a_tree_without_end_is_ended(tmp_path: Path) -> None:
    """Few blocks that stand for very many files, levels or bytes run into a limit, soon."""
    bomb = [dags.raw(b"x")]
    for _ in range(30):
        top = dags.node(Type.DIRECTORY, [(name, bomb[0][0], 1) for name in "abcdefgh"])
        bomb = [top, *bomb]
    chain = [dags.raw(b"x")]
    for _ in range(80):
        chain = [dags.node(Type.FILE, [("", chain[0][0], 1)], size=1, sizes=[1]), *chain]

    for number, blocks in enumerate((bomb, chain)):
        known = dict(blocks)
        with Sink(tmp_path / str(number), "data", Limits(entries=100)) as sink:
            taking = Taking([Want(blocks[0][0])], sink, "somebody")
            with pytest.raises(Exhausted):
                _take_all(taking, known)


def _take_all(taking: Taking, known: dict[bytes, bytes]) -> None:
    while left := taking.left():
        taking.only(known[left[0].cid])


@pytest.mark.parametrize(
    "text",
    [
        "QmVcxzWM39CEgJ3gQdWxxbEBXCTXpuZpGsRmQUbkxj5483",
        "bafybeictp4lwusl736gkixibx23cfnjjtx24mzrsyu5ynxmggzjz6rm4su",
        "bafkqaaa",
    ],
)
def test_a_cid_is_the_same_in_both_forms(text: str) -> None:
    """Text to bytes and back."""
    assert cid_text(read_cid(text)) == text


def test_a_block_whose_hash_says_nothing_is_refused() -> None:
    """A hash that cannot be computed here, or is too short to tell, verifies nothing."""
    for cid in (bytes((1, 0x55, 0x11, 20)) + bytes(20), bytes((1, 0x55, 0x12, 4)) + bytes(4)):
        with pytest.raises(Invalid, match="cannot be verified"):
            check_block(cid, b"data", "somebody")


def test_the_words_of_a_gateway_at_the_end_of_a_stream_are_told() -> None:
    """Kubo's gateway writes what went wrong behind a CAR that it had begun."""
    car = dags.car([LEAF]) + b"\n\n[Gateway Error: CAR stream truncated, response is incomplete]"

    with pytest.raises(Broken, match="truncated"):
        list(fed(CarReader(), car))


@given(names=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5, unique=True), data=st.data())
def test_a_folder_without_a_name_is_the_folder_that_never_had_it(
    names: list[str], data: st.DataObject
) -> None:
    """Its block, and so its CID, are the same to the last byte."""
    gone = data.draw(st.sampled_from(names))
    (cid, block), *_ = dags.folder((name, [LEAF]) for name in names)
    (wanted_cid, wanted), *_ = dags.folder((name, [LEAF]) for name in names if name != gone)

    assert without_link(block, gone.encode()) == wanted
    assert cid_like(cid, wanted) == wanted_cid
    assert without_link(wanted, gone.encode()) == wanted


@given(block=st.binary(max_size=60))
def test_what_is_no_folder_loses_nothing(block: bytes) -> None:
    """Any bytes are told as what they are not, or come back whole."""
    with suppress(Broken):
        assert without_link(block, b"name") == block


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        ("", 0),
        ("hello", 0xCBD8A7B341BD9B02),
        ("hello, world", 0x342FAC623A5EBC8E),
        ("The quick brown fox jumps over the lazy dog.", 0xCD99481F9EE902C9),
    ],
)
def test_a_name_has_its_place_in_a_sharded_folder(name: str, hashed: int) -> None:
    """The hash that everybody shards by, as its other implementations give it."""
    assert murmur3(name.encode()) == hashed
