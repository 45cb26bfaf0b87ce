"""``get``: results come home whole or not at all, merged or one folder an execution."""

import secrets
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from compute.provenance import Manifests
from deploy import servers
from deploy.servers import Kubo, S3Server
from protocol.errors import Denied, Unavailable
from protocol.ids import ExecutionId, JobId, short
from protocol.jobs import Job, Spec, Task
from protocol.states import ExecutionState, JobState
from requester.cli.results import told_whose
from requester.verbs import Archive
from storage.addresses import read_policy
from storage.contract import Label, silent
from storage.drivers import open_drivers
from storage.params import read_params
from storage.settings import StorageSettings
from tests.acceptance.fragile import full_disk
from tests.conftest import Background
from tests.requester.cli.conftest import Finished, Shelf, Shoal, archive_of, written
from tests.requester.twin import NODE, Twin

S = ExecutionState
CUT = archive_of(stdout="x" * 5_000)[:-30]


def _tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_results_are_merged(shoal: Shoal, finished: Finished, folder: Path) -> None:
    """The texts of all executions are joined, other files keep their paths; where they are is on standard output."""
    finished.publish(0, archive_of(stdout="one\n", stderr="", exitCode="0", outputs__a="A"))
    finished.publish(1, archive_of(stdout="two\n", stderr="", exitCode="0", outputs__b__c="C"))
    finished.close()
    ran = shoal("get", "words")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == str(folder / "job-words")
    assert _tree(folder / "job-words") == {
        "stdout": "one\ntwo\n",
        "stderr": "",
        "exitCode": "00",
        "outputs/a": "A",
        "outputs/b/c": "C",
    }


def test_a_full_disk_is_the_persons_own(shoal: Shoal, finished: Finished, tmp_path: Path) -> None:
    """Where there is no room for results it is said what to do here, not what a node's owner would do; nothing is left."""
    finished.publish(0, archive_of(outputs__a="A" * 2_000_000))
    finished.close()
    with full_disk(tmp_path / "disk", 1_000_000) as disk:
        ran = shoal("get", "words", "--output-dir", str(disk / "out"))

        assert ran.code != 0
        assert "is full" in ran.err
        assert "--output-dir" in ran.err
        assert "node" not in ran.err
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("why", ["expired", "away"])
def test_a_node_that_cannot_be_reached_is_read_through_the_requester(
    shoal: Shoal, finished: Finished, twin: Twin, shelf: Shelf, folder: Path, why: str
) -> None:
    """Where the link to the node leads nowhere (any more), the requester brings the same bytes."""
    if why == "away":
        shelf.url = "http://127.0.0.1:1"
    execution = finished.publish(0, None)
    shelf.expired = why == "expired"
    twin.archives[execution] = archive_of(stdout="relayed\n" * 1000)
    finished.close()

    ran = shoal("get", "words")

    assert ran.code == 0, ran.err
    assert ran.out == f"Results for job 'words' have been written to...\n{folder / 'job-words'}\n"
    assert _tree(folder / "job-words") == {"stdout": "relayed\n" * 1000}


def test_a_node_that_cannot_be_reached_is_not_asked_for_each_result(
    shoal: Shoal, finished: Finished, twin: Twin, shelf: Shelf, folder: Path
) -> None:
    """A job with many results on such a node is not waited for as often: once is enough to know."""
    shelf.ill = True
    first, second = finished.publish(0, None), finished.publish(1, None)
    twin.archives |= {first: archive_of(a="1"), second: archive_of(b="2")}
    finished.close()

    assert shoal("get", "words").code == 0

    assert _tree(folder / "job-words") == {"a": "1", "b": "2"}
    assert shelf.asked == 3, "the tries for the first result"


@pytest.mark.parametrize("words", [("get", "words"), ("cat", "words", "stdout")], ids=["get", "cat"])
def test_a_node_that_is_away_with_its_result_is_told(
    shoal: Shoal,
    finished: Finished,
    twin: Twin,
    shelf: Shelf,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    """Where neither the person nor the requester reaches the node that keeps a result, that is what is said, and nothing is
    printed as if it were the result."""

    async def away(*_: object, **__: object) -> Archive:
        raise Unavailable("the node n1 is not connected")

    monkeypatch.setattr(twin, "archive", away)
    shelf.url = "http://127.0.0.1:1"
    execution = finished.publish(0, None)
    finished.close()

    ran = shoal(*words)

    assert (ran.code != 0, ran.out) == (True, "")
    assert (
        f"{execution[:10]} is kept by its node, which is not connected\nHint: Start the node again" in ran.err
    )


def test_raw_keeps_executions_apart(shoal: Shoal, finished: Finished, folder: Path) -> None:
    """``--raw`` makes a folder for each execution, under its id."""
    first = finished.publish(0, archive_of(stdout="one\n"))
    second = finished.publish(1, archive_of(stdout="two\n"))
    finished.close()
    assert shoal("job", "get", "words", "--raw", "--output-dir", "here/there").code == 0
    assert _tree(folder / "here/there") == {f"{first}/stdout": "one\n", f"{second}/stdout": "two\n"}


def _leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"job.yaml"}


@pytest.mark.parametrize(
    ("first", "second"),
    [({"o__f": "1"}, {"o__f": "2"}), ({"o": "1"}, {"o__f": "2"}), ({"o__f": "2"}, {"o": "1"})],
)
def test_a_clash_is_told_and_nothing_is_kept(
    shoal: Shoal, finished: Finished, folder: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    """Two executions that wrote the same path cannot be merged: it is named, ``--raw`` is offered, nothing is there."""
    finished.publish(0, archive_of(**first))
    finished.publish(1, archive_of(**second))
    finished.close()
    ran = shoal("get", "words")
    assert ran.code == 1
    assert "--raw" in ran.err
    assert _leftovers(folder) == set()
    assert shoal("get", "words", "--raw").code == 0


def test_a_clash_that_the_records_tell_of_costs_no_download(
    shoal: Shoal, finished: Finished, shelf: Shelf, folder: Path
) -> None:
    """Where the records say that two executions wrote the same path, nothing is downloaded before that is told."""
    for partition in (0, 1):
        files = {"stdout": "x", "outputs__f": str(partition)}
        finished.publish(partition, archive_of(**files), written=written(**files))
    finished.close()

    ran = shoal("get", "words")

    assert ran.code == 1
    assert "two executions wrote outputs/f" in ran.err
    assert shelf.asked == 0
    assert _leftovers(folder) == set()


def test_results_that_share_their_folders_are_no_clash(
    shoal: Shoal, finished: Finished, folder: Path
) -> None:
    """Two executions may write into one folder, each its own files."""
    for partition in (0, 1):
        files = {"stdout": "x", f"outputs__a__{partition}": "y"}
        record = msgspec.structs.replace(written(**files), sha256="")
        finished.publish(partition, archive_of(**files), written=record)
    finished.close()

    assert shoal("get", "words").code == 0
    assert set(_tree(folder / "job-words")) == {"stdout", "outputs/a/0", "outputs/a/1"}


def test_more_objects_than_links_are_told() -> None:
    """A result of more objects than a requester gives links to says so where the person's account may not read it."""
    with (
        pytest.raises(Denied) as caught,
        told_whose(Spec("s3", {"Bucket": "b", "Listing": {"Count": 10_001}})),
    ):
        raise Denied("denied")

    assert "10,001 objects" in caught.value.hint


@pytest.mark.parametrize("damage", [None, b"not an archive", CUT], ids=["gone", "other", "cut"])
def test_a_broken_download_leaves_nothing(
    shoal: Shoal, finished: Finished, folder: Path, damage: bytes | None
) -> None:
    """One result that is gone or damaged: the execution is named, and nothing of the others is left."""
    finished.publish(0, archive_of(stdout="one\n"))
    second = finished.publish(1, damage)
    finished.close()
    ran = shoal("get", "words")
    assert ran.code in (1, 3)
    assert second[:10] in ran.err
    assert ("not kept on its node any more" in ran.err) is (damage is None)
    assert _leftovers(folder) == set()


def test_an_archive_cannot_write_elsewhere(shoal: Shoal, finished: Finished, folder: Path) -> None:
    """A result with a path that leads outside is refused, and nothing is written."""
    finished.publish(0, archive_of(**{"../../evil": "x"}))
    finished.close()
    assert shoal("get", "words").code == 2
    assert _leftovers(folder) == set()


def test_what_is_there_is_never_touched(shoal: Shoal, finished: Finished, folder: Path) -> None:
    """A folder that holds something is refused before anything is fetched; an empty one is used."""
    finished.publish(0, archive_of(stdout="one\n"))
    finished.close()
    (folder / "full").mkdir()
    (folder / "full" / "mine").write_text("mine")
    ran = shoal("get", "words", "--output-dir", "full")
    assert ran.code == 1
    assert "--output-dir" in ran.err
    assert _tree(folder / "full") == {"mine": "mine"}
    (folder / "empty").mkdir()
    assert shoal("get", "words", "--output-dir", "empty").code == 0
    assert _tree(folder / "empty") == {"stdout": "one\n"}


def test_a_folder_that_may_not_be_made_is_told_so(shoal: Shoal, finished: Finished) -> None:
    """What keeps results from being written is said, and no room on a disk is asked for that has enough."""
    finished.publish(0, archive_of(stdout="one\n"))
    finished.close()

    ran = shoal("get", "words", "--output-dir", "/proc/here/there")

    assert ran.code != 0
    assert "cannot be written to /proc/here/there" in ran.err
    assert "Hint: Name another folder with --output-dir" in ran.err


def test_a_failed_program_has_a_result_too(shoal: Shoal, finished: Finished, folder: Path) -> None:
    """What a program that failed wrote can be fetched; when a later attempt completed, only that one counts."""
    finished.publish(0, archive_of(stdout="bad\n"), failed=True)
    finished.publish(1, archive_of(stdout="bad\n"), failed=True)
    finished.publish(1, archive_of(stdout="good\n"), attempt=2)
    finished.close(JobState.FAILED)
    assert shoal("get", "words").code == 0
    assert _tree(folder / "job-words") == {"stdout": "bad\ngood\n"}


def test_no_results_are_explained(shoal: Shoal, twin: Twin, background: Background) -> None:
    """Without any result the command says so and where else to look; that is no failure, as with the peer."""
    job = background.run(twin.submitted(Job(tasks=[Task(engine=Spec("noop"))])))
    ran = shoal("get", job)
    assert (ran.code, ran.out) == (0, "")
    assert "not closed yet" in ran.err
    background.run(twin.close(job))
    assert "shoal job logs" in shoal("get", job).err


def test_a_type_nobody_reads_is_told(
    shoal: Shoal, finished: Finished, twin: Twin, background: Background
) -> None:
    """A result of a type that has no driver here is named, with the types that have one."""
    execution = background.run(twin.assign(finished.job))
    background.run(twin.report(execution, S.COMPLETED, result=Spec("tape", {})))
    ran = shoal("get", "words")
    assert ran.code == 2
    assert "tape" in ran.err
    assert "urldownload" in ran.err


def close_with_ipfs(finished: Finished, twin: Twin, background: Background, folder: Path, kubo: Kubo) -> None:
    """Give the job a result on a Kubo node, one file, and close it."""
    (folder / "result").mkdir()
    (folder / "result" / "stdout").write_text("hello\n")
    spec = background.run(published(folder / "result", "ipfs", {}, kubo.multiaddr))
    execution = background.run(twin.assign(finished.job))
    background.run(twin.report(execution, S.COMPLETED, result=spec))
    finished.close()


def test_ipfs_results_come_from_the_kubo_one_names(
    shoal: Shoal, finished: Finished, twin: Twin, background: Background, kubo: Kubo, folder: Path
) -> None:
    """An IPFS result is read from the Kubo of ``--ipfs-connect`` or the configuration; the swarm flags are understood."""
    close_with_ipfs(finished, twin, background, folder, kubo)
    ran = shoal("get", "words", "--ipfs-connect", kubo.multiaddr_with_peer, "--output-dir", "by-flag")
    assert (ran.code, _tree(folder / "by-flag")) == (0, {"stdout": "hello\n"})
    nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{kubo.peer_id}"
    ran = shoal(
        *("get", "words", "-c", f"Node.IPFS.Connect={kubo.multiaddr}", "--output-dir", "by-key"),
        *("--ipfs-swarm-addrs", nobody, "--ipfs-swarm-key", "./swarm.key"),
    )
    assert ran.code == 0
    assert f"did not connect to {nobody}" in ran.err
    assert "swarm.key" in ran.err


def test_ipfs_results_come_from_a_private_swarm(
    shoal: Shoal,
    finished: Finished,
    twin: Twin,
    background: Background,
    folders: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the swarm's key and addresses a Kubo is started for the download, and reads from the only holder; nothing of it
    is left. A key that is none is refused, and so is one without an address, unless the person's own Kubo has that key."""
    key = f"/key/swarm/psk/1.0.0/\n/base16/\n{secrets.token_hex(32)}\n"
    (folder / "swarm.key").write_text(key)
    (folder / "wrong.key").write_text("not a key")
    holder, other = (
        background.enter(servers.kubo(folders / f"private-{number}-{uuid4().hex[:8]}", swarm_key=key))
        for number in range(2)
    )
    close_with_ipfs(finished, twin, background, folder, holder)

    at = [background.run(node.swarm_multiaddr()) for node in (other, holder)]
    addresses = ("--ipfs-swarm-addrs", at[0], "--ipfs-swarm-addrs", at[1])
    ran = shoal("get", "words", *addresses, "--ipfs-swarm-key", "swarm.key")
    assert ran.code == 0, ran.err
    assert _tree(folder / "job-words") == {"stdout": "hello\n"}
    assert "Warning" not in ran.err

    ran = shoal("get", "words", *addresses, "--ipfs-swarm-key", "wrong.key", "--output-dir", "no")
    assert ran.code == 2
    assert "wrong.key" in ran.err
    ran = shoal("get", "words", "--ipfs-swarm-key", "swarm.key", "--output-dir", "no")
    assert "--ipfs-swarm-addrs" in ran.err
    (own,) = folders.glob("private-0-*/repo")
    monkeypatch.setenv("IPFS_PATH", str(own))
    ran = shoal("get", "words", "--ipfs-swarm-key", "swarm.key", "--output-dir", "own")
    assert (ran.code, ran.err.count("Starting a Kubo"), _tree(folder / "own")) == (
        0,
        0,
        {"stdout": "hello\n"},
    )
    left = {path.name for path in folder.iterdir()}
    assert left == {"job.yaml", "swarm.key", "wrong.key", "result", "job-words", "own", "drivers"}


def test_what_comes_is_what_was_written(shoal: Shoal, finished: Finished, folder: Path) -> None:
    """A result of other bytes than the execution wrote, wherever they were changed, is an error, and nothing is kept."""
    (folder / "result").mkdir()
    (folder / "result" / "stdout").write_text("hello\n")
    record = Manifests(folder / "manifests", 60).record(ExecutionId("e-1"), folder / "result", lambda: None)
    finished.publish(0, archive_of(stdout="hello\n"), written=record)
    forged = finished.publish(1, archive_of(stdout="Hello\n"), written=record)
    finished.close()

    ran = shoal("get", "words")

    assert ran.code != 0
    assert f"not what execution {short(forged)} wrote" in ran.err
    assert record.sha256 in ran.err
    assert not (folder / "job-words").exists()


def test_what_nobody_recorded_is_told(shoal: Shoal, finished: Finished, folder: Path) -> None:
    """A result of which no record says what was written comes home, and the person hears that it could not be compared."""
    (folder / "result").mkdir()
    (folder / "result" / "a").write_text("A")
    record = Manifests(folder / "manifests", 60).record(ExecutionId("e-1"), folder / "result", lambda: None)
    finished.publish(0, archive_of(a="A"), written=record)
    unrecorded = finished.publish(1, archive_of(b="B"))
    finished.close()

    ran = shoal("get", "words")

    assert ran.code == 0, ran.err
    assert f"written by {short(unrecorded)}: what came was not compared" in ran.err
    assert _tree(folder / "job-words") == {"a": "A", "b": "B"}


def test_ipfs_results_come_through_gateways(
    shoal: Shoal, finished: Finished, twin: Twin, background: Background, kubo: Kubo, folder: Path
) -> None:
    """Where trustless gateways are named and no Kubo is, results come through them."""
    close_with_ipfs(finished, twin, background, folder, kubo)

    ran = shoal("get", "words", "-c", f"ResultDownloaders.Types.IPFS.Gateways={kubo.gateway_url}")

    assert ran.code == 0, ran.err
    assert _tree(folder / "job-words") == {"stdout": "hello\n"}


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
def test_s3_results_come_packed_or_plain(
    shoal: Shoal,
    finished: Finished,
    twin: Twin,
    background: Background,
    s3: S3Server,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
) -> None:
    """A result on S3 is the same folder whether it was published as an archive or file by file."""
    (folder / "result" / "outputs").mkdir(parents=True)
    (folder / "result" / "stdout").write_text("hello\n")
    (folder / "result" / "outputs" / "f").write_text("kept\n")
    spec = _on_s3(s3, background, monkeypatch, folder / "result", encoding)
    execution = background.run(twin.assign(finished.job))
    background.run(twin.report(execution, S.COMPLETED, result=spec))
    finished.close()
    ran = shoal("get", "words")
    assert ran.code == 0, ran.err
    assert _tree(folder / "job-words") == {"stdout": "hello\n", "outputs/f": "kept\n"}


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
def test_a_result_of_a_nodes_profile_is_read_with_an_account_of_ones_own(
    shoal: Shoal,
    finished: Finished,
    twin: Twin,
    background: Background,
    s3: S3Server,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
) -> None:
    """Where the requester cannot sign for it, whoever may read it gets it; whoever may not is told which profile it takes,
    and what to configure.
    """
    (folder / "result").mkdir()
    (folder / "result" / "stdout").write_text("hello\n")
    spec = _on_s3(s3, background, monkeypatch, folder / "result", encoding)
    execution = background.run(twin.assign(finished.job))
    result = Spec(spec.type, {**spec.params, "Profile": "lab"})
    background.run(twin.report(execution, S.COMPLETED, result=result))
    finished.close()
    ran = shoal("get", "words")
    assert ran.code == 0, ran.err
    assert _tree(folder / "job-words") == {"stdout": "hello\n"}
    for name in s3.environment:
        monkeypatch.delenv(name)
    for words in (("get", "words", "--output-dir", "other"), ("cat", "words", "stdout")):
        ran = shoal(*words)
        assert ran.code != 0
        assert "published it with the AWS profile 'lab'" in ran.err
        assert "Publishers.Types.S3.AllowedProfiles: [lab]" in ran.err


def _on_s3(
    s3: S3Server, background: Background, monkeypatch: pytest.MonkeyPatch, folder: Path, encoding: str
) -> Spec:
    """A result that is published to S3, by an account that this process has from now on."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"get-{encoding}-{uuid4().hex[:8]}"
    params = {"Bucket": bucket, "Key": "out/{executionID}", "Endpoint": s3.endpoint, "Encoding": encoding}
    background.run(made_bucket(s3, bucket))
    return background.run(published(folder, "s3", params))


async def made_bucket(s3: S3Server, bucket: str) -> None:
    from aiobotocore.session import get_session

    async with get_session().create_client("s3", endpoint_url=s3.endpoint, region_name=s3.region) as client:
        await client.create_bucket(Bucket=bucket)


async def published(path: Path, type: str, params: dict[str, str], ipfs_connect: str = "") -> Spec:
    """Publish as a node does; the result's spec."""
    settings = StorageSettings(
        path.parent / "drivers", ipfs_connect=ipfs_connect, addresses=read_policy(["loopback"])
    )
    async with open_drivers(settings) as drivers:
        publisher = drivers.publishers[type]
        label = Label(JobId("j-x"), ExecutionId("e-x"), NODE, 0.0)
        form = read_params(params, publisher.params, type)
        return await publisher.publish(path, form, label, silent)
