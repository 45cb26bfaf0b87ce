"""Publishing that is cut off by ``kill -9`` at any moment, and done again by the next process."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Background
from tests.storage.publish_kills import ENDPOINT, killed, make_bucket


@pytest.mark.parametrize("kind", ["shared", "ipfs", "local"])
def test_killed_at_any_moment_a_result_is_whole_in_the_end(
    kind: str,
    request: pytest.FixtureRequest,
    background: Background,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is there after a kill is nothing or a whole result; what the next process advertises is right to the last byte;
    and no half archive stays, nor parts of an upload, not even at a key that others use too. (The other kinds, and more
    kills: `tests.storage.publish_kills`.)"""
    if kind == "local":
        monkeypatch.setenv(ENDPOINT, str(tmp_path / "shelf"))
    elif kind == "ipfs":
        monkeypatch.setenv(ENDPOINT, request.getfixturevalue("offline_kubo").multiaddr)
    else:
        server = request.getfixturevalue("s3")
        for name, value in {**server.environment, ENDPOINT: server.endpoint}.items():
            monkeypatch.setenv(name, value)
        with suppress(ClientError):
            background.run(make_bucket())
    (tmp_path / "work").mkdir()

    found = killed(tmp_path / "work", kind, kills=3, seed=os.getpid())

    assert found.wrong == []
    assert found.compared == 3
