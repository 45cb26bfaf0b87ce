"""Trees as values, so that a test can say what it expects and compare.

A tree is a dict from relative path to bytes (a file), `Run` (an executable file), `Link` or None (a folder). A single
file is the dict ``{"": bytes}``.
"""

import errno
import os
from pathlib import Path

from msgspec import Struct

from storage.tree import Kind, walk


class Link(Struct, frozen=True):
    """A symbolic link and its text."""

    target: str


class Run(Struct, frozen=True):
    """An executable file."""

    content: bytes


Tree = dict[str, bytes | Run | Link | None]


def plant(tree: Tree, at: Path) -> Path:
    """Make the tree at a path that does not exist yet."""
    if "" not in tree:
        at.mkdir(parents=True)
    for path, content in tree.items():
        place = at / path if path else at
        place.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case None:
                place.mkdir(exist_ok=True)
            case Link(target):
                place.symlink_to(target)
            case Run(data):
                place.write_bytes(data)
                place.chmod(0o755)
            case bytes():
                place.write_bytes(content)
    return at


def snapshot(at: Path) -> Tree:
    """The tree at a path; no link is followed."""
    if at.is_file() and not at.is_symlink():
        return {"": at.read_bytes()}
    tree: Tree = {}
    for entry in walk(at):
        place = at / entry.path
        if entry.kind is Kind.LINK:
            tree[entry.path] = Link(entry.target)
        elif entry.kind is Kind.FOLDER:
            tree[entry.path] = None
        else:
            data = place.read_bytes()
            tree[entry.path] = Run(data) if entry.executable else data
    return tree


def with_folders(tree: Tree) -> Tree:
    """The tree with the folders that its paths imply, as `snapshot` shows them."""
    full: Tree = {}
    for path, content in tree.items():
        above = os.path.dirname(path)
        while above:
            full.setdefault(above, None)
            above = os.path.dirname(above)
        full[path] = content
    return full


def leads_inside(root: Path, path: str) -> bool:
    """Whether following the link `path` below `root`, all the way, stays below `root`; a circle leads nowhere."""
    try:
        os.stat(root / path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
    return Path(os.path.realpath(root / path)).is_relative_to(os.path.realpath(root))


def size_bytes(tree: Tree) -> int:
    """Bytes of all files."""
    return sum(
        len(content.content if isinstance(content, Run) else content)
        for content in tree.values()
        if isinstance(content, bytes | Run)
    )
