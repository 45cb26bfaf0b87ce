"""House rules that no other tool checks: what may be in a file of this repository, and that every package comes up."""

import ast
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import tomllib
import warnings
from pathlib import Path

import pytest

from compute.facts import VERSION

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "storage", "compute", "requester", "deploy")
HINTED_COMMANDS = ("nats ", "shoal ")
LONG_LINES, TOO_LONG_LINES = 400, 500
LONG_TEST_LINES, TOO_LONG_TEST_LINES = 600, 1_000

# In pieces, or this file would break the rule itself.
REGISTRY_HOSTS = [
    ".".join(pieces)
    for pieces in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("registry", "npmjs", "org"),
        ("registry", "yarnpkg", "com"),
        ("crates", "io"),
        ("rubygems", "org"),
        ("repo1", "maven", "org"),
        ("deb", "debian", "org"),
    )
]


def tracked() -> list[Path]:
    """The files that git knows, or would know; the whole tree where there is no git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


def modules() -> list[str]:
    """Every module of our packages, by its dotted name."""
    found = []
    for package in PACKAGES:
        found.append(package)
        folder = str(ROOT / package)
        found += [
            each.name for each in pkgutil.walk_packages([folder], f"{package}.", onerror=lambda name: None)
        ]
    return found


def test_a_node_tells_the_version_of_the_project() -> None:
    """What nodes say of themselves is raised with the project's version: requesters go by it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


@pytest.mark.parametrize("host", REGISTRY_HOSTS)
def test_no_file_names_a_package_registry(host: str) -> None:
    """Where packages come from is decided by whoever installs, not by a file in here."""
    naming = [str(path.relative_to(ROOT)) for path in tracked() if host.encode() in path.read_bytes()]
    assert naming == []


@pytest.mark.parametrize("name", modules())
def test_every_module_can_be_imported(name: str) -> None:
    """No module needs another one imported first, and none does work when it is imported."""
    if name.endswith("__main__"):
        assert importlib.util.find_spec(name) is not None
    else:
        assert importlib.import_module(name).__name__ == name


def test_every_module_says_what_it_knows() -> None:
    """A module opens with what it knows and what it must not know; a package with what it is, unless that is empty."""
    silent = []
    for path in tracked():
        name = path.relative_to(ROOT)
        if path.suffix != ".py" or name.parts[0] not in PACKAGES or not (text := path.read_text().strip()):
            continue
        head = " ".join((ast.get_docstring(ast.parse(text)) or "").split())
        says = bool(head) if path.name == "__init__.py" else "Knows: " in head and "Must not know: " in head
        if not says:
            silent.append(str(name))
    assert silent == []


def test_every_constant_is_final() -> None:
    """A name in capitals is never given another value: it says so, and the type checker holds it to that."""
    assigned = re.compile(r"^_?[A-Z][A-Z0-9_]+(?::(?! Final)[^=\n]*)? = (?!TypeVar)", re.MULTILINE)
    changing = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in tracked()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in (*PACKAGES, "benchmarks")
        for found in assigned.finditer(path.read_text())
    ]
    assert changing == []


def test_every_hint_is_a_sentence() -> None:
    """What people are told to do is said in one voice: a hint begins with a capital letter, or with a command to type."""
    wrong = []
    for path in tracked():
        name = path.relative_to(ROOT)
        if path.suffix != ".py" or name.parts[0] not in PACKAGES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                parts = node.value.values if isinstance(node.value, ast.JoinedStr) else [node.value]
                first = parts[0].value if isinstance(parts[0], ast.Constant) else ""
                if isinstance(first, str) and first[:1].islower() and not first.startswith(HINTED_COMMANDS):
                    wrong.append(f"{name}:{node.value.lineno}: {first}")
    assert wrong == []


@pytest.mark.filterwarnings("default::UserWarning")
def test_long_files_are_named() -> None:
    """A module of more than some 400 lines usually holds two subjects, and so does a test file of 600: it is named. One of
    500, and a test file of 1,000, is too long."""
    too_long = []
    for path in tracked():
        if path.suffix != ".py":
            continue
        name, lines = path.relative_to(ROOT), len(path.read_text().splitlines())
        ours = name.parts[0] in PACKAGES
        if lines > (LONG_LINES if ours else LONG_TEST_LINES):
            warnings.warn(f"{name} has {lines} lines", UserWarning, stacklevel=1)
        if lines > (TOO_LONG_LINES if ours else TOO_LONG_TEST_LINES):
            too_long.append(str(name))
    assert too_long == []
