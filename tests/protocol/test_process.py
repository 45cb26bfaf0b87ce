"""What our long-running programs share as processes."""

import resource
import subprocess
import sys
from functools import partial

PROGRAM = """
import resource
from protocol.process import run_loop

async def main():
    return int(resource.getrlimit(resource.RLIMIT_NOFILE) != (900, 900))

raise SystemExit(run_loop(main()))
"""


def test_a_program_has_all_the_open_files_that_it_may_have() -> None:
    """A terminal's limit is for programs that open few: a thousand servers that never answer must not be all it holds."""
    low = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (300, 900))
    done = subprocess.run([sys.executable, "-c", PROGRAM], preexec_fn=low, check=False, timeout=60)
    assert done.returncode == 0
