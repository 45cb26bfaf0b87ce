"""The page of bounds says what the code does."""

from pathlib import Path

import pytest

from compute.engines.docker.settings import DockerSettings
from compute.inputs import FETCHES_MAX
from compute.logs import LogSettings
from compute.output import HEAD_BYTES
from compute.staging import RESOLVING_MAX
from protocol.bus import BATCH_MAX, ENTRY_MAX_BYTES, MESSAGE_MAX_BYTES
from protocol.held import HELD_MAX
from protocol.nats.streams import StreamSettings
from protocol.spec import bounds
from requester.api.app import BODY_MAX_BYTES
from requester.api.queries import LIMIT_MAX
from requester.settings import Settings
from storage.kept import KEPT_MAX
from storage.local import HUNG_MAX
from storage.tree import Limits

PAGE = (Path(__file__).parents[1] / "docs" / "bounds.md").read_text()
CONSTANTS = {name: value for name, value in vars(bounds).items() if name.isupper() and isinstance(value, int)}


@pytest.mark.parametrize("name", CONSTANTS)
def test_every_bound_is_documented(name: str) -> None:
    """Each limit of a job spec stands in docs/bounds.md with its present value."""
    assert f"| `{name}` | {CONSTANTS[name]:,} |" in PAGE


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("a message on the bus", MESSAGE_MAX_BYTES),
        ("one entry of a job's log", ENTRY_MAX_BYTES),
        ("entries of one job", StreamSettings().entries_max),
        ("entries of a service or daemon until its next snapshot", Settings().snapshot_after),
        ("entries in one commit", BATCH_MAX),
        ("a request to the REST API", BODY_MAX_BYTES),
        ("one page of a list", LIMIT_MAX),
        ("output shown with an execution", HEAD_BYTES),
        ("output kept of an execution", LogSettings().file_bytes),
        ("entries of one input", Limits().entries),
        ("nodes remembered that are away", Settings().away_max),
        ("results that a node keeps for the `local` publisher", KEPT_MAX),
        ("inputs fetched at once by a node", FETCHES_MAX),
        ("inputs of an execution resolved at once", RESOLVING_MAX),
        ("`local` paths looked at at once", HUNG_MAX),
        ("inputs that a node says it holds", HELD_MAX),
        ("processes in a container", DockerSettings().pids),
    ],
)
def test_every_other_limit_is_as_documented(what: str, limit: int) -> None:
    """The second table has the present value of what travels and what is kept."""
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| {what}")]
    assert [f"{limit:,}" in row for row in rows] == [True]
