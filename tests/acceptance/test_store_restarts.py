"""The stores are killed and started again under jobs; the transfers themselves are tested beside the drivers."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.acceptance.data import Bucket
from tests.acceptance.deployment import wait_until_empty
from tests.acceptance.fragile import Fragile, state
from tests.acceptance.jobs import Gate, Json, job, publish, shell

WRITTEN = "".join(f"{number}\n" for number in range(1, 1_000_001)).encode()


@pytest.fixture
def gate(fragile: Fragile) -> Iterator[Gate]:
    """Where the program of this test stands until it is let through."""
    gate = Gate(fragile.shared / uuid4().hex)
    yield gate
    gate.open()


@pytest.mark.parametrize("kind", ["s3", "ipfs"])
def test_a_store_is_restarted_under_a_job_that_publishes(
    fragile: Fragile, gate: Gate, store: Bucket, kind: str
) -> None:
    """`kill -9` of the S3 server or the Kubo node under a job costs nothing: when the store is back the job completes,
    and its result is whole."""
    server = fragile.s3 if kind == "s3" else fragile.kubo
    publisher = store.publisher("out/{executionID}", Encoding="plain") if kind == "s3" else {"Type": "ipfs"}
    source: Json = {"Type": "local", "Params": {"SourcePath": str(gate.folder), "ReadWrite": True}}
    script = f"echo $BACALHAU_EXECUTION_ID >> /gate/starts; {gate.wait}; seq 1000000 > /outputs/data"
    task = shell(fragile.image, script, InputSources=[{"Target": "/gate", "Source": source}])
    job_id = fragile.api.submit(job({**task, **publish(publisher)}))
    (execution,) = fragile.api.running(job_id)
    fragile.begun(gate)

    with fragile.standing_still(server):
        gate.open()
        wait_until_empty(lambda: fragile.running_on(execution["NodeID"]))
        fragile.kill(server)
    fragile.start(server)
    view = fragile.api.ended(job_id)

    assert state(view) == "Completed", view
    (done,) = [each for each in view["Executions"] if each["State"] == "completed"]
    if kind == "s3":
        (key,) = [each for each in store.keys("out/") if each.endswith("/data")]
        assert store.get(key) == WRITTEN
    else:
        cid = done["PublishedResult"]["Params"]["CID"]
        assert fragile.ipfs.cat(f"{cid}/outputs/data") == WRITTEN
        fragile.ipfs.unpin(cid)
