"""The main job, both ways: S3 and IPFS in, Docker and WebAssembly, S3, IPFS and the node itself out, and home again."""

import os
from pathlib import Path

import pytest

from tests.acceptance.data import Bucket, Ipfs, digest, digests, read_tree, write_tree
from tests.acceptance.deployment import Api, Deployment
from tests.acceptance.jobs import job, module, publish, shell, stdout

TREE = {
    "data.bin": os.urandom(3 << 20),
    "empty": b"",
    "deep/er/still/note.txt": b"down here\n",
    "größe 数据.txt": "unicode ✓\n".encode(),
}
"""What has to come back byte for byte: binary data of some MiB, an empty file, nested folders, a name beyond ASCII."""

PUBLISHERS = ["ipfs", "gzip", "plain", "local"]


def publisher(kind: str, bucket: Bucket) -> dict[str, object]:
    if kind in ("gzip", "plain"):
        return bucket.publisher("results/{jobID}/{executionID}", Encoding=kind)
    return {"Type": kind}


@pytest.mark.parametrize("kind", PUBLISHERS)
def test_docker(
    deployment: Deployment, api: Api, bucket: Bucket, ipfs: Ipfs, image: str, tmp_path: Path, kind: str
) -> None:
    """A container reads an S3 prefix and an IPFS folder, and `get` brings home the very bytes that it wrote."""
    bucket.put_tree("in/", TREE)
    cid = ipfs.add(write_tree(tmp_path / "tree", TREE))
    inputs = [bucket.source("in/*", "/s3"), ipfs.source(cid, "/ipfs")]
    script = "cp -r /s3 /outputs/s3 && cp -r /ipfs /outputs/ipfs && echo done"
    (execution,) = api.completed(
        job(shell(image, script, InputSources=inputs, **publish(publisher(kind, bucket))))
    )

    said = deployment.shoal("get", execution["JobID"], "--output-dir", tmp_path / "home")

    assert said.code == 0, said.err
    assert read_tree(tmp_path / "home" / "outputs" / "s3") == digests(TREE)
    assert read_tree(tmp_path / "home" / "outputs" / "ipfs") == digests(TREE)
    assert (tmp_path / "home" / "stdout").read_bytes() == b"done\n"
    assert (tmp_path / "home" / "exitCode").read_text().strip() == "0"


@pytest.mark.parametrize("kind", PUBLISHERS)
def test_wasm(
    deployment: Deployment, api: Api, bucket: Bucket, ipfs: Ipfs, tmp_path: Path, kind: str
) -> None:
    """A WebAssembly module reads an S3 prefix and an IPFS file, and `get` brings home the very bytes that it wrote."""
    data = os.urandom(2 << 20)
    (tmp_path / "data.bin").write_bytes(data)
    bucket.put("in/data.bin", data)
    sources = [
        (bucket.source("in/*", "/in"), "/in/data.bin"),
        (ipfs.source(ipfs.add(tmp_path / "data.bin"), "/in"), "/in"),
    ]
    for number, (source, path) in enumerate(sources):
        task = module(
            "copy", path, "/outputs/copy", InputSources=[source], **publish(publisher(kind, bucket))
        )
        (execution,) = api.completed(job(task))

        said = deployment.shoal("get", execution["JobID"], "--output-dir", tmp_path / f"home{number}")

        assert said.code == 0, said.err
        assert read_tree(tmp_path / f"home{number}" / "outputs") == {"copy": digest(data)}


def test_provenance(api: Api, bucket: Bucket, ipfs: Ipfs, image: str, tmp_path: Path) -> None:
    """Each execution tells which bytes it read: the CID of an IPFS input, versions or ETags of S3 objects."""
    bucket.put_tree("in/", {"a": b"first", "b": b"second"})
    cid = ipfs.add(write_tree(tmp_path / "tree", {"c": b"third"}))
    inputs = [
        bucket.source("in/a", "/one"),
        bucket.source("in/*", "/prefix"),
        ipfs.source(cid, "/ipfs"),
    ]

    (first,) = api.completed(job(shell(image, "true", InputSources=inputs)))
    bucket.put("in/a", b"changed")
    (second,) = api.completed(job(shell(image, "true", InputSources=inputs)))

    before, after = ({each["Target"]: each["Identity"] for each in it["Inputs"]} for it in (first, second))
    assert cid in before["/ipfs"]
    assert before["/ipfs"] == after["/ipfs"]
    assert before["/one"] != after["/one"]
    assert before["/prefix"] != after["/prefix"]
    assert {each["Type"] for each in first["Inputs"]} == {"s3", "ipfs"}


def test_result_is_an_input(api: Api, ipfs: Ipfs, image: str) -> None:
    """What a job published is a source that the next job can read."""
    write = shell(image, "echo passed on > /outputs/word", **publish({"Type": "ipfs"}))
    (first,) = api.completed(job(write))

    read = shell(
        image,
        "cat /in/outputs/word",
        InputSources=[{"Target": "/in", "Source": first["PublishedResult"]}],
    )
    (second,) = api.completed(job(read))

    assert stdout(second) == "passed on\n"
