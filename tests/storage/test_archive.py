"""Archives: ours read by others, others' read by us, and strangers' kept in their folder."""

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import Broken, Exhausted, Fault, Invalid
from storage.archive import extract, pack, pieces, unpack
from storage.contract import silent
from storage.threads import Stopped
from storage.tree import Limits
from tests.contracts.trees import Link, Run, Tree, leads_inside, plant, snapshot, with_folders

TREE: Tree = {
    "stdout": b"hello\n",
    "empty": b"",
    "folder/empty": None,
    "outputs/tool": Run(b"#!/bin/sh\n"),
    "outputs/link": Link("../stdout"),
    "outputs/" + "n" * 200: b"a long name",
    "outputs/" + "m" * 90 + "/" + "k" * 90 + "/träume – 夢": b"a long path",
    "outputs/long-link": Link("x/" * 100 + "y"),
    "large": os.urandom(300_000) + bytes(2_000_000),
}


def tar(*words: str | Path) -> None:
    """Run the system's tar."""
    subprocess.run(["tar", *words], check=True, capture_output=True)


def nothing() -> None:
    """What `extract` may call."""


async def test_a_folder_comes_back_from_its_archive(tmp_path: Path) -> None:
    """Files, empty folders, links, executable bits, long and foreign names come back as they were."""
    plant(TREE, tmp_path / "in")

    size = await pack(tmp_path / "in", tmp_path / "a.tar.gz", silent)
    await unpack(tmp_path / "a.tar.gz", tmp_path / "out", silent)

    assert size == (tmp_path / "a.tar.gz").stat().st_size
    assert snapshot(tmp_path / "out") == with_folders(TREE)


async def test_holes_take_no_room(tmp_path: Path) -> None:
    """A disk image of which little was written is unpacked as one: equal bytes, with holes in its middle and at its end."""
    plant({"image": b""}, tmp_path / "in")
    with (tmp_path / "in" / "image").open("r+b") as image:
        for at in (0, 20 << 20):
            image.seek(at)
            image.write(b"x" * 5000)
        image.truncate((40 << 20) + 17)

    await pack(tmp_path / "in", tmp_path / "a.tar.gz", silent)
    await unpack(tmp_path / "a.tar.gz", tmp_path / "out", silent)

    assert (tmp_path / "out" / "image").read_bytes() == (tmp_path / "in" / "image").read_bytes()
    assert (tmp_path / "out" / "image").stat().st_blocks * 512 <= 4 << 20


async def test_names_that_are_no_text_come_back(tmp_path: Path) -> None:
    """A file may be named by any bytes; tar keeps them."""
    plant({}, tmp_path / "in")
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + b"\xff" * 120)).write_bytes(b"x")

    await pack(tmp_path / "in", tmp_path / "a.tar.gz", silent)
    await unpack(tmp_path / "a.tar.gz", tmp_path / "out", silent)

    assert os.listdir(os.fsencode(tmp_path / "out")) == [b"\xff" * 120]


async def test_other_programs_read_our_archives(tmp_path: Path) -> None:
    """GNU tar and Python unpack what we pack, to the same tree with the same times."""
    plant(TREE, tmp_path / "in")
    os.utime(tmp_path / "in" / "stdout", (1_000_000_000, 1_000_000_000))
    await pack(tmp_path / "in", tmp_path / "a.tar.gz", silent)

    (tmp_path / "gnu").mkdir()
    tar("-xzf", tmp_path / "a.tar.gz", "-C", tmp_path / "gnu")
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        archive.extractall(tmp_path / "python", filter="tar")

    assert snapshot(tmp_path / "gnu") == snapshot(tmp_path / "python") == with_folders(TREE)
    assert (tmp_path / "gnu" / "stdout").stat().st_mtime == 1_000_000_000


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7", "python-pax"])
async def test_we_read_other_programs_archives(tmp_path: Path, form: str) -> None:
    """Archives of every common form are read alike."""
    tree: Tree = {
        path: content
        for path, content in TREE.items()
        if form in ("gnu", "pax", "python-pax") or len(path) < 60
    }
    if form in ("ustar", "v7"):
        del tree["outputs/long-link"]
    plant(tree, tmp_path / "in")
    archive = tmp_path / "a.tar.gz"
    if form == "python-pax":
        with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT) as file:
            file.add(tmp_path / "in", ".")
    else:
        tar(f"--format={form}", "-czf", archive, "-C", tmp_path / "in", ".")

    await unpack(archive, tmp_path / "out", silent)

    assert snapshot(tmp_path / "out") == with_folders(tree)


def test_records_of_any_size_are_read(tmp_path: Path) -> None:
    """Whoever writes for tapes fills an archive up to megabytes."""
    plant({"a": b"x"}, tmp_path / "in")
    tar("-b", "4096", "-czf", tmp_path / "a.tar.gz", "-C", tmp_path / "in", ".")

    with open(tmp_path / "a.tar.gz", "rb") as archive:
        extract(archive, tmp_path / "out", Limits(), nothing)

    assert snapshot(tmp_path / "out") == {"a": b"x"}


def test_an_archive_depends_on_the_tree_alone(tmp_path: Path) -> None:
    """The same tree packs to the same bytes, whenever and in whatever order it was made."""
    plant(TREE, tmp_path / "one")
    plant(dict(reversed(TREE.items())), tmp_path / "two")
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.utime(path, (1, 1), follow_symlinks=False)

    assert b"".join(pieces(tmp_path / "one")) == b"".join(pieces(tmp_path / "two"))


async def test_what_cannot_be_packed_leaves_nothing(tmp_path: Path) -> None:
    """A pipe or a link that leads out is refused by name, and no archive is left."""
    plant({"a": b"x", "b/out": Link("/etc/passwd")}, tmp_path / "links")
    plant({"a": b"x"}, tmp_path / "pipes")
    os.mkfifo(tmp_path / "pipes" / "pipe")

    for folder, name in (("links", "b/out"), ("pipes", "pipe")):
        with pytest.raises(Invalid, match=name):
            await pack(tmp_path / folder, tmp_path / "a.tar.gz", silent)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["links", "pipes"]


def test_packing_can_be_stopped_between_pieces(tmp_path: Path) -> None:
    """A file of a terabyte of nothing packs into little, and does not hold up whoever cancels."""
    plant({"zeros": b""}, tmp_path / "in")
    os.truncate(tmp_path / "in" / "zeros", 1 << 40)
    calls: list[None] = []

    def stop() -> None:
        calls.append(None)
        if len(calls) > 5:
            raise Stopped

    with pytest.raises(Stopped):
        next(pieces(tmp_path / "in", stop))


class TestDamage:
    """Archives that are none, or not whole."""

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"not gzip",
            gzip.compress(b""),
            gzip.compress(b"not tar" * 1000),
            gzip.compress(bytes(80_000_000)),
            gzip.compress(bytes(511)),
            gzip.compress(bytes(1024) + b"x" * 3_000_000),
        ],
        ids=[
            "nothing",
            "no gzip",
            "empty",
            "no tar",
            "zeros for ever",
            "half a block",
            "more behind its end",
        ],
    )
    def test_what_is_no_archive_is_broken(self, tmp_path: Path, data: bytes) -> None:
        """Other bytes than an archive's are a clear fault."""
        with pytest.raises(Broken, match="archive"):
            extract(io.BytesIO(data), tmp_path / "out", Limits(), nothing)

    def test_archives_that_were_joined_are_refused(self, tmp_path: Path) -> None:
        """Tar reads the first and stops: nobody finds out about the files of the second."""
        plant({"a": b"first"}, tmp_path / "one")
        plant({"b": b"second"}, tmp_path / "two")
        joined = b"".join(b"".join(pieces(tmp_path / name)) for name in ("one", "two"))

        with pytest.raises(Broken, match="goes on behind its end"):
            extract(io.BytesIO(joined), tmp_path / "out", Limits(), nothing)

    def test_bytes_that_are_no_tar_are_called_that(self, tmp_path: Path) -> None:
        """A packed file that is no archive is not told to have a wrong number somewhere."""
        with pytest.raises(Broken, match="this is not a tar archive"):
            extract(io.BytesIO(gzip.compress(b"hello, world " * 99)), tmp_path / "out", Limits(), nothing)

    def test_every_cut_is_noticed(self, tmp_path: Path) -> None:
        """However an archive is cut short, it is never taken for whole."""
        plant({"a": b"x" * 2000, "b/c": os.urandom(3000)}, tmp_path / "in")
        whole = b"".join(pieces(tmp_path / "in"))

        for length in range(0, len(whole), 97):
            with pytest.raises(Broken):
                extract(io.BytesIO(whole[:length]), tmp_path / f"out{length}", Limits(), nothing)

    def test_every_flipped_byte_is_noticed(self, tmp_path: Path) -> None:
        """A damaged body never becomes a file in silence: gzip's checksum is compared to the end."""
        plant({"a": b"x" * 2000, "b/c": os.urandom(3000)}, tmp_path / "in")
        whole = b"".join(pieces(tmp_path / "in"))

        # The first ten bytes are gzip's header; its time and system mean nothing to the content.
        for at in range(10, len(whole), 31):
            damaged = whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
            with pytest.raises(Fault):
                extract(io.BytesIO(damaged), tmp_path / f"out{at}", Limits(), nothing)

    @settings(max_examples=200, deadline=None)
    @given(
        blocks=st.lists(st.binary(min_size=512, max_size=512) | st.just(bytes(512)), max_size=3),
        seed=st.binary(max_size=40),
    )
    def test_any_bytes_are_read_or_refused(
        self, tmp_path_factory: pytest.TempPathFactory, blocks: list[bytes], seed: bytes
    ) -> None:
        """Random blocks, with a right checksum or not, end in a tree or in a fault of ours."""
        data = b"".join(with_checksum(block) for block in blocks) + seed
        into = tmp_path_factory.mktemp("any") / "out"
        try:
            extract(io.BytesIO(gzip.compress(data, 1)), into, Limits(size_bytes=10_000), nothing)
        except Fault as fault:
            assert str(fault)  # noqa: PT017

    async def test_a_fault_leaves_nothing(self, tmp_path: Path) -> None:
        """What an archive held before its fault is removed."""
        plant({"a": b"x" * 2000, "b": os.urandom(3000)}, tmp_path / "in")
        (tmp_path / "a.tar.gz").write_bytes(b"".join(pieces(tmp_path / "in"))[:-50])

        with pytest.raises(Broken):
            await unpack(tmp_path / "a.tar.gz", tmp_path / "out", silent)

        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "in"]


def member(
    name: str, kind: bytes = tarfile.REGTYPE, target: str = "", data: bytes = b"x", mode: int = 0o4755
) -> bytes:
    """One member as Python writes it."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    body = data + bytes(-len(data) % 512) if kind == tarfile.REGTYPE else b""
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + body


def archive_of(*members: bytes) -> io.BytesIO:
    """An archive of the members."""
    return io.BytesIO(gzip.compress(b"".join(members) + bytes(1024), 1))


def with_checksum(block: bytes) -> bytes:
    """A header block with the checksum that it should have, and a small size."""
    block = block[:124] + b"%011o\0" % (block[124] % 9) + block[136:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


PARTS = st.sampled_from(["a", "b", "..", ".", "", "c" * 120, "ü"])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join) | st.just("/etc/x")
MEMBERS = st.builds(
    member,
    PATHS,
    st.sampled_from(
        [
            tarfile.REGTYPE,
            tarfile.DIRTYPE,
            tarfile.SYMTYPE,
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.FIFOTYPE,
        ]
    ),
    PATHS,
)


class TestStrangers:
    """Archives that mean harm."""

    @settings(max_examples=200, deadline=None)
    @given(members=st.lists(MEMBERS, max_size=8))
    def test_nothing_outside_changes(
        self, tmp_path_factory: pytest.TempPathFactory, members: list[bytes]
    ) -> None:
        """Whatever members in whatever order, all stays in the folder, and no link in it leads out."""
        around = plant({"a": b"outside", "b/a": b"outside"}, tmp_path_factory.mktemp("s") / "around")
        before = snapshot(around)

        try:
            extract(archive_of(*members), around / "root", Limits(), nothing)
        except Fault as fault:
            assert str(fault)  # noqa: PT017

        assert {k: v for k, v in snapshot(around).items() if k.partition("/")[0] != "root"} == before
        inside = snapshot(around / "root")
        assert all(
            leads_inside(around / "root", path) for path, found in inside.items() if isinstance(found, Link)
        )

    @pytest.mark.parametrize(
        ("bad", "word"),
        [
            (member("../x"), "'../x'"),
            (member("a/../../x"), "'a/../../x'"),
            (member("l", tarfile.SYMTYPE, "/etc/passwd"), "'l'"),
            (member("d/l", tarfile.SYMTYPE, "../../x"), "'d/l'"),
            (member("h", tarfile.LNKTYPE, "a"), "'h' in the archive is a hard link"),
            (member("p", tarfile.FIFOTYPE), "'p' in the archive is a pipe"),
            (member("c", tarfile.CHRTYPE), "'c' in the archive is a device"),
            (member("n" * 300), "300 bytes"),
            (member("s", b"S"), "'s' in the archive is a sparse file"),
        ],
    )
    def test_a_member_that_is_refused_is_named(self, tmp_path: Path, bad: bytes, word: str) -> None:
        """The refusal says which member of the archive it is about, and what is wrong with it."""
        with pytest.raises(Invalid) as caught:
            extract(archive_of(member("a"), bad), tmp_path / "out", Limits(), nothing)

        assert word in caught.value.message

    @pytest.mark.parametrize(
        ("flag", "option"), [(tarfile.LNKTYPE, "--hard-dereference"), (b"S", "without: tar --sparse")]
    )
    def test_what_tar_can_write_otherwise_is_told(self, tmp_path: Path, flag: bytes, option: str) -> None:
        """Whoever would lose a file by leaving it out is told the option that keeps it."""
        with pytest.raises(Invalid) as caught:
            extract(archive_of(member("a"), member("b", flag, "a")), tmp_path / "out", Limits(), nothing)

        assert option in caught.value.hint

    def test_a_later_member_replaces_an_earlier_one(self, tmp_path: Path) -> None:
        """As with tar: an archive that was appended to has its newest files."""
        two = archive_of(
            member("a", data=b"old"), member("l", tarfile.SYMTYPE, "a"), member("a", data=b"new"), member("l")
        )

        extract(two, tmp_path / "out", Limits(), nothing)

        assert snapshot(tmp_path / "out") == {"a": Run(b"new"), "l": Run(b"x")}

    @pytest.mark.parametrize("mtime", [-1, -86_400, 1 << 40])
    def test_a_strange_time_does_no_harm(self, tmp_path: Path, mtime: int) -> None:
        """A file from before 1970, or from the far future, is taken like any other."""
        info = tarfile.TarInfo("old")
        info.mtime = mtime

        extract(archive_of(info.tobuf(tarfile.GNU_FORMAT)), tmp_path / "out", Limits(), nothing)

        assert 0 <= (tmp_path / "out" / "old").stat().st_mtime <= 1 << 33

    def test_a_time_that_is_no_number_is_refused(self, tmp_path: Path) -> None:
        """A time of ``nan`` is a fault of the archive that says so, and none of ours."""
        info = tarfile.TarInfo("x")
        info.pax_headers = {"mtime": "nan"}

        with pytest.raises(Broken, match="wrong mtime in a header"):
            extract(archive_of(info.tobuf(tarfile.PAX_FORMAT)), tmp_path / "out", Limits(), nothing)

    def test_rights_are_cut_to_two_kinds(self, tmp_path: Path) -> None:
        """Set-user-id bits and the like do not survive: a file is executable or not."""
        members = archive_of(member("tool", mode=0o7777), member("odd", mode=0o004), member("secret", mode=0))

        extract(members, tmp_path / "out", Limits(), nothing)

        modes = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "out").iterdir()}
        assert modes == {"tool": 0o755, "odd": 0o644, "secret": 0o644}

    @pytest.mark.parametrize(
        ("limits", "word"),
        [
            (Limits(size_bytes=1000), "more than 1000 bytes"),
            (Limits(entries=5), "more than 5 files"),
            (Limits(depth=3), "deep"),
        ],
    )
    def test_limits_hold(self, tmp_path: Path, limits: Limits, word: str) -> None:
        """An archive that grows beyond a limit is refused when it gets there, not when the disk is full."""
        bomb = archive_of(*(member(f"d/e/f/{number}", data=bytes(400)) for number in range(50)))

        with pytest.raises((Exhausted, Invalid), match=word):
            extract(bomb, tmp_path / "out", limits, nothing)

        assert len(snapshot(tmp_path / "out")) <= 8

    def test_a_size_is_believed_only_within_the_limit(self, tmp_path: Path) -> None:
        """A header that promises exabytes is refused before a byte is written."""
        info = tarfile.TarInfo("huge")
        info.size = 1 << 60

        with pytest.raises(Exhausted, match="more than 1000000 bytes"):
            extract(
                archive_of(info.tobuf(tarfile.GNU_FORMAT)),
                tmp_path / "out",
                Limits(size_bytes=1_000_000),
                nothing,
            )

    def test_an_extension_header_has_a_limit(self, tmp_path: Path) -> None:
        """A long-name record of gigabytes is refused, not read into memory."""
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = b"L", 1 << 33

        with pytest.raises(Broken, match="extension header of 8589934592 bytes"):
            extract(archive_of(info.tobuf(tarfile.GNU_FORMAT)), tmp_path / "out", Limits(), nothing)

    def test_extension_headers_have_a_number(self, tmp_path: Path) -> None:
        """Headers without end, each about no member, are refused after a few."""
        header = tarfile.TarInfo("x")
        header.type, header.size = b"x", 0

        with pytest.raises(Broken, match="more than 16 extension headers"):
            extract(
                archive_of(*[header.tobuf(tarfile.USTAR_FORMAT)] * 1000), tmp_path / "out", Limits(), nothing
            )

    @pytest.mark.parametrize(("ratio", "fits"), [(200, False), (None, True), (2000, True)])
    def test_what_is_small_to_send_and_large_to_keep_is_refused(
        self, tmp_path: Path, ratio: int | None, fits: bool
    ) -> None:
        """A bomb is refused on its way, however its content is shared out over files; what packs well is none."""
        bomb = archive_of(*(member(f"z{number}", data=bytes(5 << 20)) for number in range(16)))

        if fits:
            extract(bomb, tmp_path / "out", Limits(ratio=ratio), nothing)
        else:
            with pytest.raises(Exhausted, match="more than 200 times its size"):
                extract(bomb, tmp_path / "out", Limits(ratio=ratio), nothing)
        assert (len(snapshot(tmp_path / "out")) == 16) is fits
