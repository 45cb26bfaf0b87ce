"""The names of images."""

import pytest

from protocol.errors import Invalid
from protocol.spec.images import Reference, parse_reference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("ubuntu", Reference("docker.io", "library/ubuntu", "latest")),
        ("ubuntu:24.04", Reference("docker.io", "library/ubuntu", "24.04")),
        ("me/tool", Reference("docker.io", "me/tool", "latest")),
        ("docker.io/library/ubuntu:1", Reference("docker.io", "library/ubuntu", "1")),
        ("index.docker.io/me/tool:1", Reference("docker.io", "me/tool", "1")),
        ("ghcr.io/org/deep/tool:v1", Reference("ghcr.io", "org/deep/tool", "v1")),
        ("localhost:5000/tool", Reference("localhost:5000", "tool", "latest")),
        ("localhost/tool:2", Reference("localhost", "tool", "2")),
        (f"ubuntu@{DIGEST}", Reference("docker.io", "library/ubuntu", "", DIGEST)),
        (f"ghcr.io/a/b:v1@{DIGEST}", Reference("ghcr.io", "a/b", "v1", DIGEST)),
        (DIGEST, Reference(id=DIGEST)),
    ],
)
def test_image_names(text: str, reference: Reference) -> None:
    """An image's name means what it means to Docker."""
    assert parse_reference(text) == reference


def test_a_digest_decides() -> None:
    """Where a digest is given, it is what is pulled, whatever the tag says."""
    assert parse_reference(f"ghcr.io/a/b:v1@{DIGEST}").version == DIGEST
    assert parse_reference("ghcr.io/a/b:v1").version == "v1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "Ubuntu",
        "ubuntu:",
        "ubuntu:a b",
        "a//b",
        "/ubuntu",
        "ubuntu@sha256:12",
        "a b",
        "ubuntu/",
        "ab\n",
        "-a",
    ],
)
def test_what_is_no_image_name(text: str) -> None:
    """What cannot be an image's name is refused before any registry is asked, with what to do."""
    with pytest.raises(Invalid) as caught:
        parse_reference(text)

    assert caught.value.hint


def test_a_capital_letter_is_pointed_out() -> None:
    """The commonest mistake gets the right spelling."""
    with pytest.raises(Invalid) as caught:
        parse_reference("ghcr.io/Org/Tool:V1")

    assert "ghcr.io/org/tool" in caught.value.hint
