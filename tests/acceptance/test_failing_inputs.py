"""Inputs that are not there, may not be read, or stop coming: the job fails, and says which input and what to do."""

from pathlib import Path

import pytest

from tests.acceptance.data import Bucket
from tests.acceptance.deployment import wait_until_empty
from tests.acceptance.fragile import Fragile, Valve, constraint, on, port_of, state
from tests.acceptance.jobs import Json, job, shell

NOBODYS: str = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
"""A CID that no node has."""


def reads(fragile: Fragile, *sources: Json, script: str = "true") -> Json:
    """A task that reads these inputs."""
    return shell(fragile.image, script, InputSources=list(sources))


def failed(fragile: Fragile, spec: Json) -> Json:
    """Run a job that has to fail; the job as REST tells it."""
    return fragile.failed(fragile.api.submit(spec))


def said(fragile: Fragile, spec: Json, tmp_path: Path) -> tuple[int, str]:
    """What `submit` ends with and says."""
    answer = fragile.shoal("submit", fragile.spec(tmp_path, spec))
    return answer.code, answer.err


def ipfs(cid: str, target: str = "/in") -> Json:
    """An input from IPFS."""
    return {"Target": target, "Source": {"Type": "ipfs", "Params": {"CID": cid}}}


def test_a_cid_that_nobody_has(fragile: Fragile, tmp_path: Path) -> None:
    """A CID that no node can bring ends after the source's own limit, naming input, CID and Kubo node."""
    code, text = said(fragile, job(reads(fragile, ipfs(NOBODYS)), Name="lonely"), tmp_path)

    assert code == 10
    for word in ("/in", NOBODYS, "2 s", fragile.kubo.api_url, "Hint: "):
        assert word in text
    told = fragile.api.call("GET", f"{fragile.api.jobs}/lonely")["Job"]
    assert told["State"]["StateType"] == "Failed"
    assert NOBODYS in told["State"]["Message"]
    assert told["Failure"]["Hint"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"Type": "ipfs", "Params": {"CID": "notacid"}}, ["InputSources[0]", "CID", "'notacid'"]),
        (
            {"Type": "ipfs", "Params": {"CID": "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPBdG", "Pat": 1}},
            ["/in", "Pat"],
        ),
        (
            {"Type": "s3", "Params": {"Bucket": "there-is-no-such", "Key": "a"}},
            ["/in", "s3://there-is-no-such/a", "no such bucket"],
        ),
        (
            {"Type": "s3", "Params": {"Bucket": "{bucket}", "Key": "missing"}},
            ["/in", "s3://{bucket}/missing"],
        ),
        (
            {"Type": "s3", "Params": {"Bucket": "{bucket}", "Key": "missing/*"}},
            ["/in", "s3://{bucket}/missing/"],
        ),
        ({"Type": "s3", "Params": {"Bucket": "{bucket}", "Key": "a", "Kee": "b"}}, ["/in", "Kee"]),
        ({"Type": "urlDownload", "Params": {"URL": "http://127.0.0.1:1/x"}}, ["/in", "127.0.0.1:1"]),
        ({"Type": "local", "Params": {"SourcePath": "/etc/passwd"}}, ["/in", "/etc/passwd"]),
        ({"Type": "inline", "Params": {"URL": "data:;base64,***"}}, ["InputSources[0]", "base64"]),
    ],
    ids=["cid", "cid-param", "bucket", "key", "prefix", "s3-param", "url", "local", "inline"],
)
def test_an_input_that_is_not_there(fragile: Fragile, store: Bucket, source: Json, words: list[str]) -> None:
    """An input that cannot be had fails the job, and the message names its target, its source and what is missing."""
    params = {key: str(value).format(bucket=store.name) for key, value in source["Params"].items()}
    task = reads(fragile, {"Target": "/in", "Source": {"Type": source["Type"], "Params": params}})

    status, answer = fragile.api.answer("PUT", fragile.api.jobs, {"Job": job(task)})

    # What a requester can see is refused at once; the rest only a node can find out.
    message = answer["Message"] if status == 400 else fragile.failed(answer["JobID"])["State"]["Message"]
    for word in words:
        assert word.format(bucket=store.name) in message


def test_the_other_inputs_are_named_rightly(fragile: Fragile, store: Bucket) -> None:
    """Of several inputs the message names the one that is wrong."""
    store.put("there", b"x")
    sources = [
        store.source(key, target)
        for key, target in (("there", "/one"), ("gone", "/two"), ("there", "/three"))
    ]

    message = failed(fragile, job(reads(fragile, *sources)))["State"]["Message"]

    assert "/two" in message
    assert "/one" not in message


def test_wrong_credentials(fragile: Fragile, store: Bucket, tmp_path: Path) -> None:
    """A node with wrong keys says that S3 denies them, which input, and that the node's credentials are to be looked at."""
    store.put("a", b"x")
    env = {"AWS_SECRET_ACCESS_KEY": "wrong"}
    with fragile.extra_node("stranger", tmp_path / "stranger", env, "--cpu", "1", "--memory", "1Gb"):
        task = reads(fragile, store.source("a", "/in"))
        told = failed(fragile, job(task, Constraints=[constraint("kind", "stranger")]))

    assert told["Failure"]["Code"].startswith("Denied")
    assert f"s3://{store.name}/a" in told["State"]["Message"]
    assert "/in" in told["State"]["Message"]
    assert "AWS_SECRET_ACCESS_KEY" in told["Failure"]["Hint"]


def test_kubo_is_off_and_on_again(fragile: Fragile, tmp_path: Path) -> None:
    """While Kubo is off a job that needs it fails, naming its address; once it is on again the same job completes."""
    (tmp_path / "word").write_text("hello")
    cid = fragile.ipfs.add(tmp_path / "word")
    fragile.ipfs.unpin(cid)
    spec = job(reads(fragile, ipfs(cid), script="cat /in"))
    fragile.stop(fragile.kubo)

    told = failed(fragile, spec)

    # Whether the node found out first or the job: both name the source and the Kubo node.
    assert "ipfs" in told["State"]["Message"]
    assert fragile.kubo.multiaddr in told["State"]["Message"]
    assert told["Failure"]["Hint"]
    fragile.start(fragile.kubo)
    wait_until_empty(lambda: fragile.without("ipfs"))
    fragile.api.completed(spec)


def test_kubo_stands_still(fragile: Fragile) -> None:
    """A Kubo node that takes calls and answers none ends after a limit too."""
    with fragile.standing_still(fragile.kubo):
        told = failed(fragile, job(reads(fragile, ipfs(NOBODYS))))

    # Whether the job found out first or the node.
    assert NOBODYS in told["State"]["Message"] or "not answer" in told["State"]["Message"]


def test_s3_is_off_and_on_again(fragile: Fragile, store: Bucket) -> None:
    """While the S3 server is off a job that needs it fails, naming input and endpoint; later the same job completes."""
    store.put("a", b"x")
    spec = job(reads(fragile, store.source("a", "/in"), script="cat /in/a"))
    fragile.stop(fragile.s3)

    told = failed(fragile, spec)

    for word in ("/in", f"s3://{store.name}/a", fragile.s3.endpoint):
        assert word in told["State"]["Message"]
    fragile.start(fragile.s3)
    fragile.api.completed(spec)


def slow(fragile: Fragile, store: Bucket, valve: Valve) -> Json:
    """A job whose input stops coming half way."""
    store.put("big", bytes(4 << 20))
    source = store.source("big", "/in", Endpoint=valve.url)
    return job(reads(fragile, source, script="wc -c < /in/big"))


def test_s3_dies_in_the_middle(fragile: Fragile, store: Bucket) -> None:
    """An S3 server that dies during a transfer fails the job in the end, and half an object is never shown to a program."""
    with fragile.valve(port_of(fragile.s3.endpoint), down=1 << 20) as valve:
        job_id = fragile.api.submit(slow(fragile, store, valve))
        valve.until_held()
        fragile.kill(fragile.s3)
        valve.cut()
        view = fragile.api.ended(job_id)

    assert state(view) == "Failed"
    assert f"s3://{store.name}/big" in view["Job"]["State"]["Message"]
    assert not any("running" in [stage["State"] for stage in each["Stages"]] for each in view["Executions"])


def test_a_cut_transfer_goes_on(fragile: Fragile, store: Bucket) -> None:
    """A connection that breaks during a transfer is made again, and the program sees the whole object."""
    with fragile.valve(port_of(fragile.s3.endpoint), down=1 << 20) as valve:
        job_id = fragile.api.submit(slow(fragile, store, valve))
        valve.until_held()
        valve.open()
        valve.cut()
        view = fragile.api.ended(job_id)

    assert state(view) == "Completed", view
    assert view["Executions"][0]["RunOutput"]["Stdout"].split() == [str(4 << 20)]


def test_work_goes_on_meanwhile(fragile: Fragile) -> None:
    """While one job waits for a CID that nobody has, others on the same node run."""
    name = fragile.nodes[0]
    waiting = fragile.api.submit(job(reads(fragile, ipfs(NOBODYS)), **on(name)))

    fragile.api.completed(job(shell(fragile.image, "true"), **on(name)))

    fragile.api.call("DELETE", f"{fragile.api.jobs}/{waiting}")
    assert state(fragile.api.ended(waiting)) == "Stopped"
