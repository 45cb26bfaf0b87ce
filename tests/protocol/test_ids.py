"""Identifiers and how one follows from another."""

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import (
    RANDOM_BITS,
    JobId,
    JobKey,
    NodeId,
    execution_id,
    is_token,
    job_id,
    job_key,
    key_of,
    key_prefix,
    nameless_key,
    short,
    uuid4_text,
)

RANDOM = st.integers(0, (1 << RANDOM_BITS) - 1)
NAMES = st.text(max_size=20).filter(lambda text: text.isprintable())


@given(NAMES, NAMES, RANDOM)
def test_a_job_id_is_a_uuid_of_version_8_that_leads_to_its_key(
    namespace: str, name: str, random: int
) -> None:
    """From a job's id alone its subject is known."""
    key = job_key(namespace, name)
    identifier = job_id(key, random)

    assert key_of(identifier) == key
    assert UUID(identifier.removeprefix("j-")).version == 8
    assert UUID(identifier.removeprefix("j-")).variant == "specified in RFC 4122"
    assert re.fullmatch(r"[0-9a-f]{15}", key)


@given(RANDOM, RANDOM)
def test_two_submissions_of_a_name_have_one_key_and_two_ids(one: int, other: int) -> None:
    """The name decides the key; the random part makes each id its own."""
    key = job_key("default", "words")

    assert (job_id(key, one) == job_id(key, other)) is (one == other)


@given(RANDOM, RANDOM, st.integers(0, 40))
def test_ids_lie_as_their_keys(one: int, other: int, length: int) -> None:
    """The beginning of an id says how its key begins, and ids have the order of their keys."""
    ids = [job_id(nameless_key(each), other) for each in (one, other)]

    keys = [key_of(each) for each in ids]
    assert keys[0] is not None
    assert keys[0].startswith(key_prefix(ids[0][:length]))
    assert (ids == sorted(ids)) is (keys == sorted(filter(None, keys)))


def test_namespace_and_name_are_kept_apart() -> None:
    """No two pairs of namespace and name look alike to the hash."""
    assert job_key("a", "bc") != job_key("ab", "c")
    assert job_key("", "a") != job_key("a", "")


def test_keys_never_change() -> None:
    """The key of a name is the same in every version: it is where the job's log is."""
    assert job_key("default", "count-words") == "2ddd7dbdd24076f"


@pytest.mark.parametrize("random", [-1, 1 << RANDOM_BITS])
def test_more_random_bits_than_an_id_holds_are_refused(random: int) -> None:
    """A random part that does not fit is an error of the program, not a shorter id."""
    with pytest.raises(ValueError, match="62 bits"):
        job_id(JobKey("0" * 15), random)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "words",
        "j-01234567",
        "j-01234567-89ab-8cde-8123-456789abcde",
        "j-01234567-89ab-4cde-8123-456789abcdef",
        "j-01234567-89ab-8cde-0123-456789abcdef",
        "J-01234567-89ab-8cde-8123-456789abcdef",
        "e-01234567-89ab-8cde-8123-456789abcdef",
        "j-01234567-89ab-8cde-8123-456789abcdef\n",
    ],
)
def test_what_is_no_whole_job_id_has_no_key(text: str) -> None:
    """A name or a prefix is not taken for an id."""
    assert key_of(text) is None


@given(st.integers(0, 1 << 80))
def test_a_nameless_jobs_key_has_the_form_of_any_other(random: int) -> None:
    """A job without a name has a random key of the same form."""
    assert re.fullmatch(r"[0-9a-f]{15}", nameless_key(random))


Attempt = tuple[int, int, int, NodeId | None]
ATTEMPTS = st.tuples(
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
    st.none() | st.sampled_from([NodeId("0"), NodeId("1"), NodeId("n1")]),
)


@given(ATTEMPTS, ATTEMPTS)
def test_an_execution_is_named_by_what_it_is(one: Attempt, other: Attempt) -> None:
    """Two requesters that decide the same name it alike; nothing else gets that name."""
    job = JobId("j-01234567-89ab-8cde-8123-456789abcdef")

    assert (execution_id(job, *one) == execution_id(job, *other)) is (one == other)
    assert UUID(execution_id(job, *one).removeprefix("e-")).version == 8


def test_ids_are_shortened_as_bacalhau_prints_them() -> None:
    """An id's short form is its prefix and eight digits; a name stays as it is."""
    assert short("j-01234567-89ab-8cde-8123-456789abcdef") == "j-01234567"
    assert short("n-my-own-node-with-a-name") == "n-my-own-node-with-a-name"
    assert short("words") == "words"


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("n-1", True),
        ("A_b-9", True),
        ("x" * 64, True),
        ("", False),
        ("x" * 65, False),
        ("a.b", False),
        ("a b", False),
        ("*", False),
        (">", False),
        ("ä", False),
        ("a\n", False),
    ],
)
def test_a_token_is_what_may_stand_in_a_subject(text: str, fits: bool) -> None:
    """No wildcard, dot, blank or foreign letter gets into a subject."""
    assert is_token(text) is fits


@given(st.binary(min_size=16, max_size=16))
def test_a_uuid_from_digits_is_the_librarys(digest: bytes) -> None:
    """Ids that clients take for UUIDs are UUIDs of version 4."""
    assert uuid4_text(digest.hex()) == str(UUID(bytes=digest, version=4))
