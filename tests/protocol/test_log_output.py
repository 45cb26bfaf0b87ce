"""How our programs' own logs behave where nobody takes them."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

LOGS: Final = """
import logging, sys
import structlog
from protocol.log_output import set_up
set_up(sys.argv[1], "info")
for number in range(2000):
    structlog.get_logger().error("what happens", number=number, text="x" * 100)
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("an error")
logging.getLogger("library").warning("of a library")
print("went on", flush=True)
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_log_that_nobody_takes_stops_nothing(form: str) -> None:
    """On a full disk lines of the log are lost, and the program that wrote them goes on."""
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", LOGS, form], stdout=subprocess.PIPE, stderr=full, timeout=60, check=False
        )
    assert ran.stdout == b"went on\n"
