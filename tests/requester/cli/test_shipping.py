"""``-i ./folder:/in``: a person's own files get to where nodes find them, once."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest
import yaml
from msgspec import to_builtins

from deploy.servers import Kubo, S3Server
from protocol.config import Config, read_config
from protocol.errors import Broken
from protocol.jobs import Input, Spec
from protocol.nodes import Offer
from protocol.spec.drivers import OWN
from requester.cli import shipping
from requester.cli.shipping import shipped as shipped_input
from storage.addresses import read_policy
from storage.contents import contents_of
from storage.contract import Form, Label, Progress, Share, silent
from storage.drivers import open_drivers
from storage.ipfs import PublisherParams
from storage.params import read_params
from storage.s3 import S3Client
from storage.settings import StorageSettings
from tests.conftest import Background
from tests.contracts.trees import Link, Run, Tree, plant, snapshot, with_folders
from tests.requester.cli.conftest import Shoal
from tests.requester.cli.test_get import made_bucket
from tests.storage.s3_world import settings_of
from tests.storage.test_ipfs import pins

FILES: Tree = {"a": b"one", "deep/b": b"two" * 1000, "link": Link("deep/b"), "empty": b""}
PLAIN: Tree = {"a": b"one", "deep/b": b"two" * 1000, "empty": b""}


def shipped(shoal: Shoal, *words: str) -> Any:
    """The input that a command would submit."""
    ran = shoal("docker", "run", "--dry-run", *words, "ubuntu", "true")
    assert ran.code == 0, ran.err
    (source,) = yaml.safe_load(ran.out)["Tasks"][0]["InputSources"]
    return source


async def arrives(source: Any, folder: Path, ipfs_connect: str = "") -> Any:
    """What a node makes of an input."""
    spec = Spec(source["Source"]["Type"], source["Source"]["Params"])
    settings = StorageSettings(folder / "own", ipfs_connect=ipfs_connect, addresses=read_policy(["loopback"]))
    async with open_drivers(settings) as drivers:
        driver = drivers.sources[spec.type.lower()]
        params = read_params(spec.params, driver.params, "source")
        fetched = await driver.fetch(
            params, await driver.resolve(params, Share()), folder / uuid4().hex, silent
        )
    return fetched.path.read_bytes() if fetched.path.is_file() else snapshot(fetched.path)


def test_a_small_folder_travels_with_the_job(shoal: Shoal, folder: Path) -> None:
    """Files, folders and links arrive as they are; the same folder is the same input."""
    plant(FILES, folder / "mine")

    one = shipped(shoal, "-i", "./mine:/in")

    assert (one["Source"]["Type"], one["Target"]) == ("inline", "/in")
    assert one == shipped(shoal, "-i", f"src={folder}/mine,dst=/in,opt=to=requester")
    assert asyncio.run(arrives(one, folder)) == with_folders(FILES)


def test_a_small_file_is_that_file(shoal: Shoal, folder: Path) -> None:
    """It is mounted at the target itself."""
    (folder / "a=b.csv").write_bytes(b"x,y\n")

    one = shipped(shoal, "-i", "./a=b.csv:/in/data.csv")

    assert one["Target"] == "/in/data.csv"
    assert asyncio.run(arrives(one, folder)) == b"x,y\n"


def test_a_link_to_a_folder_is_that_folder(shoal: Shoal, folder: Path) -> None:
    """What a person calls a folder may be a link to it; the links in it are links still."""
    plant(FILES, folder / "real")
    (folder / "mine").symlink_to("real")

    one = shipped(shoal, "-i", "./mine:/in")

    assert asyncio.run(arrives(one, folder)) == with_folders(FILES)


def test_a_program_that_travels_alone_is_told_of(shoal: Shoal, folder: Path) -> None:
    """Inside a folder it starts where it arrives; alone it would not, which a person hears before the job does."""
    plant({"tool": Run(b"#!/bin/sh\n")}, folder / "mine")
    command = ("docker", "run", "--dry-run", "-i")

    alone, inside = (
        shoal(*command, words, "ubuntu", "true") for words in ("./mine/tool:/in/tool", "./mine:/in")
    )

    assert (alone.code, "when they come from the requester: 1. Ship the folder" in alone.err) == (0, True)
    assert (inside.code, "executable" in inside.err) == (0, False)


def test_a_folder_goes_to_ipfs(shoal: Shoal, folder: Path, kubo: Kubo) -> None:
    """Its CID is the input; a file is one by its path."""
    plant(FILES, folder / "mine")
    connect = ("-c", f"Node.IPFS.Connect={kubo.multiaddr}")

    tree = shipped(shoal, *connect, "-i", "src=./mine,dst=/in,opt=to=ipfs")
    file = shipped(shoal, *connect, "-c", "Uploads.To=ipfs", "-i", "./mine/a:/in/a")

    assert tree == shipped(shoal, *connect, "-i", "src=./mine,dst=/in,opt=to=ipfs")
    assert asyncio.run(arrives(tree, folder, kubo.multiaddr)) == with_folders(FILES)
    assert asyncio.run(arrives(file, folder, kubo.multiaddr)) == b"one"


def test_what_changes_on_its_way_to_ipfs_is_not_kept_there(
    folder: Path, kubo: Kubo, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that changes while it is sent is an error that says so, and no pin is left of what came."""
    mine = plant(FILES | {"more": uuid4().bytes}, folder / "mine")
    wanted = Input(Spec(OWN, {"Path": str(mine), "To": "ipfs"}), "/in")
    config = read_config(given=[f"Node.IPFS.Connect={kubo.multiaddr}"])
    before = background.run(pins(kubo))
    publish = shipping._published

    async def meanwhile(*given: Any) -> Spec:
        (mine / "a").write_bytes(b"uno")
        return await publish(*given)

    with monkeypatch.context() as patch:
        patch.setattr(shipping, "_published", meanwhile)
        with pytest.raises(Broken, match="mine changed while it was read"):
            shipped_input(wanted, lambda: config)
    assert background.run(pins(kubo)) == before

    shipped_input(wanted, lambda: config)
    assert len(background.run(pins(kubo)) - before) == 1


@pytest.fixture
def bucket(s3: S3Server, background: Background, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket that the person's own account reaches."""
    for name, value in {**s3.environment, "AWS_ENDPOINT_URL_S3": s3.endpoint}.items():
        monkeypatch.setenv(name, value)
    bucket = f"ship-{uuid4().hex[:12]}"
    background.run(made_bucket(s3, bucket))
    return bucket


def test_a_folder_goes_to_s3_once(shoal: Shoal, folder: Path, bucket: str) -> None:
    """It lies under its digest; the same bytes are not sent again, other ones lie elsewhere."""
    plant(PLAIN, folder / "mine")
    words = ("-i", f"src=./mine,dst=/in,opt=to=s3://{bucket}/from/me")

    one = shipped(shoal, *words)
    again = shoal("docker", "run", "--dry-run", *words, "ubuntu", "true")
    (folder / "mine" / "a").write_bytes(b"uno")
    other = shipped(shoal, *words)

    assert one["Source"]["Params"]["Key"].startswith("from/me/sha256-")
    assert "there already" in again.err
    assert yaml.safe_load(again.out)["Tasks"][0]["InputSources"] == [one]
    assert other["Source"]["Params"]["Key"] != one["Source"]["Params"]["Key"]
    assert asyncio.run(arrives(one, folder)) == with_folders(PLAIN)
    file = shipped(shoal, "-i", f"src=./mine/a,dst=/in/a,opt=to=s3://{bucket}")
    assert file["Target"] == "/in"
    assert asyncio.run(arrives(file, folder)) == {"a": b"uno"}


def test_what_s3_does_not_keep_is_said(shoal: Shoal, folder: Path, bucket: str) -> None:
    """A program among the files will not start where they arrive, and that is not found out by the job."""
    plant({"tool": Run(b"#!/bin/sh\n"), "data": b"x"}, folder / "mine")
    for path, said in (("mine", True), ("mine/tool", True), ("mine/data", False)):
        where = f"src=./{path},dst=/in/{Path(path).name},opt=to=s3://{bucket}"
        ran = shoal("docker", "run", "--dry-run", "-i", where, "ubuntu", "true")

        assert ran.code == 0
        assert ("will not be so when they come from S3: 1." in ran.err) is said
    (folder / "mine" / "link").symlink_to("data")
    ran = shoal(
        "docker", "run", "--dry-run", "-i", f"src=./mine,dst=/in,opt=to=s3://{bucket}", "ubuntu", "true"
    )
    assert "the link 'link' cannot be" in ran.err
    assert "Hint: Ship with opt=to=ipfs" in ran.err


def test_many_who_send_the_same_at_once_all_have_it(folder: Path, bucket: str) -> None:
    """Jobs that are submitted side by side, each with the same new folder: none takes away what another has put there."""
    plant(PLAIN | {f"many/{number}": b"x" * 1000 for number in range(200)}, folder / "mine")
    wanted = Input(Spec(OWN, {"Path": str(folder / "mine"), "To": f"s3://{bucket}"}), "/in")

    with ThreadPoolExecutor(4) as people:
        made = list(people.map(lambda _: shipped_input(wanted, lambda: Config([])), range(4)))

    assert made == made[:1] * 4
    assert asyncio.run(arrives(to_builtins(made[0]), folder)) == snapshot(folder / "mine")


LARGE = bytes(6 << 20)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("small", "'a' changed while"),
        ("large", "'large' changed while"),
        ("grown", "mine changed while"),
        ("shorter", "'deep/b' became shorter"),
        ("gone", "'a' went away"),
        ("more", "mine changed while"),
    ],
)
def test_what_changes_meanwhile_never_lies_under_another_digest(
    what: str,
    said: str,
    s3: S3Server,
    folder: Path,
    bucket: str,
    background: Background,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder that changes while it is sent is an error that says so, and all that lies under its digest then is of what it
    was: nothing has to be removed again. Whoever ships what it was ships all of it."""
    tree = {**PLAIN, "large": LARGE}
    mine = plant(tree, folder / "mine")
    wanted = Input(Spec(OWN, {"Path": str(mine), "To": f"s3://{bucket}"}), "/in")
    publish = shipping._published

    async def meanwhile(*given: Any) -> Spec:
        match what:
            case "small":
                (mine / "a").write_bytes(b"uno")
            case "large":
                (mine / "large").write_bytes(LARGE[1:] + b"x")
            case "grown":
                (mine / "empty").write_bytes(b"x")
            case "shorter":
                (mine / "deep" / "b").write_bytes(b"two")
            case "gone":
                (mine / "a").unlink()
            case "more":
                (mine / "new").write_bytes(b"x")
        return await publish(*given)

    with monkeypatch.context() as patch:
        patch.setattr(shipping, "_published", meanwhile)
        with pytest.raises(Broken, match=said):
            shipped_input(wanted, lambda: Config([]))

    digest = contents_of(plant(tree, folder / "again")).sha256
    there = background.run(objects_in(s3, bucket))
    assert there.items() <= {f"sha256-{digest}/{path}": data for path, data in tree.items()}.items()
    again = Input(Spec(OWN, {"Path": str(folder / "again"), "To": f"s3://{bucket}"}), "/in")
    made = shipped_input(again, lambda: Config([]))
    assert asyncio.run(arrives(to_builtins(made), folder)) == with_folders(tree)


async def objects_in(s3: S3Server, bucket: str) -> dict[str, bytes]:
    """All objects of a bucket."""
    async with S3Client(settings_of(s3)) as client:
        raw = (await client.connect(s3.endpoint)).raw
        page = await raw.list_objects_v2(Bucket=bucket)
        found = {}
        for each in page.get("Contents", ()):
            answer = await raw.get_object(Bucket=bucket, Key=each["Key"])
            found[each["Key"]] = await answer["Body"].read()
    return found


def test_files_of_the_same_bytes_keep_their_names(shoal: Shoal, folder: Path, bucket: str) -> None:
    """Two files that have the same in them, put into one bucket: each job finds the one that it named, and no other."""
    for name in ("one.csv", "other.csv"):
        (folder / name).write_bytes(b"x,y\n")

    for name in ("one.csv", "other.csv"):
        made = shipped(shoal, "-i", f"src=./{name},dst=/in/{name},opt=to=s3://{bucket}")
        assert asyncio.run(arrives(made, folder)) == {name: b"x,y\n"}


class Recorder:
    """A publisher that keeps for whom it published."""

    type: ClassVar[str] = "ipfs"
    params: ClassVar[Form] = PublisherParams

    def __init__(self) -> None:
        self.executions: list[str] = []

    async def probe(self) -> Offer:
        """It is there."""
        return Offer(self.type)

    async def publish(self, folder: Path, params: PublisherParams, label: Label, progress: Progress) -> Spec:
        """Publish nothing."""
        self.executions.append(label.execution)
        return Spec("ipfs", {})


async def test_uploads_of_one_name_are_told_apart(folder: Path) -> None:
    """A pin of an upload that failed is known by its execution's id: what another upload of the same name has pinned
    meanwhile is never taken for it."""
    publisher = Recorder()

    for _ in range(2):
        await shipping._published(publisher, folder, {"Name": "mine"})

    assert len(set(publisher.executions)) == 2


@pytest.mark.parametrize("lost", ["empty", "none/"])
def test_what_lacks_only_what_has_no_bytes_is_not_there(
    lost: str, shoal: Shoal, s3: S3Server, folder: Path, bucket: str, background: Background
) -> None:
    """A sending that broke off before an empty file or folder is not taken for a whole one."""
    plant({**PLAIN, "none": None}, folder / "mine")
    words = ("-i", f"src=./mine,dst=/in,opt=to=s3://{bucket}")
    key = shipped(shoal, *words)["Source"]["Params"]["Key"] + lost

    background.run(changed_in(s3, "delete_object", bucket, key))
    again = shipped(shoal, *words)

    assert asyncio.run(arrives(again, folder)) == with_folders({**PLAIN, "none": None})


def test_what_is_not_of_a_folder_and_lies_under_its_digest_is_told(
    shoal: Shoal, s3: S3Server, folder: Path, bucket: str, background: Background
) -> None:
    """What somebody has put beside the files of a digest would come with them: it is named, and nothing is submitted."""
    plant(PLAIN, folder / "mine")
    words = ("-i", f"src=./mine,dst=/in,opt=to=s3://{bucket}")
    key = shipped(shoal, *words)["Source"]["Params"]["Key"]
    background.run(changed_in(s3, "put_object", bucket, f"{key}stranger"))

    ran = shoal("docker", "run", "--dry-run", *words, "ubuntu", "true")

    assert ran.code != 0
    assert "holds 'stranger', which is not of what its name says" in ran.err


async def changed_in(s3: S3Server, call: str, bucket: str, key: str) -> None:
    """Have one object made or removed."""
    async with S3Client(settings_of(s3)) as client:
        await getattr((await client.connect(s3.endpoint)).raw, call)(Bucket=bucket, Key=key)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-i", "./nothing:/in"], "no such file or folder here"),
        (["-i", "./out:/in"], "leads out of its folder"),
        (["-i", "./pipe:/in"], "is a pipe"),
        (["-i", "./pipe/p:/in"], "pipe/p is a pipe"),
        (["-i", "/dev/zero:/in"], "/dev/zero is a pipe, a socket or a device"),
        (["-i", "/proc/self/mem:/in"], "/proc/self/mem cannot be read: Input/output error"),
        (["-i", "./large:/in"], "travel with a job"),
        (["-i", "src=./mine,dst=/in,opt=to=ftp://x"], "takes no files"),
        (["-i", "src=./mine,dst=/in,opt=to=ipfs"], "no Kubo node listens"),
        (["-i", "src=./mine/a,dst=/in/b,opt=to=s3://b"], "keeps its name"),
        (["-i", "src=./mine,dst=/in,opt=too=x"], "unknown option"),
    ],
)
def test_what_cannot_be_shipped_is_told(
    shoal: Shoal, folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    """Nothing is left out in silence, and nothing is submitted."""
    import os
    import random

    plant(PLAIN, folder / "mine")
    (folder / "ipfs").mkdir()
    (folder / "ipfs" / "api").write_text("/ip4/127.0.0.1/tcp/1")
    monkeypatch.setenv("IPFS_PATH", str(folder / "ipfs"))
    for name in ("out", "pipe"):
        (folder / name).mkdir()
    (folder / "out" / "passwd").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe" / "p")
    (folder / "large").write_bytes(random.Random(1).randbytes(8 << 20))

    ran = shoal("docker", "run", "--dry-run", *words, "ubuntu", "true")

    assert (ran.code != 0, ran.out) == (True, "")
    assert message in ran.err


OWN_SPEC = """\
Name: words
Type: batch
Tasks:
  - Name: main
    Engine: {Type: noop}
    InputSources:
      - Target: /in
        Alias: mine
        Source: {Type: local, Params: {SourcePath: ./mine}}
"""


def test_a_spec_names_what_lies_beside_it(
    shoal: Shoal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``SourcePath: ./mine`` of a spec file is the folder beside it, wherever the person is; in a spec from standard input
    it is where they are. The rest of the input stays as it is written.
    """
    plant(FILES, folder / "specs" / "mine")
    (folder / "specs" / "own.yaml").write_text(OWN_SPEC)

    ran = shoal("submit", "--dry-run", "specs/own.yaml")
    assert ran.code == 0, ran.err
    (one,) = yaml.safe_load(ran.out)["Tasks"][0]["InputSources"]
    checked = shoal("validate", "specs/own.yaml")
    monkeypatch.chdir(folder / "specs")
    here = shoal("submit", "--dry-run", "-", stdin=OWN_SPEC)

    assert (one["Source"]["Type"], one["Target"], one["Alias"]) == ("inline", "/in", "mine")
    assert (checked.code, checked.out) == (0, "OK\n")
    assert here.out == ran.out
    assert asyncio.run(arrives(one, folder)) == with_folders(FILES)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            "{SourcePath: ./nothing}",
            "job.yaml:9:52  Tasks[0].InputSources[0].Source.Params.SourcePath: there is no",
        ),
        (
            "{SourcePath: ./mine, ReadWrite: true}",
            "job.yaml:9:71  Tasks[0].InputSources[0].Source.Params.ReadWrite",
        ),
        (
            "{SourcePath: ./mine, CreateAs: dir}",
            "job.yaml:9:60  Tasks[0].InputSources[0].Source.Params.CreateAs",
        ),
        (
            "{SourcePath: mine}",
            "job.yaml:9:52  Tasks[0].InputSources[0].Source.Params.SourcePath must be an absolute",
        ),
        ("{SourcePath: ./out}", "job.yaml:9:52: "),
        ("{SourcePath: ./mine, To: ftp://x}", "job.yaml:9:52: "),
    ],
)
def test_what_a_spec_cannot_ship_is_told_in_its_place(
    shoal: Shoal, folder: Path, params: str, message: str
) -> None:
    """With file, line and column; nothing is submitted."""
    plant(PLAIN, folder / "mine")
    (folder / "out").mkdir()
    (folder / "out" / "passwd").symlink_to("/etc/passwd")
    (folder / "job.yaml").write_text(OWN_SPEC.replace("{SourcePath: ./mine}", params))

    ran = shoal("submit", "--dry-run", "job.yaml")

    assert (ran.code != 0, ran.out) == (True, "")
    assert message in ran.err
