"""Plants a bug into a copy of the sources and lets the simulation run over it.

Knows: which files make up the sources, and how a bug is written down. Must not know: what is simulated.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parents[3]
SOURCES = ("protocol", "storage", "compute", "requester", "tests/simulation")
HUNT_S = 900.0

_RUN = """
import json, sys
from tests.simulation.run import run_seeds
first, seeds, jobs = (int(text) for text in sys.argv[1:])
found = [(v.seed, v.wrongs[0]) for v in run_seeds(range(first, first + seeds), jobs=jobs or None) if v.failed]
print(json.dumps(sorted(found)))
"""


class Bug(Struct, frozen=True):
    """One small change: in `file`, `find` becomes `replace`."""

    name: str
    file: str
    why: str
    find: str
    replace: str

    def planted(self, text: str) -> str:
        """The file's text with the bug in it. Raises ``ValueError`` if its place is not there exactly once."""
        if text.count(self.find) != 1:
            raise ValueError(f"{self.name}: its place is {text.count(self.find)} times in {self.file}")
        return text.replace(self.find, self.replace)


class Found(Struct, frozen=True):
    """Which of how many seeds failed over a bug, and what the first of them said."""

    seeds: int
    failed: list[int]
    wrong: str = ""


def bugs() -> list[Bug]:
    """All bugs that are written down."""
    listed = tomllib.loads(Path(__file__).with_name("bugs.toml").read_text())
    return [Bug(name, **fields) for name, fields in listed.items()]


def hunt(bug: Bug | None, seeds: Iterable[int], *, jobs: int | None = None) -> Found:
    """Run these seeds (a range without gaps) over a copy of the sources with the bug in it, or without any."""
    wanted = list(seeds)
    with tempfile.TemporaryDirectory(prefix="shoal-planted-") as name:
        folder = Path(name)
        for source in SOURCES:
            shutil.copytree(
                ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__", "test_*.py")
            )
        (folder / "tests/__init__.py").touch()
        if bug is not None:
            path = folder / bug.file
            path.write_text(bug.planted(path.read_text()))
        done = subprocess.run(
            [sys.executable, "-c", _RUN, str(wanted[0]), str(len(wanted)), str(jobs or 0)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            timeout=HUNT_S,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{bug and bug.name}: the simulation could not be run:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    if any("NameError" in wrong for _, wrong in found):
        raise RuntimeError(
            f"{bug and bug.name}: the sources have changed, and it does not fit into them: {found[0][1]}"
        )
    return Found(len(wanted), [seed for seed, _ in found], found[0][1] if found else "")
