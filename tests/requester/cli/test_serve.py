"""``serve``: which roles it takes, what it refuses to start on, and that nothing outlives it."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from deploy.processes import free_ports
from deploy.servers import NatsServer
from protocol.errors import Invalid
from requester.cli.configuration import Plan, in_force, plan

ROOT = Path(__file__).parents[3]
MULTIADDR = "/ip4/127.0.0.1/tcp/5001/p2p/QmVcSqVEsvm5RR9mBLjwpb2XjFVn5bPdPL69mL8PH45pPC"


def _plan(
    folder: Path, given: Sequence[str] = (), environ: dict[str, str] | None = None, **flags: object
) -> Plan:
    keyed = {key.replace("_", "."): value for key, value in flags.items()}
    return plan(keyed, given, environ=environ or {}, folder=folder, data=folder / "data")


@pytest.mark.parametrize(
    ("flags", "requester", "node"),
    [
        ({}, True, False),
        ({"Orchestrator_Enabled": True}, True, False),
        ({"Compute_Enabled": True}, False, True),
        ({"Orchestrator_Enabled": True, "Compute_Enabled": True}, True, True),
        ({"Node_Type": "requester,compute"}, True, True),
        ({"Node_Type": "compute"}, False, True),
        ({"Node_IPFS_Connect": MULTIADDR}, True, True),
        ({"Node_IPFS_Connect": MULTIADDR, "Orchestrator_Enabled": True}, True, False),
    ],
)
def test_roles(folder: Path, flags: dict[str, Any], requester: bool, node: bool) -> None:
    """A requester unless something else is said; an IPFS connection and no role means that jobs shall run here too."""
    made = _plan(folder, **flags)
    assert (made.orchestrator, bool(made.node)) == (requester, node)


def test_the_seed_documents_ways_to_name_kubo(folder: Path) -> None:
    """``--ipfs-connect`` and ``Node.IPFS.Connect`` in a file, by ``-c`` or by variable do the same for the node."""
    (folder / "config.yaml").write_text(f"Node:\n  IPFS:\n    Connect: {MULTIADDR}\n")
    made = [
        _plan(folder, Node_IPFS_Connect=MULTIADDR),
        _plan(folder, ["config.yaml"]),
        _plan(folder, [f"Node.IPFS.Connect={MULTIADDR}"]),
        _plan(folder, environ={"BACALHAU_NODE_IPFS_CONNECT": MULTIADDR}),
    ]
    for each in made:
        at = each.node.index("--ipfs-connect")
        assert each.node[at + 1] == MULTIADDR


def test_the_node_is_told_what_is_its_own(folder: Path) -> None:
    """NATS, name, data folder and the node's own settings go on to the node; the requester's do not."""
    (folder / "shoal.yaml").write_text("Compute: {AllowListedLocalPaths: [/data]}\n")
    made = _plan(
        folder,
        ["API.Port=1", "Labels.region=eu", "Engines.Disabled=docker", "WebUI.Enabled"],
        Orchestrator_Enabled=True,
        Compute_Enabled=True,
        NATS_URL=["nats://a:1", "nats://b:2"],
        Name="here",
        DataDir=str(folder / "d"),
    )
    assert made.node == [
        *("--log-format", "auto", "--log-level", "info", "--data-dir", str(folder / "d" / "compute")),
        *("--nats=nats://a:1", "--nats=nats://b:2", "--name", "here"),
        *("-c", "Labels.region=eu", "-c", "Engines.Disabled=docker"),
    ]
    assert made.settings.nats_servers == ("nats://a:1", "nats://b:2")
    assert made.settings.api_port == 1
    assert [warning for warning in made.warnings if "WebUI" in warning] == made.warnings


def test_the_peers_keys_mean_what_they_say(folder: Path) -> None:
    """Keys of 1.4 and 1.9 set the address, the approval of nodes, their patience and the defaults of jobs."""
    (folder / "old.yaml").write_text("Node: {ServerAPI: {Host: 127.0.0.9, Port: 99}}\n")
    given = [
        "old.yaml",
        "Orchestrator.NodeManager.ManualApproval",
        "Orchestrator.NodeManager.DisconnectTimeout=1m",
        "Orchestrator.NodeManager.ForgetAfter=48h",
        "JobDefaults.Batch.Task.Timeouts.TotalTimeout=30m",
        "JobDefaults.Batch.Task.Publisher.Type=local",
        "JobDefaults.Service.Priority=3",
        "JobDefaults.Daemon.Task.Resources.Memory=64Mb",
    ]
    made = _plan(folder, given)
    assert (made.settings.api_host, made.settings.api_port) == ("127.0.0.9", 99)
    assert made.settings.manual_approval
    assert made.settings.silence_s == 60
    assert made.settings.forget_s == 2 * 86_400
    assert made.defaults.batch.timeouts.total_timeout == 1800
    assert made.defaults.batch.publisher.type == "local"
    assert made.defaults.service.priority == 3
    assert made.defaults.daemon.resources.memory == "64Mb"
    assert made.warnings == []


@pytest.mark.parametrize(
    "text",
    [
        "API: {Auth: {Users: [{Alias: ann, Username: ann, Password: a-long-password}]}}",
        "API: {Auth: {Oauth2: {Issuer: 'https://id.example.org'}}}",
        "API: {TLS: {CertFile: cert.pem, KeyFile: key.pem}}",
        "API: {TLS: {SelfSigned: true}}",
    ],
)
def test_what_protects_the_peers_api_is_not_passed_over(folder: Path, text: str) -> None:
    """Who brings a file with users or certificates for the API is told that nothing heeds them, and gets no open API."""
    (folder / "theirs.yaml").write_text(text)
    with pytest.raises(Invalid, match=r"theirs\.yaml: API\.\w+.*protects nothing here"):
        _plan(folder, ["theirs.yaml"])
    assert not _plan(folder, ["theirs.yaml", "Compute.Enabled"]).orchestrator


def test_a_protection_that_is_off_is_none(folder: Path) -> None:
    """A setting that protects nothing there either, and one that is for clients, are no reason to refuse."""
    (folder / "theirs.yaml").write_text(
        "API: {TLS: {SelfSigned: false, UseTLS: true, CertFile: ''}, Auth: {Users: []}}"
    )
    assert _plan(folder, ["theirs.yaml"]).orchestrator


def test_the_settings_in_force_are_told_under_the_peers_keys(folder: Path) -> None:
    """What ``agent config`` shows can be given to `serve` again and means the same; no secret is among it."""
    given = ["API.Host=127.0.0.9", "Orchestrator.NodeManager.DisconnectTimeout=90s", "NATS.Password=hunter2"]
    made = _plan(
        folder,
        [
            *given,
            "JobDefaults.Batch.Task.Timeouts.TotalTimeout=30m",
            "API.Port=0",
            "JobDefaults.Ops.Task.Resources.GPU=1",
        ],
    )

    told = in_force(made, 1234)
    (folder / "told.yaml").write_text(yaml.safe_dump(told))
    again = _plan(folder, ["told.yaml"])

    assert told["API"] == {"Host": "127.0.0.9", "Port": 1234}
    assert told["Orchestrator"]["NodeManager"]["DisconnectTimeout"] == "90s"
    assert told["JobDefaults"]["Batch"]["Task"]["Timeouts"]["TotalTimeout"] == "1800s"
    assert told["JobDefaults"]["Ops"]["Task"]["Resources"] == {"GPU": "1"}
    assert "hunter2" not in str(told)
    assert again.settings == replace(made.settings, api_port=1234, nats_password="")
    assert (again.defaults, again.warnings) == (made.defaults, [])


@pytest.mark.parametrize(
    "given", ["Node.Type=cook", "API.Port=70000", "Name=a.b", "Logging.Mode=loud", "Node.IPFS.Connect=there"]
)
def test_settings_that_make_no_sense_are_told(folder: Path, given: str) -> None:
    """A wrong setting is found before anything starts."""
    with pytest.raises(Invalid, match=given.partition("=")[2]):
        _plan(folder, [given])


def _refused(*words: str) -> str:
    """What `serve` says as a process of its own that does not start."""
    ran = subprocess.run(
        [sys.executable, "-m", "requester", "serve", "--api-host", "127.0.0.1", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    return ran.stderr


def test_a_port_that_is_taken(folder: Path) -> None:
    """The port is tried first: if another has it, that is told at once, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = _refused("--api-port", str(port), "--data-dir", str(folder / "d"))
    assert f"port {port} on 127.0.0.1 is taken" in said
    assert "--api-port" in said


def test_no_nats(folder: Path) -> None:
    """Without a NATS server the address is named, and how to start one."""
    said = _refused("--nats", "nats://127.0.0.1:1", "--api-port", "0", "--data-dir", str(folder / "d"))
    assert "127.0.0.1:1" in said
    assert "nats-server -c nats.conf" in said


class Serving:
    """A requester as a process, and the port its API told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.port = 0
        self.said = ""

    async def says(self, pattern: str) -> re.Match[str]:
        """Read its log until a line matches."""
        assert self.process.stderr is not None
        async with asyncio.timeout(60):
            while line := (await self.process.stderr.readline()).decode():
                self.said += line
                if found := re.search(pattern, line):
                    return found
        raise AssertionError(f"it ended:\n{self.said}")


@asynccontextmanager
async def _serving(nats: NatsServer, folder: Path, *words: str) -> AsyncIterator[Serving]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "requester", "serve", "--nats", nats.url, "--data-dir", str(folder)),
        *("--api-host", "127.0.0.1", "--api-port", "0", "--log-format", "json", *words),
        *("--credentials", str(nats.requester()), "-c", f"Compute.Credentials={nats.node()}"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Serving(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_one_command_makes_a_cluster(folder: Path) -> None:
    """Where no NATS server is named and none listens, `serve` starts one and a node registers; all end with it."""
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "requester", "serve", "--ipfs-connect", MULTIADDR, "--data-dir", str(folder)),
        *("--api-host", "127.0.0.1", "--api-port", "0", "--log-format", "json"),
        *("-c", f"Orchestrator.Port={port}", "-c", "Engines.Disabled=docker"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await Serving(process).says('"membership": "APPROVED"')
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()

    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


async def test_a_data_folder_is_for_one(own_nats_server: NatsServer, folder: Path) -> None:
    """A second requester on the same data folder is refused; the first ends in order when it is asked to."""
    async with _serving(own_nats_server, folder / "d") as first:
        await first.says("api ready")
        async with _serving(own_nats_server, folder / "d") as second:
            await second.says("is in use by another requester")
            assert await second.process.wait() == 1
        first.process.send_signal(signal.SIGTERM)
        assert await first.process.wait() == 0


@pytest.mark.parametrize(("disabled", "loaded"), [("false", True), ("true", False)])
async def test_what_makes_links_is_there_before_it_serves(
    disabled: str, loaded: bool, own_nats_server: NatsServer, folder: Path
) -> None:
    """The first result in S3 that is asked for does not hold a requester up: all that links are made with is there before
    its API is, if it makes any."""
    word = f"Publishers.Types.S3.PreSignedURLDisabled={disabled}"
    async with _serving(own_nats_server, folder, "-c", word) as requester:
        await requester.says("api ready")
        libraries = Path(f"/proc/{requester.process.pid}/maps").read_text()

    assert ("_awscrt" in libraries) is loaded


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_node_beside_never_outlives_it(
    own_nats_server: NatsServer, folder: Path, how: signal.Signals
) -> None:
    """With both roles a compute node registers, and is gone when the requester is, however that ended."""
    async with _serving(
        own_nats_server, folder / "d", "--orchestrator", "--compute", "-c", "Engines.Disabled=docker"
    ) as both:
        await both.says('"membership": "APPROVED"')
        both.process.send_signal(how)
        # Both share the log: it ends when the last of them does.
        assert both.process.stderr is not None
        async with asyncio.timeout(60):
            await both.process.stderr.read()
        assert await both.process.wait() == (0 if how is signal.SIGTERM else -signal.SIGKILL)
