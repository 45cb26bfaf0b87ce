"""What every test may ask for: real servers, started once a session when the first test wants one.

The servers live in a thread with an event loop of its own, so that they outlast the loop of any one test, and any test,
async or not, can use them. Their handles may be stopped and restarted from any loop.

Side by side (``make test`` runs two workers, ``pytest`` alone none) each worker is a session with servers of its own, on
ports and in folders that no other has. A file's tests all run in one worker. Only the Docker daemon is one for all: a
machine has one bridge for it. The process that hands out the tests has it from before the first until after the last.

Where a program is missing, the tests that need it are skipped with a reason that says how to get it. With ``CI=true``
that is a failure, and so is every other skip: silence must not look like success.
"""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as examples

from deploy import images, servers

T = TypeVar("T")

IN_CI = os.environ.get("CI") == "true"
START_S = 120.0

# Laws are about what is true, not about how fast this machine is just now. CI looks at the same examples each time: what is
# found by chance is found by whoever runs a test, who can look into it, and not by whoever wants to land something else.
examples.register_profile(
    "shoal", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=IN_CI
)
examples.load_profile("shoal")


class Background:
    """An event loop in a thread, and the contexts that were entered there."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers", daemon=True)
        self._contexts = AsyncExitStack()
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there, and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    def keep(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter a context until the end of the session. Raises what that raises."""
        return self.run(self._contexts.enter_async_context(context))

    def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter a context until the end of the session. A part that is missing skips the test, or fails it in CI."""
        try:
            return self.keep(context)
        except servers.Missing as missing:
            skip(missing)

    def close(self) -> None:
        """Leave all contexts, the newest first, and end the thread."""
        try:
            self.run(self._contexts.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


BACKGROUND: Final = pytest.StashKey[Background]()
"""Where the process that hands out tests keeps what its workers share."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start what workers share. Where it cannot be had, the tests that need it say so."""
    if session.config.pluginmanager.hasplugin("dsession"):
        background = session.config.stash[BACKGROUND] = Background()
        with suppress(servers.Missing, servers.Failed):
            background.keep(servers.docker_daemon())


def pytest_unconfigure(config: pytest.Config) -> None:
    """End it; all workers have ended."""
    if background := config.stash.get(BACKGROUND, None):
        background.close()


def skip(missing: servers.Missing) -> NoReturn:
    """Skip the running test because of what is missing; fail it in CI."""
    if IN_CI:
        pytest.fail(str(missing), pytrace=False)
    pytest.skip(str(missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed one."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} must not be skipped in CI: {reason}"
    return report


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A test that sets up logging, onto a stream that is captured for it alone, leaves the next one as it was."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    """No test finds the account of whoever runs it, or waits for a cloud's metadata service that is not there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [
            name
            for name in os.environ
            if name.startswith(("AWS_", "BACALHAU_", "SHOAL_")) and name != "SHOAL_CACHE"
        ]:
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """Ctrl+C reaches the programs that tests start, also where the tests themselves run in the background, and ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def background() -> Iterator[Background]:
    """The loop that the session's servers live in."""
    background = Background()
    yield background
    background.close()


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's servers keep their data and logs, one folder each."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def nats_server(background: Background, folders: Path) -> servers.NatsServer:
    """The session's NATS server, from ``nats.conf``. Its streams are shared: a test that needs them empty, or stops the
    server, takes `own_nats_server`."""
    return background.enter(servers.nats_server(folders / "nats"))


@pytest.fixture
async def own_nats_server(tmp_path: Path) -> AsyncIterator[servers.NatsServer]:
    """A NATS server for one test (started within some 50 ms): it may be stopped, killed and restarted."""
    try:
        context = servers.nats_server(tmp_path / "nats")
        async with context as server:
            yield server
    except servers.Missing as missing:
        skip(missing)


@pytest.fixture(scope="session")
def s3(background: Background, folders: Path) -> servers.S3Server:
    """The session's S3 server: versitygw where it was built, else SeaweedFS."""
    return background.enter(servers.s3_server(folders / "s3"))


@pytest.fixture(scope="session")
def seaweedfs(background: Background, folders: Path) -> servers.S3Server:
    """A second S3 server of another make, for what two implementations should agree on."""
    return background.enter(servers.s3_server(folders / "seaweedfs", program="weed"))


@pytest.fixture(scope="session")
def kubo(background: Background, folders: Path) -> servers.Kubo:
    """The session's Kubo node, which knows no other: it waits without end for a CID that it does not have."""
    return background.enter(servers.kubo(folders / "kubo"))


@pytest.fixture(scope="session")
def offline_kubo(background: Background, folders: Path) -> servers.Kubo:
    """The session's Kubo node that knows at once what it lacks."""
    return background.enter(servers.kubo(folders / "kubo-offline", offline=True))


@pytest.fixture(scope="session")
def docker_host(background: Background) -> str:
    """The address of a Docker daemon, as in ``DOCKER_HOST``: the one that answers, else one started for the session."""
    return background.enter(servers.docker_daemon()).host


@pytest.fixture(scope="session")
def registry_host(background: Background, folders: Path) -> str:
    """``localhost:PORT`` of the session's container registry."""
    return background.enter(servers.registry(folders / "registry")).host


@pytest.fixture(scope="session")
def busybox_image(background: Background, docker_host: str) -> str:
    """The name of an image with a shell and small tools, in the daemon without any pull."""
    try:
        return background.run(images.busybox_image(docker_host))
    except servers.Missing as missing:
        skip(missing)


@pytest.fixture(scope="session")
def pushed_image(background: Background, docker_host: str, registry_host: str, busybox_image: str) -> str:
    """The name of the same image in the session's registry; the daemon does not have it under this name yet."""
    return background.run(images.push(docker_host, busybox_image, registry_host))
