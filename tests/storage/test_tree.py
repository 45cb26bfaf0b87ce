"""Trees: names, links and walks."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import Exhausted, Fault, Invalid
from storage.tree import Kind, Limits, check_link, open_inside, safe_parts, size_of, walk
from storage.tree_writer import TreeWriter
from tests.contracts.trees import Link, Run, Tree, leads_inside, plant, snapshot

PIECES = st.sampled_from(["a", "b", "..", ".", "", "ü", "x" * 255, "x" * 256, "a\0b", "…", " ", "-", "\n"])
READ = """
import os, sys
from pathlib import Path
from storage.archive import pieces
if not os.getuid():
    os.setuid(65534)
try:
    list(pieces(Path(sys.argv[1])))
except Exception as fault:
    print(type(fault).__name__, fault, fault.hint)
"""
"""A program that packs a folder as a user who may not read everything."""
NAMES = st.lists(PIECES, min_size=1, max_size=6).map("/".join)


class TestNames:
    """Foreign names."""

    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            ("a/b", ("a", "b")),
            ("/a//b/", ("a", "b")),
            ("./a/./b", ("a", "b")),
            ("...", ("...",)),
            ("a/..b/c..", ("a", "..b", "c..")),
        ],
    )
    def test_harmless_slashes_are_dropped(self, name: str, parts: tuple[str, ...]) -> None:
        """Leading, doubled and closing slashes and ``.`` do no harm."""
        assert safe_parts(name) == parts

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "/",
            ".",
            "..",
            "a/../b",
            "a/..",
            "../a",
            "a\0b",
            "x" * 256,
            "ü" * 128,
            "\ud800",
            "/".join("a" * 129),
        ],
    )
    def test_dangerous_names_are_refused(self, name: str) -> None:
        """A name that leads upwards, is empty, too long, too deep or no text is refused, and the message shows it."""
        with pytest.raises(Invalid, match=r"the name .* is refused"):
            safe_parts(name)

    def test_a_refusal_shows_no_control_characters(self) -> None:
        """A name from a stranger cannot play with a terminal."""
        with pytest.raises(Invalid) as caught:
            safe_parts("../\x1b[2J\n" + "x" * 5000)

        assert "\x1b" not in caught.value.message
        assert "\n" not in caught.value.message
        assert len(caught.value.message) < 400

    @given(NAMES)
    def test_a_joined_name_is_below_its_root(self, name: str) -> None:
        """Whatever the name, the path lies below the root or the name is refused."""
        try:
            path = Path("/root/of/it").joinpath(*safe_parts(name))
        except Invalid:
            return
        assert os.path.normpath(path).startswith("/root/of/it/")


class TestLinks:
    """Symbolic links from strangers."""

    @pytest.mark.parametrize(
        ("name", "target"), [("l", "a"), ("d/l", "../a"), ("d/e/l", "../../a/b"), ("l", "./a//b")]
    )
    def test_links_inside_are_taken(self, name: str, target: str) -> None:
        """A link whose ups are covered by its own folders is fine."""
        check_link(name, target)

    @pytest.mark.parametrize(
        ("name", "target"),
        [
            ("l", ".."),
            ("l", "/etc"),
            ("l", ""),
            ("d/l", "../.."),
            ("d/l", "a/../b"),
            ("l", "a\0b"),
            ("d/l", "./../../x"),
        ],
    )
    def test_links_that_may_lead_out_are_refused(self, name: str, target: str) -> None:
        """Absolute links, more ups than folders, and ups behind a name are refused, naming the link."""
        with pytest.raises(Invalid, match=f"the link '{name}'"):
            check_link(name, target)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("file"), NAMES, st.just("")),
        st.tuples(st.just("folder"), NAMES, st.just("")),
        st.tuples(
            st.just("link"), NAMES, NAMES.map(lambda name: name.replace("x" * 255, "..")) | st.just("/etc")
        ),
    ),
    max_size=12,
)


class TestWriting:
    """`TreeWriter`."""

    @settings(max_examples=100, deadline=None)
    @given(steps=STEPS, replace=st.booleans())
    def test_nothing_outside_changes(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str]], replace: bool
    ) -> None:
        """Whatever files, folders and links are asked for in whatever order, all stays below the root."""
        around = plant(
            {"sentinel": b"s", "a": b"outside", "b/a": b"outside"}, tmp_path_factory.mktemp("w") / "around"
        )
        before = snapshot(around)
        root = around / "root"

        with TreeWriter(root) as writer:
            for kind, name, target in steps:
                try:
                    if kind == "file":
                        os.close(writer.open(name, replace=replace))
                    elif kind == "folder":
                        writer.folder(name)
                    else:
                        writer.link(name, target, replace=replace)
                except Fault:
                    continue

        inside = snapshot(root)
        outside = {
            path: content for path, content in snapshot(around).items() if path.partition("/")[0] != "root"
        }
        assert outside == before
        for path, content in inside.items():
            if isinstance(content, Link):
                assert leads_inside(root, path)

    def test_a_planted_link_is_not_followed(self, tmp_path: Path) -> None:
        """A link that somebody put in a folder's place leads nowhere: the name is refused."""
        (tmp_path / "outside").mkdir()
        with TreeWriter(tmp_path / "root") as writer:
            (tmp_path / "root" / "sly").symlink_to(tmp_path / "outside")

            with pytest.raises(Invalid, match="'sly/file'"):
                writer.open("sly/file")

        assert list((tmp_path / "outside").iterdir()) == []

    def test_one_name_is_one_entry(self, tmp_path: Path) -> None:
        """A second file of the same name is refused unless it shall replace the first."""
        with TreeWriter(tmp_path / "root") as writer:
            os.close(writer.open("a"))

            with pytest.raises(Invalid, match="same name"):
                writer.open("a")
            os.close(writer.open("a", replace=True))
            with pytest.raises(Invalid, match="'a/b'"):
                writer.open("a/b")

    def test_entries_are_counted(self, tmp_path: Path) -> None:
        """Folders made on the way count as well; beyond the limit nothing more is made."""
        with TreeWriter(tmp_path / "root", Limits(entries=3)) as writer:
            os.close(writer.open("a/b/c"))

            with pytest.raises(Exhausted, match="more than 3"):
                writer.folder("d")

    def test_rights_do_not_depend_on_the_umask(self, tmp_path: Path) -> None:
        """What is fetched can be read by a program of any user, however strict the node's own umask."""
        before = os.umask(0o077)
        try:
            with TreeWriter(tmp_path / "root") as writer:
                os.close(writer.open("d/plain"))
                os.close(writer.open("d/tool", executable=True))
        finally:
            os.umask(before)

        modes = {
            name: stat.S_IMODE((tmp_path / "root" / name).stat().st_mode)
            for name in ("", "d", "d/plain", "d/tool")
        }
        assert modes == {"": 0o755, "d": 0o755, "d/plain": 0o644, "d/tool": 0o755}


TREE: Tree = {"b": b"22", "a/z": b"1", "a/y": Run(b"333"), "empty": None, "l": Link("../../etc"), "ü": b""}


class TestReading:
    """Walks, sizes, digests."""

    def test_a_walk_has_an_order(self, tmp_path: Path) -> None:
        """Each folder comes before its content, names in the order of their bytes."""
        plant(TREE, tmp_path / "t")

        assert [entry.path for entry in walk(tmp_path / "t")] == ["a", "a/y", "a/z", "b", "empty", "l", "ü"]

    def test_a_walk_tells_what_is_there(self, tmp_path: Path) -> None:
        """Kind, size, executable bit and link target are told; links are not followed."""
        plant(TREE, tmp_path / "t")
        found = {entry.path: entry for entry in walk(tmp_path / "t")}

        assert (found["a/y"].kind, found["a/y"].size_bytes, found["a/y"].executable) == (Kind.FILE, 3, True)
        assert (found["l"].kind, found["l"].target) == (Kind.LINK, "../../etc")
        assert found["empty"].kind is Kind.FOLDER

    def test_a_name_that_is_no_text_survives(self, tmp_path: Path) -> None:
        """A program may name its files with any bytes."""
        root = plant({}, tmp_path / "t")
        with open(os.path.join(os.fsencode(root), b"\xff\xfe"), "wb") as file:
            file.write(b"x")

        (entry,) = walk(root)

        assert os.fsencode(entry.path) == b"\xff\xfe"

    def test_a_walk_has_limits(self, tmp_path: Path) -> None:
        """Too many entries, too deep a tree, too many bytes: a clear refusal."""
        plant({"a/b/c": b"xxxx"}, tmp_path / "t")

        for limits in (Limits(entries=2), Limits(depth=2), Limits(size_bytes=3)):
            with pytest.raises(Exhausted, match=r"more than [23]"):
                list(walk(tmp_path / "t", limits))

    def test_a_pipe_is_refused_by_name(self, tmp_path: Path) -> None:
        """What is neither file, folder nor link is refused, not opened."""
        root = plant({"d/x": b""}, tmp_path / "t")
        os.mkfifo(root / "d" / "fifo")

        with pytest.raises(Invalid, match="'d/fifo' is a pipe"):
            list(walk(root))
        with pytest.raises(Invalid, match="not a regular file"):
            open_inside(root, "d/fifo")

    @pytest.mark.parametrize(("name", "named"), [("out/secret", "'out/secret'"), ("out", "'out'")])
    def test_what_may_not_be_read_is_named(self, name: str, named: str) -> None:
        """A program that runs as another user may leave what the node cannot read: the fault says what, and what to do."""
        with tempfile.TemporaryDirectory() as made:
            folder = plant({"out/secret": b"x"}, Path(made) / "result")
            for path in (Path(made), folder, folder / "out"):
                path.chmod(0o755)
            (folder / name).chmod(0)

            ran = subprocess.run(
                [sys.executable, "-c", READ, folder], capture_output=True, text=True, check=True
            )
            (folder / name).chmod(0o755)

        assert f"Denied {named} may not be read" in ran.stdout
        assert "chmod" in ran.stdout

    def test_reading_follows_no_link(self, tmp_path: Path) -> None:
        """A file is opened by its name, never by way of a link, in whatever component."""
        root = plant({"real/f": b"x", "way": Link("real"), "last": Link("real/f")}, tmp_path / "t")

        for path in ("way/f", "last"):
            with pytest.raises((Invalid, NotADirectoryError)):
                open_inside(root, path)
        fd = open_inside(root, "real/f")
        assert os.read(fd, 9) == b"x"
        os.close(fd)

    def test_the_size_is_that_of_the_files(self, tmp_path: Path) -> None:
        """Folders and links weigh nothing."""
        plant(TREE, tmp_path / "t")

        assert size_of(tmp_path / "t") == 6
        assert size_of(tmp_path / "t" / "b") == 2
