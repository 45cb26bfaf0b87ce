"""What a node is told, and where."""

from pathlib import Path
from typing import Any

import pytest

from compute.settings import KEYS, Settings, read_settings
from protocol.errors import Fault, Invalid, NotFound
from protocol.ids import NodeId

HOME = Path("/nowhere")


def read(*given: str, environ: dict[str, str] | None = None, folder: Path = HOME, **flags: Any) -> Settings:
    """The settings of ``-c`` and the other places, of which nothing is to be warned; `flags` with underscores for dots."""
    keyed = {key.replace("_", "."): value for key, value in flags.items()}
    made, warnings = read_settings(keyed, given, environ=environ or {}, folder=folder, data=HOME)
    assert warnings == []
    return made


def test_bacalhaus_keys_of_both_versions_mean_the_same(tmp_path: Path) -> None:
    """A configuration file of 1.4 and one of 1.9 give the same node."""
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(
        "Node:\n  IPFS:\n    Connect: /ip4/127.0.0.1/tcp/5001\n  Labels: {region: eu}\n"
        "  Network: {Orchestrators: ['nats://a:4222']}\n  AllowListedLocalPaths: ['/d/**:rw']\n"
        "  Compute: {Capacity: {TotalResourceLimits: {CPU: '2'}}}\n"
    )
    new.write_text(
        "compute:\n  orchestrators: [nats://a:4222]\n  allowlistedlocalpaths: ['/d/**:rw']\n"
        "  AllocatedCapacity: {CPU: 2}\nLabels: {region: eu}\nAPI: {Port: 1234}\n"
        "InputSources: {Types: {IPFS: {Endpoint: /ip4/127.0.0.1/tcp/5001}}}\n"
    )
    made = read(str(old))
    assert made == read(str(new))
    assert made.ipfs_connect == "/ip4/127.0.0.1/tcp/5001"
    assert made.labels == {"region": "eu"}
    assert made.share.cpu == "2"
    assert made.allowed_paths == ("/d/**:rw",)


def test_each_place_wins_over_the_ones_before(tmp_path: Path) -> None:
    """Default, file, environment, -c, flag: the later one wins; labels add up."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "Name: file\nDataDir: /file\nLabels: {a: file, b: file}\nCompute: {AllocatedCapacity: {CPU: '1'}}"
    )
    made = read(
        *(str(file), "DataDir=/pair", "Labels.a=pair"),
        environ={"BACALHAU_NAME": "env", "BACALHAU_DATADIR": "/env", "SHOAL_NATS": "nats://x,nats://y"},
        Labels=["c=flag"],
    )
    assert (made.name, str(made.data_dir), made.share.cpu) == ("env", "/pair", "1")
    assert made.labels == {"a": "pair", "b": "file", "c": "flag"}
    assert made.nats == ("nats://x", "nats://y")


def test_files_nobody_named_are_found(tmp_path: Path) -> None:
    """``./shoal.yaml`` counts before the person's own configuration; both are for requesters and clients too."""
    own = tmp_path / "xdg" / "shoal" / "config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("Name: own\nCompute: {BeatInterval: 2s}\nAPI: {Port: 1}\n")
    (tmp_path / "shoal.yaml").write_text("Name: near\nNATS: {Replicas: 3}\n")
    made = read(environ={"XDG_CONFIG_HOME": str(tmp_path / "xdg")}, folder=tmp_path)
    assert (made.name, made.beat_s) == ("near", 2)


def test_every_setting_reaches_its_part() -> None:
    """What is said of engines, sources and publishers is what those are told."""
    made = read(
        *("Engines.Types.Docker.Host=unix:///d.sock", "Engines.Types.Docker.PidsLimit=7"),
        *("Engines.Types.Docker.LogMaxBytes=1Mi", "Engines.Types.Docker.Labels.team=a"),
        *("InputSources.ReadTimeout=3s", "InputSources.ConnectTimeout=2s", "InputSources.MaxBytes=1Gi"),
        *("InputSources.Types.S3.Endpoint=http://s3:9000", "InputSources.Types.S3.Region=eu-west-1"),
        *("Publishers.Types.S3.Profile=lab", "Engines.Disabled=WASM", "InputSources.Disabled=urlDownload"),
        "Publishers.Disabled=s3,local",
    )
    engines, storage = made.engine_settings(NodeId("n1")), made.storage()
    assert engines.types == ("docker",)
    docker = engines.docker
    assert (docker.host, docker.pids, docker.log_bytes) == ("unix:///d.sock", 7, 1 << 20)
    assert docker.labels == {"team": "a"}
    assert docker.networking
    assert (storage.silence_s, storage.connect_s, storage.max_bytes) == (3, 2, 1 << 30)
    assert (storage.s3_endpoint, storage.s3_region, storage.s3_profile) == (
        "http://s3:9000",
        "eu-west-1",
        "lab",
    )
    assert (made.sources_disabled, made.publishers_disabled) == (("urldownload",), ("s3", "local"))


@pytest.mark.parametrize(
    ("given", "networking"),
    [
        ("JobAdmissionControl.RejectNetworkedJobs", False),
        ("JobAdmissionControl.RejectNetworkedJobs=false", True),
        ("Node.Compute.JobSelection.AcceptNetworkedJobs=false", False),
        ("JobAdmissionControl.AcceptNetworkedJobs=true", True),
    ],
)
def test_a_node_may_refuse_the_network(given: str, networking: bool) -> None:
    """Said either way round, as in 1.4 or in 1.9: neither admission nor Docker gives a job the network."""
    made = read(given)
    assert made.engine_settings(NodeId("n1")).docker.networking is networking
    assert made.policy().reject_networked is not networking


def test_every_setting_has_a_key_of_its_own() -> None:
    """No key means two settings."""
    keys = [key.lower() for spellings in KEYS.values() for key in spellings]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("config", "text", "hint"),
    [
        ("Compute.AlocatedCapacity.CPU=3", "not a setting", "Compute.AllocatedCapacity.CPU"),
        ("Node.IPFS.Connect=/ip4/127.0.0.1/udp/5001", "Node.IPFS.Connect", "/tcp/"),
        ("Publishers.Types.Local.Port=99999", "'99999' where a whole number from 0 to 65535", ""),
        ("Compute.AllowListedLocalPaths=data", "not absolute", "/data"),
        ("Compute.StagingTimeout=soon", "StagingTimeout", "1m30s"),
        ("JobAdmissionControl.RejectNetworkedJobs=perhaps", "true or false", ""),
        ("Labels=x", "a pair like name=value", ""),
        ("InputSources.ReadTimeout=0s", "longer than 0", ""),
        ("InputSources.Types.S3.Endpoint=s3:9000", "not an http URL", "http://"),
        ("Logging.Level=loud", "'loud' is not one of", ""),
    ],
)
def test_a_wrong_setting_is_named(config: str, text: str, hint: str) -> None:
    """The message says which key of which place, the hint how to write it."""
    with pytest.raises(Invalid) as caught:
        read(config)
    assert text in caught.value.message
    assert caught.value.message.startswith(f"-c: {config.partition('=')[0]}")
    assert hint in caught.value.hint


def test_who_requires_tls_is_not_connected_without_it() -> None:
    """Where Bacalhau's setting requires TLS towards NATS, a server that is not asked for it is an error."""

    def made(*given: str) -> tuple[str, ...]:
        settings, warnings = read_settings({}, list(given), environ={}, folder=HOME, data=HOME)
        assert not warnings
        return settings.nats

    with pytest.raises(Invalid, match="nats://a:4222 would be spoken to without TLS"):
        made("Compute.TLS.RequireTLS=true", "Compute.Orchestrators=tls://b,nats://a:4222")
    assert made("Compute.TLS.RequireTLS", "Compute.Orchestrators=tls://b:4222") == ("tls://b:4222",)
    assert made("Compute.TLS.RequireTLS=false", "Compute.Orchestrators=a:4222") == ("nats://a:4222",)


def test_what_a_node_does_not_know_is_told() -> None:
    """A key of the peer's that does nothing here is a warning, not an error: its commands work."""
    _, warnings = read_settings({}, ["UpdateConfig.Interval=1h"], environ={}, folder=HOME, data=HOME)
    assert len(warnings) == 1
    assert "UpdateConfig.Interval" in warnings[0]


@pytest.mark.parametrize(
    ("content", "kind"),
    [(None, NotFound), ("a: [", Invalid), ("- a", Invalid), ("\0", Invalid), ("x" * 2_000_000, Invalid)],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, kind: type[Fault]) -> None:
    """A missing or malformed file is an error with its path."""
    path = tmp_path / "node.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(kind, match=r"node\.yaml"):
        read(str(path))


@pytest.mark.parametrize(
    "written", ["data.example.com bearer CANARY", "data.example.com bearer CANARY==", "lab=x basic CAN,ARY"]
)
def test_a_slip_in_credentials_shows_no_token(written: str) -> None:
    """One without a name, also if its token looks like a pair, or one that a comma cuts, is refused without its text."""
    with pytest.raises(Invalid) as raised:
        read(f"InputSources.Types.URL.Credentials={written}")
    assert "CAN" not in f"{raised.value.message} {raised.value.hint}"
    assert "ARY" not in f"{raised.value.message} {raised.value.hint}"


def test_addresses_and_credentials_reach_the_drivers() -> None:
    """What an owner opens, closes and knows is told to the drivers; a token is not shown by accident."""
    made = read(
        *("Compute.Addresses.Allow=private,10.0.0.5:9000", "Compute.Addresses.Deny=*.evil"),
        "InputSources.Types.URL.Credentials.lab=data.example.com bearer hush",
    )
    storage = made.storage()

    assert [rule.text for rule in storage.addresses.allowed][-1] == "10.0.0.5:9000"
    assert [rule.host for rule in storage.addresses.denied] == ["*.evil"]
    assert storage.url_credentials["lab"].host == "data.example.com"
    assert "hush" not in repr(made)
    assert "hush" not in repr(storage)
