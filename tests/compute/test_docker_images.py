"""Images come from where they are named, or it is said why not: on a real daemon and real registries."""

import asyncio
import base64
import io
import json
import secrets
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiodocker import Docker, DockerError

from compute.engines.contract import Exit, Run
from compute.engines.docker.engine import DockerEngine
from compute.engines.docker.settings import DockerSettings
from deploy.images import push
from deploy.processes import Process, free_ports
from deploy.programs import need
from protocol.clock import ManualClock
from protocol.errors import Denied, NotFound, Unavailable
from protocol.ids import NodeId
from protocol.spec.engines import DockerParams
from tests.compute.containers import SETTINGS_LABEL, remove_containers
from tests.contracts.engine import begin, ended, fresh_execution, nothing

NODE = NodeId("n-images")
LARGE_BYTES = 8_000_000
USER, PASSWORD = "reader", "s3cret"
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n"


@pytest.fixture(autouse=True)
def docker_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Docker's configuration file: empty, whoever runs the tests."""
    folder = tmp_path / "docker-config"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder


@pytest.fixture
async def docker(docker_host: str) -> AsyncIterator[Docker]:
    async with Docker(docker_host) as docker:
        yield docker


@pytest.fixture
async def engine(docker_host: str) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(NODE, DockerSettings(host=docker_host, labels=SETTINGS_LABEL))
    yield engine
    await engine.close()
    await remove_containers(docker_host, NODE)


async def drop(docker: Docker, image: str) -> None:
    """Take a name off the daemon; the image stays under its other names."""
    try:
        await docker.images.delete(image, force=True)
    except DockerError as error:
        if error.status != 404:
            raise


@pytest.fixture
async def remote_image(docker: Docker, pushed_image: str) -> AsyncIterator[str]:
    """An image that is in the registry and not on the daemon."""
    await drop(docker, pushed_image)
    yield pushed_image
    await drop(docker, pushed_image)


@pytest.fixture
async def closed_registry(registry_host: str, folders: Path, tmp_path: Path) -> AsyncIterator[str]:
    """``localhost:PORT`` of a registry that wants a login and has what the open one has."""
    (port,) = free_ports(1)
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str((folders / "registry" / "layers").resolve())}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "auth": {"htpasswd": {"realm": "closed", "path": str(tmp_path / "htpasswd")}},
    }
    (tmp_path / "registry.json").write_text(json.dumps(config))

    async def answers() -> bool:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True

    process = Process.start(
        [need("docker-registry"), "serve", tmp_path / "registry.json"],
        name="registry",
        log=tmp_path / "registry.log",
    )
    try:
        await process.ready(answers, within_s=30)
        yield f"localhost:{port}"
    finally:
        await process.stop(within_s=10)


def runs(image: str, folder: Path) -> Run[DockerParams]:
    """A run of ``true`` in an image."""
    job, execution = fresh_execution()
    return Run(execution, job, NODE, DockerParams(image=image, parameters=["true"]), folder)


@pytest.fixture
async def large_image(docker: Docker, docker_host: str, registry_host: str) -> AsyncIterator[str]:
    """An image of some megabytes in the registry, of which the daemon has nothing."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("noise")
        member.size = LARGE_BYTES
        tar.addfile(member, io.BytesIO(secrets.token_bytes(LARGE_BYTES)))
    buffer.seek(0)
    query = {"fromSrc": "-", "repo": "shoal-test/large", "tag": "1"}
    async with docker._query("images/create", "POST", params=query, data=buffer) as answer:
        await answer.read()
    pushed = await push(docker_host, "shoal-test/large:1", registry_host)
    await drop(docker, "shoal-test/large:1")
    yield pushed
    await drop(docker, pushed)


async def test_a_pull_is_told_of(engine: DockerEngine, docker: Docker, large_image: str) -> None:
    """While an image is pulled its bytes are told as they come, up to the whole, which is known before the end."""
    told: list[tuple[str, int, int | None]] = []

    await engine.prepare(DockerParams(image=large_image), lambda *progress: told.append(progress))

    assert (await docker.images.inspect(large_image))["Id"]
    assert {what for what, _, _ in told} == {"image"}
    done = [done_bytes for _, done_bytes, _ in told]
    assert done == sorted(done)
    _, last, total = told[-1]
    assert last == total
    assert last >= LARGE_BYTES
    assert any(0 < done_bytes < LARGE_BYTES for done_bytes in done)


async def test_a_pull_can_be_given_up(engine: DockerEngine, docker: Docker, large_image: str) -> None:
    """A pull that is given up in the middle is no obstacle to a later one."""
    begun = asyncio.Event()

    def preparing(what: str, done_bytes: int, total_bytes: int | None) -> None:
        if done_bytes:
            begun.set()

    pulling = asyncio.ensure_future(engine.prepare(DockerParams(image=large_image), preparing))
    await begun.wait()
    pulling.cancel()
    await asyncio.wait({pulling})

    assert pulling.cancelled()
    await engine.prepare(DockerParams(image=large_image), nothing)
    assert (await docker.images.inspect(large_image))["Id"]


async def test_an_image_is_pulled_and_runs(engine: DockerEngine, remote_image: str, tmp_path: Path) -> None:
    """An image that is not here is pulled, and then runs."""
    assert await ended(await begin(engine, runs(remote_image, tmp_path))) == Exit(0)


async def test_an_image_that_is_here_needs_no_registry(
    engine: DockerEngine, docker: Docker, busybox_image: str, tmp_path: Path
) -> None:
    """An image that is on the node runs though its registry is nowhere, and nothing is told of a pull."""
    await docker.images.tag(busybox_image, "localhost:1/nowhere/tool", tag="1")
    told: list[str] = []
    try:
        run = runs("localhost:1/nowhere/tool:1", tmp_path)
        await engine.prepare(run.params, lambda what, done_bytes, total_bytes: told.append(what))

        assert await ended(await engine.start(run)) == Exit(0)
        assert told == []
    finally:
        await drop(docker, "localhost:1/nowhere/tool:1")


async def test_an_image_by_digest(
    engine: DockerEngine, docker: Docker, remote_image: str, tmp_path: Path
) -> None:
    """An image named by its digest is that image."""
    await engine.prepare(DockerParams(image=remote_image), nothing)
    (digest,) = [
        name
        for name in (await docker.images.inspect(remote_image))["RepoDigests"]
        if name.startswith(remote_image.rpartition(":")[0])
    ]
    await drop(docker, remote_image)
    await drop(docker, digest)

    assert await ended(await begin(engine, runs(digest, tmp_path))) == Exit(0)

    await drop(docker, digest)


async def test_an_image_by_id(
    engine: DockerEngine, docker: Docker, busybox_image: str, tmp_path: Path
) -> None:
    """A local image can be named by its id; an id that is not here cannot be pulled, and that is said."""
    found = (await docker.images.inspect(busybox_image))["Id"]

    assert await ended(await begin(engine, runs(found, tmp_path))) == Exit(0)
    with pytest.raises(NotFound, match="cannot be pulled"):
        await engine.prepare(DockerParams(image="sha256:" + "0" * 64), nothing)


async def test_a_tag_that_there_is_not(engine: DockerEngine, registry_host: str, remote_image: str) -> None:
    """A tag that the registry does not have is named, with what to check."""
    missing = remote_image.rpartition(":")[0] + ":no-such-tag"

    with pytest.raises(NotFound, match="no-such-tag") as caught:
        await engine.prepare(DockerParams(image=missing), nothing)

    assert caught.value.failure().code == "NotFound.Image"
    assert registry_host in caught.value.message
    assert "spelling" in caught.value.hint


async def test_a_repository_that_there_is_not(engine: DockerEngine, registry_host: str) -> None:
    """A repository that the registry does not have is named."""
    with pytest.raises(NotFound, match="no/such/tool"):
        await engine.prepare(DockerParams(image=f"{registry_host}/no/such/tool:1"), nothing)


async def test_a_digest_that_there_is_not(
    engine: DockerEngine, registry_host: str, remote_image: str
) -> None:
    """A digest that the registry does not have is refused: no other image takes its place."""
    repository = remote_image.rpartition(":")[0]

    with pytest.raises(NotFound):
        await engine.prepare(DockerParams(image=f"{repository}@sha256:{'0' * 64}"), nothing)


async def test_a_registry_that_does_not_answer(engine: DockerEngine) -> None:
    """A registry that cannot be reached is the weather: another time or node may do better, and it is named."""
    (port,) = free_ports(1)

    with pytest.raises(Unavailable, match=f"localhost:{port}") as caught:
        await engine.prepare(DockerParams(image=f"localhost:{port}/tool:1"), nothing)

    assert caught.value.failure().retryable
    assert "docker pull" in caught.value.hint


async def test_a_closed_registry_wants_a_login(
    engine: DockerEngine, closed_registry: str, remote_image: str
) -> None:
    """Without a login a closed registry refuses, and the hint says where to log in."""
    image = closed_registry + "/" + remote_image.partition("/")[2]

    with pytest.raises(Denied) as caught:
        await engine.prepare(DockerParams(image=image), nothing)

    assert image in caught.value.message
    assert f"docker login {closed_registry}" in caught.value.hint


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
async def test_the_nodes_login_is_used(
    engine: DockerEngine,
    docker: Docker,
    closed_registry: str,
    remote_image: str,
    docker_folder: Path,
    password: str,
) -> None:
    """What `docker login` left on the node opens the registry, if it is right."""
    image = closed_registry + "/" + remote_image.partition("/")[2]
    packed = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (docker_folder / "config.json").write_text(json.dumps({"auths": {closed_registry: {"auth": packed}}}))

    if password == PASSWORD:
        await engine.prepare(DockerParams(image=image), nothing)
        assert (await docker.images.inspect(image))["Id"]
        await drop(docker, image)
    else:
        with pytest.raises(Denied):
            await engine.prepare(DockerParams(image=image), nothing)


async def test_a_broken_configuration_file_is_none(
    engine: DockerEngine, remote_image: str, docker_folder: Path
) -> None:
    """A configuration file that cannot be read does not keep open registries from being used."""
    (docker_folder / "config.json").write_text("{not json")

    await engine.prepare(DockerParams(image=remote_image), nothing)


async def test_an_image_that_went_away_is_pulled_again(
    engine: DockerEngine, docker: Docker, remote_image: str, tmp_path: Path
) -> None:
    """An image that is removed between preparing and starting is brought again."""
    run = runs(remote_image, tmp_path)
    await engine.prepare(run.params, nothing)
    await drop(docker, remote_image)

    assert await ended(await engine.start(run)) == Exit(0)


async def test_a_prepared_image_is_not_looked_up_again(
    docker_host: str, busybox_image: str, tmp_path: Path
) -> None:
    """Once seen, an image costs no question to the daemon for some minutes."""
    clock = ManualClock()
    engine = DockerEngine(NODE, DockerSettings(host=docker_host), clock=clock)
    params = DockerParams(image=busybox_image)
    try:
        await engine.prepare(params, nothing)
        await engine.close()
        engine._daemon._settings = DockerSettings(host=f"unix://{tmp_path}/nobody", reconnect_s=0)

        await engine.prepare(params, nothing)
        await clock.advance(301)
        with pytest.raises(Unavailable):
            await engine.prepare(params, nothing)
    finally:
        await engine.close()
