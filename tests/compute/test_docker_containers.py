"""What a container may and may not do, and what is left of it: on a real daemon."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiodocker import Docker

from compute.engines.contract import Exit, Mount, Run, Running
from compute.engines.docker.config import container_config, container_name
from compute.engines.docker.engine import DockerEngine
from compute.engines.docker.settings import CAPABILITIES, DockerSettings
from deploy.images import busybox_root
from deploy.processes import free_ports
from protocol.errors import Invalid, NotFound, Unavailable
from protocol.ids import NodeId
from protocol.jobs import Amounts, Network, Port
from protocol.spec.engines import DockerParams
from tests.compute.containers import SETTINGS_LABEL, door_to, remove_containers
from tests.contracts.engine import begin, chunks_of, ended, fresh_execution, nothing, ready, stop, text

NODE = NodeId("n-containers")
MIB = 1024 * 1024
STAYS = "sleep 600"
MOST_REUSES = 12
"""More than one container's life has requests, so that the last rounds show that all were tried."""
CAPABILITY_BITS = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "NET_BIND_SERVICE": 10,
}
"""From linux/capability.h."""


@pytest.fixture
def settings(docker_host: str) -> DockerSettings:
    return DockerSettings(host=docker_host, labels=SETTINGS_LABEL)


@pytest.fixture
async def engine(docker_host: str, settings: DockerSettings) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(NODE, settings)
    yield engine
    await engine.close()
    await remove_containers(docker_host, NODE)


@pytest.fixture
async def docker(docker_host: str) -> AsyncIterator[Docker]:
    async with Docker(docker_host) as docker:
        yield docker


class Runs:
    """Runs of shell lines in busybox."""

    def __init__(self, image: str, folder: Path) -> None:
        self.image = image
        self._folder = folder

    def __call__(
        self, script: str, *, params: DockerParams | None = None, **fields: Any
    ) -> Run[DockerParams]:
        """A run of a shell line, or of other params; `fields` are those of `Run`."""
        job, execution = fresh_execution()
        shell = DockerParams(image=self.image, entrypoint=["/bin/sh", "-c"], parameters=[script])
        return Run(execution, job, NODE, params or shell, self._folder, **fields)


@pytest.fixture
def shell(busybox_image: str, tmp_path: Path) -> Runs:
    return Runs(busybox_image, tmp_path)


async def said(running: Running) -> str:
    """All of its standard output."""
    return text(await chunks_of(running), 1)


async def test_privileges_are_cut(engine: DockerEngine, shell: Runs) -> None:
    """A program that is root in its image has the documented capabilities and no others, gains none, and is filtered."""
    status = await said(await begin(engine, shell("cat /proc/self/status")))

    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == sum(1 << CAPABILITY_BITS[name] for name in CAPABILITIES)
    assert int(fields["CapBnd"], 16) == int(fields["CapEff"], 16)
    assert fields["NoNewPrivs"].strip() == "1"
    assert fields["Seccomp"].strip() == "2"


async def test_root_in_the_image_writes_outputs(engine: DockerEngine, shell: Runs, tmp_path: Path) -> None:
    """A program that is root in its image can do with its output folder all that images do: owners, modes, folders."""
    outputs = tmp_path / "outputs"
    outputs.mkdir(mode=0o700)
    os.chown(outputs, 65534, 65534)
    script = "cd /outputs && mkdir -p a/b && echo x > a/b/c && chown 1000:1000 a/b/c && chmod 600 a/b/c && cat a/b/c"

    running = await begin(engine, shell(script, mounts=[Mount(outputs, "/outputs", read_only=False)]))

    assert await ended(running) == Exit(0)
    assert (outputs / "a/b/c").stat().st_uid == 1000


@pytest.mark.parametrize(
    "script",
    [
        "mount -t tmpfs none /mnt",
        "echo 1 > /proc/sys/kernel/panic",
        "mknod /tmp/sda b 8 0",
        "chroot / true",
        "hostname other",
    ],
)
async def test_the_machine_is_out_of_reach(engine: DockerEngine, shell: Runs, script: str) -> None:
    """Mounting, kernel settings, devices, other roots and the host's name are refused to programs."""
    assert (await ended(await begin(engine, shell(f"mkdir -p /mnt; {script}")))).code != 0


async def test_memory_limit(engine: DockerEngine, shell: Runs) -> None:
    """A program that takes more memory than it asked for is ended, and its end says so and what to do."""
    run = shell("x=a; while true; do x=$x$x$x; done", amounts=Amounts(memory_bytes=16 * MIB))

    end = await ended(await begin(engine, run))

    assert end.code == 137
    assert end.failure is not None
    assert end.failure.code == "Exhausted.Memory"
    assert "16 MiB" in end.failure.message


async def test_process_limit(docker_host: str, shell: Runs) -> None:
    """A program cannot start processes without end."""
    engine = DockerEngine(NODE, DockerSettings(host=docker_host, labels=SETTINGS_LABEL, pids=8))
    try:
        running = await begin(engine, shell("for i in $(seq 20); do sleep 100 & done; echo all"))
        assert "fork" in text(await chunks_of(running), 2)
    finally:
        await engine.close()
        await remove_containers(docker_host, NODE)


async def test_limits_reach_the_daemon(engine: DockerEngine, shell: Runs, docker: Docker) -> None:
    """Cores and memory are limited as the job asks, without swap."""
    run = shell("sleep 1000", amounts=Amounts(cpu=0.5, memory_bytes=64 * MIB))
    await begin(engine, run)

    found = (await docker.containers.get(container_name(NODE, run.execution)))["HostConfig"]

    assert (found["NanoCpus"], found["Memory"], found["PidsLimit"]) == (500_000_000, 64 * MIB, 2048)
    # Kernels that do not count swap say -1.
    assert found["MemorySwap"] in (64 * MIB, -1)


@pytest.mark.parametrize(
    ("network", "interfaces"), [("None", {"lo"}), ("Bridge", {"lo", "eth0"}), ("Default", {"lo", "eth0"})]
)
async def test_networks(engine: DockerEngine, shell: Runs, network: str, interfaces: set[str]) -> None:
    """A program has the network it asked for, and None is none."""
    seen = await said(await begin(engine, shell("ls /sys/class/net", network=Network(type=network))))

    # Kernels may put tunnels of their own into every network.
    assert {name for name in seen.split() if name in ("lo", "eth0")} == interfaces


async def test_host_network(engine: DockerEngine, shell: Runs) -> None:
    """On the host's network the program sees the host's interfaces, and the host has a name."""
    run = shell("ls /sys/class/net; grep -c host.docker.internal /etc/hosts", network=Network(type="Host"))

    *interfaces, named = (await said(await begin(engine, run))).split()

    # Others' containers, whose ends of their cables these are, come and go.
    seen, host = (
        {name for name in names if not name.startswith("veth")}
        for names in (interfaces, os.listdir("/sys/class/net"))
    )
    assert seen == host
    assert named == "1"


async def test_published_port(engine: DockerEngine, shell: Runs, unused_port: int) -> None:
    """A published port answers on the host at the address that was asked for, and the program knows its number."""
    run = shell(
        "echo ready; while true; do echo hello | nc -l -p $BACALHAU_PORT_web; done",
        network=Network(type="Bridge", ports=[Port("web", host_network="127.0.0.1")]),
        ports={"web": (unused_port, 8080)},
    )
    await ready(await begin(engine, run))

    async with asyncio.timeout(30):
        heard = b""
        while not heard:
            # The program has said that it is ready, a moment before it listens.
            with suppress(ConnectionError):
                reader, writer = await asyncio.open_connection("127.0.0.1", unused_port)
                heard = await reader.read(100)
                writer.close()

    assert heard == b"hello\n"


async def test_output_that_outran_its_log_is_told(docker_host: str, shell: Runs) -> None:
    """Docker drops the oldest of what a container writes beyond the size of its log; a program that wrote faster than its
    node read may have lost some, and its output says so. One that wrote little has not.
    """
    engine = DockerEngine(NODE, DockerSettings(host=docker_host, labels=SETTINGS_LABEL, log_bytes=MIB))
    try:
        fast = text(await chunks_of(await begin(engine, shell("seq 1 500000"))), 2)
        assert "the program wrote more than the 1 MiB that Docker's log keeps" in fast
        assert text(await chunks_of(await begin(engine, shell("seq 1 1000"))), 2) == ""
    finally:
        await engine.close()
        await remove_containers(docker_host, NODE)


@pytest.fixture
def unused_port() -> int:
    """A port of loopback that nobody listens on."""
    (port,) = free_ports(1)
    return port


async def test_working_directory(engine: DockerEngine, shell: Runs, busybox_image: str) -> None:
    """The program starts in the working directory, which is made if the image does not have it."""
    params = DockerParams(image=busybox_image, parameters=["pwd"], working_directory="/made/for/this")

    assert await said(await begin(engine, shell("", params=params))) == "/made/for/this\n"


async def test_bytes_that_are_no_text(engine: DockerEngine, shell: Runs) -> None:
    """Output is bytes, not text: what is no UTF-8 comes out as it was written."""
    chunks = await chunks_of(await begin(engine, shell(r"printf 'a\377\376\000b\n'; printf '\200' >&2")))

    assert b"".join(chunk.data for chunk in chunks if chunk.stream == 1) == b"a\xff\xfe\x00b\n"
    assert b"".join(chunk.data for chunk in chunks if chunk.stream == 2) == b"\x80"


@pytest.mark.parametrize("length", [16_383, 16_384, 16_385, 1_000_000])
async def test_long_lines(engine: DockerEngine, shell: Runs, length: int) -> None:
    """Lines of any length come out whole, each with its end."""
    script = f"for i in 1 2 3; do head -c {length} /dev/zero | tr '\\0' x; echo; done; echo last"

    chunks = await chunks_of(await begin(engine, shell(script)))

    assert [len(line) for line in text(chunks, 1).split("\n")] == [length, length, length, len("last"), 0]


async def test_much_output(engine: DockerEngine, shell: Runs) -> None:
    """A hundred thousand lines on two streams lose none."""
    chunks = await chunks_of(await begin(engine, shell("seq 1 50000 & seq 1 50000 >&2; wait")))

    lines = "".join(f"{number}\n" for number in range(1, 50_001))
    assert (text(chunks, 1), text(chunks, 2)) == (lines, lines)


async def test_silence_is_no_fault(docker_host: str, shell: Runs, tmp_path: Path) -> None:
    """A program may be silent for longer than the daemon may take to answer."""
    engine = DockerEngine(NODE, DockerSettings(host=docker_host, labels=SETTINGS_LABEL, answer_s=5))
    try:
        running = await begin(engine, shell("sleep 6; echo done"))
        assert (await said(running), await ended(running)) == ("done\n", Exit(0))
    finally:
        await engine.close()
        await remove_containers(docker_host, NODE)


async def test_missing_program_is_named(engine: DockerEngine, shell: Runs, busybox_image: str) -> None:
    """A program that the image does not have is named, and so is the image; no container stays."""
    run = shell("", params=DockerParams(image=busybox_image, parameters=["no-such-tool", "--flag"]))

    with pytest.raises(NotFound, match="no-such-tool") as caught:
        await begin(engine, run)

    assert busybox_image in caught.value.message
    assert await engine.leftovers() == []


async def test_file_that_is_no_program(engine: DockerEngine, shell: Runs, busybox_image: str) -> None:
    """Something that cannot be executed is refused as such."""
    run = shell("", params=DockerParams(image=busybox_image, parameters=["/etc/passwd"]))

    with pytest.raises(Invalid, match="/etc/passwd"):
        await begin(engine, run)


@pytest.fixture
async def silent_image(docker: Docker) -> AsyncIterator[str]:
    """An image without any command of its own, as `docker import` makes it."""
    query = {"fromSrc": "-", "repo": "shoal-test/silent", "tag": "1"}
    async with docker._query(
        "images/create", "POST", params=query, data=BytesIO(await busybox_root())
    ) as answer:
        await answer.read()
    yield "shoal-test/silent:1"
    await docker.images.delete("shoal-test/silent:1", force=True)


async def test_image_without_a_command(engine: DockerEngine, shell: Runs, silent_image: str) -> None:
    """An image without a command, and a job that names none, is refused with what to set."""
    with pytest.raises(Invalid, match="no command") as caught:
        await begin(engine, shell("", params=DockerParams(image=silent_image)))

    assert "Parameters" in caught.value.hint
    given = shell("", params=DockerParams(image=silent_image, parameters=["true"]))
    assert await ended(await begin(engine, given)) == Exit(0)


async def test_memory_too_small_for_docker(engine: DockerEngine, shell: Runs) -> None:
    """A memory limit below what Docker allows is refused by its field."""
    with pytest.raises(Invalid, match=r"Resources\.Memory"):
        await begin(engine, shell("true", amounts=Amounts(memory_bytes=1000)))


async def test_removal_takes_volumes_along(
    engine: DockerEngine, shell: Runs, docker: Docker, docker_host: str, busybox_image: str
) -> None:
    """Unnamed volumes that an image declares go with the container."""
    container = await docker.containers.create(
        {"Image": busybox_image, "Cmd": ["true"], "Labels": SETTINGS_LABEL}
    )
    name = "shoal-test/volume:1"
    try:
        await container.commit(repository="shoal-test/volume", tag="1", config={"Volumes": {"/data": {}}})
        run = shell("", params=DockerParams(image=name, parameters=["true"]))
        running = await begin(engine, run)
        await ended(running)
        found = await docker.containers.get(container_name(NODE, run.execution))
        (volume,) = [mount["Name"] for mount in found["Mounts"] if mount["Type"] == "volume"]

        await running.remove()

        assert volume not in {left["Name"] for left in (await docker._query_json("volumes"))["Volumes"] or []}
    finally:
        await container.delete(force=True)
        await remove_containers(docker_host, NODE)
        await docker.images.delete(name, force=True)


async def test_giving_up_a_start_leaves_nothing(engine: DockerEngine, shell: Runs) -> None:
    """A start that is cancelled, at whatever moment, leaves no container."""
    for rounds in range(8):
        run = shell("sleep 1000")
        starting = asyncio.ensure_future(engine.start(run))
        for _ in range(rounds * rounds * 10):
            await asyncio.sleep(0)

        starting.cancel()
        await asyncio.wait({starting})

        assert run.execution not in await engine.leftovers()


async def test_a_container_that_never_started_is_cleared(
    engine: DockerEngine, shell: Runs, docker: Docker, settings: DockerSettings
) -> None:
    """After a crash between making and starting a container nothing has run: it is not recovered, and it goes."""
    run = shell("echo hello")
    await docker.containers.create(container_config(run, settings), name=container_name(NODE, run.execution))
    assert await engine.leftovers() == [run.execution]

    assert await engine.recover(run.execution) is None

    assert await engine.leftovers() == []


async def test_a_container_that_never_started_is_started(
    engine: DockerEngine, shell: Runs, docker: Docker, settings: DockerSettings
) -> None:
    """... and starting the execution again starts the one that was made."""
    run = shell("echo hello")
    made = await docker.containers.create(
        container_config(run, settings), name=container_name(NODE, run.execution)
    )

    running = await engine.start(run)

    assert await said(running) == "hello\n"
    assert (await docker.containers.get(container_name(NODE, run.execution))).id == made.id


async def test_nodes_on_one_daemon_are_apart(
    engine: DockerEngine, shell: Runs, settings: DockerSettings
) -> None:
    """Several nodes may share a daemon; none sees another's containers."""
    run = shell("sleep 1000")
    await begin(engine, run)
    other = DockerEngine(NodeId("n-containers-2"), settings)
    try:
        assert await other.leftovers() == []
        assert await other.recover(run.execution) is None
    finally:
        await other.close()


async def test_a_container_removed_by_others(engine: DockerEngine, shell: Runs, docker: Docker) -> None:
    """When somebody else removes a container, waiting for it ends with the reason; removing it is harmless."""
    run = shell("echo ready; sleep 1000")
    running = await begin(engine, run)
    await ready(running)
    await (await docker.containers.get(container_name(NODE, run.execution))).delete(force=True)

    end = await ended(running)

    assert end.code != 0
    assert end.failure is not None
    assert "removed" in end.failure.message
    await running.remove()
    await stop(running, 1)


async def test_a_daemon_that_goes_away_and_comes_back(
    docker_host: str, shell: Runs, tmp_path: Path, settings: DockerSettings
) -> None:
    """While the daemon cannot be reached a program goes on; afterwards its whole output and its end are there, once."""
    (tmp_path / "go").mkdir()
    script = "seq 1 1000; echo ready; while [ ! -e /go/on ]; do sleep 0.05; done; seq 1001 2000; exit 3"
    async with door_to(docker_host, tmp_path) as door:
        engine = DockerEngine(NODE, DockerSettings(host=door.host, labels=SETTINGS_LABEL))
        try:
            running = await begin(engine, shell(script, mounts=[Mount(tmp_path / "go", "/go")]))
            output = asyncio.ensure_future(said(running))
            end = asyncio.ensure_future(ended(running))
            await ready(running)

            await door.shut()
            (tmp_path / "go" / "on").touch()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await asyncio.shield(end)
            await door.open()

            assert await end == Exit(3)
            lines = (await output).split()
            assert lines == [str(n) for n in range(1, 1001)] + ["ready"] + [str(n) for n in range(1001, 2001)]
        finally:
            await engine.close()
            await remove_containers(docker_host, NODE)


async def test_a_daemon_that_stays_away(docker_host: str, shell: Runs, tmp_path: Path) -> None:
    """A daemon that does not come back is a fault that names it, after the time that the owner allows."""
    async with door_to(docker_host, tmp_path) as door:
        engine = DockerEngine(NODE, DockerSettings(host=door.host, labels=SETTINGS_LABEL, reconnect_s=0.5))
        try:
            running = await begin(engine, shell("echo ready; sleep 1000"))
            await ready(running)
            await door.shut()

            with pytest.raises(Unavailable, match=r"door\.sock"):
                await ended(running)
            assert not (await engine.probe()).available

            await door.open()
            assert (await engine.probe()).available
            await stop(running, 0)
            assert (await ended(running)).code == 137
        finally:
            await engine.close()
            await remove_containers(docker_host, NODE)


async def test_a_daemon_that_hangs(
    docker_host: str, engine: DockerEngine, shell: Runs, tmp_path: Path
) -> None:
    """A daemon that still tells its version and answers little else is not offered, and what to do is said. Nothing more is
    left with it than one question and the first call; when it goes on it is offered again, and what ran there is found.
    """
    run = shell("echo ready; sleep 1000")
    await begin(engine, run)
    async with door_to(docker_host, tmp_path) as door:
        behind = DockerEngine(NODE, DockerSettings(host=door.host, labels=SETTINGS_LABEL, answer_s=3))
        try:
            assert (await behind.probe()).available
            door.hang()

            for offer in await asyncio.gather(*(behind.probe() for _ in range(3))):
                assert not offer.available
                assert "restart" in offer.hint
            for calls in (1, 3):
                ends = await asyncio.gather(
                    *(behind.recover(run.execution) for _ in range(calls)), return_exceptions=True
                )
                assert all(isinstance(end, Unavailable) and end.kind == "Docker" for end in ends), ends
            assert not (await behind.probe()).available
            assert [b"/info " in line for line in door.kept] == [True, False]

            door.go_on()
            running = await behind.recover(run.execution)
            assert running is not None
            assert (await behind.probe()).available
            await stop(running, 0)
        finally:
            await behind.close()


async def test_a_lost_answer_to_start_starts_once(docker_host: str, shell: Runs, tmp_path: Path) -> None:
    """When the answer to a start is lost, the program has run once, not twice."""
    (tmp_path / "out").mkdir()
    run = shell("echo x >> /out/runs", mounts=[Mount(tmp_path / "out", "/out", read_only=False)])
    async with door_to(docker_host, tmp_path) as door:
        engine = DockerEngine(NODE, DockerSettings(host=door.host, labels=SETTINGS_LABEL))
        try:
            await engine.prepare(run.params, nothing)
            starting = asyncio.ensure_future(engine.start(run))
            async with asyncio.timeout(30):
                while not (tmp_path / "out" / "runs").exists():  # noqa: ASYNC110 - a file tells nobody
                    await asyncio.sleep(0)
            await door.shut()
            await door.open()

            assert await ended(await starting) == Exit(0)
            assert (tmp_path / "out" / "runs").read_text() == "x\n"
        finally:
            await engine.close()
            await remove_containers(docker_host, NODE)


async def test_a_connection_that_was_cut_while_idle(docker_host: str, shell: Runs, tmp_path: Path) -> None:
    """Whichever request finds its connection given up by a proxy, the container runs once and its end is told as it was."""
    cuts = 0
    for cut_at in range(MOST_REUSES):
        folder = tmp_path / str(cut_at)
        folder.mkdir()
        async with door_to(docker_host, folder) as door:
            door.cut_at = cut_at
            engine = DockerEngine(NODE, DockerSettings(host=door.host, labels=SETTINGS_LABEL))
            try:
                running = await begin(engine, shell("echo once"))
                assert await ended(running) == Exit(0)
                assert text(await chunks_of(running), 1) == "once\n"
                await running.remove()
                assert await engine.leftovers() == []
            finally:
                await engine.close()
                await remove_containers(docker_host, NODE)
            cuts += door.reuses > cut_at
    assert 0 < cuts < MOST_REUSES


async def test_a_containers_own_layer_is_measured(engine: DockerEngine, shell: Runs) -> None:
    """What a program writes outside its mounts is told, while it runs and when it has ended."""
    script = f"dd if=/dev/zero of=/x bs=1M count=5 2>/dev/null; echo ready; exec {STAYS}"
    running = await begin(engine, shell(script))
    await ready(running)
    assert 5 * MIB <= await running.disk_bytes() < 6 * MIB
    await stop(running, 0)
    assert await running.disk_bytes() >= 5 * MIB
    await running.remove()
    with pytest.raises(Unavailable):
        await running.disk_bytes()
