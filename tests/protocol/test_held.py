"""Tokens of inputs."""

from protocol.held import input_token
from protocol.jobs import Spec


def test_equal_sources_have_equal_tokens() -> None:
    """However a spec's keys are written and ordered, the same source has the same token; another one has another."""
    one = input_token(Spec("s3", {"Bucket": "b", "Key": "k"}))

    assert one == input_token(Spec("S3", {"key": "k", "bucket": "b"}), 3, 9)
    assert one != input_token(Spec("s3", {"Bucket": "b", "Key": "K"}))
    assert len(one) == 12


def test_a_share_counts_where_there_is_sharing_out() -> None:
    """Partitions that read different parts have different tokens; those that all read the same have one."""
    shared = Spec("s3", {"Bucket": "b", "Key": "k/", "Partition": {"Type": "object"}})

    assert input_token(shared, 0, 2) != input_token(shared, 1, 2)
    assert input_token(shared, 0, 2) != input_token(shared, 0, 3)
