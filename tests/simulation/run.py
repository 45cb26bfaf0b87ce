"""One seed, from its scenario to its verdict; and many of them, on all cores.

Knows: folders and processes of this machine. Must not know: what is simulated.
"""

import gc
import multiprocessing
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog
from msgspec import Struct, field

from tests.simulation.cluster import Cluster
from tests.simulation.draw import draw
from tests.simulation.interpreter import QuietInterpreter, forget_connections
from tests.simulation.loop import Spinning
from tests.simulation.quiet import going_on, wrong_at_the_end

MEMORY_DISK = Path("/dev/shm")
CHUNK = 10


class Verdict(Struct):
    """What became of a seed. `story` is kept if it failed, or if asked for."""

    seed: int
    digest: str
    events: int
    entries: int
    seconds: float
    virtual_s: float
    wrongs: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.wrongs)


def run_seed(seed: int, *, tell: bool = False) -> Verdict:
    """Simulate one seed."""
    with QuietInterpreter():
        return _run(seed, tell)


def _run(seed: int, tell: bool = False) -> Verdict:
    began = time.process_time()
    folder = Path(tempfile.mkdtemp(prefix="shoal-sim-", dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None))
    forget_connections()
    cluster = Cluster(draw(seed), folder)
    try:
        try:
            cluster.run(going_on)
            if not cluster.wrongs:
                for each in wrong_at_the_end(cluster):
                    cluster.wrong(each)
        except Spinning as error:
            cluster.wrong(f"it goes round in circles: {error}")
        except Exception:  # noqa: BLE001 (whatever a process does to the world is a finding)
            cluster.wrong(f"the simulation broke: {traceback.format_exc()}")
        verdict = Verdict(
            seed,
            cluster.digest(),
            cluster.scheduler.steps,
            cluster.checker.entries,
            0.0,
            cluster.scheduler.now,
            cluster.wrongs,
            [str(line) for line in cluster.story] if tell or cluster.wrongs else [],
        )
        cluster.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    verdict.seconds = time.process_time() - began
    return verdict


def run_seeds(seeds: Iterable[int], *, jobs: int | None = None) -> Iterator[Verdict]:
    """Simulate many seeds, in as many processes as there are cores; verdicts come as they are reached."""
    jobs = jobs or os.cpu_count() or 1
    wanted = list(seeds)
    chunks = [wanted[start : start + CHUNK] for start in range(0, len(wanted), CHUNK)]
    with multiprocessing.get_context("fork").Pool(jobs, initializer=_begin) as pool:
        for verdicts in pool.imap_unordered(_run_all, chunks):
            yield from verdicts


def _run_all(seeds: list[int]) -> list[Verdict]:
    """Some seeds, with one look for garbage behind all of them: it takes as long as two seeds."""
    with QuietInterpreter():
        return [_run(seed) for seed in seeds]


def _begin() -> None:
    silence()
    gc.collect()
    gc.freeze()


def silence() -> None:
    """What the processes would log is in nobody's way."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False
    )
