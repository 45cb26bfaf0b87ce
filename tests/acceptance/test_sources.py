"""Where inputs come from and results go: each driver, as a job meets it."""

import gzip
import io
import tarfile
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.data import Bucket, Ipfs, digest, write_tree
from tests.acceptance.deployment import Api, Deployment
from tests.acceptance.jobs import Gate, inline, job, publish, shell, stdout

Json = dict[str, Any]

LIST = 'cd /in && find . -type f | sort | while read f; do echo "$f $(cat "$f")"; done'
TREE = {"one.txt": b"first", "sub/two.txt": b"second", "sub/deeper/three.txt": b"third"}
LISTED = "./one.txt first\n./sub/deeper/three.txt third\n./sub/two.txt second\n"


def reads(api: Api, image: str, source: Json, script: str = LIST) -> str:
    """What a program prints that finds an input at /in."""
    (execution,) = api.completed(job(shell(image, script, InputSources=[source])))
    return stdout(execution)


def test_s3_prefix(api: Api, image: str, bucket: Bucket) -> None:
    """All objects below a prefix arrive as files in folders, and no other object does."""
    bucket.put_tree("data/", TREE)
    bucket.put("database", b"not meant")

    assert reads(api, image, bucket.source("data/*", "/in")) == LISTED
    assert reads(api, image, bucket.source("data/", "/in")) == LISTED


def test_s3_single_object(api: Api, image: str, bucket: Bucket) -> None:
    """A single object arrives as one file, below its target under its own name."""
    bucket.put_tree("data/", TREE)

    assert reads(api, image, bucket.source("data/sub/two.txt", "/in")) == "./two.txt second\n"


def test_s3_version(api: Api, image: str, bucket: Bucket) -> None:
    """A version of an object that was replaced since can still be named."""
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    old = bucket.client.put_object(Bucket=bucket.name, Key="x", Body=b"old")["VersionId"]
    bucket.put("x", b"new")

    assert reads(api, image, bucket.source("x", "/in")) == "./x new\n"
    assert reads(api, image, bucket.source("x", "/in", VersionID=old)) == "./x old\n"


def test_ipfs_folder(api: Api, image: str, ipfs: Ipfs, tmp_path: Path) -> None:
    """The CID of a folder arrives as that folder."""
    cid = ipfs.add(write_tree(tmp_path / "tree", TREE))

    assert reads(api, image, ipfs.source(cid, "/in")) == LISTED


def test_ipfs_file(api: Api, image: str, ipfs: Ipfs, tmp_path: Path) -> None:
    """The CID of a file arrives as that file."""
    write_tree(tmp_path, {"file": b"alone\n"})

    assert reads(api, image, ipfs.source(ipfs.add(tmp_path / "file"), "/in"), "cat /in") == "alone\n"


def test_ipfs_path(api: Api, image: str, ipfs: Ipfs, tmp_path: Path) -> None:
    """`CID/path` names a file or a folder within a CID."""
    cid = ipfs.add(write_tree(tmp_path / "tree", TREE))

    assert reads(api, image, ipfs.source(f"{cid}/sub/two.txt", "/in"), "cat /in") == "second"
    assert (
        reads(api, image, ipfs.source(f"{cid}/sub", "/in")) == "./deeper/three.txt third\n./two.txt second\n"
    )


@pytest.fixture
def web() -> Iterator[str]:
    """The address of a web server with one file of 2 MiB at /some/data.bin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.startswith("/some/data.bin")
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(FILE) if found else 0))
            self.send_header("ETag", '"1"')
            self.end_headers()
            if found:
                self.wfile.write(FILE)

        def log_message(self, *about: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


FILE = bytes(range(256)) * 8192


def test_url_download(api: Api, image: str, web: str) -> None:
    """A file from a web server arrives below its target under its own name, byte for byte."""
    source = {
        "Target": "/in",
        "Source": {"Type": "urlDownload", "Params": {"URL": f"{web}/some/data.bin?token=1"}},
    }

    assert reads(api, image, source, "sha256sum /in/*") == f"{digest(FILE)}  /in/data.bin\n"


def test_local(deployment: Deployment, api: Api, image: str) -> None:
    """A path of the node that its owner allows is mounted as it is: read-only, or for writing if that is allowed too."""
    here = write_tree(deployment.shared / "read" / uuid4().hex, TREE)
    there = write_tree(deployment.shared / "write" / uuid4().hex, {"kept": b"before"})
    to_read = {"Type": "local", "Params": {"SourcePath": str(here)}}
    to_write = {"Type": "local", "Params": {"SourcePath": str(there), "ReadWrite": True}}

    assert reads(api, image, {"Target": "/in", "Source": to_read}) == LISTED
    assert (
        reads(api, image, {"Target": "/in", "Source": to_write}, "echo new > /in/made; ls /in")
        == "kept\nmade\n"
    )
    assert (there / "made").read_bytes() == b"new\n"


def test_local_not_allowed(deployment: Deployment, api: Api, image: str, tmp_path: Path) -> None:
    """A path that no node allows is not mounted, whatever it leads to."""
    write_tree(tmp_path, {"secret": b"secret"})
    link = deployment.shared / "read" / uuid4().hex
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path)
    for path in (tmp_path, link, deployment.shared / "read" / ".." / ".." / tmp_path.name):
        source = {"Type": "local", "Params": {"SourcePath": str(path)}}
        view = api.run(job(shell(image, "cat /in/*", InputSources=[{"Target": "/in", "Source": source}])))

        assert view["Job"]["State"]["StateType"] == "Failed"
        assert "secret" not in str(view["Executions"])


def test_inline_file(api: Api, image: str, tmp_path: Path) -> None:
    """Data inside the spec arrives as a file, also when it is too large for the log."""
    for size in (10, 400_000):
        data = (b"0123456789" * size)[:size]
        write_tree(tmp_path, {"data": data})

        assert (
            reads(api, image, inline("/in", tmp_path / "data"), "sha256sum < /in") == f"{digest(data)}  -\n"
        )


def test_inline_folder(api: Api, image: str) -> None:
    """A gzipped tar inside the spec arrives as a folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, data in TREE.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    url = f"data:application/gzip;base64,{b64encode(packed.getvalue()).decode()}"

    assert (
        reads(api, image, {"Target": "/in", "Source": {"Type": "inline", "Params": {"URL": url}}}) == LISTED
    )


def test_several_inputs(api: Api, image: str, bucket: Bucket, ipfs: Ipfs, tmp_path: Path) -> None:
    """One task reads from several sources at once, each at its own target."""
    bucket.put("x", b"from s3 ")
    cid = ipfs.add(write_tree(tmp_path, {"y": b"from ipfs"}) / "y")
    inputs = [bucket.source("x", "/a"), ipfs.source(cid, "/b/c")]

    (execution,) = api.completed(job(shell(image, "cat /a/x /b/c", InputSources=inputs)))

    assert stdout(execution) == "from s3 from ipfs"


def test_publish_to_ipfs(api: Api, image: str, ipfs: Ipfs) -> None:
    """A result in IPFS is a pinned folder: the outputs, both streams and the exit code."""
    script = "echo made > /outputs/file; echo out; echo err >&2"

    (execution,) = api.completed(job(shell(image, script, **publish({"Type": "ipfs"}))))

    cid = execution["PublishedResult"]["Params"]["CID"]
    assert execution["PublishedResult"]["Type"] == "ipfs"
    assert ipfs.newest(cid) in ipfs.pinned()
    assert sorted(ipfs.listed(cid)) == ["exitCode", "outputs/", "stderr", "stdout"]
    assert ipfs.cat(f"{cid}/outputs/file") == b"made\n"
    assert ipfs.cat(f"{cid}/stdout") == b"out\n"
    assert ipfs.cat(f"{cid}/stderr") == b"err\n"


def test_publish_to_s3_as_objects(api: Api, image: str, bucket: Bucket) -> None:
    """A result in S3 may be an object a file, below a key that names job and execution."""
    publisher = bucket.publisher("out/{jobID}/{executionID}/", Encoding="plain")

    (execution,) = api.completed(job(shell(image, "echo made > /outputs/file", **publish(publisher))))

    prefix = f"out/{execution['JobID']}/{execution['ID']}/"
    assert bucket.get(f"{prefix}outputs/file") == b"made\n"
    assert {f"{prefix}{name}" for name in ("outputs/file", "stdout", "exitCode")} <= set(bucket.keys())
    assert execution["PublishedResult"]["Type"] == "s3"
    assert execution["PublishedResult"]["Params"]["Key"] == prefix


def test_publish_to_s3_as_archive(api: Api, image: str, bucket: Bucket) -> None:
    """A result in S3 is by default one gzipped tar, under a key made from its template."""
    publisher = bucket.publisher("out/{jobID}/{executionID}/{nodeID}-{date}-{time}")

    (execution,) = api.completed(job(shell(image, "echo made > /outputs/file", **publish(publisher))))

    (key,) = bucket.keys()
    assert key.startswith(f"out/{execution['JobID']}/{execution['ID']}/{execution['NodeID']}-20")
    assert key.endswith(".tar.gz")
    assert execution["PublishedResult"]["Params"]["Key"] == key
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(bucket.get(key)))) as tar:
        (name,) = [each for each in tar.getnames() if each.endswith("outputs/file")]
        made = tar.extractfile(name)
        assert made is not None
        assert made.read() == b"made\n"


def test_no_result_is_lost(api: Api, image: str, gate: Gate, bucket: Bucket) -> None:
    """A job counts as completed only when its result is where it should be."""
    task = gate.holds(image, "echo made > /outputs/file", **publish(bucket.publisher("r", Encoding="plain")))
    identifier = api.submit(job(task))
    api.running(identifier)
    assert bucket.keys() == []

    gate.open()
    api.ended(identifier)

    assert bucket.get("r/outputs/file") == b"made\n"
